"""Is the champion still as good as it could be? Judged on answers whose labels have arrived. Pure.

Two questions, because a month's AUC says little by itself: on the flights the AUC of one and the
same fresh model differs by some .03 from month to month, for no other reason than the weather.

- Has it fallen far below what it was when it was made? Only a large fall can be told.
- Could more be learned? Asked of a 0/1 label only. A small model gets the champion's answer, the
  inputs and the batch's own labels, and answers days that it has not seen. It is measured on the
  same rows as the champion, so how hard the month was drops out of the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.contract import Contract
from pipelines.drift import blocks, profile
from pipelines.params import Monitor
from pipelines.records import Performance
from pipelines.served import bodies

if TYPE_CHECKING:
    import pandas as pd

FEWEST_ROWS = 500
"""Labelled rows, and FEWEST_OF_EACH of either label, below which nothing is said."""
FEWEST_OF_EACH = 25
MOST_ROWS = 50_000
"""Labelled rows that are read at most; bounds the time."""
RESAMPLES = 999
CONFIDENCE = 0.95
"""Two-sided, of whole blocks drawn with replacement."""


def judge(
    period: str,
    labelled: pd.DataFrame,
    contract: Contract,
    expected: float,
    settings: Monitor,
    seed: int,
) -> Performance | None:
    """labelled: one champion's answers, `probability` 0..1 (of each class, where there are some) and
    `label`, its number, with its inputs, or with its time where there are classes.

    None when there are too few rows of any label to say anything.
    """
    rows = profile.draw(labelled, bodies.stored(contract.time), MOST_ROWS, seed)
    label = rows["label"].to_numpy().astype(np.int64)
    of_each = np.bincount(label, minlength=max(len(contract.classes), 2))
    if len(rows) < FEWEST_ROWS or of_each.min() < FEWEST_OF_EACH:
        return None
    probability = np.array(rows["probability"].tolist(), dtype=np.float64)
    at = profile.seconds(rows, bodies.stored(contract.time))
    block, _ = blocks.of(at, at, seed)

    if contract.classes:
        return _of_classes(period, label, probability, block, expected, settings, seed)
    inputs = rows[[bodies.stored(n) for n in contract.inputs]].set_axis(contract.inputs, axis=1)
    better = _learned(inputs, label, probability, contract, block, seed)
    auc, learnable = _aucs(label, (probability, better), block, seed)
    low, high = _ends(auc)
    gain_low, _ = _ends(learnable - auc)
    gain = float(learnable[0] - auc[0])
    fell = high < expected - settings.auc_drop
    return Performance(
        period=period,
        rows=len(rows),
        auc=round(float(auc[0]), 6),
        low=low,
        high=high,
        expected=round(expected, 6),
        learnable=round(float(learnable[0]), 6),
        learnable_low=gain_low,
        degraded=fell or (gain >= settings.auc_gain and gain_low > 0),
    )


def _of_classes(
    period: str,
    label: np.ndarray,
    probability: np.ndarray,
    block: np.ndarray,
    expected: float,
    settings: Monitor,
    seed: int,
) -> Performance:
    """Only the fall is told: what could be learned of pictures is no matter of a small model."""
    each = [
        _aucs((label == k).astype(np.int64), (probability[:, k],), block, seed)[0]
        for k in range(probability.shape[1])
    ]
    auc = np.nanmean(each, axis=0)
    low, high = _ends(auc)
    return Performance(
        period=period,
        rows=len(label),
        auc=round(float(auc[0]), 6),
        low=low,
        high=high,
        expected=round(expected, 6),
        degraded=high < expected - settings.auc_drop,
    )


def _aucs(
    label: np.ndarray, scores: tuple[np.ndarray, ...], block: np.ndarray, seed: int
) -> list[np.ndarray]:
    """For each of the scores (N,): its AUC, then the AUC of each resample of whole blocks.

    Rows of one day share what made it hard, so an interval that is to hold on other days draws
    days. How often a positive of block i beats a negative of block j is counted once, (B, B);
    a resample then only weighs these counts.
    """
    names, inside = np.unique(block, return_inverse=True)
    random = np.random.default_rng(seed)
    even = np.full(len(names), 1 / len(names))
    weights = np.vstack([np.ones(len(names)), random.multinomial(len(names), even, RESAMPLES)])
    positive = label == 1
    totals = [
        weights @ np.bincount(inside[of], minlength=len(names)) for of in (positive, ~positive)
    ]
    found = []
    for score in scores:
        beaten = np.empty((len(names), len(names)))
        for j in range(len(names)):
            rivals = np.sort(score[~positive & (inside == j)])
            below = np.searchsorted(rivals, score[positive], "left")
            upto = np.searchsorted(rivals, score[positive], "right")
            beaten[:, j] = np.bincount(inside[positive], (below + upto) / 2, minlength=len(names))
        with np.errstate(invalid="ignore"):  # a resample without one of the labels is NaN
            found.append(((weights @ beaten) * weights).sum(axis=1) / (totals[0] * totals[1]))
    return found


def _ends(found: np.ndarray) -> tuple[float, float]:
    """Ends of the percentile interval of the resamples (the first value is the figure itself)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(found[1:], [tail, 1 - tail])
    return round(float(low), 6), round(float(high), 6)


def _learned(
    rows: pd.DataFrame,
    label: np.ndarray,
    probability: np.ndarray,
    contract: Contract,
    block: np.ndarray,
    seed: int,
) -> np.ndarray:
    """(N,) held-out answers of the small model."""
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    numbers = (profile.clock(contract.time), *contract.numbers)
    inputs = profile.encoded(rows, contract.time, numbers, contract.categories)
    features = np.column_stack([np.log(clipped / (1 - clipped)), inputs])
    fold = blocks.folds(block, np.zeros(len(block), dtype=int), seed)
    answers = blocks.held_out(features, label, fold, seed)
    return np.where(np.isnan(answers), probability, answers)
