"""A first contract from batches, for a person to edit; and what batches do that a contract forbids.

Margins are for a first look, not for truth: a few batches say little of a season. The proposed
contract accepts the batches it was made from, unless they break what no contract may allow
(a repeated key, infinite numbers, a label other than 0 and 1), which is said at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError

from pipelines import contract as contracts
from pipelines import leakage, params
from pipelines.errors import ParamsError
from pipelines.periods import period_names
from pipelines.proposal import infer
from pipelines.proposal.differences import differences
from pipelines.proposal.guesses import ask_for_what_is_missing, guess_time, no_time
from pipelines.stored import times_from_text, type_of

__all__ = ["by_period", "differences", "propose"]


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
) -> str:
    """The text of contracts/<task>.yaml.

    batches: period -> its rows, at least one each; all with the same columns. Times may be ISO 8601
    text. Raises ParamsError where time, key or label must be named, with the candidates, or where
    the batches cannot be described.
    """
    batches = dict(sorted(batches.items()))
    columns = _same_columns(f" {task}", {f"batch {name}": t for name, t in batches.items()})
    table = pd.concat(list(batches.values()), ignore_index=True)
    time = time or guess_time(table)
    ask_for_what_is_missing(task, table, time, key, label)
    assert time is not None
    assert key is not None
    assert label is not None
    _refuse_unknown(task, columns, time, key, label)
    table = table.assign(**{name: times_from_text(table[name]) for name in columns})
    _refuse_what_no_contract_allows(task, table, time, key, label)
    ends = np.cumsum([len(rows) for rows in batches.values()])
    parts = [table.iloc[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    content: dict[str, Any] = {
        "task": task,
        "time": time,
        "key": list(key),
        "label": label,
        "rows": infer.row_count([len(rows) for rows in parts]),
        "columns": {n: infer.column(task, n, parts, key, label) for n in columns},
    }
    _set_aside_leaks(task, content, parts)
    head = HEADER.format(
        batches=len(batches), first=min(batches), last=max(batches), rows=len(table), task=task
    )
    return head + _text(content)


def _text(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def by_period(
    tables: Sequence[pd.DataFrame], time: str | None, length: str
) -> dict[str, pd.DataFrame]:
    """Rows of any number of files, cut into periods by their time column.

    time: left out, the first column of times or of ISO 8601 text. length: hour, day, week or month.
    Raises ParamsError where files have different columns or rows have no time to go by.
    """
    _same_columns("", {f"file {number}": table for number, table in enumerate(tables, 1)})
    table = pd.concat(list(tables), ignore_index=True)
    time = time or guess_time(table)
    if time is None or time not in table.columns:
        raise ParamsError(f"contract propose: {no_time(table)}")
    times = times_from_text(table[time])
    if type_of(times) != "timestamp" or times.isna().any():
        raise ParamsError(
            f"contract propose: column {time} must hold a time in every row, like "
            "2013-04-01T09:30:00 and without a zone. Name another column with: --time"
        )
    table = table.assign(**{time: times}).sort_values(time, kind="stable")
    names = period_names(table[time], length)
    return {str(name): rows.reset_index(drop=True) for name, rows in table.groupby(names)}


def _same_columns(task: str, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """task: as the message shows it, a space in front."""
    empty = [name for name, rows in tables.items() if rows.empty]
    if empty or not tables:
        raise ParamsError(
            f"contract propose{task}: there are no rows in {', '.join(empty) or 'no file'}. "
            f"Name files with rows: perennial contract propose{task} --from 'folder/*.csv'"
        )
    first, *others = tables
    names = list(tables[first].columns)
    for other in others:
        if list(tables[other].columns) != names:
            raise ParamsError(
                f"contract propose{task}: {other} has the columns "
                f"{', '.join(map(str, tables[other].columns))}, {first} has "
                f"{', '.join(map(str, names))}. Bring them to one form, then run: "
                f"perennial contract propose{task}"
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
            f"the label {label} must be 0 or 1 in every row, as integers; seen are: {seen}. "
            "(Of pictures, or of several classes: write the contract by hand, as in docs/images.md)"
        )
    for name in (n for n in table.columns if type_of(table[n]) == "number"):
        if table[name].isin([np.inf, -np.inf]).any():
            wrong.append(f"{name} holds infinite numbers")
    if wrong:
        raise ParamsError(
            f"contract propose {task}: no contract allows this: {'; '.join(wrong)}. "
            f"Mend the data, then run: perennial contract propose {task}"
        )


def _set_aside_leaks(task: str, content: dict[str, Any], batches: Sequence[pd.DataFrame]) -> None:
    """A column that tells the label is kept from the model until a person has looked at it."""
    try:
        contract = contracts.parse(_text(content))
    except ValidationError as error:
        raise ParamsError(params.explain(error, f"contract propose {task}")) from None
    found = [f for rows in batches for f in leakage.findings(rows, contract)]
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
