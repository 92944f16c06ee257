"""Champion against challenger over HTTP, in the verdict: pytest tests/test_live_comparison.py"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines import contract as contracts
from pipelines import labelled, metrics, served
from pipelines.adapters.registry import CHAMPION
from pipelines.paths import Paths
from pipelines.records import Verdict
from pipelines.served import live
from pipelines.served.live import Answers, Live, Sample, compare, gathered
from pipelines.stages import promote as stage
from tests.conftest import REPOSITORY
from tests.fakes import BETTER, PUMPS, WORSE, pump_graph, pump_model, pumps
from tests.gate_world import TASK, World, build
from tests.served_world import DAY, NOON, Worker

DIGITS = contracts.load(REPOSITORY / "contracts" / "digits.yaml")
SETTINGS = TASK.gate.model_copy(update={"bootstrap": 200})
NOBODY = Answers(np.empty(0, np.int64), np.empty(0))
NOTHING = Sample(NOBODY, NOBODY)
MADE = dict.fromkeys(("1", "2"), dt.datetime(2024, 1, 1))
"""When the versions were registered."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: pump_model(folder / name / "model", graph)
        for name, graph in (("better", BETTER), ("worse", WORSE))
    }


def sample(champion, challenger, rows: int = 3000, other: int | None = None) -> Sample:
    """Both on the same rows, or the challenger on rows of the seed `other`."""
    one = pumps(rows)
    two = one if other is None else pumps(rows, seed=other)
    return Sample(
        Answers(one["failed"].to_numpy(), champion.predict(one)),
        Answers(two["failed"].to_numpy(), challenger.predict(two)),
    )


# The comparison, pure ---------------------------------------------------------------------------


@pytest.mark.parametrize("other", [None, 5], ids=["shadow", "canary"])
def test_a_better_challenger_passes_and_with_the_models_swapped_it_fails(models, other):
    def judged(champion: str, challenger: str):
        found = sample(models[champion], models[challenger], other=other)
        return compare(Live(found, NOTHING) if other is None else Live(NOTHING, found), SETTINGS, 7)

    check, figures = judged("worse", "better")
    assert check.passed
    assert figures["live_low"] > 0
    swapped, other_way = judged("better", "worse")
    assert not swapped.passed
    assert other_way["live_high"] < 0
    assert swapped.value == other_way["live_high"]
    assert set(figures) == {
        "live_rows", "live_champion_auc", "live_challenger_auc", "live_difference", "live_low",
        "live_high",
    }  # fmt: skip
    for found in (figures, other_way):
        gain = found["live_challenger_auc"] - found["live_champion_auc"]
        assert found["live_difference"] == pytest.approx(gain)
        assert found["live_low"] < found["live_difference"] < found["live_high"]
        assert found["live_rows"] == 3000


@pytest.mark.parametrize("other", [None, 5], ids=["shadow", "canary"])
def test_the_same_model_twice_is_not_worse_with_confidence(models, other):
    found = sample(models["better"], models["better"], other=other)
    way = Live(found, NOTHING) if other is None else Live(NOTHING, found)
    assert compare(way, SETTINGS, 7)[0].passed


def test_equal_models_are_rarely_held_at_the_confidence_of_the_gate(models):
    def held(seed: int) -> bool:
        one, other = (
            sample(models["worse"], models["worse"], 1000, s) for s in (seed, seed + 1000)
        )
        found = Sample(one.challenger, other.challenger)
        return not compare(Live(NOTHING, found), SETTINGS, 7)[0].passed

    # 5 % of 60 is 3; ten and more come by chance less than once in a thousand.
    assert sum(map(held, range(1, 61))) < 10


def test_a_pair_tells_what_two_samples_of_the_same_size_cannot(models):
    """The paired interval is the narrower one: that is what a shadow is for."""

    def width(way: Live) -> float:
        figures = compare(way, SETTINGS, 7)[1]
        return figures["live_high"] - figures["live_low"]

    found = sample(models["worse"], models["better"], 2000)
    assert width(Live(found, NOTHING)) < 0.75 * width(Live(NOTHING, found))


