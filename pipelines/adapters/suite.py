"""The contract as Great Expectations' expectations: one Rule each, in the contract's order.

What GX has no expectation for: several storage types of one kind (it compares one name, so the
suite asks for the one a fitting column has), hours of the day (a map expectation of our own, below)
and a feature that tells the label (`pipelines/leakage.py`).
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas.api import types as kinds

from pipelines.adapters.amounts import between, share
from pipelines.contract import Column, Contract, Severity
from pipelines.periods import start_and_end
from pipelines.stored import fits

with warnings.catch_warnings():
    # Deprecations inside the library and in what it imports: nothing here can change them.
    warnings.simplefilter("ignore")
    import great_expectations.expectations as gxe
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.expectations.expectation import ColumnMapExpectation
    from great_expectations.expectations.metrics import (
        ColumnMapMetricProvider,
        column_condition_partial,
    )

STORED = {
    "timestamp": "datetime64",
    "integer": "int64",
    "number": "float64",
    "category": "string",
    "boolean": "bool",
    "image": "bytes",
}
"""What a column that does not fit its type is asked to be, and is not: text that fits comes as
categories, so a category that does not fit (of codes) must not be asked to be one."""
HISTORY = 3
"""Fewest earlier batches whose median row count means something."""
LARGEST = sys.float_info.max
ROUNDING = 1e-9
"""Taken off every `mostly`, so that a share exactly at its limit passes: 1 - 0.1 is not 0.9."""


@dataclass(frozen=True)
class Rule:
    """One rule of the contract, the expectation that holds it, and what it allows in words."""

    name: str
    column: str | None
    severity: Severity
    allowed: str
    expectation: Any
    named: tuple[str, ...] = ()
    """Rows that break it, each with why, where the expectation's own values do not say."""


class _HourBetween(ColumnMapMetricProvider):
    condition_metric_name = "column_values.hour_between"
    condition_value_keys = ("first", "last")

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, first: int, last: int, **_: Any) -> pd.Series:
        inside: pd.Series = column.dt.hour.between(first, last)
        return inside


class ExpectColumnHourToBeBetween(ColumnMapExpectation):
    """Expect the hour of the day of each time to lie in first..last, both included."""

    map_metric = "column_values.hour_between"
    success_keys = ("first", "last", "mostly")
    first: int
    last: int


def rules(
    table: pd.DataFrame,
    contract: Contract,
    period: str,
    length: str,
    history: Sequence[int],
    beside: Sequence[str] = (),
) -> list[Rule]:
    """table: its text as levels. beside: further columns that stand right of it where it is checked.
    A rule that a missing or mistyped column cannot answer is left out: the finding that the column
    is missing or mistyped stands for it. An empty table is asked for its columns and its rows only,
    since everything else is true of nothing."""
    return [
        *_structure(table, contract, beside),
        *_row_counts(contract, history),
        *(_contents(table, contract, period, length) if len(table) else ()),
    ]


def _structure(table: pd.DataFrame, contract: Contract, beside: Sequence[str]) -> Iterator[Rule]:
    names = list(contract.columns)
    allowed = f"exactly the {len(names)} columns that the contract describes"
    yield Rule(
        "columns", None, "critical", allowed,
        gxe.ExpectTableColumnsToMatchSet(column_set=[*names, *beside], exact_match=True),
    )  # fmt: skip
    if set(table.columns) == set(names):
        yield Rule(
            "order", None, "critical", f"the contract's order: {', '.join(names)}",
            gxe.ExpectTableColumnsToMatchOrderedList(column_list=[*names, *beside]),
        )  # fmt: skip


def _row_counts(contract: Contract, history: Sequence[int]) -> Iterator[Rule]:
    rows = contract.rows
    yield Rule(
        "rows", None, "critical", f"{between(rows.min, rows.max)} rows",
        gxe.ExpectTableRowCountToBeBetween(min_value=rows.min, max_value=rows.max),
    )  # fmt: skip
    if len(history) >= HISTORY:
        usual = statistics.median(history)
        low, high = (round(usual * ratio) for ratio in rows.against_history)
        yield Rule(
            "history", None, "critical",
            f"{between(low, high)} rows, from the median of {len(history)} earlier batches",
            gxe.ExpectTableRowCountToBeBetween(min_value=low, max_value=high),
        )  # fmt: skip


