"""What the training rows looked like: the picture that a champion takes along. Pure.

`shift.py` holds a batch against it. N rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines import store
from pipelines.records import Record

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 20_000
"""Training rows kept in reference.parquet: some 50 of each day of a year."""
GRID = (np.arange(100) + 0.5) / 100
"""Probabilities of the quantiles kept of each number."""


class Number(Record):
    mean: float
    sd: float
    nulls: float
    """Share of rows without a value."""
    quantiles: tuple[float, ...]
    """At GRID; empty when no row has a value."""


class Category(Record):
    nulls: float
    counts: dict[str, int]


class Summary(Record):
    """The columns of one table, each by itself: `reference.json`."""

    rows: int
    time: str
    numbers: dict[str, Number]
    """Columns, and `clock` where the time of day is watched."""
    categories: dict[str, Category]


@dataclass(frozen=True)
class Watched:
    """Rows as the monitor looks at them: columns `time`, `numbers` and `categories` of a table.

    numbers: has `clock(time)` where the time of day may be news, and not where times may be made up.
    """

    table: pd.DataFrame
    time: str
    numbers: tuple[str, ...]
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    summary: Summary
    sample: pd.DataFrame
    """Up to SAMPLE of the training rows, in time order: time, numbers, categories."""


def make(rows: Watched, seed: int) -> Profile:
    """rows: of training. The same rows and seed give the same bytes."""
    columns = [name for name in rows.numbers if name != clock(rows.time)]
    table = rows.table[[rows.time, *columns, *rows.categories]]
    return Profile(
        summary=summarise(table, rows.time, rows.numbers, rows.categories),
        sample=draw(table, rows.time, SAMPLE, seed),
    )


def write(profile: Profile, folder: Path) -> None:
    """reference.json and reference.parquet, in a folder that the caller makes atomic."""
    (folder / "reference.json").write_text(
        profile.summary.model_dump_json(indent=1), encoding="utf-8"
    )
    profile.sample.to_parquet(folder / "reference.parquet", index=False, compression="zstd")


def read(folder: Path) -> Profile:
    text = (folder / "reference.json").read_text(encoding="utf-8")
    return Profile(Summary.model_validate_json(text), store.frame(folder / "reference.parquet"))


def draw(table: pd.DataFrame, time: str, rows: int, seed: int) -> pd.DataFrame:
    """At most `rows` of the table, in time order."""
    if len(table) > rows:
        table = table.sample(rows, random_state=seed)
    return table.sort_values(time, kind="stable", ignore_index=True)


def clock(time: str) -> str:
    """Name of the number that a time column gives: minutes after midnight."""
    return f"{time} (time of day)"


def summarise(
    table: pd.DataFrame, time: str, numbers: tuple[str, ...], categories: tuple[str, ...]
) -> Summary:
    return Summary(
        rows=len(table),
        time=time,
        numbers={name: _number(values(table, name, time)) for name in numbers},
        categories={
            name: Category(
                nulls=float(table[name].isna().mean()),
                counts={str(v): int(n) for v, n in sorted(table[name].value_counts().items()) if n},
            )
            for name in categories
        },
    )


def values(table: pd.DataFrame, name: str, time: str) -> np.ndarray:
    """(N,) float64; missing and infinite values are NaN."""
    if name == clock(time):
        minutes = table[time].dt.hour * 60 + table[time].dt.minute
        return np.asarray(minutes, dtype=np.float64)
    found = table[name].to_numpy(np.float64, na_value=np.nan)
    return np.asarray(np.where(np.isfinite(found), found, np.nan))


def _number(found: np.ndarray) -> Number:
    there = found[~np.isnan(found)]
    nulls = 1 - len(there) / max(len(found), 1)
    if not len(there):
        return Number(mean=0.0, sd=0.0, nulls=nulls, quantiles=())
    quantiles = tuple(float(q) for q in np.quantile(there, GRID))
    return Number(mean=float(there.mean()), sd=float(there.std()), nulls=nulls, quantiles=quantiles)


def seconds(table: pd.DataFrame, time: str) -> np.ndarray:
    return table[time].to_numpy().astype("datetime64[s]").astype(np.int64)


def encoded(
    table: pd.DataFrame, time: str, numbers: Iterable[str], categories: Iterable[str]
) -> np.ndarray:
    """(N, P + C) float64 for a boosting: numbers, codes of the categories."""
    import pandas as pd

    columns = [values(table, name, time) for name in numbers]
    return np.column_stack(columns + [pd.factorize(table[c], sort=True)[0] for c in categories])
