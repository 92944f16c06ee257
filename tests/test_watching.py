"""What is due, read from the ledger, and the watch that writes it: pytest tests/test_watching.py"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import artifact, gate, ledger, store, verdicts, watching
from pipelines.adapters.registry import CHAMPION
from pipelines.contract import Column, Contract
from pipelines.drift import profile
from pipelines.errors import MissingInput, RegistryError
from pipelines.paths import Paths
from pipelines.project import Project
from pipelines.records import Decision, Due, Record, Retraining, Validation, Verdict
from pipelines.stages import monitor, promote
from pipelines.tasks import tabular
from tests import fakes
from tests.fakes import BETTER, PUMPS, MemoryRegistry, pump_model
from tests.gate_world import TASK

WINDOW = ("2024-01", "2024-02", "2024-03")
MONTHS = tuple(f"2024-{month:02d}" for month in range(4, 10))


class World:
    def __init__(self, root: Path, champion: str | None = "1") -> None:
        self.project = Project("pumps", TASK, PUMPS, Paths(root, "pumps"))
        self.registry = MemoryRegistry(root / "registry")
        if champion:
            self.registry.moved[CHAMPION] = champion

    def land(self, *periods: str) -> None:
        for period in periods:
            store.write_text(self.project.at.batch(period), "")
            store.write_text(self.project.at.validation(period), "")

    def say(self, *said: Record, period: str | None = None) -> None:
        for record in said:
            more = {"period": period} if period else {}
            ledger.record(self.project.at.ledger, record, **more)

    def judge(self, period: str, challenger: str = "2") -> None:
        self.say(gate.held("pumps", challenger, "1", "better", "it is not"), period=period)

    def due(self) -> Due | None:
        return watching.due(self.project, self.registry)

    def waiting(self) -> list[str]:
        return watching.waiting(self.project)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def calls(period: str) -> Decision:
    reasons = (f"heat moved in {period}",)
    return Decision(task="pumps", period=period, action="retrain", reasons=reasons)


def rests(period: str) -> Decision:
    return Decision(task="pumps", period=period, action="rest", reasons=("calm",))


def disturbed(error: Exception) -> Verdict:
    """The verdict of a gate whose champion could not be asked for."""
    check = promote.check_of(error)
    return gate.held("pumps", "2", "1", check, f"judging it raised {error}")


# Due ------------------------------------------------------------------------------------------


def test_the_first_model_is_due_when_its_whole_window_has_landed(tmp_path: Path):
    world = World(tmp_path, champion=None)
    for period in WINDOW:
        assert world.due() is None
        world.land(period)
    assert world.due() == Due(
        task="pumps", period="2024-04", last="2024-03", reasons=(watching.FIRST,)
    )


def test_a_first_model_that_was_held_is_due_again_with_each_later_batch(tmp_path: Path):
    world = World(tmp_path, champion=None)
    world.land(*WINDOW)
    world.judge("2024-04")
    assert world.due() is None
    world.land("2024-04")
    assert world.due() is None, "its labels are not known before the next"
    world.land("2024-05")
    due = world.due()
    assert due is not None
    assert (due.period, due.last, due.reasons) == ("2024-05", "2024-04", (watching.FIRST,))
    world.judge("2024-05")
    assert world.due() is None


def test_two_alarms_before_a_verdict_are_one_retraining_with_both_reasons(world: World):
    world.say(calls("2024-05"), rests("2024-06"), calls("2024-07"))
    due = world.due()
    assert due is not None
    assert (due.period, due.last) == ("2024-07", "2024-06")
    assert due.reasons == ("2024-05: heat moved in 2024-05", "2024-07: heat moved in 2024-07")


def test_an_alarm_that_came_while_a_retraining_ran_stands_after_its_verdict(world: World):
    world.say(calls("2024-05"))
    running = world.due()
    world.say(calls("2024-06"))
    world.judge(running.period)
    due = world.due()
    assert due is not None
    assert (due.period, due.reasons) == ("2024-06", ("2024-06: heat moved in 2024-06",))


def test_a_challenger_that_could_not_be_registered_answers_no_alarm(world: World):
    world.say(calls("2024-05"))
    world.judge("2024-05", promote.UNREGISTERED)
    assert world.due() is not None
    world.judge("2024-05")
    assert world.due() is None


@pytest.mark.parametrize("error", [RegistryError("away"), OSError(28, "disk full"), MemoryError()])
def test_a_challenger_whose_judging_was_disturbed_answers_no_alarm(world: World, error: Exception):
    world.say(calls("2024-05"))
    world.say(disturbed(error), period="2024-05")
    assert world.due() is not None
    world.judge("2024-05")
    assert world.due() is None


def test_a_retraining_ends_no_earlier_than_the_one_before_it(world: World):
    """A person asked for that one while an alarm waited."""
    world.say(calls("2024-05"))
    moved = world.project.task.window.model_copy(update={"last": "2024-06"})
    task = world.project.task.model_copy(update={"window": moved})
    world.project = replace(world.project, task=task)
    due = world.due()
    assert due is not None
    assert (due.period, due.last) == ("2024-07", "2024-06")


def test_a_defect_of_the_model_is_an_answer(world: World):
    world.say(calls("2024-05"))
    world.say(disturbed(ValueError("no such column")), period="2024-05")
    assert world.due() is None


@pytest.mark.parametrize(
    ("champion", "promoted", "stands"),
    [
        ("1", "", False), ("2", "", False), ("3", "", True),
        ("3", "by command", False), ("3", "in MLflow", False), ("3", "and watched", False),
    ],
)  # fmt: skip
def test_a_better_challenger_whose_champion_has_gone_is_to_be_judged_again(
    world: World, champion: str, promoted: str, stands: bool
):
    better = gate.held("pumps", "2", "1", "better", "it is")
    world.say(calls("2024-05"))
    world.say(better.model_copy(update={"decision": "promote"}), period="2024-05")
    if promoted == "by command":
        move = {"kind": "promotion", "version": "2", "from": "1"}
        ledger.append(world.project.at.ledger, move)
    if promoted == "in MLflow":
        move = {"kind": "promotion", "version": "3", "from": "2"}
        ledger.append(world.project.at.ledger, move)
    if promoted == "and watched":
        ledger.append(world.project.at.ledger, {"kind": "alarm", "champion": "2", "period": "9"})
    world.registry.moved[CHAMPION] = champion
    assert (world.due() is not None) == stands


def test_what_was_decided_anew_counts_as_it_was_decided_last(world: World):
    world.say(calls("2024-05"), rests("2024-05"))
    assert world.due() is None


STORY = st.lists(
    st.tuples(st.sampled_from(MONTHS), st.sampled_from(("calls", "rests"))),
    unique_by=lambda said: said[0],
)


@given(story=STORY, judged=st.sets(st.sampled_from(MONTHS)), order=st.randoms())
@settings(max_examples=60)
def test_a_verdict_answers_all_up_to_its_period_in_whatever_order_it_is_read(
    story: Sequence[tuple[str, str]], judged: set[str], order: random.Random
):
    lines = [("say", period, what) for period, what in story]
    lines += [("judge", period, "") for period in judged]
    order.shuffle(lines)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for kind, period, what in lines:
            if kind == "judge":
                world.judge(period)
            else:
                world.say(calls(period) if what == "calls" else rests(period))
        due = world.due()
    stands = sorted(p for p, what in story if what == "calls" and p > max(judged, default=""))
    if not stands:
        assert due is None
        return
    assert due is not None
    assert due.period == stands[-1]
    assert due.reasons == tuple(f"{p}: heat moved in {p}" for p in stands)


def test_a_retraining_that_is_asked_for_is_on_the_newest_labels(world: World):
    with pytest.raises(MissingInput, match="perennial ingest pumps"):
        watching.asked(world.project, "why not")
    world.land(*WINDOW)
    assert watching.asked(world.project, "why not").last == "2024-03"
    world.land("2024-04", "2024-05")
    due = watching.asked(world.project, "why not")
    assert (due.period, due.last, due.reasons) == ("2024-05", "2024-04", ("why not",))


# Waiting --------------------------------------------------------------------------------------


@given(landed=st.permutations(WINDOW + MONTHS), watched=st.sets(st.sampled_from(MONTHS)))
@settings(max_examples=25)
def test_what_waits_is_what_landed_after_the_window_and_was_not_watched(
    landed: Sequence[str], watched: set[str]
):
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.land(*landed[:6])
        world.say(*(rests(period) for period in watched))
        assert world.waiting() == sorted({*landed[:6]} & {*MONTHS} - watched)


def test_a_batch_that_landed_and_was_not_accepted_does_not_wait(world: World):
    store.write_text(world.project.at.batch("2024-04"), "")
    assert world.waiting() == []


def test_a_batch_that_a_training_has_seen_since_does_not_wait(world: World):
    world.say(rests("2024-05"))
    moved = world.project.task.window.model_copy(update={"last": "2024-06"})
    task = world.project.task.model_copy(update={"window": moved})
    world.project = replace(world.project, task=task)
    world.land("2024-04", "2024-06", "2024-07")
    assert world.waiting() == ["2024-07"]


def test_what_a_tick_has_passed_is_not_looked_back_on(world: World):
    world.land("2024-04", "2024-05", "2024-06", "2024-07")
    store.write_text(world.project.at.tick("2024-06"), "")
    world.say(rests("2024-06"))
    assert world.waiting() == ["2024-07"]


def test_new_labels_are_those_after_the_newest_training_whichever_was_told_last(world: World):
    world.land(*MONTHS)
    for period in MONTHS:
        store.write_table(world.project.at.batch(period), fakes.pumps(10))
    for last in ("2024-05", "2024-04"):
        world.say(
            Retraining(
                task="pumps", period=last, first="2024-01", last=last, reasons=("",), commit=None
            )
        )
    assert watching._new_labels(world.project, "2024-07", "2024-08") == 20
    assert watching._new_labels(world.project, "2024-05", "2024-06") == 0


def test_a_batch_that_is_not_there_brings_no_labels(world: World):
    """In quarantine, or never landed."""
    for period in ("2024-04", "2024-06"):
        world.land(period)
        store.write_table(world.project.at.batch(period), fakes.pumps(10))
    assert watching._new_labels(world.project, "2024-06", "2024-07") == 20


# The watch ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real artifact with the picture of its training rows."""
    folder = pump_model(tmp_path_factory.mktemp("champion") / "model", BETTER).folder
    training = fakes.pumps(12000, "2024-03-02").assign(repair_cost=0.0)
    profile.write(profile.make(tabular.watched(training, PUMPS, None), seed=7), folder)
    names = artifact.FILES
    store.write_json(folder / "manifest.json", {n: store.md5(folder / n) for n in names})
    return folder