@pytest.mark.parametrize("short", ["rows", "ones", "zeros", "champion"])
def test_with_too_few_labels_it_passes_and_says_how_many_there_are(models, short):
    found = sample(models["better"], models["worse"])  # would be held
    label = found.challenger.label
    keep = {
        "rows": np.arange(len(label)) < 999,
        "ones": (label == 0) | (np.cumsum(label) < SETTINGS.min_class_rows),
        "zeros": (label == 1) | (np.cumsum(1 - label) < SETTINGS.min_class_rows),
        "champion": np.ones(len(label), bool),
    }[short]
    few = Answers(label[keep], found.challenger.probability[keep])
    rival = Answers(found.champion.label[:999], found.champion.probability[:999])
    found = replace(found, **({"champion": rival} if short == "champion" else {"challenger": few}))
    check, figures = compare(Live(NOTHING, found), SETTINGS, 7)
    assert check.passed
    assert check.reason.startswith(f"not judged: {len(few.label)} labelled answers")
    assert f"at least {SETTINGS.min_rows}" in check.reason
    assert figures == {"live_rows": len(few.label)}


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_has_the_gates_confidence_at_either_end(models, confidence):
    settings = SETTINGS.model_copy(update={"confidence": confidence})
    found = sample(models["worse"], models["better"])
    figures = compare(Live(found, NOTHING), settings, 7)[1]
    one, other = found.challenger.probability, found.champion.probability
    expected = metrics.auc_difference(
        found.champion.label, one, other, settings.bootstrap, 7, 2 * confidence - 1
    )
    assert (figures["live_low"], figures["live_high"]) == (expected.low, expected.high)


def test_an_interval_that_is_no_number_is_held(models, monkeypatch):
    """NaN is not below zero, and must not read as not worse."""
    nothing = metrics.Interval(float("nan"), float("nan"), float("nan"))
    monkeypatch.setattr(metrics, "auc_difference", lambda *_: nothing)
    found = sample(models["worse"], models["better"])
    check, _ = compare(Live(found, NOTHING), SETTINGS, 7)
    assert (check.passed, check.value) == (False, None)


# What is gathered -------------------------------------------------------------------------------


@pytest.fixture
def at(tmp_path: Path) -> Paths:
    return Paths(tmp_path, "pumps")


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def tell(at: Paths, ids: list[str], rows: pd.DataFrame) -> None:
    pairs = list(zip(ids, rows["failed"].tolist(), strict=True))
    labelled.put(at.served_labels, pairs, lambda some: some)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_shadow_is_paired_with_the_answer_to_the_same_request(at, worker, models, compacted):
    rows = pumps(200)
    one, other = models["worse"].predict(rows), models["better"].predict(rows)
    given = worker.answer(rows[:120], one[:120], "1", media="arrow")
    worker.answer(rows[:50], other[:50], "2", "shadow", first=0)
    given += worker.answer(rows[120:], one[120:], "1")
    worker.answer(rows[150:], other[150:], "2", "shadow", first=150)
    tell(at, given[:180], rows[:180])
    if compacted:
        worker.journal.close()
        served.compact(at, PUMPS)
    found = gathered(at, PUMPS, "1", "2", MADE).shadow
    both = [*range(50), *range(150, 180)]
    order = np.argsort(found.champion.probability)
    expected = np.argsort(one[both])
    assert (found.champion.probability[order] == one[both][expected]).all()
    assert (found.challenger.probability[order] == other[both][expected]).all()
    assert (found.champion.label[order] == rows["failed"].to_numpy()[both][expected]).all()
    assert (found.challenger.label == found.champion.label).all()
    assert len(gathered(at, PUMPS, "1", "2", MADE).canary.challenger.label) == 0


