"""A folder or a glob of CSV or Parquet files, cut into batches by the contract's time column."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines import store
from pipelines.contract import Contract
from pipelines.errors import SourceError
from pipelines.periods import period_names

SUFFIXES = (".csv", ".parquet")
FLOATED = r"-?\d+\.0"
"""How a column of whole numbers is spelled that was kept as floats."""


class Files:
    """One batch a period; a period's rows may be spread over files, a file may hold many periods."""

    def __init__(self, root: Path, path: str, contract: Contract, period: str) -> None:
        self._pattern = str(root / path)
        self._contract = contract
        self._period = period
        self._tables: list[pd.DataFrame] = []

    def periods(self) -> tuple[str, ...]:
        times = pd.concat([table[self._contract.time] for table in self._files()])
        return tuple(sorted(period_names(times, self._period).unique()))

    def read(self, period: str) -> pd.DataFrame:
        """Only the columns of the files that hold the period: what they lack must be missed."""
        time = self._contract.time
        parts = [t[period_names(t[time], self._period) == period] for t in self._files()]
        rows = pd.concat([part for part in parts if len(part)], ignore_index=True)
        order = [time, *(k for k in self._contract.key if k != time and k in rows.columns)]
        return rows.sort_values(order, kind="stable", ignore_index=True)

    def _files(self) -> list[pd.DataFrame]:
        if not self._tables:
            self._tables = self._read()
        return self._tables

    def _read(self) -> list[pd.DataFrame]:
        tables = []
        # Keys too: a label is joined to its answer by the key that the service was given.
        texts = [
            name
            for name, column in self._contract.columns.items()
            if column.type == "category" and name != self._contract.label
        ]
        for path, table in read_files(self._pattern, self._contract.task, texts):
            time = self._contract.time
            if time not in table.columns:
                raise SourceError(
                    f"source files: {path} has no column {time!r}, which the contract names as time; "
                    f"its columns are: {', '.join(map(str, table.columns))}. "
                    f"Mend it with: edit contracts/{self._contract.task}.yaml"
                )
            for name, column in self._contract.columns.items():
                if column.type == "timestamp" and name in table.columns:
                    table[name] = self._timestamps(table[name], path)
                elif column.type == "category" and name in table.columns:
                    table[name] = as_text(table[name])
            self._refuse_without_time(path, table[time])
            tables.append(table)
        return tables

    def _refuse_without_time(self, path: Path, times: pd.Series) -> None:
        """Such a row belongs to no period, and so no validation would ever see it."""
        without = np.flatnonzero(times.isna())
        if len(without):
            raise SourceError(
                f"source files: {path} has {len(without):,} rows without {times.name}, the first is row "
                f"{without[0]}, counted from 0; allowed: a time in each. Mend the file and run: "
                f"perennial ingest {self._contract.task}"
            )

    def _timestamps(self, values: pd.Series, path: Path) -> pd.Series:
        try:
            return pd.to_datetime(values).astype("datetime64[s]")
        except (ValueError, TypeError) as error:
            raise SourceError(
                f"source files: {path}, column {values.name!r}: {error}. Allowed are ISO 8601 "
                "times without a zone, like 2013-04-01T09:30:00. Mend the file and run: "
                f"perennial ingest {self._contract.task}"
            ) from error


def as_text(values: pd.Series) -> pd.Series:
    """Codes that are kept as numbers become text."""
    if not pd.api.types.is_numeric_dtype(values):
        return values
    whole = values.dropna()
    if len(whole) and (whole == whole.round()).all():
        values = values.astype("Int64")
    return values.astype("string").astype(object).where(values.notna(), None)


def read_files(
    pattern: str, task: str, texts: Sequence[str] = ()
) -> list[tuple[Path, pd.DataFrame]]:
    """Every .csv and .parquet file of a folder or glob, by name.

    texts: columns that a CSV is not to be guessed at: 02134, NA and True stay what they are, as the
    service takes them, and in each file alike.

    Raises SourceError naming the folder that holds none, or the file that cannot be read.
    """
    named = Path(pattern)
    found = named.iterdir() if named.is_dir() else map(Path, glob.glob(pattern))
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SourceError(
            f"source files: {pattern} holds no .csv or .parquet file. "
            "Mend tasks.<name>.source.path with: edit params.yaml"
        )
    tables = []
    for path in paths:
        try:
            tables.append((path, _read(path, texts)))
        except (ValueError, OSError) as error:
            raise SourceError(
                f"source files: {path} cannot be read: {error}. Replace the file and run: "
                f"perennial ingest {task}"
            ) from error
    return tables


def _read(path: Path, texts: Sequence[str]) -> pd.DataFrame:
    if path.suffix.lower() == ".parquet":
        return store.frame(path)
    # A converter, since what pandas takes for missing can be told for all columns only.
    table = pd.read_csv(path, converters=dict.fromkeys(texts, _cell))
    for name in table.columns.intersection(list(texts)):
        told = table[name].dropna()
        # Whole numbers with gaps are written as floats by many, and pandas is one of them.
        if len(told) and told.str.fullmatch(FLOATED).all():
            table[name] = table[name].str.removesuffix(".0").where(table[name].notna(), None)
    return table


def _cell(text: str) -> str | None:
    return text or None
