"""Champion against challenger on what both were asked over HTTP, once its labels have come.

A shadow answered the very requests that the champion answered: the two are paired. A canary
answered requests of its own, drawn by chance: two samples, and a wider interval.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from pipelines import labelled, metrics
from pipelines.contract import Contract
from pipelines.journal.frames import SHADOW
from pipelines.metrics import Interval
from pipelines.params import Gate
from pipelines.paths import Paths
from pipelines.records import Check
from pipelines.served.answers import Wanted, latest, read

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "version", "route", "at", "probability", "row")
ONE_SIGMA = 0.6827


@dataclass(frozen=True)
class Answers:
    """label (N,), 0 or 1, or the place of the class; probability (N,), or (N, K) of each class."""

    label: np.ndarray
    probability: np.ndarray

    def enough(self, settings: Gate) -> bool:
        classes = self.probability.shape[1] if self.probability.ndim == 2 else 2
        of_each = np.bincount(self.label, minlength=classes)
        return len(self.label) >= settings.min_rows and of_each.min() >= settings.min_class_rows


@dataclass(frozen=True)
class Sample:
    champion: Answers
    challenger: Answers

    def enough(self, settings: Gate) -> bool:
        return self.champion.enough(settings) and self.challenger.enough(settings)


@dataclass(frozen=True)
class Live:
    shadow: Sample
    """Row i of both is the same request."""
    canary: Sample


def gathered(
    at: Paths, contract: Contract, champion: str, challenger: str, made: Mapping[str, dt.datetime]
) -> Live:
    """Labelled answers of both. One a row and version: who asks twice does not count twice.

    made: when each was registered; an earlier answer under its number is another model's.
    """
    given = read(
        at, contract, Wanted(versions=(champion, challenger), columns=COLUMNS, shadow=True)
    )
    given = given[given["at"] >= given["version"].map(made)].reset_index(drop=True)
    # A shadow has its own version in its id and shares the rest with the answer it stands beside.
    given["request"] = [name.split("-", 1)[1] for name in given["id"].str[len(contract.task) + 1 :]]
    known = labelled.labels(at.served_labels, given["id"])
    given["label"] = given["id"].map(known).astype(float)
    theirs = given["version"] == challenger
    beside = given[theirs & (given["route"] == SHADOW)]
    drawn = latest(given[theirs & (given["route"] == "canary") & given["label"].notna()])
    judged = given[~theirs & (given["route"] == "champion") & given["label"].notna()]

    both = latest(
        judged.merge(beside[["request", "probability"]], on="request", suffixes=("", "2"))
    )
    # Only what the champion answered while the canary did: other weeks may be harder.
    meanwhile = latest(judged[judged["at"].between(drawn["at"].min(), drawn["at"].max())])
    return Live(
        shadow=Sample(_answers(both, "probability"), _answers(both, "probability2")),
        canary=Sample(_answers(meanwhile, "probability"), _answers(drawn, "probability")),
    )


def compare(live: Live, settings: Gate, seed: int) -> tuple[Check, dict[str, float]]:
    """The check `live` and its figures. Pure.

    Without enough labels it passes and says so; it fails only on a challenger that is worse with
    the gate's confidence.
    """
    if live.shadow.enough(settings):
        sample, gain = live.shadow, _paired(live.shadow, settings, seed)
        how = "the same requests"
    elif live.canary.enough(settings):
        sample, gain = live.canary, _apart(live.canary, settings, seed)
        how = f"its canary's requests, and {len(sample.champion.label)} of the champion"
    else:
        return _not_judged(live, settings)
    found = {
        "live_rows": float(len(sample.challenger.label)),
        "live_champion_auc": metrics.auc(sample.champion.label, sample.champion.probability),
        "live_challenger_auc": metrics.auc(sample.challenger.label, sample.challenger.probability),
        "live_difference": gain.value,
        "live_low": gain.low,
        "live_high": gain.high,
    }
    reason = (
        f"{gain.value:+.4f} AUC over HTTP on {len(sample.challenger.label)} labelled answers to "
        f"{how}, {gain.high:+.4f} at most with {settings.confidence:.0%} confidence; "
        "at most below zero is worse"
    )
    passed = bool(gain.high >= 0)
    value = gain.high if np.isfinite(gain.high) else None
    return Check(name="live", passed=passed, value=value, limit=0.0, reason=reason), found


def _not_judged(live: Live, settings: Gate) -> tuple[Check, dict[str, float]]:
    rows = max(len(sample.challenger.label) for sample in (live.shadow, live.canary))
    reason = (
        f"not judged: {rows} labelled answers of the challenger over HTTP, of at least "
        f"{settings.min_rows}, {settings.min_class_rows} of each label, of both"
    )
    check = Check(name="live", passed=True, value=rows, limit=settings.min_rows, reason=reason)
    return check, {"live_rows": float(rows)}


def _paired(sample: Sample, settings: Gate, seed: int) -> Interval:
    return metrics.auc_difference(
        sample.champion.label, sample.challenger.probability, sample.champion.probability,
        settings.bootstrap, seed, 2 * settings.confidence - 1,
    )  # fmt: skip


def _apart(sample: Sample, settings: Gate, seed: int) -> Interval:
    """Of two independent samples: their variances add up."""
    one, other = (
        metrics.auc_interval(a.label, a.probability, settings.bootstrap, seed, ONE_SIGMA)
        for a in (sample.challenger, sample.champion)
    )
    spread = float(np.hypot(one.high - one.low, other.high - other.low)) / 2
    reach = NormalDist().inv_cdf(settings.confidence) * spread
    value = one.value - other.value
    return Interval(value, value - reach, value + reach)


def _answers(rows: pd.DataFrame, column: str) -> Answers:
    # Of classes, a cell is an array.
    probability = np.array(rows[column].tolist(), dtype=np.float64)
    return Answers(rows["label"].to_numpy(dtype=np.int64), probability)
