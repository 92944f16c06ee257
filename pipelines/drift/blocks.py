"""Statistics for rows that come in blocks of time: shuffle and hold out whole blocks, never rows.

Rows of one day share its weather, its strikes and its bugs. A test that takes them for
independent draws calls any two months different, and a classifier that has seen one half of a day
recognises the other. Pure.

N rows, B blocks, F yes/no features of the columns, R permutations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

PERMUTATIONS = 999
UNITS = {"day": 86_400, "hour": 3600, "minute": 60, "second": 1}
FEWEST = 5
"""Blocks that a batch must have; a finer unit is taken until it has."""
UNTIMED = 100
"""Blocks that rows are dealt into at random when their times do not tell them apart."""
FOLDS = 5


def of(reference: np.ndarray, current: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (M,) epoch seconds -> the block of each row, the same number for the same moment.

    The unit is the longest that cuts `current` into FEWEST blocks: days of a month or a week,
    hours of a day, minutes of an hour.
    """
    for unit in UNITS.values():
        if len(np.unique(current // unit)) >= FEWEST:
            return reference // unit, current // unit
    random = np.random.default_rng(seed)
    return random.integers(0, UNTIMED, len(reference)), random.integers(0, UNTIMED, len(current))


@dataclass(frozen=True)
class Counts:
    """One column by block: hits (B, F) rows where a feature holds, there (B,) rows with a value."""

    hits: np.ndarray
    there: np.ndarray


def p_values(columns: Mapping[str, Counts], current: np.ndarray, seed: int) -> dict[str, float]:
    """current (B,) bool: which blocks are the batch's. Family-wise p-value of each column.

    Which blocks are the batch's is drawn again R times, for all columns at once, so that columns
    that move together stay together. A feature's difference in rate is measured in its own
    standard deviations over the draws; a column speaks with its loudest feature, and its p-value
    is how often the loudest of *all* columns was as loud (the single-step maxT of Westfall and
    Young 1993). The smallest p-value is 1 / (R + 1).
    """
    random = np.random.default_rng(seed)
    blocks, chosen = len(current), int(current.sum())
    draws = random.random((PERMUTATIONS, blocks)).argsort(axis=1)[:, :chosen]
    taken = np.zeros((PERMUTATIONS + 1, blocks))
    taken[0] = current
    np.put_along_axis(taken[1:], draws, 1.0, axis=1)
    loudest = np.column_stack([_loudest(taken, column, current) for column in columns.values()])
    of_all = loudest[1:].max(axis=1)
    return {
        name: float((1 + np.sum(of_all >= loudest[0, i])) / (PERMUTATIONS + 1))
        for i, name in enumerate(columns)
    }


def _loudest(taken: np.ndarray, column: Counts, current: np.ndarray) -> np.ndarray:
    """(R + 1,) largest deviation over the features of one column, for each draw of blocks.

    Of a batch much longer sampled than the window, each block has many more rows; it counts as
    one of the window's, or a single one among the drawn would outweigh all others.
    """
    typical = min(column.there[current].mean(), column.there[~current].mean())
    weight = np.minimum(column.there, max(typical, 1.0))
    weighed = column.hits * (weight / np.maximum(column.there, 1))[:, None]
    hits, there = taken @ weighed, (taken @ weight)[:, None]
    others, rest = weighed.sum(axis=0) - hits, weight.sum() - there
    # A draw with no value on one side says nothing.
    both = (there > 0) & (rest > 0)
    shares = hits / np.where(both, there, 1.0) - others / np.where(both, rest, 1.0)
    # Rounding: what is the same on both sides must not differ by the last bit.
    difference = np.where(both, shares.round(12), 0.0)
    spread = difference[1:].std(axis=0)
    loud = np.abs(difference) / np.where(spread > 0, spread, np.inf)
    return np.asarray(loud.max(axis=1))


def count_numbers(found: np.ndarray, block: np.ndarray, blocks: int, cuts: int) -> Counts:
    """found (N,) float, NaN = missing; features are `value <= cut` at equally frequent cuts."""
    there = ~np.isnan(found)
    places = np.arange(1, cuts + 1) / (cuts + 1)
    edges = np.unique(np.quantile(found[there], places)) if there.any() else np.empty(0)
    bins = np.searchsorted(edges, found[there], side="left")
    sums = np.bincount(block[there] * (len(edges) + 1) + bins, minlength=blocks * (len(edges) + 1))
    hits = sums.reshape(blocks, -1).cumsum(axis=1)[:, :-1]
    return Counts(_at_least_one(hits), np.bincount(block[there], minlength=blocks))


def count_codes(codes: np.ndarray, block: np.ndarray, blocks: int) -> Counts:
    """codes (N,) int, -1 = missing; features are `code is c`."""
    there = codes >= 0
    levels = int(codes.max(initial=-1)) + 1
    sums = np.bincount(block[there] * levels + codes[there], minlength=blocks * levels)
    return Counts(
        _at_least_one(sums.reshape(blocks, levels)), np.bincount(block[there], minlength=blocks)
    )


def _at_least_one(hits: np.ndarray) -> np.ndarray:
    return hits if hits.shape[1] else np.zeros((len(hits), 1))


def folds(block: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """(N,) fold 0 .. FOLDS - 1 of each row: a block lies in one fold, each group is spread evenly.

    A block with rows of several groups goes with the first of them.
    """
    random = np.random.default_rng(seed)
    fold_of: dict[int, int] = {}
    for value in np.unique(group):
        fresh = [b for b in np.unique(block[group == value]).tolist() if b not in fold_of]
        fold_of |= dict(
            zip(random.permutation(fresh).tolist(), np.arange(len(fresh)) % FOLDS, strict=True)
        )
    return np.array([fold_of[b] for b in block.tolist()], dtype=np.int64)


def held_out(features: np.ndarray, label: np.ndarray, fold: np.ndarray, seed: int) -> np.ndarray:
    """(N,) probability of label 1 by a small boosting that never saw a row of the same fold.

    NaN in a fold whose complement lacks one of the labels.
    """
    import threadpoolctl
    from sklearn.ensemble import HistGradientBoostingClassifier

    answers = np.full(len(label), np.nan)
    # One thread: beside another busy process, two are many times slower.
    with threadpoolctl.threadpool_limits(1):
        for out in np.unique(fold):
            seen = fold != out
            if len(np.unique(label[seen])) < 2:
                continue
            model = HistGradientBoostingClassifier(
                max_iter=30,
                max_leaf_nodes=8,
                min_samples_leaf=50,
                early_stopping=False,
                random_state=seed,
            )
            model.fit(features[seen], label[seen])
            answers[~seen] = model.predict_proba(features[~seen])[:, 1]
    return answers
