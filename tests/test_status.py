"""The loop on one screen, where Airflow or a person took the steps: pytest tests/test_status.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import gate, ledger, status
from pipelines.records import Alarm, Decision
from tests.test_watching import World

RETRAIN = Decision(task="pumps", period="2024-04", action="retrain", reasons=("moved: heat",))
REST = RETRAIN.model_copy(update={"action": "rest", "reasons": ("no alarm",)})
ALARM = Alarm(
    task="pumps", period="2024-04", champion="1", rows=5, columns=(), raised=True,
    reasons=("moved: heat",),
)  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def shown(world: World) -> str:
    return status.as_text([status.of_task(world.project, world.registry)])  # type: ignore[arg-type]


def test_what_was_decided_without_a_tick_is_told(world):
    world.say(ALARM, RETRAIN)
    told = shown(world)
    assert "alarm        2024-04: moved: heat" in told
    assert "policy       2024-04: retrain: moved: heat" in told


def test_a_retraining_that_is_due_is_the_next_step(world):
    world.say(ALARM, RETRAIN)
    assert "next         perennial retrain pumps: 2024-04: moved: heat" in shown(world)


def test_where_nothing_is_due_the_next_batch_is_awaited(world):
    world.say(REST)
    assert "nothing is due; 2024-05 is watched once it has landed" in shown(world)


def test_a_batch_that_was_watched_late_does_not_turn_the_time_back(world):
    world.say(REST.model_copy(update={"period": "2024-05"}), REST)
    assert "nothing is due; 2024-06 is watched once it has landed" in shown(world)


def test_a_verdict_is_told_with_what_held_it(world):
    held = gate.held("pumps", "2", "1", "better", "it is not better")
    world.say(ALARM, RETRAIN)
    world.say(held, period="2024-04")
    told = shown(world)
    assert "verdict      version 2: hold: it is not better" in told
    assert "perennial retrain" not in told


def test_the_last_move_of_the_alias_is_told_with_who_approved(world):
    world.say(REST)
    entry = {"kind": "promotion", "task": "pumps", "version": "2", "from": "1"}
    ledger.append(world.project.at.ledger, entry | {"reason": "approved by ada; verdict: better"})
    told = shown(world)
    assert "promotion    version 2 at " in told
    assert "approved by ada; verdict: better" in told
