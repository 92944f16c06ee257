"""A first contract from batches, for a person to edit; and what batches do that a contract forbids.

Margins are for a first look, not for truth: a few batches say little of a season. The proposed
contract accepts the batches it was made from, unless they break what no contract may allow
(a repeated key, infinite numbers, a label other than 0 and 1), which is said at once.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError

from pipelines import contract as contracts
from pipelines import infer, leakage, params
from pipelines.differences import differences
from pipelines.errors import MissingInput, ParamsError
from pipelines.guesses import ask_for_what_is_missing, guess_time
from pipelines.paths import Paths
from pipelines.periods import SHAPES, period_names
from pipelines.stored import times_from_text, type_of

__all__ = ["differences", "propose", "read"]

SEVERAL = 6
"""Batches that rows are cut into at least, where nobody has said what a period is."""


class _Dumper(yaml.SafeDumper):
    """Lists in one line, so that 100 categories are not 100 lines."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True)
)

HEADER = """\
# Proposed from {batches} batches, {first} to {last}, {rows:,} rows. A person must review it:
# - ranges and means have a margin, but know no season that these batches have not seen;
# - a description and a unit for each column tell the next reader, and the messages, what it is;
# - feature: false for what is not known before the prediction, or only names the row;
# - severity: warning for what should be noted but must not stop a batch;
# - personal: true for what must not appear in logs and messages.
# Meanings of all keys: pipelines/contract.py. Compare again with: perennial contract check {task}
"""


def propose(
    task: str,
    batches: Mapping[str, pd.DataFrame],
    time: str | None = None,
    key: Sequence[str] | None = None,
    label: str | None = None,
    length: str | None = None,
) -> str:
    """The text of contracts/<task>.yaml.

    batches: name -> its rows, at least one each; all with the same columns. Where the names are no
    periods, or `length` (month, day, ...) says what a period is, the rows are cut by time first.
    Times may be ISO 8601 text. Raises ParamsError where time, key or label must be named, with the
    candidates, or where the batches cannot be described.
    """
    columns = _same_columns(task, batches)
    table = pd.concat(list(batches.values()), ignore_index=True)
    time = time or guess_time(table)
    ask_for_what_is_missing(task, table, time, key, label)
    assert time is not None
    assert key is not None
    assert label is not None
    _refuse_unknown(task, columns, time, key, label)
    table = table.assign(**{name: times_from_text(table[name]) for name in columns})
    _refuse_what_no_contract_allows(task, table, time, key, label)
    are_periods = all(any(re.fullmatch(shape, n) for shape in SHAPES.values()) for n in batches)
    if are_periods and length is None:
        names_of = np.repeat(list(batches), [len(rows) for rows in batches.values()])
    else:
        names_of = period_names(table[time], length or _length(table[time])).to_numpy()
    parts = {str(name): rows for name, rows in table.groupby(names_of)}
    counts = [len(rows) for rows in parts.values()]
    content: dict[str, Any] = {
        "task": task,
        "time": time,
        "key": list(key),
        "label": label,
        # A length that was only guessed says nothing of how many rows a batch will have.
        "rows": infer.row_count(counts) if are_periods or length else {"min": 1},
        "columns": {n: infer.column(task, n, list(parts.values()), key, label) for n in columns},
    }
    _set_aside_leaks(task, content, parts)
    head = HEADER.format(
        batches=len(parts), first=min(parts), last=max(parts), rows=len(table), task=task
    )
    return head + _text(content)


