"""Run: pytest tests/test_promote.py   (with the real MLflow too: pytest tests/test_promote.py -m "")"""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines import artifact, ledger, moves
from pipelines.adapters.registry import CHALLENGER, CHAMPION, PENDING, PREVIOUS, Registry
from pipelines.errors import ArtifactError, MissingInput, RegistryError, UnknownId
from pipelines.paths import Paths
from pipelines.stages import promote as stage
from tests.fakes import MemoryRegistry, pump_graph, pump_model


def fine(_: str) -> None:
    """A version that may answer."""


def broken(version: str) -> None:
    raise ArtifactError(f"version {version} does not load")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three artifacts, and the migrated database where the real MLflow is tested."""
    root = tmp_path_factory.mktemp("template")
    for strength in (1, 2, 3):
        pump_model(root / str(strength) / "model", pump_graph({"heat": strength, "noise": 0.5}))
    return root


@pytest.fixture(params=["memory", pytest.param("mlflow", marks=pytest.mark.slow)])
def registry(
    request: pytest.FixtureRequest,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "memory":
        return MemoryRegistry(tmp_path / "registry")
    made = Registry(Paths(tmp_path, "pumps"))
    kept = template / ".perennial"
    if kept.exists():
        shutil.copytree(kept, tmp_path / ".perennial")
    made.aliases()
    if not kept.exists():
        shutil.copytree(tmp_path / ".perennial", kept)
    return made


@pytest.fixture
def at(tmp_path: Path) -> Paths:
    return Paths(tmp_path, "pumps")


@pytest.fixture
def three(registry: Any, template: Path) -> Any:
    """Versions 1, 2 and 3; 1 is champion."""
    for number in ("1", "2", "3"):
        assert registry.register(artifact.load(template / number / "model")) == number
    registry.promote("1", None, fine)
    return registry


def test_the_fake_has_the_methods_of_the_real_registry():
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(MemoryRegistry) == methods(Registry)


# What both registries keep to ------------------------------------------------------------------


def test_an_empty_registry_is_empty(registry: Any):
    assert registry.aliases() == {}
    assert registry.alias(CHAMPION) is None
    assert registry.versions() == ()
    with pytest.raises(UnknownId):
        registry.tags("1")


def test_the_same_artifact_is_the_same_version(registry: Any, template: Path):
    made = artifact.load(template / "1" / "model")
    assert registry.register(made) == registry.register(made) == "1"
    assert registry.versions() == ("1",)
    assert registry.aliases() == {CHALLENGER: "1"}
    assert registry.tags("1")["artifact"] == made.digest


def test_what_is_fetched_is_what_was_registered(registry: Any, template: Path):
    made = artifact.load(template / "1" / "model")
    folder = registry.fetch(registry.register(made))
    assert artifact.load(folder).digest == made.digest
    assert registry.fetch("1") == folder
    artifact.self_test(artifact.load(folder))


def test_promotion_moves_champion_and_keeps_the_one_before(three: Any):
    assert three.aliases() == {CHAMPION: "1", CHALLENGER: "3"}
    assert three.promote("3", "1", fine) is True
    assert three.aliases() == {CHAMPION: "3", PREVIOUS: "1"}
    assert three.promote("3", "1", fine) is False
    assert three.aliases() == {CHAMPION: "3", PREVIOUS: "1"}


@pytest.mark.parametrize("expect", ["2", None])
def test_promotion_is_compare_and_set(three: Any, expect: str | None):
    with pytest.raises(RegistryError, match="meanwhile"):
        three.promote("3", expect, fine)
    assert three.alias(CHAMPION) == "1"


def test_what_does_not_load_is_not_promoted(three: Any):
    with pytest.raises(ArtifactError):
        three.promote("3", "1", broken)
    assert three.aliases() == {CHAMPION: "1", CHALLENGER: "3"}


def test_rollback_goes_back_once_and_repeating_it_changes_nothing(three: Any):
    with pytest.raises(RegistryError, match="previous"):
        three.rollback(fine)
    three.promote("2", "1", fine)
    with pytest.raises(ArtifactError):
        three.rollback(broken)
    assert three.rollback(fine) == ("1", "2")
    assert three.rollback(fine) == ("1", None)
    assert three.alias(CHAMPION) == "1"
    three.promote("3", "1", fine)
    assert three.rollback(fine) == ("1", "3")


def by_hand(registry: Any, version: str) -> None:
    """As MLflow's own page moves the alias: nothing but the alias."""
    if isinstance(registry, MemoryRegistry):
        registry.moved[CHAMPION] = version
        return
    with registry._client() as client:
        client.set_registered_model_alias(registry.name, CHAMPION, version)


def test_rollback_goes_back_to_what_a_move_by_hand_left(three: Any):
    assert three.before() is None
    three.promote("2", "1", fine)
    assert three.before() == "1"
    by_hand(three, "3")
    assert three.before() == "2"
    assert three.rollback(fine) == ("2", "3")
    assert three.rollback(fine) == ("2", None)
    by_hand(three, "1")
    three.promote("3", "1", fine)
    assert three.rollback(fine) == ("1", "3")


def test_a_promotion_that_was_killed_is_rolled_back_like_any_other(three: Any):
    """Its last line, the tag, was not written; a move by hand before it makes no difference."""
    three.promote("2", "1", fine)
    by_hand(three, "1")
    unplaced(three, "3", "1")
    assert three.before() == "1"
    assert three.promote("3", "1", fine) is False
    assert three.before() == "1"
    by_hand(three, "2")
    assert three.before() == "3"


def unplaced(registry: Any, version: str, expect: str) -> None:
    """A promotion, killed before it ended."""
    if isinstance(registry, MemoryRegistry):
        registry.moved |= {PREVIOUS: expect, CHAMPION: version}
        registry.placed = expect
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "_placed", lambda *_: None)
        registry.promote(version, expect, fine)


