"""A contract as the types of a request: what a row may hold, decided once for JSON and for Arrow.

A row is refused when the contract allows no such row. Where the contract allows a share of such
rows (`nulls`, `outside`, `new_values` above 0, or severity warning) a single row of them is no
mistake: it is answered, and counted. Rules of a whole batch (means, counts, distinct values,
order, period, repeated keys) say nothing of one row.

Narrower than the contract, because the graph and the log are: numbers fit float32, whole numbers
that the graph reads are exact as floats, free text is short, times lie in field.FIRST..LAST, and the
time of a row is never missing.
"""

from __future__ import annotations

import datetime as dt
import math
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipelines import images
from pipelines.contract import Column, Contract
from pipelines.wire import problem
from pipelines.wire.field import EXACT, FLOAT32, INT64, Field

UNFOLDED = 256 * 2**20
"""Most bytes that the compressed parts of a body, or the pixels of its pictures, may become."""
Row = Any
"""A Struct made by `Shape.row`: attributes f0, f1, ... in the order of `Shape.fields`."""


def fields_of(contract: Contract) -> tuple[Field, ...]:
    """The inputs in the contract's order, then the key columns that are none, which may be absent.

    The label is never asked for, also where it is part of the key.
    """
    keys = [n for n in contract.key if n not in contract.inputs and n != contract.label]
    names = (*contract.inputs, *keys)
    return tuple(_field(contract, name, f"f{i}", names) for i, name in enumerate(names))


def pictures_at_once(contract: Contract) -> int:
    """Rows whose pictures may be unfolded together: as a file, a picture of one colour is nothing."""
    pixels = 0
    for name in contract.images:
        column = contract.columns[name]
        assert column.size is not None
        assert column.mode is not None
        pixels += math.prod(column.size) * images.CHANNELS[column.mode]
    return max(1, UNFOLDED // pixels) if pixels else sys.maxsize


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
    max_pictures: most rows of a request for the sake of their pixels; beyond any where there are none.
    """

    def __init__(self, contract: Contract, max_rows: int, bounded: bool = True) -> None:
        """bounded: False where the pictures are unfolded some at a time, however many there are."""
        self.fields = fields_of(contract)
        self.by_name = {field.name: field for field in self.fields}
        self.max_rows = max_rows
        self.max_pictures = pictures_at_once(contract) if bounded else sys.maxsize
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

    def fit(self, rows: int) -> None:
        """Before a picture is unfolded. Raises Refused."""
        if rows > self.max_pictures:
            raise problem.refused(
                "too-large",
                f"The pictures of {rows:,} rows unfold to more than {UNFOLDED:,} bytes. "
                f"Send them in parts of at most {self.max_pictures:,} rows.",
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
        for row in rows:
            for field, time in self.clocks:
                value = time(row)
                if value.__class__ is dt.datetime and not field.allows_time(value):
                    return False
            for _, _, both in self.pairs:
                if exceeds(*both(row)):
                    return False
        for field in self.pictures:
            for row in rows:
                pixels = field.picture(getattr(row, field.attribute))
                if pixels is None:
                    return False
                setattr(row, field.attribute, pixels)
        return True


def exceeds(value: Any, limit: Any) -> bool:
    """Where either is missing, nothing is exceeded."""
    absent = value is None or limit is None or value is msgspec.UNSET or limit is msgspec.UNSET
    return not absent and value > limit
