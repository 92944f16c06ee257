"""From raw columns to the two arrays that a model is fitted on.

The encoder is fitted on train rows only, kept as JSON, and written a second time as ONNX nodes
that go in front of the model (`adapters/onnx.py`): both are held equal by the parity check at
every save. A pickled scikit-learn pipeline between two stages would be code, not data.

N rows, P numbers, C categories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.contract import Contract
from pipelines.graph import raw_inputs
from pipelines.records import Record

if TYPE_CHECKING:
    import pandas as pd

DAY = 86_400
WEEKDAYS = 7


class Number(Record):
    name: str
    mean: float
    scale: float


class Category(Record):
    name: str
    levels: tuple[str, ...]
    """Level i has code i + 1; all else, missing included, has code 0."""


class Encoder(Record):
    """From raw columns to the two arrays that a model is fitted on."""

    time: str
    calendar: tuple[str, ...]
    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Codes of each category column, code 0 included; the calendar's weekday comes last."""
        weekday = (WEEKDAYS + 1,) if "weekday" in self.calendar else ()
        return (*(len(c.levels) + 1 for c in self.categories), *weekday)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the encoded columns: numbers, then categories."""
        hour = ("hour",) if "hour" in self.calendar else ()
        weekday = ("weekday",) if "weekday" in self.calendar else ()
        numbers = tuple(n.name for n in self.numbers if n.name != "hour_of_day")
        return (*numbers, *hour, *(c.name for c in self.categories), *weekday)

    def encode(self, table: pd.DataFrame, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
        """numbers (N, P) float32 and codes (N, C) int64."""
        import pandas as pd

        raw = raw_inputs(table, contract, self.raw_columns)
        columns = [
            hour_of_day(raw[self.time]) if n.name == "hour_of_day" else raw[n.name]
            for n in self.numbers
        ]
        mean = np.array([n.mean for n in self.numbers], dtype=np.float32)
        scale = np.array([n.scale for n in self.numbers], dtype=np.float32)
        numbers = (np.column_stack(columns) - mean) / scale if columns else _none(table, np.float32)
        codes = [
            pd.Categorical(raw[c.name], categories=list(c.levels)).codes.astype(np.int64) + 1
            for c in self.categories
        ]
        if "weekday" in self.calendar:
            codes.append(weekday(raw[self.time]) + 1)
        return numbers, np.column_stack(codes) if codes else _none(table, np.int64)

    @property
    def raw_columns(self) -> tuple[str, ...]:
        numbers = (n.name for n in self.numbers if n.name != "hour_of_day")
        time = (self.time,) if self.calendar else ()
        return (*time, *numbers, *(c.name for c in self.categories))


def _none(table: pd.DataFrame, dtype: type) -> np.ndarray:
    return np.empty((len(table), 0), dtype=dtype)


def hour_of_day(seconds: np.ndarray) -> np.ndarray:
    """(N,) epoch seconds -> float32 hours in [0, 24)."""
    return (seconds % DAY).astype(np.float32) / np.float32(3600)


def weekday(seconds: np.ndarray) -> np.ndarray:
    """(N,) epoch seconds -> 0 (Monday) to 6; 1970-01-01 was a Thursday."""
    return (seconds // DAY + 3) % WEEKDAYS


def fit_encoder(
    table: pd.DataFrame, contract: Contract, calendar: tuple[str, ...], min_category: int
) -> Encoder:
    """Statistics of these rows only: pass train rows."""
    raw = raw_inputs(table, contract, contract.inputs)
    columns = {name: raw[name].astype(np.float64) for name in contract.numbers}
    if "hour" in calendar:
        columns["hour_of_day"] = hour_of_day(raw[contract.time]).astype(np.float64)
    categories = []
    for name in contract.categories:
        levels, counts = np.unique(raw[name].astype(str), return_counts=True)
        kept = (
            str(v) for v, n in zip(levels, counts, strict=True) if v != "" and n >= min_category
        )
        categories.append(Category(name=name, levels=tuple(kept)))
    return Encoder(
        time=contract.time,
        calendar=calendar,
        numbers=tuple(_number(name, values) for name, values in columns.items()),
        categories=tuple(categories),
    )


def _number(name: str, values: np.ndarray) -> Number:
    """Mean and standard deviation of the values that are there; a constant column keeps scale 1."""
    there = values[np.isfinite(values)]
    if not len(there):
        return Number(name=name, mean=0.0, scale=1.0)
    deviation = float(there.std())
    return Number(
        name=name, mean=float(there.mean()), scale=deviation if deviation > 1e-12 else 1.0
    )