def _contents(table: pd.DataFrame, contract: Contract, period: str, length: str) -> Iterator[Rule]:
    present = {n: c for n, c in contract.columns.items() if n in table.columns}
    fitting = {n: c for n, c in present.items() if fits(table[n], c)}
    for name, column in present.items():
        stored = str(table[name].dtype) if name in fitting else STORED[column.type]
        yield Rule(
            "type", name, "critical", column.type,
            gxe.ExpectColumnTypeToBe(column=name, type_=stored),
        )  # fmt: skip
        yield Rule(
            "nulls", name, column.severity, f"at most {share(column.nulls)} of the rows",
            gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=mostly(column.nulls)),
        )  # fmt: skip
        if name not in fitting or not table[name].notna().any():
            continue  # where gaps only are allowed, there is no value to hold to a rule
        yield from _values(name, column, table[name])
        if name == contract.label and not contract.classes:
            yield from _label(name, column)
        elif column.distinct > 1:
            yield Rule(
                "distinct", name, column.severity, f"at least {column.distinct:,} different values",
                gxe.ExpectColumnUniqueValueCountToBeBetween(column=name, min_value=column.distinct),
            )  # fmt: skip
    if contract.time in fitting:
        start, end = start_and_end(period, length)
        yield Rule(
            "period", contract.time, "critical", f"from {start} until before {end}",
            gxe.ExpectColumnValuesToBeBetween(
                column=contract.time, min_value=start, max_value=end, strict_max=True
            ),
        )  # fmt: skip
        yield Rule(
            "sorted", contract.time, "critical", "rows in the order of time",
            gxe.ExpectColumnValuesToBeIncreasing(column=contract.time),
        )  # fmt: skip
    for name, column in fitting.items():
        if column.at_most in fitting:
            yield Rule(
                "at_most", name, column.severity, f"at most {column.at_most} of the same row",
                gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                    column_A=column.at_most, column_B=name, or_equal=True,
                    ignore_row_if="either_value_is_missing",
                ),
            )  # fmt: skip
    if all(name in present for name in contract.key):
        yield Rule(
            "key", ", ".join(contract.key), "critical", "no two rows share their key",
            gxe.ExpectCompoundColumnsToBeUnique(column_list=list(contract.key))
            if len(contract.key) > 1
            else gxe.ExpectColumnValuesToBeUnique(column=contract.key[0]),
        )  # fmt: skip


def _values(name: str, column: Column, values: pd.Series) -> Iterator[Rule]:
    unit = f" {column.unit}" if column.unit else ""
    spare = f", {share(column.outside)} of the rows excepted" if column.outside else ""
    if kinds.is_float_dtype(values) and (
        column.min is None or column.max is None or column.outside
    ):
        # A range that is open, or that some rows may leave, lets infinity through.
        yield Rule(
            "finite", name, "critical", "finite numbers",
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=-LARGEST, max_value=LARGEST),
        )  # fmt: skip
    if column.min is not None or column.max is not None:
        yield Rule(
            "range", name, column.severity, f"{between(column.min, column.max)}{unit}{spare}",
            gxe.ExpectColumnValuesToBeBetween(
                column=name, min_value=column.min, max_value=column.max,
                mostly=mostly(column.outside),
            ),
        )  # fmt: skip
    if column.mean is not None:
        low, high = column.mean
        yield Rule(
            "mean", name, column.severity, f"a mean of {between(low, high)}{unit}",
            gxe.ExpectColumnMeanToBeBetween(column=name, min_value=low, max_value=high),
        )  # fmt: skip
    if column.hours is not None:
        first, last = column.hours
        yield Rule(
            "hours", name, column.severity, f"hours {first} to {last} of the day{spare}",
            ExpectColumnHourToBeBetween(
                column=name, first=first, last=last, mostly=mostly(column.outside)
            ),
        )  # fmt: skip
    if column.values is not None:
        few = column.new_values
        allowed = f"the {len(column.values)} values of the contract"
        known = list(column.values)
        yield Rule(
            "values", name, column.severity,
            f"{allowed}, {share(few)} of the rows excepted" if few else allowed,
            gxe.ExpectColumnValuesToBeInSet(column=name, value_set=known, mostly=mostly(few)),
        )  # fmt: skip


def _label(name: str, column: Column) -> Iterator[Rule]:
    values = [False, True] if column.type == "boolean" else [0, 1]
    yield Rule(
        "label", name, "critical", "0 or 1",
        gxe.ExpectColumnValuesToBeInSet(column=name, value_set=values),
    )  # fmt: skip
    # An hour's batch of a rare event may honestly hold one class; `distinct: 2` says never.
    severity: Severity = column.severity if column.distinct > 1 else "warning"
    yield Rule(
        "classes", name, severity, "both 0 and 1",
        gxe.ExpectColumnUniqueValueCountToBeBetween(column=name, min_value=2),
    )  # fmt: skip


def mostly(excepted: float) -> float:
    return max(0.0, 1 - excepted - ROUNDING) if excepted else 1.0
