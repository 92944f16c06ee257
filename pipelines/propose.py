"""A first contract from batches, for a person to edit; and what batches do that a contract forbids.

Margins are for a first look, not for truth: a few batches say little of a season. The proposed
contract accepts the batches it was made from, unless they break what no contract may allow
(a repeated key, infinite numbers, a label other than 0 and 1), which is said at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pandas.api import types as kinds

from pipelines.contract import Contract
from pipelines.errors import ParamsError

LEVELS = 200
"""Most different texts that are listed as values; a column with more is not listed."""
RANGE = 0.25
"""Margin of a range, as a share of its span."""
KEY_COLUMNS = 3
"""Most columns tried together with the time when candidates for a key are looked for."""

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

    batches: period -> its rows, at least one of each; all with the same columns. The time may be
    ISO 8601 text. Raises ParamsError where time, key or label must be named, with the candidates,
    or where the batches cannot be described.
    """
    names = _same_columns(task, batches)
    table = pd.concat(list(batches.values()), ignore_index=True)
    time = time or _guess_time(table)
    _ask_for_what_is_missing(task, table, time, key, label)
    assert time is not None and key is not None and label is not None
    _refuse_unknown(task, names, time, key, label)
    batches = {period: _with_times(rows, time) for period, rows in sorted(batches.items())}
    table = pd.concat(list(batches.values()), ignore_index=True)
    _refuse_what_no_contract_allows(task, table, time, key, label)
    columns = {}
    for name in names:
        column = _column(task, name, [rows[name] for rows in batches.values()])
        if name == label:
            column = _label(column, [rows[name] for rows in batches.values()])
        elif name in key and name != time and column["type"] == "integer":
            column = {"type": "integer", "description": "names the row", "feature": False} | column
        columns[name] = column
    counts = [len(rows) for rows in batches.values()]
    content = {
        "task": task,
        "time": time,
        "key": list(key),
        "label": label,
        "rows": {
            "min": max(1, min(counts) // 2),
            "against_history": _against_history(counts),
        },
        "columns": columns,
    }
    periods = list(batches)
    head = HEADER.format(
        batches=len(batches), first=periods[0], last=periods[-1], rows=len(table), task=task
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def differences(contract: Contract, batches: Mapping[str, pd.DataFrame]) -> list[str]:
    """What the batches hold that the contract does not allow, one line each; empty when nothing.

    A quick look without a suite: columns, types, gaps, ranges, means, hours, values. What is held
    against each batch at the door, `perennial validate` says.
    """
    found = []
    for period, rows in sorted(batches.items()):
        described, seen = list(contract.columns), list(rows.columns)
        found += [f"{period}: column {n} is missing" for n in described if n not in seen]
        found += [f"{period}: column {n} is not described" for n in seen if n not in described]
        if set(seen) == set(described) and seen != described:
            found.append(f"{period}: columns are in another order: {', '.join(seen)}")
        for name, column in contract.columns.items():
            if name in seen:
                said = _column_differences(column.model_dump(), rows[name])
                found += [f"{period}: {name}: {line}" for line in said]
    return found


def _column_differences(rules: dict[str, Any], values: pd.Series) -> list[str]:
    """rules: a Column of the contract as a dict."""
    said, kind = [], _type(values)
    alike = {"integer": ("integer", "number"), "number": ("number", "integer")}
    if kind not in alike.get(rules["type"], (rules["type"],)):
        return [f"holds {kind or values.dtype}, the contract says {rules['type']}"]
    gaps = float(values.isna().mean()) if len(values) else 0.0
    if gaps > rules["nulls"]:
        said.append(f"{gaps:.2%} have no value, the contract allows {rules['nulls']:.2%}")
    present = values.dropna()
    if present.empty:
        return said
    if kind in ("integer", "number"):
        low, high, mean = float(present.min()), float(present.max()), float(present.mean())
        if rules["min"] is not None and low < rules["min"]:
            said.append(f"smallest is {low:g}, the contract allows from {rules['min']:g}")
        if rules["max"] is not None and high > rules["max"]:
            said.append(f"largest is {high:g}, the contract allows to {rules['max']:g}")
        if rules["mean"] is not None and not rules["mean"][0] <= mean <= rules["mean"][1]:
            said.append("mean is {:g}, the contract allows {:g} to {:g}".format(mean, *rules["mean"]))
    if rules["hours"] is not None:
        first, last = int(present.dt.hour.min()), int(present.dt.hour.max())
        if first < rules["hours"][0] or last > rules["hours"][1]:
            said.append(
                f"hours are {first} to {last}, the contract allows "
                f"{rules['hours'][0]} to {rules['hours'][1]}"
            )
    if rules["values"] is not None:
        new = sorted(set(present.astype(str)) - set(rules["values"]))
        if new:
            shown = "" if rules["personal"] else f": {', '.join(new[:5])}"
            said.append(f"{len(new)} values are not in the contract{shown}")
    if present.nunique() < rules["distinct"]:
        said.append(
            f"{present.nunique()} different values, the contract wants {rules['distinct']}"
        )
    return said


def _same_columns(task: str, batches: Mapping[str, pd.DataFrame]) -> list[str]:
    if not batches or any(rows.empty for rows in batches.values()):
        empty = [period for period, rows in batches.items() if rows.empty]
        raise ParamsError(
            f"contract propose {task}: {'these batches hold no rows: ' + ', '.join(empty) if empty else 'there are no batches'}. "
            f"Point the source at data with: edit params.yaml"
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


def _guess_time(table: pd.DataFrame) -> str | None:
    """The first column of times; else the first of text that reads as times."""
    times = [n for n in table.columns if kinds.is_datetime64_dtype(table[n])]
    return (times or [n for n in table.columns if _reads_as_times(table[n])] or [None])[0]


def _reads_as_times(values: pd.Series) -> bool:
    present = values.dropna()
    if present.empty or kinds.infer_dtype(present) != "string":
        return False
    try:
        read = pd.to_datetime(present, format="ISO8601")
    except (ValueError, TypeError):
        return False
    return read.dt.tz is None


def _with_times(rows: pd.DataFrame, time: str) -> pd.DataFrame:
    """As the source gives them at the door: times to the second."""
    if kinds.is_datetime64_dtype(rows[time]):
        return rows
    return rows.assign(**{time: pd.to_datetime(rows[time], format="ISO8601").astype("datetime64[s]")})


def _ask_for_what_is_missing(
    task: str, table: pd.DataFrame, time: str | None, key: Sequence[str] | None, label: str | None
) -> None:
    asked = []
    if time is None:
        asked.append(
            "which column is the time? None holds times, or text like 2013-04-01T09:30:00 without "
            f"a zone; the columns are: {', '.join(map(str, table.columns))}. Name it with: --time"
        )
    if label is None:
        found = [n for n in table.columns if _is_label(table[n])]
        asked.append(
            "which column is the label? Those that hold 0 and 1 only are: "
            f"{', '.join(found) or 'none; make one'}. Name it with: --label"
        )
    if key is None and time is not None:
        found = [" + ".join(names) for names in _keys(table, time, label)]
        asked.append(
            "which columns together name one row and never repeat? Candidates are: "
            f"{'; '.join(found) or 'none found; add a column that numbers the rows'}. "
            "Name them with: --key"
        )
    if asked:
        raise ParamsError("\n".join(f"contract propose {task}: {line}" for line in asked))


def _is_label(values: pd.Series) -> bool:
    if values.isna().any() or not (kinds.is_bool_dtype(values) or kinds.is_integer_dtype(values)):
        return False
    return set(values.unique()) == {0, 1}


def _keys(table: pd.DataFrame, time: str, label: str | None) -> list[tuple[str, ...]]:
    """The shortest keys: one column alone, else the time with up to KEY_COLUMNS others."""
    usable = [
        n
        for n in table.columns
        if n != label and not kinds.is_float_dtype(table[n]) and not table[n].isna().any()
    ]
    alone: list[tuple[str, ...]] = [(n,) for n in usable if not table[n].duplicated().any()]
    others = [n for n in usable if n != time and not _is_label(table[n])]
    for size in range(1, KEY_COLUMNS + 1):
        if alone:
            break
        for names in itertools.combinations(others, size):
            if not table.duplicated([time, *names]).any():
                alone.append((time, *names))
    return alone[:5]


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
    if table[time].isna().any():
        wrong.append(f"{int(table[time].isna().sum())} rows have no {time}")
    repeated = int(table.duplicated(list(key), keep=False).sum())
    if repeated:
        wrong.append(f"{repeated} rows share their key {', '.join(key)} with another row")
    if not table[label].isin([0, 1]).all() or _type(table[label]) not in ("integer", "boolean"):
        seen = ", ".join(map(str, table[label].unique()[:5]))
        wrong.append(f"the label {label} must be 0 or 1 in every row, as integers; seen are: {seen}")
    for name in table.columns:
        if kinds.is_float_dtype(table[name]) and np.isinf(table[name]).any():
            wrong.append(f"{name} holds infinite numbers")
    if wrong:
        raise ParamsError(
            f"contract propose {task}: no contract allows this: {'; '.join(wrong)}. "
            f"Mend the data, then run: perennial contract propose {task}"
        )


def _type(values: pd.Series) -> str | None:
    """The contract's type of a column as it is stored; None where there is none for it."""
    if kinds.is_datetime64_dtype(values):
        return "timestamp"
    if kinds.is_bool_dtype(values):
        return "boolean"
    if kinds.is_integer_dtype(values):
        return "integer"
    if kinds.is_float_dtype(values):
        return "number"
    inferred = kinds.infer_dtype(values, skipna=True)
    return {"string": "category", "empty": "category", "boolean": "boolean"}.get(inferred)


def _column(task: str, name: str, parts: list[pd.Series]) -> dict[str, Any]:
    """parts: the column in each batch."""
    whole = pd.concat(parts, ignore_index=True)
    kind = _type(whole)
    if kind is None:
        raise ParamsError(
            f"contract propose {task}: column {name} holds {kinds.infer_dtype(whole)} "
            f"({whole.dtype}); a contract knows timestamps without a zone, integers, numbers, text "
            f"and booleans. Bring it to one of these, then run: perennial contract propose {task}"
        )
    column: dict[str, Any] = {"type": kind}
    worst = max(float(part.isna().mean()) for part in parts)
    if worst:
        column["nulls"] = round(min(1.0, 1.5 * worst + 0.02), 3)
    present = [part.dropna() for part in parts]
    if sum(map(len, present)) == 0:
        return column | {"description": "was always empty", "feature": False}
    if kind in ("integer", "number"):
        column |= _numbers([part.astype(np.float64) for part in present if len(part)], kind)
    elif kind == "timestamp":
        hours = pd.concat(present).dt.hour
        if (hours.min(), hours.max()) != (0, 23):
            column["hours"] = [int(hours.min()), int(hours.max())]
    elif kind == "category":
        levels = sorted(pd.concat(present).astype(str).unique())
        if len(levels) <= LEVELS:
            column["values"] = levels
        elif len(levels) > len(whole) / 2:
            column |= {"description": "names the row, or nearly", "feature": False}
    fewest = min(part.nunique() for part in present)
    if fewest > 1:
        column["distinct"] = 2 if kind != "category" else max(2, fewest // 2)
    return column


def _numbers(parts: list[pd.Series], kind: str) -> dict[str, Any]:
    low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    margin = RANGE * (high - low) or abs(high) or 1.0
    outer = (low - margin if low < 0 else max(0.0, low - margin), high + margin)
    means = [float(part.mean()) for part in parts]
    spread = float(pd.concat(parts).std(ddof=0))
    slack = max(max(means) - min(means), spread / 2) or abs(high) or 1.0
    bounds = {"min": _down(outer[0]), "max": -_down(-outer[1])}
    if kind == "integer":
        bounds = {"min": math.floor(outer[0]), "max": math.ceil(outer[1])}
    return bounds | {"mean": [_down(min(means) - slack), -_down(-max(means) - slack)]}


def _label(column: dict[str, Any], parts: list[pd.Series]) -> dict[str, Any]:
    rates = [float(part.mean()) for part in parts]
    bounds: dict[str, Any] = {"type": column["type"], "description": "what is predicted"}
    if column["type"] == "integer":
        bounds |= {"min": 0, "max": 1}
        bounds["mean"] = [_down(min(rates) / 2), min(1.0, -_down(-(1 + max(rates)) / 2))]
    return bounds | ({"distinct": 2} if all(0 < rate < 1 for rate in rates) else {})


def _against_history(counts: Sequence[int]) -> list[float]:
    """Half to double the median of the batches before it, wider where these batches were."""
    ratios = [
        count / float(np.median(counts[:earlier]))
        for earlier, count in enumerate(counts)
        if earlier
    ]
    low, high = min([1.0, *ratios]), max([1.0, *ratios])
    return [_down(min(0.5, 0.9 * low)), -_down(-max(2.0, 1.1 * high))]


def _down(value: float) -> float:
    """The next number of three significant digits that is not above."""
    if value == 0 or not math.isfinite(value):
        return value
    digits = 2 - math.floor(math.log10(abs(value)))
    return round(math.floor(value * 10.0**digits) / 10.0**digits, max(digits, 0))
