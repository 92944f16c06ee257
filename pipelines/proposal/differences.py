"""What batches hold that a contract does not allow: a quick look, for the person who edits it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from pipelines import looks
from pipelines.contract import Column, Contract
from pipelines.stored import fits, times_from_text, type_of

SHOWN = 5
"""New values that one line names."""


def differences(contract: Contract, batches: Mapping[str, pd.DataFrame]) -> list[str]:
    """One line each; empty when the batches keep to the contract.

    Looks at columns, types, gaps, ranges, means, hours, values, classes' shares, keys, and at each
    picture. Row counts, periods, leaks and what repeats an earlier batch are held against a batch where
    it lands, by `perennial validate`.
    """
    found = []
    for name, rows in sorted(batches.items()):
        found += [f"{name}: {line}" for line in _batch(contract, rows)]
    return found


def _batch(contract: Contract, rows: pd.DataFrame) -> Iterator[str]:
    described, seen = list(contract.columns), list(rows.columns)
    yield from (f"column {n} is missing" for n in described if n not in seen)
    yield from (f"column {n} is not described" for n in seen if n not in described)
    if seen != described and set(seen) == set(described):
        yield f"columns are in another order: {', '.join(seen)}"
    for name in (n for n in described if n in seen):
        column, values = contract.columns[name], rows[name]
        if column.type == "timestamp":
            values = times_from_text(values)
        if not fits(values, column):
            held = type_of(values) or pd.api.types.infer_dtype(values)
            yield f"{name} holds {held}, the contract says {column.type}"
        else:
            yield from (f"{name} {line}" for line in _column(column, values))
    if set(contract.key) <= set(seen):
        repeated = int(rows.duplicated(list(contract.key), keep=False).sum())
        if repeated:
            yield f"{repeated} rows share their key {', '.join(contract.key)} with another row"


def _column(column: Column, values: pd.Series) -> Iterator[str]:
    """values: stored as the column's type may be."""
    gaps = float(values.isna().mean()) if len(values) else 0.0
    if gaps > column.nulls:
        yield f"has no value in {gaps:.2%} of the rows, the contract allows {column.nulls:.2%}"
    present = values.dropna()
    if present.empty:
        return
    if column.type == "image":
        yield from _pictures(column, present)
    if column.min is not None and (present < column.min).mean() > column.outside:
        yield f"goes down to {present.min():g}, the contract allows from {column.min:g}"
    if column.max is not None and (present > column.max).mean() > column.outside:
        yield f"goes up to {present.max():g}, the contract allows to {column.max:g}"
    if column.mean is not None:
        mean, (low, high) = float(present.mean()), column.mean
        if not low <= mean <= high:
            yield f"has the mean {mean:g}, the contract allows {low:g} to {high:g}"
    if column.hours is not None:
        first, last = column.hours
        others = present.dt.hour[~present.dt.hour.between(first, last)]
        if len(others) / len(present) > column.outside:
            hours = ", ".join(map(str, sorted(others.unique())))
            yield f"lies in the hours {hours}, the contract allows {first} to {last}"
    if column.values is not None:
        new = present[~present.isin(column.values)]
        if len(new) / len(present) > column.new_values:
            named = sorted(map(str, new.unique()))
            shown = "" if column.personal else f": {', '.join(named[:SHOWN])}"
            yield f"has {len(named)} values that the contract does not know{shown}"
    if column.balance is not None:
        low, high = column.balance
        for cls, part in present.astype(object).value_counts(normalize=True).items():
            if not low <= part <= high:
                shown = "a class" if column.personal else str(cls)
                yield f"has {shown} in {part:.2%} of the rows, the contract allows {low:.2%} to {high:.2%}"
    if present.nunique() < column.distinct:
        yield f"has {present.nunique()} different values, the contract wants {column.distinct}"


def _pictures(column: Column, values: pd.Series) -> Iterator[str]:
    found = looks.look(values, column)
    wrong = found["wrong"].dropna()
    if len(wrong) / len(values) > column.unreadable:
        kinds = "; ".join(f"{n} of {what}" for what, n in wrong.value_counts().head(SHOWN).items())
        height, width = column.size or (0, 0)
        yield (
            f"has {len(wrong)} that are no picture of {height} x {width} pixels and mode {column.mode}: "
            f"{kinds}; the contract allows {column.unreadable:.2%}"
        )
    for what, bad, allowed in (
        ("of one colour", found["plain"].eq(True), column.plain),
        ("that repeat another", found["digest"].dropna().duplicated(), column.duplicates),
    ):
        if bad.sum() / len(values) > allowed:
            yield f"has {int(bad.sum())} pictures {what}, the contract allows {allowed:.2%}"
