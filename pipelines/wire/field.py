"""One value of a row: what it may be, as the contract says, as msgspec reads it, and in words."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipelines import images
from pipelines.contract import Column

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
                return Annotated[bytes, Meta(min_length=1)]  # in JSON and CSV as base64
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
                    f"{self.column.mode}; in JSON and CSV as base64"
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