def _text(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def read(at: Paths, path: str | None) -> dict[str, pd.DataFrame]:
    """CSV or Parquet files by name: of a folder or glob from the project's root; else the landed
    batches; else what the task's source in params.yaml names.

    Raises MissingInput where there are none.
    """
    named = [at.root / path] if path else [at.raw, *_source(at)]
    found = next(filter(None, map(_files, named)), [])
    if not found:
        raise MissingInput(
            f"{named[0]} holds no .csv or .parquet file. Land batches "
            f"with: perennial ingest {at.task}, or name files with: --from 'inbox/*.csv'"
        )
    return {f.stem: pd.read_csv(f) if f.suffix == ".csv" else pd.read_parquet(f) for f in found}


def _files(named: Path) -> list[Path]:
    found = named.iterdir() if named.is_dir() else map(Path, glob.glob(str(named)))
    return sorted(f for f in found if f.suffix in (".csv", ".parquet"))


def _source(at: Paths) -> list[Path]:
    task = params.load(at.params).tasks.get(at.task)
    return [at.root / task.source.path] if task and task.source.path else []


def _length(times: pd.Series) -> str:
    """The longest period of which the times cover SEVERAL: their differences make the margins."""
    for length in ("month", "week", "day"):
        if period_names(times, length).nunique() >= SEVERAL:
            return length
    return "hour"


def _same_columns(task: str, batches: Mapping[str, pd.DataFrame]) -> list[str]:
    if not batches or any(rows.empty for rows in batches.values()):
        empty = [period for period, rows in batches.items() if rows.empty]
        what = (
            f"these batches hold no rows: {', '.join(empty)}" if empty else "there are no batches"
        )
        raise ParamsError(
            f"contract propose {task}: {what}. Point the source at data with: edit params.yaml"
        )
    first, *others = batches
    names = list(batches[first].columns)
    for period in others:
        if list(batches[period].columns) != names:
            raise ParamsError(
                f"contract propose {task}: batch {period} has the columns "
                f"{', '.join(map(str, batches[period].columns))}, batch {first} has "
                f"{', '.join(map(str, names))}. Bring them to one form, then run: "
                f"perennial contract propose {task}"
            )
    return names


def _refuse_unknown(
    task: str, names: Sequence[str], time: str, key: Sequence[str], label: str
) -> None:
    for role, name in [("time", time), ("label", label), *(("key", k) for k in key)]:
        if name not in names:
            raise ParamsError(
                f"contract propose {task}: {role} names the column {name!r}, which the batches do "
                f"not have; they have: {', '.join(map(str, names))}. Choose one with: --{role}"
            )


def _refuse_what_no_contract_allows(
    task: str, table: pd.DataFrame, time: str, key: Sequence[str], label: str
) -> None:
    wrong = []
    if type_of(table[time]) != "timestamp":
        wrong.append(f"the time {time} holds no times and no text like 2013-04-01T09:30:00")
    elif table[time].isna().any():
        wrong.append(f"{int(table[time].isna().sum())} rows have no {time}")
    repeated = int(table.duplicated(list(key), keep=False).sum())
    if repeated:
        wrong.append(f"{repeated} rows share their key {', '.join(key)} with another row")
    if not table[label].isin([0, 1]).all() or type_of(table[label]) not in ("integer", "boolean"):
        seen = ", ".join(map(str, table[label].unique()[:5]))
        wrong.append(
            f"the label {label} must be 0 or 1 in every row, as integers; seen are: {seen}"
        )
    for name in (n for n in table.columns if type_of(table[n]) == "number"):
        if table[name].isin([np.inf, -np.inf]).any():
            wrong.append(f"{name} holds infinite numbers")
    if wrong:
        raise ParamsError(
            f"contract propose {task}: no contract allows this: {'; '.join(wrong)}. "
            f"Mend the data, then run: perennial contract propose {task}"
        )


def _set_aside_leaks(
    task: str, content: dict[str, Any], batches: Mapping[str, pd.DataFrame]
) -> None:
    """A column that tells the label is kept from the model until a person has looked at it."""
    try:
        contract = contracts.parse(_text(content))
    except ValidationError as error:
        raise ParamsError(params.explain(error, f"contract propose {task}")) from None
    found = [f for rows in batches.values() for f in leakage.findings(rows, contract)]
    told = {f.column: f.observed for f in found if not f.passed}
    for name, how in told.items():
        content["columns"][name] |= {
            "description": f"tells the label: {how}. If it is known before the label: "
            "may_tell_label: true and feature: true",
            "feature": False,
        }
    if told and not {*contract.numbers, *contract.categories} - told.keys():
        raise ParamsError(
            f"contract propose {task}: every feature tells the label {contract.label}: "
            f"{'; '.join(map(str, told))}. Take what is known before the label, then run: "
            f"perennial contract propose {task}"
        )