@pytest.fixture
def landed(tmp_path: Path, champion: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A calm April and a May far from the training rows; both wait."""
    monkeypatch.setattr(monitor, "_draw", lambda *_: None)
    world = World(tmp_path, champion=None)
    registry = world.registry
    version = registry.register(artifact.load(champion))
    registry.promote(version, None, lambda _: None)
    calm = fakes.pumps(3000, "2024-04-01", 1).assign(repair_cost=0.0)
    moved = fakes.pumps(3000, "2024-05-01", 2).assign(repair_cost=0.0)
    accept(world, "2024-04", calm)
    accept(world, "2024-05", moved.assign(heat=moved["heat"] + 3))
    return world


def accept(world: World, period: str, rows: object) -> None:
    at = world.project.at
    store.write_table(at.batch(period), rows)
    said = Validation(
        task="pumps", period=period, content=store.md5(at.batch(period)),
        contract=world.project.contract.digest, rows=3000, accepted=True, findings=(),
    )  # fmt: skip
    store.write_text(at.validation(period), said.model_dump_json())


def watch(world: World) -> list[Decision]:
    return list(watching.watch(world.project, world.registry))


def told(world: World) -> list[tuple[str, str]]:
    return [(e["kind"], e["period"]) for e in ledger.read(world.project.at.ledger)]


ALL = [
    ("alarm", "2024-04"), ("decision", "2024-04"), ("alarm", "2024-05"), ("decision", "2024-05"),
]  # fmt: skip


def test_each_batch_is_answered_and_judged_once_oldest_first(landed: World):
    april, may = watch(landed)
    assert (april.period, april.action) == ("2024-04", "rest")
    assert (may.period, may.action) == ("2024-05", "retrain")
    assert told(landed) == ALL
    at = landed.project.at
    given_then = {p: store.md5(at.predictions(p)) for p in ("2024-04", "2024-05")}
    assert at.labels("2024-04").is_file()
    assert not at.labels("2024-05").exists()
    assert landed.due().reasons == tuple(f"2024-05: {reason}" for reason in may.reasons)

    assert watch(landed) == []
    assert told(landed) == ALL
    assert {p: store.md5(at.predictions(p)) for p in given_then} == given_then


@pytest.mark.parametrize(
    ("owner", "name"), [(monitor, "run"), (watching.policy, "decide"), (watching.ledger, "record")]
)
def test_a_watch_that_was_killed_is_finished_by_the_next(
    landed: World, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
):
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(KeyboardInterrupt):
            watch(landed)
    answered = store.md5(landed.project.at.predictions("2024-04"))
    assert [d.period for d in watch(landed)] == ["2024-04", "2024-05"]
    assert told(landed) == ALL
    assert store.md5(landed.project.at.predictions("2024-04")) == answered


def test_nothing_is_watched_before_there_is_a_champion(landed: World):
    del landed.registry.moved[CHAMPION]
    assert watch(landed) == []
    assert told(landed) == []
    assert not landed.project.at.predictions("2024-04").exists()


def test_a_batch_that_is_repaired_after_a_later_one_was_watched_is_answered_and_labelled(
    landed: World,
):
    """Its door was closed to it: in quarantine, no file stands in its place."""
    at = landed.project.at
    kept = [(p, p.read_bytes()) for p in (at.batch("2024-04"), at.validation("2024-04"))]
    for path, _ in kept:
        path.unlink()
    assert [d.period for d in watch(landed)] == ["2024-05"]
    for path, content in kept:
        path.write_bytes(content)
    assert [d.period for d in watch(landed)] == ["2024-04"]
    assert at.predictions("2024-04").is_file()
    assert store.rows_in(at.labels("2024-04")) == 3000
    assert watch(landed) == []


def test_a_column_that_is_no_input_any_more_is_alarmed_and_the_batch_still_answered(landed: World):
    columns = PUMPS.columns | {
        "noise": PUMPS.columns["noise"].model_copy(update={"feature": False})
    }
    under(landed, PUMPS.model_copy(update={"columns": columns}))
    watch(landed)
    assert "the contract's columns are not those of version 1" in alarmed(landed, "2024-04")
    assert landed.project.at.predictions("2024-04").is_file()


def test_a_champion_that_cannot_answer_the_contracts_rows_is_alarmed_and_answers_nothing(
    landed: World, caplog: pytest.LogCaptureFixture
):
    columns = {name: column for name, column in PUMPS.columns.items() if name != "noise"}
    under(landed, PUMPS.model_copy(update={"columns": columns}))
    watch(landed)
    assert "gone noise" in alarmed(landed, "2024-04")
    assert not landed.project.at.predictions("2024-04").exists()
    assert "the model reads noise, which no row has" in caplog.text


def test_a_label_of_other_classes_is_alarmed_too(landed: World):
    """The names of the columns are the same, and so every row could be asked."""
    columns = PUMPS.columns | {
        "failed": Column(type="category", values=("no", "yes"), feature=False)
    }
    under(landed, PUMPS.model_copy(update={"columns": columns}))
    at = landed.project.at
    for period in ("2024-04", "2024-05"):
        rows = store.read_table(at.batch(period), "")
        accept(landed, period, rows.assign(failed=np.where(rows["failed"] == 1, "yes", "no")))
    watch(landed)
    assert "classes is  in the model and no, yes" in alarmed(landed, "2024-04")
    assert not at.predictions("2024-04").exists()


def test_a_whole_number_that_may_be_any_now_is_read_as_before(landed: World):
    columns = PUMPS.columns | {"heat": PUMPS.columns["heat"].model_copy(update={"type": "integer"})}
    under(landed, PUMPS.model_copy(update={"columns": columns}))
    watch(landed)
    assert landed.project.at.predictions("2024-04").is_file()


def alarmed(world: World, period: str) -> str:
    said = ledger.newest(world.project.at.ledger, "alarm", period=period)
    assert said is not None
    return "; ".join(said["reasons"])


def under(world: World, contract: Contract) -> None:
    """The contract has changed since the champion was trained, and the batches are held to it."""
    world.project = replace(world.project, contract=contract)
    for period in ("2024-04", "2024-05"):
        path = world.project.at.validation(period)
        said = Validation.model_validate_json(path.read_text())
        path.write_text(said.model_copy(update={"contract": contract.digest}).model_dump_json())


def test_a_batch_that_changed_since_it_was_accepted_stops_the_watch(landed: World):
    at = landed.project.at
    shutil.copy(at.batch("2024-05"), at.batch("2024-04"))
    with pytest.raises(MissingInput, match="is of other rows"):
        watch(landed)
    assert told(landed) == []


# The verdict in words -------------------------------------------------------------------------


def test_a_verdict_in_markdown_has_its_checks_and_the_reasons_of_its_own_training(world: World):
    for period, challenger in (("2024-05", "2"), ("2024-06", "3")):
        reasons = (f"heat moved in {period}",)
        world.say(
            Retraining(
                task="pumps", period=period, first="2024-01", last=period, reasons=reasons,
                commit="c" * 40,
            )
        )  # fmt: skip
        world.judge(period, challenger)
    text = verdicts.as_markdown(world.project, verdicts.of_version(world.project, "2"))
    assert "**hold** version 2 of pumps, against champion 1" in text
    assert "| better | FAIL |" in text
    assert "heat moved in 2024-05" in text
    assert "2024-06" not in text
