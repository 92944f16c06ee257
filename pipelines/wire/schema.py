"""A contract as the types of a request: what a row may hold, decided once for JSON and for Arrow.

A row is refused when the contract allows no such row. Where the contract allows a share of such
rows (`nulls`, `outside`, `new_values` above 0, or severity warning) a single row of them is no
mistake: it is answered, and counted. Rules of a whole batch (means, counts, distinct values,
order, period, repeated keys) say nothing of one row.

Narrower than the contract, because the graph and the log are: numbers fit float32, whole numbers
that the graph reads are exact as floats, free text is short, times lie in FIRST..LAST, and the
time of a row is never missing.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipelines import images
from pipelines.contract import Column, Contract

if TYPE_CHECKING:
    import numpy as np

FLOAT32 = 3.4028234663852886e38
"""Largest number that float32 holds."""
EXACT = 2**53
"""Whole numbers up to here are the same as floats; beyond, JSON readers disagree (RFC 7493)."""
INT64 = (-(2**63), 2**63 - 1)
TEXT = 1_000
"""Most characters of a category that the contract does not list. One long text, named by each of
10,000 rows of an Arrow dictionary, would else fill the memory."""
FIRST, LAST = dt.datetime(1700, 1, 1), dt.datetime(2199, 12, 31, 23, 59, 59, 999_999)
"""Times that nanoseconds in 64 bits can hold, as pandas and Parquet readers do."""

Row = Any
"""A Struct made by `Shape.row`: attributes f0, f1, ... in the order of `Shape.fields`."""


@dataclass(frozen=True)
class Field:
    """One value of a row, and what it may be."""

    name: str
    attribute: str
    column: Column
    required: bool
    nullable: bool
    low: float
    high: float
    """Numbers: both included; integers where the column's type is integer."""
    values: tuple[str, ...] | None
    """Categories: all that are let in; None is any."""
    hours: tuple[int, int] | None
    at_most: str | None
    """Field that this one never exceeds in its row."""

    @cached_property
    def type(self) -> Any:
        """What msgspec reads it as."""
        some = self._present()
        return some | None if self.nullable else some

    def _present(self) -> Any:
        match self.column.type:
            case "image":
                return Annotated[bytes, Meta(min_length=1)]  # in JSON as base64
            case "timestamp":
                return Annotated[dt.datetime, Meta(tz=False)]
            case "boolean":
                return bool
            case "number":
                return Annotated[float, Meta(ge=self.low, le=self.high)]
            case "integer":
                # 12.0 is whole too, to JSON Schema and to whoever writes a column with gaps.
                low, high = self.as_floats
                whole = Annotated[float, Meta(ge=low, le=high, multiple_of=1.0)]
                return Annotated[int, Meta(ge=int(self.low), le=int(self.high))] | whole
        if self.values is None:
            return Annotated[str, Meta(max_length=TEXT)]
        # Literal takes no empty list; such a column holds gaps only.
        return Literal[self.values] if self.values else Annotated[str, Meta(pattern="(?!)")]

    @property
    def as_floats(self) -> tuple[float, float]:
        """The limits; the upper one is not rounded up beyond what 64 bits hold."""
        low, high = float(self.low), float(self.high)
        return low, math.nextafter(high, 0) if high > self.high else high

    def allows(self, value: object) -> bool:
        """Is it what this field may hold? value: as JSON gives it."""
        try:
            read = msgspec.convert(value, self.type)
        except msgspec.ValidationError:
            return False
        if self.column.type == "image":
            return self.picture(read) is not None
        return self.column.type != "timestamp" or read is None or self.allows_time(read)

    def picture(self, file: bytes) -> np.ndarray | None:
        """(H, W, C) uint8, or None where the file is no such picture."""
        assert self.column.size is not None
        assert self.column.mode is not None
        try:
            return images.decode(file, self.column.size, self.column.mode)
        except images.ImageError:
            return None

    def allows_time(self, time: dt.datetime) -> bool:
        return FIRST <= time <= LAST and (
            self.hours is None or self.hours[0] <= time.hour <= self.hours[1]
        )

    @cached_property
    def allowed(self) -> str:
        """In words."""
        return self._words() + (", or null" if self.nullable else "")

    def _range(self) -> str:
        """The limits that the contract gives; what float32 can hold goes without saying."""
        low, high = (f"{limit:.15g}" for limit in (self.low, self.high))
        given = [abs(limit) < FLOAT32 for limit in (self.low, self.high)]
        if all(given):
            return f" from {low} to {high}"
        return f" of at least {low}" if given[0] else f" of at most {high}" if given[1] else ""

    def _words(self) -> str:
        unit = f" {self.column.unit}" if self.column.unit else ""
        match self.column.type:
            case "image":
                assert self.column.size is not None
                height, width = self.column.size
                return (
                    f"a picture file (PNG, JPEG, ...) of {height} x {width} pixels, mode "
                    f"{self.column.mode}; in JSON as base64"
                )
            case "timestamp":
                hours = f", hours {self.hours[0]} to {self.hours[1]}" if self.hours else ""
                return (
                    'a time without an offset like "2013-04-01T05:15:00", years '
                    f"{FIRST.year} to {LAST.year}{hours}"
                )
            case "boolean":
                return "true or false"
            case "integer":
                return f"a whole number from {self.low} to {self.high}{unit}"
            case "number":
                return f"a number{self._range()}{unit}"
        if self.values is None:
            return f"text of at most {TEXT:,} characters"
        few = ", ".join(self.values[:20])
        rest = len(self.values) - 20
        return f"one of {few}" + (f" and {rest} more" if rest > 0 else "") if few else "no text"


