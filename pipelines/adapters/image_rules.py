"""The contract's rules on pictures and on the balance of classes, as Great Expectations' own.

GX knows no picture. What is known of each one (`pipelines/looks.py`) stands in columns beside the
batch's own while it is checked, and GX's usual expectations hold those; `Rule.named` says which rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines import looks
from pipelines.adapters.amounts import share
from pipelines.adapters.suite import ROUNDING, Rule, mostly
from pipelines.contract import Column, Contract
from pipelines.stored import fits

with warnings.catch_warnings():
    # Deprecations inside the library and in what it imports: nothing here can change them.
    warnings.simplefilter("ignore")
    import great_expectations.expectations as gxe

NAMED = 20
"""Rows that a finding names; the page says how many more there are."""
RULES = ("readable", "size", "mode", "plain", "duplicates", "balance")
LENIENT = {
    "readable": "unreadable",
    "size": "unreadable",
    "mode": "unreadable",
    "plain": "plain",
    "duplicates": "duplicates",
}
"""Rule -> the contract's key that lets a batch have a few; those few are told as a warning."""


@dataclass(frozen=True)
class Beside:
    """Columns to be checked beside the batch's own, and the rules that hold them."""

    columns: pd.DataFrame
    rules: tuple[Rule, ...]


def beside(
    table: pd.DataFrame, contract: Contract, earlier: Mapping[str, Mapping[str, str]]
) -> Beside:
    """earlier: column -> digest -> name of the pictures of earlier batches."""
    made: dict[str, Any] = {}
    rules: list[Rule] = []
    # Of a table's thirty thousand rows it takes a quarter of a second, and nobody asks.
    called = looks.names(table, contract) if looks.columns(contract) else np.empty(0, object)
    hidden = any(column.personal for column in contract.columns.values())

    def put(name: str, rule: str, values: Any) -> str:
        made[f"{name}: {rule}"] = values
        return f"{name}: {rule}"

    def rows(wrong: Any, said: Any) -> tuple[str, ...]:
        """Names of the rows that are wrong, each with what is said of it."""
        at = np.flatnonzero(np.asarray(wrong, dtype=bool))
        told = [f"{called[row]} ({said[row]})" if said[row] else str(called[row]) for row in at]
        more = [f"and {len(told) - NAMED:,} more"] if len(told) > NAMED else []
        return () if hidden else (*told[:NAMED], *more)

    if len(table):
        for name, column in looks.columns(contract).items():
            if name in table and fits(table[name], column):
                rules += _pictures(name, column, table, called, earlier.get(name, {}), put, rows)
        label = contract.columns[contract.label]
        if contract.label in table and fits(table[contract.label], label) and label.balance:
            rules.append(_balance(contract.label, label, table[contract.label], put))
    return Beside(pd.DataFrame(made, index=table.index), tuple(rules))


def _pictures(
    name: str,
    column: Column,
    table: pd.DataFrame,
    called: np.ndarray,
    earlier: Mapping[str, str],
    put: Callable[[str, str, Any], str],
    rows: Callable[[Any, Any], tuple[str, ...]],
) -> Iterator[Rule]:
    assert column.size is not None
    found = looks.look(table[name], column)
    wrong = found["wrong"].to_numpy()
    # Of the three together: a share for each would let in three times as many.
    faulty = found["wrong"].notna().sum() / max(1, found["readable"].notna().sum())
    few = column.unreadable if faulty <= column.unreadable + ROUNDING else 0.0
    excepted = _excepted(column.unreadable, "the pictures", ", whatever is wrong with them")
    excepted += "" if few or not excepted else f": it is {share(faulty)}"
    size = f"{column.size[0]} x {column.size[1]} pixels"
    asked = {
        "readable": (True, f"pictures that can be read{excepted}", few),
        "size": (size, f"{size}{excepted}", few),
        "mode": (column.mode, f"mode {column.mode}{excepted}", few),
        "plain": (
            False, f"pictures of more than one colour{_excepted(column.plain)}", column.plain
        ),
    }  # fmt: skip
    for rule, (right, allowed, spared) in asked.items():
        bad = found[rule].notna() & (found[rule] != right)
        yield Rule(
            rule, name, column.severity, allowed,
            gxe.ExpectColumnValuesToBeInSet(
                column=put(name, rule, found[rule]), value_set=[right], mostly=mostly(spared)
            ),
            rows(bad, wrong),
        )  # fmt: skip
    first = looks.repeated(found["digest"], called, earlier)
    again = pd.Series(first, index=table.index).notna()
    yield Rule(
        "duplicates", name, column.severity,
        "no picture twice, in this batch and the earlier ones" + _excepted(column.duplicates),
        gxe.ExpectColumnValuesToBeNull(
            column=put(name, "repeats", first), mostly=mostly(column.duplicates)
        ),
        rows(again, [f"repeats {other}" for other in first]),
    )  # fmt: skip


def _balance(
    name: str, column: Column, values: pd.Series, put: Callable[[str, str, Any], str]
) -> Rule:
    assert column.balance is not None
    low, high = column.balance
    shares = values.astype(object).value_counts(normalize=True)
    outside = shares[(shares < low) | (shares > high)]
    return Rule(
        "balance", name, column.severity, f"each class {share(low)} to {share(high)} of the rows",
        gxe.ExpectColumnValuesToBeBetween(
            column=put(name, "share", values.astype(object).map(shares).astype(float)),
            min_value=low, max_value=high,
        ),
        () if column.personal else tuple(f"{c!r} has {share(s)}" for c, s in outside.items()),
    )  # fmt: skip


def _excepted(spared: float, of: str = "them", more: str = "") -> str:
    return f", {share(spared)} of {of} excepted{more}" if spared else ""
