"""Is the champion still as good as it could be? Judged on answers whose labels have arrived. Pure.

Two questions, because a month's AUC says little by itself: on the flights the AUC of one and the
same fresh model differs by some .04 from month to month, for no other reason than the weather.

- Has it fallen far below what it was when it was made? Only a large fall can be told.
- Could more be learned? A small model gets the champion's answer, the inputs and the batch's own
  labels, and answers days that it has not seen. It is measured on the same rows as the champion, so
  how hard the month was drops out of the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines import blocks, metrics, profile
from pipelines.contract import Contract
from pipelines.params import Monitor
from pipelines.records import Performance

if TYPE_CHECKING:
    import pandas as pd

FEWEST_ROWS = 500
"""Labelled rows, and FEWEST_OF_EACH of either label, below which nothing is said."""
FEWEST_OF_EACH = 25
MOST_ROWS = 50_000
"""Labelled rows that are read at most; bounds the time."""
RESAMPLES = 200


def judge(
    period: str,
    labelled: pd.DataFrame,
    contract: Contract,
    expected: float,
    settings: Monitor,
    seed: int,
) -> Performance | None:
    """labelled: one champion's answers as `probability` (0..1) and `label` (0 or 1), with its inputs.

    None when there are too few rows of either label to say anything.
    """
    rows = profile.draw(labelled, contract.time, MOST_ROWS, seed)
    label = rows["label"].to_numpy().astype(np.int64)
    if len(rows) < FEWEST_ROWS or min(label.sum(), (1 - label).sum()) < FEWEST_OF_EACH:
        return None
    probability = rows["probability"].to_numpy(np.float64)
    at = profile.seconds(rows, contract.time)
    block, _ = blocks.of(at, at, seed)

    auc = metrics.auc_interval(label, probability, RESAMPLES, seed, block=block)
    better = _learned(rows, label, probability, contract, block, seed)
    gain = metrics.auc_difference(label, better, probability, RESAMPLES, seed, block=block)
    return Performance(
        period=period,
        rows=len(rows),
        auc=round(auc.value, 6),
        low=round(auc.low, 6),
        high=round(auc.high, 6),
        expected=round(expected, 6),
        learnable=round(auc.value + gain.value, 6),
        learnable_low=round(gain.low, 6),
        degraded=auc.high < expected - settings.auc_drop or gain.low > settings.auc_gain,
    )


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
    inputs = profile.encoded(rows, contract.time, contract.numbers, contract.categories)
    features = np.column_stack([np.log(clipped / (1 - clipped)), inputs])
    fold = blocks.folds(block, np.zeros(len(block), dtype=int), seed)
    return blocks.held_out(features, label, fold, seed)
