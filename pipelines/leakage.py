"""Does a column tell the label? A feature that almost decides it was made after it, or from it.

Great Expectations holds one column, or two by equality or order, against a rule; rates of the
label within a column's values are beyond it, so this is computed beside it.

Not covered: two columns that tell the label only together, and one that tells it with noise (an
AUC below TELLING). The gate sees those as a model too good to be true; people should too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.contract import Contract
from pipelines.metrics import auc
from pipelines.records import Finding
from pipelines.stored import fits

TELLING = 0.98
"""AUC of one column alone, or late rate of one of its values, that no honest feature has."""
TELLING_GAP = 0.9
"""The same for the rows without a value: a few honest gaps must not hide the others. The highest
rate of a month of flights is 0.55."""
ROWS = 200
"""Fewest rows that are judged: a rate of .98 to 1 in 200 rows is no accident of a rate below .9."""
FAR = 0.1
"""A low rate is judged only where the batch's own is this far from 0; a high one, twice as far from
1: where nearly every row is 1, a value where all are says little."""


@dataclass(frozen=True)
class _Levels:
    """A column as its distinct values, missing being one of them.

    codes (N,) which value each row has; names (L,), rows (L,), rate (L,): mean label of a value.
    """

    codes: np.ndarray
    names: pd.Index
    rows: np.ndarray
    rate: np.ndarray

    @classmethod
    def of(cls, values: pd.Series, label: np.ndarray) -> _Levels:
        codes, names = pd.factorize(values, use_na_sentinel=False)
        rows = np.bincount(codes, minlength=len(names))
        rate = np.bincount(codes, weights=label, minlength=len(names)) / np.maximum(rows, 1)
        return cls(codes, names, rows, rate)


def findings(table: pd.DataFrame, contract: Contract) -> list[Finding]:
    """One finding for each feature that is there with the type it should have.

    None without a label of zeros and ones to tell, or with fewer than ROWS rows.
    """
    known = table.get(contract.label)
    if known is None or len(table) < ROWS or not known.isin([0, 1]).all() or known.nunique() < 2:
        return []
    label = known.to_numpy(dtype=np.int8)
    features = [
        name
        for name in (*contract.numbers, *contract.categories)
        if name in table and fits(table[name], contract.columns[name])
    ]
    return [
        _finding(name, contract, _tells(table[name], label, contract.columns[name].personal))
        for name in features
        if not contract.columns[name].may_tell_label
    ]


def _tells(values: pd.Series, label: np.ndarray, personal: bool) -> str:
    """What gives the label away, in words; empty when nothing does."""
    levels = _Levels.of(values, label)
    base = label.mean()
    pure = np.zeros(len(levels.rows), dtype=bool)
    if base <= 1 - 2 * FAR:
        pure |= levels.rate >= np.where(levels.names.isna(), TELLING_GAP, TELLING)
    if base >= FAR:
        pure |= levels.rate <= 1 - TELLING
    pure &= levels.rows >= ROWS
    if pure.any():
        worst = int(np.argmax(np.where(pure, levels.rows, 0)))
        value = levels.names[worst]
        shown = "a missing value" if pd.isna(value) else "one value" if personal else f"{value!s}"
        return (
            f"{shown} ({levels.rows[worst]:,} rows) has label 1 at a rate of "
            f"{levels.rate[worst]:.3f}, the batch at {base:.3f}"
        )
    alone = max(_rank_auc(values, label), _level_auc(levels, label))
    return f"alone it ranks the label with AUC {alone:.3f}" if alone >= TELLING else ""


def _rank_auc(values: pd.Series, label: np.ndarray) -> float:
    """AUC of the number as a score, whichever way it points; 0.5 where it cannot be judged."""
    if not pd.api.types.is_numeric_dtype(values):
        return 0.5
    present = values.notna().to_numpy()
    if present.sum() < ROWS:
        return 0.5
    area = auc(label[present], values[present].to_numpy(dtype=np.float64))
    return 0.5 if np.isnan(area) else max(area, 1 - area)


def _level_auc(levels: _Levels, label: np.ndarray) -> float:
    """AUC of each value's label rate as a score: even rows are scored by odd ones, and back.

    Scoring a row by others keeps a column of unique names from looking as if it told the label.
    """
    odd = np.arange(len(label)) % 2 == 1
    score = np.empty(len(label))
    for scored in (odd, ~odd):
        known, size = ~scored, len(levels.rows)
        rows = np.bincount(levels.codes[known], minlength=size)
        ones = np.bincount(levels.codes[known], weights=label[known], minlength=size)
        base = label[known].mean()
        score[scored] = ((ones + base) / (rows + 1))[levels.codes[scored]]
    area = auc(label, score)
    return 0.5 if np.isnan(area) else area


def _finding(name: str, contract: Contract, told: str) -> Finding:
    allowed = f"no value, no gap and no order of a feature decides {contract.label}"
    return Finding(
        rule="leak",
        column=name,
        severity="critical",
        passed=not told,
        observed=told or "does not tell the label",
        allowed=allowed,
        message=""
        if not told
        else f"{name} breaks leak: {told}; allowed: {allowed}. If it is known before the label, "
        f"say so in contracts/{contract.task}.yaml with may_tell_label: true",
    )