def test_of_other_workers_with_the_same_counters_nothing_is_paired(at, tmp_path, models):
    rows = pumps(20)
    one, other = Worker(tmp_path), Worker(tmp_path)
    tell(at, one.answer(rows, version="1"), rows)
    other.answer(rows, version="2", route="shadow", first=0)
    assert len(gathered(at, PUMPS, "1", "2", MADE).shadow.champion.label) == 0


def test_a_canary_is_held_against_what_the_champion_answered_meanwhile(at, worker):
    rows = pumps(50)
    early = worker.answer(rows[:10], version="1", at=NOON - DAY)
    canary = worker.answer(rows[10:20], version="2", route="canary", at=NOON)
    meanwhile = worker.answer(rows[20:35], np.full(15, 0.25), "1", at=NOON + 60)
    canary += worker.answer(rows[35:40], version="2", route="canary", at=NOON + 120)
    late = worker.answer(rows[40:], version="1", at=NOON + DAY)
    other = worker.answer(rows[:10], version="9", at=NOON + 60)
    # As champion, later: not drawn by chance at the same time as the other's.
    promoted = worker.answer(rows[:5], version="2", at=NOON + 60)
    for ids, part in (
        (early, rows[:10]), (canary, pd.concat([rows[10:20], rows[35:40]])), (meanwhile, rows[20:35]),
        (late, rows[40:]), (other, rows[:10]), (promoted, rows[:5]),
    ):  # fmt: skip
        tell(at, ids, part)
    found = gathered(at, PUMPS, "1", "2", MADE).canary
    assert len(found.challenger.label) == 15
    assert found.champion.probability.tolist() == [0.25] * 15
    assert found.champion.label.tolist() == rows["failed"][20:35].tolist()


def test_who_asks_again_and_again_counts_once(at, worker):
    rows = pumps(5)
    for _ in range(4):
        first = worker.counter
        tell(at, worker.answer(rows, version="1"), rows)
        worker.answer(rows, version="2", route="shadow", first=first)
    assert len(gathered(at, PUMPS, "1", "2", MADE).shadow.champion.label) == 5


@pytest.mark.parametrize("anew", ["1", "2"])
def test_what_was_answered_under_a_number_before_it_was_registered_is_another_models(
    at, worker, anew
):
    rows = pumps(20)
    for first, day in ((0, NOON), (10, NOON + DAY)):
        part = rows[first : first + 10]
        tell(at, worker.answer(part, version="1", at=day), part)
        worker.answer(part, version="2", route="shadow", first=first, at=day)
    assert len(gathered(at, PUMPS, "1", "2", MADE).shadow.champion.label) == 20
    since = dt.datetime.fromtimestamp(NOON + DAY / 2, dt.UTC).replace(tzinfo=None)
    found = gathered(at, PUMPS, "1", "2", MADE | {anew: since}).shadow
    assert len(found.champion.label) == 10


@pytest.mark.parametrize("way", ["shadow", "canary"])
def test_of_classes_the_probabilities_of_each_are_compared(tmp_path, way):
    worker, rng = Worker(tmp_path, DIGITS), np.random.default_rng(7)
    label = np.arange(600) % 10
    rows = pd.DataFrame({
        "time": pd.Timestamp("2024-01-01"), "id": [f"d{i}" for i in range(600)], "image": "",
    })  # fmt: skip
    noise = rng.dirichlet(np.ones(10), 600)
    good = 0.7 * np.eye(10)[label] + 0.3 * noise
    given = worker.answer(rows, good, "1", media="json")
    if way == "shadow":
        worker.answer(rows, noise, "2", "shadow", first=0)
    else:
        given += worker.answer(rows, noise, "2", "canary")
    pairs = list(zip(given, [*label.tolist()] * 2, strict=False))
    labelled.put(worker.at.served_labels, pairs, lambda some: some)
    found = gathered(worker.at, DIGITS, "1", "2", MADE)
    sample = getattr(found, way)
    assert sample.challenger.probability.shape == (600, 10)
    enough = SETTINGS.model_copy(update={"min_rows": 600, "min_class_rows": 60})
    assert sample.enough(enough)
    assert not sample.enough(enough.model_copy(update={"min_class_rows": 61}))
    check, figures = compare(found, enough, 7)
    assert not check.passed
    assert figures["live_champion_auc"] > 0.99
    assert abs(figures["live_challenger_auc"] - 0.5) < 0.05


