"""Made-up contracts with columns of every type and rule, rows for them, and a slow plain judge."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import assume
from hypothesis import strategies as st

from pipelines.contract import Contract

FLOAT32 = 3.4028234663852886e38
TIMES = re.compile(r"(\d{4})-\d\d-\d\d[Tt ](\d\d):\d\d:\d\d(\.\d{1,6})?")
AWKWARD = [
    "rows", "class", "self", "f0", "f1", "a b", 'a"b', "a\\b", "a\nb", "\x00", "", "é", "a.b",
    "__init__", "None", "😀", "?f0", "\u2028", "UNSET", "count", "index",
]  # fmt: skip
NAMES = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(codec="utf-8"), max_size=5))
SHARE = st.sampled_from([0.0, 0.0, 0.2])
SEVERITY = st.sampled_from(["critical", "critical", "warning"])
TEXTS = ["a", "b", "née", "", "1", "\x00", "A", "null"]


@st.composite
def _column(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    column: dict[str, Any] = {"type": kind, "nulls": draw(SHARE), "severity": draw(SEVERITY)}
    if kind in ("integer", "number"):
        low = draw(st.sampled_from([None, 0, -2.5, 3, -1e300]))
        high = draw(st.sampled_from([None, 3, 10.5, 1e39, 2.0**60]))
        column |= {"min": low, "max": high}
        if low is not None or high is not None:
            column["outside"] = draw(SHARE)
    if kind == "category" and draw(st.booleans()):
        column["values"] = draw(st.lists(st.sampled_from(TEXTS), unique=True))
        column["new_values"] = draw(SHARE)
    if kind == "timestamp" and draw(st.booleans()):
        column |= {"hours": draw(st.sampled_from([(5, 23), (0, 0), (9, 17)]))}
        column["outside"] = draw(SHARE)
    return column


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    names = draw(st.lists(NAMES, min_size=3, max_size=9, unique=True))
    kinds = ["timestamp", "integer", draw(st.sampled_from(["integer", "number", "category"]))]
    more = st.sampled_from(["timestamp", "integer", "number", "category", "boolean"])
    kinds += [draw(more) for _ in names[3:]]
    columns = {n: draw(_column(k)) for n, k in zip(names, kinds, strict=True)}
    time, label, _ = names[:3]
    for name in names[3:]:
        columns[name]["feature"] = draw(st.booleans())
    numeric = [n for n in names if columns[n]["type"] in ("integer", "number")]
    for name in numeric:
        if draw(st.booleans()):
            columns[name]["at_most"] = draw(st.sampled_from(numeric))
    key = draw(
        st.lists(
            st.sampled_from([n for n in names if n != label]), min_size=1, max_size=3, unique=True
        )
    )
    content = {"task": "made-up", "time": time, "key": key, "label": label, "columns": columns}
    return Contract.model_validate_json(json.dumps(content))


def fields_of(contract: Contract) -> list[str]:
    keys = [k for k in contract.key if k not in contract.inputs and k != contract.label]
    return [*contract.inputs, *keys]


def _iso(draw: st.DrawFn) -> str:
    at = draw(st.datetimes(dt.datetime(1960, 1, 1), dt.datetime(2060, 1, 1)))
    return at.isoformat(sep=draw(st.sampled_from("T tT")))


@st.composite
def values(draw: st.DrawFn, contract: Contract, name: str) -> Any:
    """Mostly what the column's type takes, near its limits."""
    column = contract.columns[name]
    if draw(st.integers(0, 9)) == 0:
        return None
    match column.type:
        case "timestamp":
            odd = ["1699-12-31T23:59:59", "1700-01-01T00:00:00", "2200-01-01T00:00:00"]
            return draw(st.sampled_from(odd)) if draw(st.integers(0, 9)) == 0 else _iso(draw)
        case "boolean":
            return draw(st.booleans())
        case "category":
            return draw(st.sampled_from([*TEXTS, "unknown", "x" * 1000, "x" * 1001]))
    whole = st.one_of(
        st.integers(-4, 12),
        st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**60, 2**63 - 1, 2**63, -(2**63), 7.0]),
    )
    if column.type == "integer":
        return draw(whole)
    limits = [FLOAT32, -FLOAT32, 3.5e38, 0.1, -0.0, 5e-324, 10.5, -2.5, 1e300]
    return draw(st.one_of(whole, st.sampled_from(limits), st.floats(-5, 15)))