def fields_of(contract: Contract) -> tuple[Field, ...]:
    """The inputs in the contract's order, then the key columns that are none, which may be absent.

    The label is never asked for, also where it is part of the key.
    """
    keys = [n for n in contract.key if n not in contract.inputs and n != contract.label]
    names = (*contract.inputs, *keys)
    return tuple(_field(contract, name, f"f{i}", names) for i, name in enumerate(names))


def _field(contract: Contract, name: str, attribute: str, names: tuple[str, ...]) -> Field:
    column = contract.columns[name]
    stops = column.severity == "critical"
    low, high = _limits(column, name in contract.inputs, stops and not column.outside)
    return Field(
        name=name,
        attribute=attribute,
        column=column,
        required=name in contract.inputs,
        nullable=name not in (contract.time, *contract.images) and (column.nulls > 0 or not stops),
        low=low,
        high=high,
        values=column.values if stops and not column.new_values else None,
        hours=column.hours if stops and not column.outside else None,
        at_most=column.at_most if stops and column.at_most in names else None,
    )


def _limits(column: Column, read_by_graph: bool, strict: bool) -> tuple[float, float]:
    least = column.min if strict and column.min is not None else -math.inf
    most = column.max if strict and column.max is not None else math.inf
    if column.type != "integer":
        return max(least, -FLOAT32), min(most, FLOAT32)
    low, high = (-EXACT, EXACT) if read_by_graph else INT64
    return (
        low if least <= low else math.ceil(min(least, high)),
        high if most >= high else math.floor(max(most, low)),
    )


class Shape:
    """The types of one task's requests.

    fields: what a row holds. decode: bytes -> request with `rows`; raises what msgspec raises.
    """

    def __init__(self, contract: Contract, max_rows: int) -> None:
        self.fields = fields_of(contract)
        self.by_name = {field.name: field for field in self.fields}
        self.max_rows = max_rows
        # msgspec compares names as they are written in JSON, so it takes none that need escapes.
        self._plain = not any(c < " " or c in '"\\' for name in self.by_name for c in name)
        self.row = msgspec.defstruct(
            "Row",
            [self._member(field) for field in self.fields],
            rename={f.attribute: f.name for f in self.fields} if self._plain else None,
            forbid_unknown_fields=True,
            gc=False,
        )
        rows = Annotated[list[self.row], Meta(min_length=1, max_length=max_rows)]  # type: ignore[name-defined]
        self._request = msgspec.defstruct(
            "Request", [("rows", rows)], forbid_unknown_fields=True, gc=False
        )
        self.decode: Callable[[bytes], Any] = (
            msgspec.json.Decoder(self._request).decode if self._plain else self._decode_renamed
        )
        self.clocks = tuple(
            (f, attrgetter(f.attribute)) for f in self.fields if f.column.type == "timestamp"
        )
        self.pictures = tuple(f for f in self.fields if f.column.type == "image")
        self.pairs = tuple(
            (f, self.by_name[f.at_most], attrgetter(f.attribute, self.by_name[f.at_most].attribute))
            for f in self.fields
            if f.at_most
        )

    @staticmethod
    def _member(field: Field) -> tuple[Any, ...]:
        if field.required:
            return (field.attribute, field.type)
        return (field.attribute, field.type | msgspec.UnsetType, msgspec.UNSET)

    def _decode_renamed(self, body: bytes) -> Any:
        content = msgspec.json.decode(body)
        if isinstance(content, dict) and isinstance(content.get("rows"), list):
            content["rows"] = [self.renamed(row) for row in content["rows"]]
        return msgspec.convert(content, self._request)

    def renamed(self, row: object) -> object:
        """A JSON row by the names that msgspec knows its fields by."""
        if self._plain or not isinstance(row, dict):
            return row
        known = self.by_name
        return {known[k].attribute if k in known else f"?{k}": v for k, v in row.items()}

    def consistent(self, rows: list[Row]) -> bool:
        """Do the rows keep what types cannot say: times within limits, columns at most others,
        pictures that can be read? A picture's file is replaced by its pixels."""
        for field, time in self.clocks:
            for value in map(time, rows):
                if value.__class__ is dt.datetime and not field.allows_time(value):
                    return False
        for field in self.pictures:
            for row in rows:
                pixels = field.picture(getattr(row, field.attribute))
                if pixels is None:
                    return False
                setattr(row, field.attribute, pixels)
        for _, _, both in self.pairs:
            for value, limit in map(both, rows):
                if exceeds(value, limit):
                    return False
        return True


def exceeds(value: Any, limit: Any) -> bool:
    """Where either is missing, nothing is exceeded."""
    absent = value is None or limit is None or value is msgspec.UNSET or limit is msgspec.UNSET
    return not absent and value > limit