def test_without_anything_served_nothing_is_gathered(at):
    found = gathered(at, PUMPS, "1", "2", MADE)
    assert [len(s.champion.label) for s in (found.shadow, found.canary)] == [0, 0]


# In the verdict ---------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return build(tmp_path / "world", monkeypatch)


def serve(world: World, champion: bytes, challenger: bytes, rows: int = 2500) -> None:
    """Both answered the same requests over HTTP, version 2 as a shadow, and the labels have come."""
    models = [
        pump_model(world.at.root / f"live{i}" / "model", graph)
        for i, graph in enumerate((champion, challenger))
    ]
    asked = pumps(rows, "2024-03-10", seed=3)
    worker = Worker(world.at.root)
    given = worker.answer(asked, models[0].predict(asked), "1", media="arrow")
    worker.answer(asked, models[1].predict(asked), "2", "shadow", first=0, media="arrow")
    tell(world.at, given, asked)


def checked(verdict: Verdict, name: str = "live"):
    (found,) = [c for c in verdict.checks if c.name == name]
    return found


def test_without_answers_over_http_the_verdict_says_so_and_stands(world):
    verdict = world.challenge()
    assert verdict.decision == "promote"
    assert checked(verdict).passed
    assert checked(verdict).reason.startswith("not judged: 0 labelled answers")


def test_a_challenger_that_is_better_live_too_is_promoted_with_the_figures(world):
    serve(world, WORSE, BETTER)
    verdict = world.challenge()
    assert verdict.decision == "promote"
    assert verdict.metrics["live_rows"] == 2500
    assert verdict.metrics["live_low"] > 0
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_challenger_that_is_worse_live_is_held_although_the_test_rows_like_it(world):
    serve(world, BETTER, WORSE)
    verdict = world.challenge()
    assert verdict.decision == "hold"
    assert [c.name for c in verdict.checks if not c.passed] == ["live"]
    assert "over HTTP" in verdict.reason
    assert world.registry.alias(CHAMPION) == "1"


def test_live_answers_never_promote_what_the_test_rows_hold(world):
    world.challenger(pump_graph({"noise": 0.3}))
    serve(world, WORSE, BETTER)
    verdict = world.challenge()
    assert checked(verdict).passed
    assert verdict.decision == "hold"


@pytest.mark.parametrize("broken", ["labels", "answers", "reading"])
def test_whatever_goes_wrong_while_it_is_read_ends_in_hold(world, broken, monkeypatch):
    serve(world, WORSE, BETTER)
    if broken == "labels":
        world.at.served_labels.write_bytes(b"no database, " * 1000)
        for beside in world.at.served.glob("labels.db-*"):
            beside.unlink()
    elif broken == "answers":
        folder = world.at.served_day("2024-03-04")
        folder.mkdir(parents=True)
        (folder / "00c0ffee-000000.parquet").write_bytes(b"PAR1")
    else:
        monkeypatch.setattr(live, "read", lambda *_: 1 / 0)
    verdict = world.challenge()
    assert verdict.decision == "hold"
    assert checked(verdict, "no_exception").reason.startswith("judging it raised")
    assert world.registry.alias(CHAMPION) == "1"


def test_a_first_model_has_nobody_to_be_held_against(tmp_path, monkeypatch):
    world = build(tmp_path / "world", monkeypatch)
    world.registry.moved.clear()
    verdict = stage.gate("pumps", world.task, PUMPS, world.at, world.registry, "2024-03")
    assert verdict.champion is None
    assert not [c for c in verdict.checks if c.name == "live"]