def test_rollback_after_a_move_by_hand_to_previous_goes_on_to_what_answered_before(three: Any):
    three.promote("2", "1", fine)
    by_hand(three, "1")
    assert three.rollback(fine) == ("2", "1")


def test_tags_of_a_version_are_given_when_it_is_made_and_not_again(registry: Any, template: Path):
    made = artifact.load(template / "1" / "model")
    version = registry.register(made, {"verdict": "pending"})
    assert registry.tags(version)["verdict"] == "pending"
    registry.set_tags(version, {"verdict": "promote"})
    registry.register(made, {"verdict": "pending"})
    assert registry.tags(version)["verdict"] == "promote"


def test_tags_are_added_and_replaced(three: Any):
    three.set_tags("2", {"verdict": "hold", "why": "a"})
    three.set_tags("2", {"verdict": "promote"})
    assert three.tags("2").items() >= {"verdict": "promote", "why": "a"}.items()


# The stage ---------------------------------------------------------------------------------


def say(registry: Any, version: str, verdict: str, against: str = "1") -> None:
    registry.set_tags(
        version, {"verdict": verdict, "verdict_champion": against, "verdict_reason": "because"}
    )


def moved(at: Paths) -> list[tuple[str, str, str | None]]:
    return [
        (e["kind"], e["version"], e["from"])
        for e in ledger.read(at.ledger)
        if e["kind"] in ("promotion", "rollback")
    ]


def test_a_version_is_promoted_on_its_verdict_only(three: Any, at: Paths):
    for said in (None, PENDING):
        if said:
            say(three, "3", said)
        with pytest.raises(RegistryError, match="never judged"):
            moves.promote("pumps", at, three)
    say(three, "3", "hold")
    with pytest.raises(RegistryError, match="was held: because"):
        moves.promote("pumps", at, three, "3")
    say(three, "3", "promote", against="2")
    with pytest.raises(RegistryError, match="meanwhile"):
        moves.promote("pumps", at, three, "3")
    assert three.alias(CHAMPION) == "1"
    assert moved(at) == []
    say(three, "3", "promote")
    assert moves.promote("pumps", at, three) == "3"
    assert moved(at) == [("promotion", "3", "1")]


def test_a_tag_does_not_outweigh_the_ledgers_own_verdict(three: Any, at: Paths):
    say(three, "3", "promote")
    check = {"name": "better", "passed": False, "reason": "no better"}
    ledger.append(
        at.ledger,
        {"kind": "verdict", "challenger": "3", "decision": "hold", "checks": [check]},
    )
    with pytest.raises(RegistryError, match="no better"):
        moves.promote("pumps", at, three, "3")


def test_who_approved_is_on_the_ledger_and_with_the_version(three: Any, at: Paths):
    say(three, "3", "promote")
    moves.promote("pumps", at, three, "3", by="ada")
    (move,) = ledger.of_kind(at.ledger, "promotion")
    assert move["reason"] == "approved by ada; verdict: because"
    assert three.tags("3")["promoted"] == move["reason"]


def test_force_is_recorded_as_such(three: Any, at: Paths):
    assert moves.promote("pumps", at, three, "2", force=True) == "2"
    newest = ledger.newest(at.ledger, "promotion")
    assert newest is not None
    assert newest["reason"] == "forced by a person"
    assert three.tags("2")["promoted"] == "forced by a person"


def test_force_does_not_promote_what_does_not_load(three: Any, at: Paths, monkeypatch: Any):
    monkeypatch.setattr(moves, "_answers_well", lambda _, version: broken(version))
    with pytest.raises(ArtifactError):
        moves.promote("pumps", at, three, "2", force=True)
    assert three.alias(CHAMPION) == "1"


def test_repeating_a_promotion_that_was_killed_leaves_one_line(three: Any, at: Paths):
    say(three, "3", "promote")
    three.promote("3", "1", fine)  # killed before the ledger
    assert moves.promote("pumps", at, three, "3") == "3"
    assert moves.promote("pumps", at, three, "3") == "3"
    assert moved(at) == [("promotion", "3", "1")]


def test_rollback_is_on_the_ledger_and_what_it_left_needs_force(three: Any, at: Paths):
    say(three, "3", "promote")
    moves.promote("pumps", at, three)
    assert moves.rollback("pumps", at, three) == "1"
    assert moves.rollback("pumps", at, three) == "1"
    assert moved(at) == [("promotion", "3", "1"), ("rollback", "1", "3")]
    with pytest.raises(RegistryError, match="--force"):
        moves.promote("pumps", at, three, "3")
    moves.promote("pumps", at, three, "3", force=True)
    assert three.tags("3")["rolled_back"] == "false"
    assert moved(at)[-1] == ("promotion", "3", "1")


def test_rollback_marks_the_version_that_a_person_put_there_by_hand(three: Any, at: Paths):
    say(three, "3", "promote")
    moves.promote("pumps", at, three)
    by_hand(three, "1")  # which is `previous` as well
    assert moves.rollback("pumps", at, three) == "3"
    assert three.tags("1")["rolled_back"] == "true"
    assert three.tags("3")["rolled_back"] == "false"
    assert moved(at)[-1] == ("rollback", "3", "1")


def test_without_a_model_or_a_challenger_the_command_that_makes_one_is_named(
    registry: Any, at: Paths
):
    with pytest.raises(MissingInput, match="perennial gate pumps"):
        moves.promote("pumps", at, registry)
    with pytest.raises(MissingInput, match="dvc repro train@pumps"):
        stage.gate("pumps", None, None, at, registry, "2024-03")
