"""Run: pytest tests/test_gate_faults.py

The wired gate while something raises, the registry goes away, or the process dies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines import artifact as artifacts
from pipelines import graph, ledger, measures, metrics, rivals, store, structure
from pipelines.adapters.registry import CHAMPION
from pipelines.artifact import Artifact
from pipelines.errors import RegistryError
from pipelines.records import Scores
from pipelines.stages import promote as stage
from tests import gate_world
from tests.fakes import MemoryRegistry, pump_graph, pump_model
from tests.gate_world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return gate_world.build(tmp_path, monkeypatch)


# Everything that the stage calls, made to raise ------------------------------------------------

COLLABORATORS: dict[str, tuple[Any, str]] = {
    "artifact.load": (artifacts, "load"),
    "artifact.self_test": (artifacts, "self_test"),
    "graph.raw_inputs": (graph, "raw_inputs"),
    "Artifact.predict": (Artifact, "predict"),
    "registry.register": (MemoryRegistry, "register"),
    "registry.alias": (MemoryRegistry, "alias"),
    "registry.tags": (MemoryRegistry, "tags"),
    "registry.fetch": (MemoryRegistry, "fetch"),
    "registry.set_tags": (MemoryRegistry, "set_tags"),
    "store.read_table": (store, "read_table"),
    "store.write_text": (store, "write_text"),
    "ledger.record": (ledger, "record"),
    "rivals.scores": (rivals, "scores"),
    "rivals.baseline": (rivals, "baseline"),
    "rivals.named": (rivals, "named"),
    "rivals.slices_of": (rivals, "slices_of"),
    "rivals.row_keys": (rivals, "row_keys"),
    "rivals.latency_ms": (rivals, "latency_ms"),
    "gate.judge": (stage, "judge"),
    "structure.look": (structure, "look"),
    "measures.take": (measures, "take"),
    "metrics.auc": (metrics, "auc"),
    "metrics.auc_difference": (metrics, "auc_difference"),
    "metrics.calibration_error": (metrics, "calibration_error"),
}


def faults() -> list[tuple[str, Exception]]:
    """Each collaborator with an exception of its own kind, in turn."""
    kinds = (
        RuntimeError("it broke"),
        MemoryError(),
        RegistryError("away"),
        OSError(28, "disk full"),
    )
    return [(name, kinds[i % len(kinds)]) for i, name in enumerate(COLLABORATORS)]


@pytest.mark.parametrize(("name", "error"), faults())
def test_an_exception_anywhere_is_held_named_and_logged(
    name: str, error: Exception, world: World, caplog: pytest.LogCaptureFixture
):
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    owner, attribute = COLLABORATORS[name]
    with world.monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(owner, attribute, broken)
        verdict = world.challenge()
    assert verdict.decision == "hold"
    assert type(error).__name__ in verdict.reason
    assert any(record.exc_info for record in caplog.records)
    assert world.registry.alias(CHAMPION) == "1"
    # Mended, the same command goes through: nothing half-done stands in its way.
    assert world.challenge().decision == "promote"
    assert world.registry.alias(CHAMPION) == "2"


# The tracking server dies, or the process does, at any call ------------------------------------


class Killed(BaseException):
    """Like kill -9, nothing in the code catches it."""


class Interrupted:
    """A registry whose `fatal`-th call and all after it raise; late: after that one took effect."""

    def __init__(
        self, registry: MemoryRegistry, fatal: int, error: BaseException, late: bool
    ) -> None:
        self.inner, self.left, self.error, self.late = registry, fatal, error, late

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.inner, name)

        def call(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not self.late):
                raise self.error
            result = method(*args, **options)
            if self.left == 0:
                raise self.error
            return result

        return call


CALLS = 14
"""Calls that one challenge makes to the registry."""


@pytest.mark.parametrize("number", range(1, CALLS + 1))
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", [RegistryError("connection refused"), Killed()])
def test_losing_the_registry_or_the_process_at_any_call_never_promotes_what_was_not_judged(
    number: int, late: bool, error: BaseException, world: World
):
    sound = world.registry
    world.registry = Interrupted(sound, number, error, late)
    try:
        verdict = world.challenge()
    except (RegistryError, Killed):
        verdict = None
    if sound.alias(CHAMPION) == "2":
        assert sound.tags("2")["verdict"] == "promote"
    else:
        assert sound.alias(CHAMPION) == "1"
        assert verdict is None or verdict.decision == "hold"
    for version in sound.aliases().values():
        artifacts.self_test(artifacts.load(sound.fetch(version)))
    # The same command again, undisturbed: the same end, and one line for the one promotion.
    world.registry = sound
    assert world.challenge().decision == "promote"
    assert sound.aliases() == {"champion": "2", "previous": "1"}
    moves = [e for e in ledger.read(world.at.ledger) if e["kind"] == "promotion"]
    assert [(e["version"], e["from"]) for e in moves] == [("2", "1")]


def test_the_calls_above_reach_the_last_one(world: World):
    counted = Interrupted(world.registry, 10**6, Killed(), late=False)
    world.registry = counted
    assert world.challenge().decision == "promote"
    assert 10**6 - counted.left == CALLS


def test_a_verdict_is_on_the_ledger_before_it_permits_anything(world: World):
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    world.monkeypatch.setattr(ledger, "record", killed)
    with pytest.raises(Killed):
        world.challenge()
    assert world.registry.tags("2")["verdict"] == "pending"


def test_a_version_that_is_judged_again_permits_nothing_until_it_was(world: World):
    """Its tags of before say promote, against a champion that has gone."""
    world.challenge()
    world.registry.moved[CHAMPION] = "1"

    class Torn(MemoryRegistry):
        def set_tags(self, version: str, tags: Mapping[str, str]) -> None:
            for number, (name, value) in enumerate(tags.items()):
                if number == 3:
                    raise Killed
                super().set_tags(version, {name: value})

    world.registry.__class__ = Torn
    with pytest.raises(Killed):
        world.challenge()
    assert world.registry.tags("2")["verdict"] == "hold"


def test_what_failed_around_the_model_is_told_from_what_is_wrong_with_it(world: World):
    for error, name in ((RegistryError("away"), "undisturbed"), (KeyError("x"), "no_exception")):
        with world.monkeypatch.context() as patch:
            patch.setattr(rivals, "scores", raising(error))
            verdict = world.challenge()
        assert [c.name for c in verdict.checks if not c.passed] == [name]
        assert stage.unfinished(verdict) == (name == "undisturbed")


def test_a_registry_that_goes_away_while_the_champion_is_fetched_is_no_verdict(world: World):
    plain = MemoryRegistry.fetch

    def away(registry: MemoryRegistry, version: str) -> Path:
        if version == "1":
            raise RegistryError("away")
        return plain(registry, version)

    world.monkeypatch.setattr(MemoryRegistry, "fetch", away)
    assert stage.unfinished(world.challenge())


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def test_an_alias_that_moves_while_judging_is_left_where_it_went(world: World):
    third = world.registry.register(
        pump_model(world.at.root / "third" / "model", pump_graph({"heat": 2.0}))
    )
    plain = rivals.scores

    def meanwhile(*args: Any) -> Scores:
        world.registry.moved[CHAMPION] = third
        return plain(*args)

    world.monkeypatch.setattr(rivals, "scores", meanwhile)
    with pytest.raises(RegistryError, match="meanwhile"):
        world.challenge()
    assert world.registry.alias(CHAMPION) == third
