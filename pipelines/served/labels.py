"""Labels by prediction id taken in: over HTTP, or from a file."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines import labelled
from pipelines.contract import Contract
from pipelines.errors import PipelineError, SourceError
from pipelines.journal.frames import parse_id
from pipelines.labelled import Counted
from pipelines.paths import Paths
from pipelines.served import answers

COLUMNS = ("id", "label")


def spelled(contract: Contract) -> dict[str, int]:
    """Label as it is told -> its number."""
    return {name: code for code, name in enumerate(contract.classes or ("0", "1"))}


def take(at: Paths, contract: Contract, pairs: Sequence[tuple[str, int]]) -> Counted:
    """pairs: id and label, by number. On disk when it returns.

    Raises PipelineError when the store of labels cannot be written or read.
    """
    own = [pair for pair in pairs if _is_id_of(contract.task, pair[0])]
    try:
        counted = labelled.put(at.served_labels, own, lambda ids: answers.known(at, contract, ids))
    except sqlite3.Error as error:
        raise PipelineError(
            f"{at.served_labels} cannot be used: {error}. No label was taken. "
            "Make room on that disk, or set the file aside, and send them again"
        ) from error
    return replace(counted, unknown=counted.unknown + len(pairs) - len(own))


def together(first: Counted, again: Counted) -> Counted:
    """Of the same pairs taken twice: what was new the first time is no repetition the second."""
    return replace(
        again,
        accepted=first.accepted + again.accepted,
        repeated=max(0, again.repeated - first.accepted),
    )


def from_file(path: Path, contract: Contract) -> list[tuple[str, int]]:
    """Columns id and label of a CSV or Parquet file.

    Raises SourceError naming file, line and value. Only ids that came back over HTTP are taken: the
    answers to a batch get their labels from the batch.
    """
    task, known = contract.task, spelled(contract)
    rows = _parquet(path, task) if path.suffix.lower() == ".parquet" else _csv(path, task)
    mend = f"Mend the file, then: perennial labels {task} --file {path}"
    pairs = []
    for place, name, label in rows:
        if not (isinstance(name, str) and _is_id_of(task, name)):
            raise SourceError(
                f"{path} {place}: id is {name!r}; it must be one that the service of {task} gave, "
                f"like {task}-4-20130401-00c0ffee-1f (the label of a batch's answer is in the batch). "
                f"{mend}"
            )
        if label not in known:
            allowed = " or ".join(known) if len(known) == 2 else f"one of {', '.join(known)}"
            raise SourceError(f"{path} {place}: label is {label!r}; it must be {allowed}. {mend}")
        pairs.append((name, known[label]))
    return pairs


def _is_id_of(task: str, name: str) -> bool:
    parsed = parse_id(name)
    return parsed is not None and parsed.task == task


def _csv(path: Path, task: str) -> list[tuple[str, Any, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            _has_columns(path, task, lines.fieldnames or ())
            return [
                (f"line {lines.line_num}", row["id"], (row["label"] or "").strip()) for row in lines
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, task, error) from error


def _parquet(path: Path, task: str) -> list[tuple[str, Any, str]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, task, error) from error
    _has_columns(path, task, table.column_names)
    both = zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)
    return [(f"row {i}", name, _spelled(label)) for i, (name, label) in enumerate(both)]


def _spelled(label: Any) -> str:
    """Booleans and whole floats are the numbers that they stand for."""
    whole = isinstance(label, bool | float) and label in (0, 1)
    return str(int(label)) if whole else str(label)


def _has_columns(path: Path, task: str, found: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        raise SourceError(
            f"{path} has no column {', '.join(missing)}; it has: {', '.join(found) or 'none'}. "
            f"The file must have id and label: perennial labels {task} --file {path}"
        )


def _unreadable(path: Path, task: str, error: Exception) -> SourceError:
    return SourceError(
        f"{path} cannot be read: {error}. It must be CSV or Parquet with id and label: "
        f"perennial labels {task} --file {path}"
    )
