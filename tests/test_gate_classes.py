"""The gate and the monitor where a label is one of several classes: pytest tests/test_gate_classes.py"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import contract as contracts
from pipelines.drift import performance
from pipelines.gate import judge
from pipelines.params import Gate, Monitor
from pipelines.records import Scores, Verdict
from pipelines.structure import Expected, rows_digest
from tests.conftest import REPOSITORY

ROWS, CLASSES = 900, 3
SETTINGS = Gate(min_rows=200, min_class_rows=30, bootstrap=60)
DIGITS = contracts.load(REPOSITORY / "contracts" / "digits.yaml")


def probabilities(label: np.ndarray, skill: float, noise: int, classes: int) -> np.ndarray:
    """(N, K): the softmax of noise of deviation 1, `skill` higher for the right class."""
    logit = np.random.default_rng(noise).normal(size=(len(label), classes))
    logit += skill * np.eye(classes)[label]
    return np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)


def table(version: str, skill: float, noise: int) -> Scores:
    label = np.random.default_rng(0).integers(0, CLASSES, ROWS)
    return Scores(
        version=version, artifact=f"artifact-{version}", trained_until=900,
        key=np.arange(ROWS, dtype=np.uint64), time=np.arange(ROWS, dtype=np.int64) + 1000,
        label=label, probability=probabilities(label, skill, noise, CLASSES), threshold=0.0,
        latency_ms=1.0, size_bytes=1000,
    )  # fmt: skip


GOOD, WEAK = table("2", 1.5, 1), table("1", 0.5, 2)


def judged(challenger: Scores, champion: Scores, **changed: Any) -> Verdict:
    naive = replace(
        challenger, version="baseline", artifact="",
        probability=np.full((ROWS, CLASSES), 1 / CLASSES),
    )  # fmt: skip
    known = Expected(
        champion=champion.version,
        artifacts={s.version: s.artifact for s in (challenger, champion)},
        rows=rows_digest(challenger.key, challenger.time, challenger.label),
        slices=(),
        slice_rows=50,
    )
    settings = SETTINGS.model_copy(update=changed)
    return judge("digits", challenger, champion, naive, settings, known)


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def test_a_challenger_that_knows_the_classes_better_is_promoted():
    verdict = judged(GOOD, WEAK)
    assert verdict.decision == "promote", failed(verdict)
    assert verdict.metrics["challenger_accuracy"] > verdict.metrics["champion_accuracy"] + 0.2


def test_a_worse_one_and_an_equal_one_are_held():
    assert failed(judged(WEAK, GOOD)) == {"better"}
    assert failed(judged(replace(GOOD, version="3", artifact="artifact-3"), GOOD)) == {"better"}


def test_better_at_one_class_only_by_losing_the_others_is_held():
    """The mean over classes decides: a model that is sure of one and guesses the rest is worse."""
    blind = GOOD.probability.copy()
    blind[:, 1:] = blind[:, 1:].mean(axis=1, keepdims=True)
    assert failed(
        judged(replace(GOOD, version="3", artifact="artifact-3", probability=blind), GOOD)
    )


SPOILED = {
    "a class that there is not": ("arrays", {"label": np.full(ROWS, CLASSES)}),
    "one probability for all classes": ("arrays", {"probability": GOOD.probability[:, 0]}),
    "one class less": (
        "arrays",
        {"probability": GOOD.probability[:, :2] / GOOD.probability[:, :2].sum(1, keepdims=True)},
    ),
    "one class more": (
        "arrays",
        {"probability": np.column_stack([GOOD.probability * 0.9, np.full(ROWS, 0.1)])},
    ),
    "rows missing": ("arrays", {"probability": GOOD.probability[1:]}),
    "no sum of 1": ("probabilities", {"probability": GOOD.probability * 0.9}),
    "NaN": ("probabilities", {"probability": np.full((ROWS, CLASSES), np.nan)}),
    "below 0": ("probabilities", {"probability": GOOD.probability - 0.5}),
    "one answer to all": ("probabilities", {"probability": np.full((ROWS, CLASSES), 1 / CLASSES)}),
    "wrong way round": ("direction", {"probability": (1 - GOOD.probability) / (CLASSES - 1)}),
}


@pytest.mark.parametrize(("check", "spoiled"), SPOILED.values(), ids=SPOILED)
def test_what_is_broken_is_held_by_its_own_check(check: str, spoiled: dict[str, Any]):
    assert check in failed(judged(replace(GOOD, **spoiled), WEAK))


def test_a_rare_class_that_is_too_rare_to_judge_is_said():
    label = np.where(np.arange(ROWS) < ROWS - 5, GOOD.label % 2, 2)
    few = [
        replace(s, label=label, probability=probabilities(label, 1.5, n, CLASSES))
        for n, s in enumerate((GOOD, WEAK))
    ]
    verdict = judged(*few)
    (check,) = (c for c in verdict.checks if c.name == "enough_rows")
    assert not check.passed
    assert "5 of the rarest class" in check.reason


# watched -------------------------------------------------------------------------------------------


def week(skill: float, rows: int = 1200, seed: int = 0) -> pd.DataFrame:
    """Labelled answers to pictures over seven days, without the pictures, as the log and the labels give
    them."""
    label = np.random.default_rng(seed).integers(0, 10, rows)
    times = np.datetime64("2024-01-01", "s") + np.arange(rows) * (7 * 86_400 // rows)
    return pd.DataFrame(
        {
            "time": times,
            "probability": list(probabilities(label, skill, seed + 1, 10)),
            "label": label,
        }
    )


def test_a_fall_of_the_quality_of_classes_is_told_and_none_is_not():
    good = performance.judge("w", week(3.0), DIGITS, 0.97, Monitor(), 7)
    assert good is not None
    assert not good.degraded
    assert good.low <= good.auc <= good.high
    fallen = performance.judge("w", week(0.5), DIGITS, 0.97, Monitor(), 7)
    assert fallen is not None
    assert fallen.degraded
    assert fallen.auc < 0.8
    assert fallen.learnable is None


def test_with_too_few_labels_of_a_class_nothing_is_said():
    assert performance.judge("w", week(3.0, rows=100), DIGITS, 0.97, Monitor(), 7) is None
    rare = week(3.0)
    rare = rare[(rare["label"] != 4) | (rare.index < 100)].reset_index(drop=True)
    assert performance.judge("w", rare, DIGITS, 0.97, Monitor(), 7) is None
