"""Run: pytest tests/test_gate.py"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import gate, measures, metrics
from pipelines.gate import judge
from pipelines.params import Gate
from pipelines.records import Scores, Verdict
from pipelines.structure import Expected, rows_digest

SETTINGS = Gate(min_rows=200, min_class_rows=30, bootstrap=60, slice_drop=0.1)
ROWS = 600


def table(version: str, skill: float, rows: int = ROWS, noise: int = 1, seed: int = 0) -> Scores:
    """Answers to the same rows (`seed`); skill: how far the two labels' scores stand apart."""
    random = np.random.default_rng(seed)
    label = (random.random(rows) < 0.35).astype(np.int8)
    common = random.normal(size=rows)
    own = np.random.default_rng([seed, noise]).normal(0, 0.3, rows)
    logit = skill * (label - 0.35) + common + own
    return Scores(
        version=version,
        artifact=f"artifact-{version}",
        trained_until=900,
        key=np.random.default_rng(seed).permutation(rows).astype(np.uint64),
        time=np.arange(rows, dtype=np.int64) + 1000,
        label=label,
        probability=1 / (1 + np.exp(0.6 - logit)),
        threshold=0.5,
        slices={"site": np.where(np.arange(rows) % 3 == 0, "north", "south")},
        latency_ms=1.0,
        size_bytes=1000,
    )


def naive(like: Scores) -> Scores:
    return replace(
        like, version="baseline", artifact="", probability=np.full(len(like.label), 0.35), slices={}
    )


def expected(challenger: Scores, champion: Scores | None, **more: Any) -> Expected:
    rivals = [challenger] if champion is None else [challenger, champion]
    known: dict[str, Any] = {
        "champion": champion and champion.version,
        "artifacts": {s.version: s.artifact for s in rivals},
        "rows": rows_digest(challenger.key, challenger.time, challenger.label),
        "slices": ("site",),
        "slice_rows": 50,
    }
    return Expected(**known | more)


def judged(challenger: Scores, champion: Scores | None, **options: Any) -> Verdict:
    settings = options.pop("settings", SETTINGS)
    known = options.pop("known", None) or expected(challenger, champion, **options)
    return judge("pumps", challenger, champion, naive(challenger), settings, known)


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


GOOD, WEAK = table("2", 2.0, noise=1), table("1", 1.0, noise=2)


def test_a_better_challenger_is_promoted_and_the_proof_is_the_reason():
    verdict = judged(GOOD, WEAK)
    assert verdict.decision == "promote"
    assert verdict.checks[-1].name == "better"
    assert verdict.reason.startswith("+0.")
    assert "against champion 1" in verdict.reason
    assert (verdict.rows, verdict.champion, verdict.challenger) == (ROWS, "1", "2")


def test_the_first_model_is_judged_against_the_baseline_alone():
    verdict = judged(WEAK, None)
    assert verdict.decision == "promote"
    assert "better" not in {c.name for c in verdict.checks}
    assert "baseline_auc" in verdict.metrics


def test_a_champion_that_lost_to_the_baseline_is_said_and_does_not_block():
    sunk = replace(WEAK, probability=1 - WEAK.probability)
    verdict = judged(GOOD, sunk)
    assert verdict.decision == "promote"
    assert any("no longer beats" in c.reason for c in verdict.checks if c.passed)


def test_all_reasons_are_told_at_once():
    slow = replace(WEAK, version="2", artifact="artifact-2", latency_ms=999.0, size_bytes=10**12)
    assert {"better", "latency", "size"} <= failed(judged(slow, GOOD_AS_CHAMPION))


GOOD_AS_CHAMPION = replace(GOOD, version="1", artifact="artifact-1")


def test_measures_are_not_taken_when_the_structure_is_broken():
    verdict = judged(replace(GOOD, artifact="stale"), WEAK, known=expected(GOOD, WEAK))
    assert failed(verdict) == {"artifact"}
    assert "better" not in {c.name for c in verdict.checks}
    assert verdict.metrics == {}


def test_a_moved_world_does_not_hold_back_whoever_is_calibrated_no_worse():
    raised = [replace(s, probability=s.probability**0.2) for s in (GOOD, WEAK)]
    strict = SETTINGS.model_copy(update={"calibration": 0.05})
    assert "calibration" in failed(judged(raised[0], WEAK, settings=strict))
    assert "calibration" in failed(judged(raised[0], None, settings=strict))
    verdict = judged(*raised, settings=strict)
    assert verdict.metrics["challenger_calibration"] > 0.05
    worse = verdict.metrics["challenger_calibration"] > verdict.metrics["champion_calibration"]
    assert ("calibration" in failed(verdict)) == worse