@st.composite
def rows_of(draw: st.DrawFn, contract: Contract, right: bool = False) -> list[dict[str, Any]]:
    """1 to 4 rows, right and nearly right; or right only, where the contract has such rows."""
    names = fields_of(contract)
    some = [n for n in names[len(contract.inputs) :] if draw(st.booleans())]
    wanted = [*contract.inputs, *some]
    made = st.fixed_dictionaries({n: values(contract, n) for n in wanted})
    rows: list[dict[str, Any]] = draw(st.lists(made, min_size=1, max_size=4))
    if right:
        rows = [{n: _mended(contract, n, v) for n, v in row.items()} for row in rows]
        assume(may_be(contract, rows))
    return rows


def _mended(contract: Contract, name: str, value: Any) -> Any:
    column = contract.columns[name]
    others = [0, 1, 3, True, None, *TEXTS, "2013-04-01T09:30:00.25", "2013-04-01T00:00:00"]
    known = column.values or ()
    found = (v for v in (value, *others, *known) if _value_may_be(contract, name, v))
    return next(found, None)


WILD = st.one_of(
    st.sampled_from(
        [
            True, 1.5, "1", "1.5", 1e39, 2**64, 10**400, math.inf, [], {}, [1], {"a": 1}, "NaN", "",
            "2013-04-01", "2013-04-01T05:15", "2013-04-01T05:15:00Z", "2013-04-01T05:15:00+02:00",
            "2013-02-30T05:15:00", "2013-04-01T24:00:00", "2013-04-01T05:15:60", 1364793300,
        ]
    ),
    st.text(max_size=3),
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, contract: Contract) -> list[Any]:
    """Rows with a field taken out, added, or of a wild value, or no rows at all."""
    rows: list[Any] = draw(rows_of(contract))
    row = rows[draw(st.integers(0, len(rows) - 1))]
    name = draw(st.sampled_from(sorted(row)))
    match draw(st.integers(0, 5)):
        case 0:
            del row[name]
        case 1:
            row[draw(NAMES)] = draw(WILD)
        case 2:
            rows.append(draw(WILD))
        case _:
            row[name] = draw(WILD)
    return rows


def as_json(rows: object) -> bytes:
    """Infinity is written as the number that no float holds."""
    text = json.dumps({"rows": rows}, ensure_ascii=False).replace("Infinity", "1e999")
    return text.encode("utf-8", "surrogatepass")


# What a row may be, written plainly from the contract.


def may_be(contract: Contract, rows: list[Any]) -> bool:
    return bool(rows) and all(_row_may_be(contract, row) for row in rows)


def _row_may_be(contract: Contract, row: Any) -> bool:
    names = fields_of(contract)
    if not isinstance(row, dict) or not set(contract.inputs) <= set(row) <= set(names):
        return False
    return all(_value_may_be(contract, n, row[n]) for n in row) and all(
        _at_most_holds(contract, n, row) for n in row
    )


def _value_may_be(contract: Contract, name: str, value: Any) -> bool:
    column, stops = contract.columns[name], contract.columns[name].severity == "critical"
    if value is None:
        return name != contract.time and (column.nulls > 0 or not stops)
    if column.type == "boolean":
        return isinstance(value, bool)
    if column.type == "category":
        if not isinstance(value, str):
            return False
        if column.values is None or column.new_values or not stops:
            return len(value) <= 1000
        return value in column.values
    strict = stops and not column.outside
    if column.type == "timestamp":
        if not isinstance(value, str) or not TIMES.fullmatch(value) or not value.isascii():
            return False
        try:
            at = dt.datetime.fromisoformat(value.upper())
        except ValueError:
            return False
        inside = not column.hours or column.hours[0] <= at.hour <= column.hours[1]
        return 1700 <= at.year < 2200 and (inside or not strict)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if column.type == "number":
        value = _as_float(value)
    if strict and not (
        (column.min is None or value >= column.min) and (column.max is None or value <= column.max)
    ):
        return False
    if column.type == "number":
        return abs(value) <= FLOAT32
    if value != value or abs(value) == math.inf or value != int(value):
        return False
    return abs(value) <= 2**53 if name in contract.inputs else -(2**63) <= value < 2**63


