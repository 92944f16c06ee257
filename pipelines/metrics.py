"""Measures of a probability against a label, with bootstrap intervals. Pure NumPy.

A label is 0 or 1 and has one probability, (N,), that of 1; or it is one of K classes, by number,
and has the probability of each, (N, K). N rows, K classes, R resamples. A resample draws rows with
replacement; it is kept as counts of rows, so one sort of the scores serves all of them (Efron 1979,
doi:10.1214/aos/1176344552).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float


def auc(label: np.ndarray, probability: np.ndarray) -> float:
    """Area under the ROC curve: ties count half; NaN when one class is missing.

    Of several classes the mean of one against the rest, over the classes that some rows have and
    some have not (Provost and Domingos 2000, CeDER Working Paper IS-00-04, unweighted).

    >>> auc(np.array([0, 1, 0, 1]), np.array([.1, .9, .5, .5]))
    0.875
    """
    return float(_ranked(label, probability).weighted(np.ones(len(label))))


def _ranked(label: np.ndarray, probability: np.ndarray) -> _Ranked | _EachAgainstTheRest:
    several = np.ndim(probability) == 2
    return (_EachAgainstTheRest if several else _Ranked)(label, probability)


class _EachAgainstTheRest:
    def __init__(self, label: np.ndarray, probability: np.ndarray) -> None:
        self.classes = [
            _Ranked(np.asarray(label) == k, np.asarray(probability)[:, k])
            for k in range(np.shape(probability)[1])
        ]

    def weighted(self, weights: np.ndarray) -> float:
        found = [one.weighted(weights) for one in self.classes]
        there = [auc for auc in found if np.isfinite(auc)]
        return float(np.mean(there)) if there else float("nan")


class _Ranked:
    """Scores sorted once, so that the AUC of each reweighting costs one pass."""

    def __init__(self, label: np.ndarray, probability: np.ndarray) -> None:
        self.order = np.argsort(probability, kind="stable")
        scores = np.asarray(probability)[self.order]
        self.positive = np.asarray(label)[self.order].astype(bool)
        self.starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]]) if len(scores) else [0]

    def weighted(self, weights: np.ndarray) -> float:
        if len(self.order) == 0:
            return float("nan")
        ordered = weights[self.order]
        positive = np.add.reduceat(np.where(self.positive, ordered, 0.0), self.starts)
        negative = np.add.reduceat(np.where(self.positive, 0.0, ordered), self.starts)
        below = np.cumsum(negative) - negative
        pairs = positive.sum() * negative.sum()
        if pairs == 0:
            return float("nan")
        return float(np.dot(positive, below + negative / 2) / pairs)


def resamples(n: int, times: int, seed: int) -> Iterator[np.ndarray]:
    """R times (N,) counts of each row; one at a time, or a million rows would fill the memory."""
    random = np.random.default_rng(seed)
    for _ in range(times):
        yield np.bincount(random.integers(0, n, n), minlength=n)


def auc_interval(
    label: np.ndarray, probability: np.ndarray, times: int, seed: int, confidence: float = 0.95
) -> Interval:
    """Two-sided percentile interval of the AUC."""
    ranked = _ranked(label, probability)
    drawn = np.array([ranked.weighted(w) for w in resamples(len(label), times, seed)])
    return _interval(auc(label, probability), drawn, confidence)


def auc_difference(
    label: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray,
    times: int,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """Challenger minus champion on the same resampled rows: the paired bootstrap."""
    one, other = _ranked(label, challenger), _ranked(label, champion)
    drawn = np.array(
        [one.weighted(w) - other.weighted(w) for w in resamples(len(label), times, seed)]
    )
    return _interval(auc(label, challenger) - auc(label, champion), drawn, confidence)


def _interval(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) == 0:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def log_loss(label: np.ndarray, probability: np.ndarray) -> float:
    clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    if clipped.ndim == 2:
        return float(-np.mean(np.log(clipped[np.arange(len(label)), label])))
    return float(-np.mean(np.where(label == 1, np.log(clipped), np.log1p(-clipped))))


def accuracy(label: np.ndarray, probability: np.ndarray, threshold: float) -> float:
    """Share of rows whose label is the one that is called."""
    return float(np.mean(called(probability, threshold) == label))


def called(probability: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) the label that these answers stand for; of several classes the likeliest.

    At float32: 0.1 from a file and 0.1 from the graph are the same threshold.
    """
    if probability.ndim == 2:
        return np.asarray(probability.argmax(axis=1))
    return np.asarray(probability >= np.float32(threshold), dtype=np.int64)


def one_hot(label: np.ndarray, classes: int) -> np.ndarray:
    """(N, K) 0 or 1."""
    found: np.ndarray = np.eye(classes)[label]
    return found


def brier(label: np.ndarray, probability: np.ndarray) -> float:
    """Of several classes the sum over them (Brier 1950): 0 to 2."""
    if probability.ndim == 2:
        return float(
            np.mean(((probability - one_hot(label, probability.shape[1])) ** 2).sum(axis=1))
        )
    return float(np.mean((probability - label) ** 2))


def calibration(
    label: np.ndarray, probability: np.ndarray, bins: int = 10
) -> list[tuple[float, float, int]]:
    """(mean probability, observed rate, rows) of each equal-count bin, lowest first.

    Of several classes that of the likeliest, and how often it is right (Guo et al. 2017,
    arXiv:1706.04599).
    """
    if probability.ndim == 2:
        label, probability = probability.argmax(axis=1) == label, probability.max(axis=1)
    order = np.argsort(probability, kind="stable")
    return [
        (float(probability[part].mean()), float(label[part].mean()), len(part))
        for part in np.array_split(order, bins)
        if len(part)
    ]


def calibration_error(label: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over equal-count bins (Naeini et al. 2015, AAAI)."""
    return float(
        sum(abs(mean - rate) * rows for mean, rate, rows in calibration(label, probability, bins))
        / len(label)
    )


def best_threshold(label: np.ndarray, probability: np.ndarray) -> float:
    """The probability above which calling 1 gives the best F1 on these rows; 0 for classes."""
    if probability.ndim == 2:
        return 0.0
    order = np.argsort(-probability, kind="stable")
    called = probability[order]
    hits = np.cumsum(label[order] == 1)
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + max(int(hits[-1]), 1))
    # Rows of one probability are called together, so only the last of them is a place to cut.
    f1[:-1][called[1:] == called[:-1]] = -1
    return float(called[int(np.argmax(f1))])


def rate(label: np.ndarray, several: bool) -> float:
    """Share of label 1; of several classes that of the commonest."""
    return float(np.bincount(label).max() / len(label) if several else label.mean())