def test_judging_equal_models_rarely_promotes():
    # One-sided .95: five in a hundred; 100 pairs of models that differ by noise alone.
    promoted = sum(
        judged(table("2", 1.0, seed=seed, noise=1), table("1", 1.0, seed=seed, noise=2)).decision
        == "promote"
        for seed in range(100)
    )
    assert promoted <= 12


def test_a_tiny_slice_is_not_judged():
    cut = np.where(np.arange(ROWS) < 30, "tiny", "rest")
    spoiled = GOOD.probability.copy()
    spoiled[:30] = 1 - spoiled[:30]
    one, other = (replace(s, slices={"site": cut}) for s in (GOOD, WEAK))
    assert judged(replace(one, probability=spoiled), other).decision == "promote"


@given(
    st.floats(0, 3),
    st.floats(0, 3),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.005, 0.05]),
)
@settings(max_examples=60, deadline=None)
def test_promote_means_that_every_check_passed_and_the_lower_bound_is_above_the_gain(
    skill, rival, seed, gain
):
    settings = SETTINGS.model_copy(update={"min_gain": gain})
    one, other = table("2", skill, seed=seed, noise=1), table("1", rival, seed=seed, noise=2)
    verdict = judged(one, other, settings=settings)
    assert (verdict.decision == "promote") == all(c.passed for c in verdict.checks)
    if verdict.decision == "promote":
        assert verdict.metrics["low"] > gain
        assert verdict.metrics["difference"] >= verdict.metrics["low"]
        assert verdict.metrics["challenger_auc"] > verdict.metrics["baseline_auc"]
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


@given(st.integers(0, 10_000), st.floats(0.5, 2))
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_rows_changes_nothing(seed, skill):
    one, other = table("2", skill, noise=1), table("1", 1.0, noise=2)
    order = np.random.default_rng(seed).permutation(ROWS)
    shuffled = [
        replace(
            s,
            **{n: getattr(s, n)[order] for n in ("key", "time", "label", "probability")},
            slices={n: v[order] for n, v in s.slices.items()},
        )
        for s in (one, other)
    ]
    before, after = judged(one, other), judged(*shuffled)
    assert after.decision == before.decision
    assert after.metrics == pytest.approx(before.metrics)


BAD = st.sampled_from([np.nan, np.inf, -np.inf, -0.001, 1.001, 1e300, -1e300])