def _at_most_holds(contract: Contract, name: str, row: dict[str, Any]) -> bool:
    column = contract.columns[name]
    value, limit = row.get(name), row.get(column.at_most) if column.at_most else None
    if value is None or limit is None or column.severity == "warning":
        return True
    # A whole number in a column of floats is read as the nearest float.
    numbers = [
        _as_float(v) if contract.columns[n or ""].type == "number" else v
        for n, v in ((name, value), (column.at_most, limit))
    ]
    return bool(numbers[0] <= numbers[1])


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def is_outside(contract: Contract, name: str, row: dict[str, Any]) -> bool:
    """Does a row that may be lie outside what this column may mostly be? As float32 sees it."""
    column, value = contract.columns[name], row[name]
    if value is None or (value == "" and column.type == "category"):
        return (
            not column.nulls
            and name != contract.time
            and (value is None or column.severity == "warning")
        )
    if column.type == "timestamp":
        hour = dt.datetime.fromisoformat(value.upper()).hour
        return bool(column.hours) and not column.hours[0] <= hour <= column.hours[1]
    if column.type == "category":
        return column.values is not None and value not in column.values
    if column.type == "boolean":
        return False
    value = np.float32(value)
    limit = row.get(column.at_most) if column.at_most in contract.inputs else None
    return bool(
        (column.min is not None and value < np.float32(np.clip(column.min, -FLOAT32, FLOAT32)))
        or (column.max is not None and value > np.float32(np.clip(column.max, -FLOAT32, FLOAT32)))
        or (limit is not None and value > np.float32(limit))
    )


# The same rows as tables.


def as_table(contract: Contract, rows: list[dict[str, Any]]) -> pa.Table | None:
    """None where a column of one type cannot hold the values."""
    arrays = {}
    for name in rows[0]:
        kind, given = contract.columns[name].type, [row[name] for row in rows]
        try:
            if kind == "timestamp":
                given = [v and dt.datetime.fromisoformat(v.upper()) for v in given]
                arrays[name] = pa.array(given, pa.timestamp("us"))
            elif kind == "number":
                arrays[name] = pa.array([v if v is None else float(v) for v in given], pa.float64())
            elif kind == "integer" and all(isinstance(v, int | None) for v in given):
                arrays[name] = pa.array(given, pa.int64())
            elif kind == "integer":
                if any(v is not None and int(float(v)) != v for v in given):
                    return None
                arrays[name] = pa.array([v if v is None else float(v) for v in given], pa.float64())
            elif kind == "category":
                arrays[name] = pa.array(given, pa.string())
            else:
                arrays[name] = pa.array(given, pa.bool_())
        except OverflowError:
            return None
    return pa.table(list(arrays.values()), names=list(arrays))


def as_frame(contract: Contract, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """As a batch of these rows is read from Parquet."""
    frame = {}
    for name in rows[0]:
        given = [row[name] for row in rows]
        gaps = any(v is None for v in given)
        match contract.columns[name].type:
            case "timestamp":
                parsed = [v and dt.datetime.fromisoformat(v.upper()) for v in given]
                frame[name] = pd.Series(parsed, dtype="datetime64[us]")
            case "number":
                frame[name] = pd.Series(given, dtype="float64")
            case "integer":
                frame[name] = pd.Series(given, dtype="float64" if gaps else "int64")
            case "category":
                frame[name] = pd.Series(given, dtype=object)
            case _:
                frame[name] = pd.Series(given, dtype=object if gaps else "bool")
    return pd.DataFrame(frame)


def arrow_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, **options)
    return bytes(sink.getvalue())
