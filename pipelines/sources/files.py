"""A folder or a glob of CSV or Parquet files, cut into batches by the contract's time column."""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pipelines import store
from pipelines.contract import Contract
from pipelines.errors import SourceError
from pipelines.periods import period_names

READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".parquet": store.frame,
}


class Files:
    """One batch a period; a period's rows may be spread over files, a file may hold many periods."""

    def __init__(self, root: Path, path: str, contract: Contract, period: str) -> None:
        self._pattern = str(root / path)
        self._contract = contract
        self._period = period
        self._tables: list[pd.DataFrame] = []

    def periods(self) -> tuple[str, ...]:
        times = pd.concat([table[self._contract.time] for table in self._files()])
        return tuple(sorted(period_names(times, self._period).dropna().unique()))

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
        for path, table in read_files(self._pattern, self._contract.task):
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
            tables.append(table)
        return tables

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
    """Codes that a CSV spells as numbers become text."""
    if not pd.api.types.is_numeric_dtype(values):
        return values
    whole = values.dropna()
    if len(whole) and (whole == whole.round()).all():
        values = values.astype("Int64")
    return values.astype("string").astype(object).where(values.notna(), None)


def read_files(pattern: str, task: str) -> list[tuple[Path, pd.DataFrame]]:
    """Every .csv and .parquet file of a folder or glob, by name.

    Raises SourceError naming the folder that holds none, or the file that cannot be read.
    """
    named = Path(pattern)
    found = named.iterdir() if named.is_dir() else map(Path, glob.glob(pattern))
    paths = sorted(path for path in found if path.suffix in READERS)
    if not paths:
        raise SourceError(
            f"source files: {pattern} holds no .csv or .parquet file. "
            "Mend tasks.<name>.source.path with: edit params.yaml"
        )
    tables = []
    for path in paths:
        try:
            tables.append((path, READERS[path.suffix](path)))
        except (ValueError, OSError) as error:
            raise SourceError(
                f"source files: {path} cannot be read: {error}. Replace the file and run: "
                f"perennial ingest {task}"
            ) from error
    return tables