@given(BAD, st.integers(0, ROWS - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_one_bad_number_of_either_model_holds_and_never_raises(bad, row, of_champion):
    one, other = GOOD, WEAK
    spoiled = (other if of_champion else one).probability.copy()
    spoiled[row] = bad
    if of_champion:
        other = replace(other, probability=spoiled)
    else:
        one = replace(one, probability=spoiled)
    verdict = judged(one, other)
    assert verdict.decision == "hold"
    assert failed(verdict) == {"probabilities"}
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


# What a caller may get wrong: change the challenger's table, or what is expected of both.
BROKEN = {
    "stale artifact": (lambda s: replace(s, artifact="older"), "artifact"),
    "another key": (lambda s: replace(s, key=np.r_[s.key[:-1], np.uint64(10**9)]), "rows"),
    "another time": (lambda s: replace(s, time=s.time + 1), "rows"),
    "another label": (lambda s: replace(s, label=1 - s.label), "rows"),
    "rows reordered": (
        lambda s: replace(s, key=s.key[::-1], time=s.time[::-1], label=s.label[::-1]),
        "rows",
    ),
    "fewer answers": (lambda s: replace(s, probability=s.probability[:-1]), "arrays"),
    "a matrix": (lambda s: replace(s, probability=s.probability[:, None]), "arrays"),
    "text": (lambda s: replace(s, probability=np.full(ROWS, "high")), "arrays"),
    "label 2": (lambda s: replace(s, label=s.label + s.label), "arrays"),
    "label NaN": (lambda s: replace(s, label=np.where(s.label == 1, np.nan, 0)), "arrays"),
    "slice cut short": (lambda s: replace(s, slices={"site": s.slices["site"][1:]}), "arrays"),
    "slice missing": (lambda s: replace(s, slices={}), "slices_present"),
    "slice renamed": (lambda s: replace(s, slices={"place": s.slices["site"]}), "slices_present"),
    "slice cut otherwise": (
        lambda s: replace(s, slices={"site": s.slices["site"][::-1]}),
        "slices_present",
    ),
    "trained on the rows": (lambda s: replace(s, trained_until=1000), "unseen_rows"),
    "trained later": (lambda s: replace(s, trained_until=10**10), "unseen_rows"),
    "one answer to all": (lambda s: replace(s, probability=np.full(ROWS, 0.4)), "probabilities"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_holds(name):
    spoil, check = BROKEN[name]
    verdict = judged(spoil(GOOD), WEAK, known=expected(GOOD, WEAK))
    assert verdict.decision == "hold"
    assert check in failed(verdict)


@pytest.mark.parametrize("name", [n for n in BROKEN if not n.startswith("slice cut short")])
def test_a_broken_table_of_the_champion_holds_too(name):
    spoil, check = BROKEN[name]
    verdict = judged(GOOD, spoil(WEAK), known=expected(GOOD, WEAK))
    assert verdict.decision == "hold"
    assert check in failed(verdict)


@pytest.mark.parametrize("rows", [0, 1, 2, 199])
def test_too_few_rows_hold_and_never_raise(rows):
    verdict = judged(table("2", 2.0, rows), table("1", 1.0, rows, noise=2))
    assert verdict.decision == "hold"
    assert "enough_rows" in failed(verdict)


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_only_holds(label):
    only = np.full(ROWS, label, dtype=np.int8)
    verdict = judged(replace(GOOD, label=only), replace(WEAK, label=only))
    assert failed(verdict) == {"enough_rows"}


def test_repeated_rows_hold():
    key = GOOD.key // np.uint64(2)
    assert "rows" in failed(judged(replace(GOOD, key=key), replace(WEAK, key=key)))


def test_an_alias_without_answers_holds_and_so_do_answers_without_an_alias():
    for answered, alias in ((None, "1"), (WEAK, None), (WEAK, "7")):
        known = replace(expected(GOOD, answered), champion=alias)
        assert "champion" in failed(judged(GOOD, answered, known=known))


def test_a_leak_is_too_good_to_be_true():
    known = GOOD.label + np.random.default_rng(0).normal(0, 0.1, ROWS)
    perfect = replace(GOOD, probability=np.clip(known, 0, 1))
    assert "plausible_auc" in failed(judged(perfect, WEAK))
    assert "plausible_jump" in failed(judged(GOOD, WEAK, validation_auc=0.55))
    assert "plausible_jump" not in failed(judged(GOOD, WEAK, validation_auc=0.9))


def test_a_slice_that_collapsed_is_named():
    north = GOOD.slices["site"] == "north"
    spoiled = np.where(north, 1 - GOOD.probability, GOOD.probability)
    far = replace(GOOD, probability=spoiled)
    checks = [c for c in judged(far, WEAK).checks if c.name == "slice"]
    assert [c.passed for c in checks] == [False]
    assert "site=north (200 rows)" in checks[0].reason


def test_a_slice_is_judged_only_when_it_is_large_enough_and_lost_with_confidence():
    def lost(share: float, slice_rows: int) -> set[str]:
        worse = GOOD.probability.copy()
        north = np.flatnonzero(GOOD.slices["site"] == "north")
        spoiled = north[: int(len(north) * share)]
        worse[spoiled] = 1 - worse[spoiled]
        known = replace(expected(GOOD, GOOD_AS_CHAMPION), slice_rows=slice_rows)
        verdict = judged(replace(GOOD, probability=worse), GOOD_AS_CHAMPION, known=known)
        return failed(verdict) & {"slice"}

    assert lost(0.5, slice_rows=200) == {"slice"}
    assert lost(0.5, slice_rows=201) == set()
    # A tenth of it swapped: .125 AUC lost on these rows, and .1, allowed, inside the interval.
    assert lost(0.1, slice_rows=200) == set()


def test_many_slices_do_not_hold_an_equal_model_for_a_loss_by_chance():
    """Forty slices judged one by one at 95 % would hold 87 % of the models that are no worse."""
    settings = Gate(bootstrap=100, slice_drop=0.0001)
    held = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        label = random.random(6000) < 0.4
        slices = {"site": random.integers(0, 40, 6000).astype(str)}
        one, other = (label + random.normal(size=6000) for _ in range(2))
        checks = measures._slices(label, one, other, slices, settings, 50)
        held += any(not c.passed for c in checks)
    assert held <= 3


def test_a_first_model_without_its_slices_holds():
    assert "slices_present" in failed(judged(replace(WEAK, slices={}), None))


def test_the_confidence_is_one_sided():
    verdict = judged(GOOD, WEAK)
    order = np.argsort(GOOD.key)
    label, one, other = (a[order] for a in (GOOD.label, GOOD.probability, WEAK.probability))
    two_sided = metrics.auc_difference(label, one, other, SETTINGS.bootstrap, 7, confidence=0.9)
    assert SETTINGS.confidence == 0.95
    assert verdict.metrics["low"] == pytest.approx(two_sided.low)


def test_held_is_a_verdict_that_names_its_cause():
    verdict = gate.held("pumps", "2", "1", "no_exception", "it raised KeyError: 'x'")
    assert verdict.decision == "hold"
    assert verdict.reason == "it raised KeyError: 'x'"
