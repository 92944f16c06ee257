"""Run: pytest tests/test_keeper_refusals.py

Versions that must not answer: each is refused, told, and not tried in a loop.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines import artifact
from pipelines.errors import RegistryError, UnknownId
from pipelines.service import verify
from pipelines.service.keeper import aliases, trying
from pipelines.service.keeper.follower import Follower
from tests.fakes import PUMPS, pump_graph
from tests.keeper_world import (
    Clock,
    FakeRegistry,
    Spoil,
    altered,
    answering,
    beside,
    column,
    emptied,
    looks,
    made,
    make_models,
    other_contract,
    renamed,
    replaced,
    swapped_for_another,
    trained,
    under,
    untagged,
    without_examples,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def registry(models: Path, tmp_path: Path) -> FakeRegistry:
    return FakeRegistry(tmp_path / "registry", models)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def follow(registry: FakeRegistry, tmp_path: Path, clock: Clock) -> Follower:
    """Tries at once and not in a thread, so that one look ends what it began."""
    return made(tmp_path, registry, clock)


# What is refused --------------------------------------------------------------------------------

WRONG: dict[str, tuple[Spoil, str]] = {
    "answers no number": (replaced(pump_graph({"heat": np.nan})), "examples nan away"),
    "answers otherwise than when it was made": (replaced(pump_graph({"noise": 9})), "its own examples"),
    "answers what is no probability": (trained(pump_graph({}, 3.0, ("Identity",))), "no 1 probabilities"),
    "is no graph": (replaced(b"not ONNX"), "model.onnx does not load"),
    "has no examples": (without_examples, "no example"),
    "graph altered": (altered("model.onnx"), "model.onnx is not the file"),
    "facts altered": (altered("about.json"), "about.json is not the file"),
    "another version's files": (swapped_for_another, "was registered"),
    "a pickle beside": (beside("model.pkl"), "holds model.pkl, which is no file of a model"),
    "code beside": (beside("conda.py"), "might be code"),
    "half an upload": (emptied, "holds no model"),
    "registered by hand": (untagged, "no tag `artifact`"),
    "another type": (under(column("heat", type="integer")), "heat is of type integer in the model"),
    "an input more": (under(column("pump", feature=True)), "reads pump, which no row has"),
    "an input less": (under(column("noise", feature=False)), "never learned from noise"),
    "another name": (under(renamed("noise", "hum")), "reads hum, .* never learned from noise"),
    "another key": (under(other_contract(key=("pump",))), "key is pump in the model"),
    "another task": (under(other_contract(task="fans")), "task is fans in the model"),
    "another label": (
        under(renamed("failed", "broke").model_copy(update={"label": "broke"})),
        "label is broke in the model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_version_that_is_wrong_is_refused_once_and_the_one_before_it_stays(
    wrong: str, follow: Follower, registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    spoil, reason = WRONG[wrong]
    before = looks(follow).champion
    spoil(registry, tmp_path / "scratch")
    registry.name("2")
    for _ in range(20):
        said = looks(follow)
        clock.now += 100
    assert said.champion == before
    assert said.refused["2"].again_at is None
    assert re.search(reason, said.refused["2"].reason)
    assert "version 1 goes on answering" in said.said
    # Not even fetched when the registry itself tells that it is wrong.
    assert registry.fetched["2"] == (0 if wrong == "registered by hand" else 1)
    registry.name("3")
    said = looks(follow)
    assert (answering(said), said.refused, said.said) == ("3", {}, "")


def test_limits_and_allowed_values_may_differ_from_the_services(
    follow: Follower, registry: FakeRegistry, tmp_path: Path
):
    """A contract that was loosened must not stop the model of before."""
    under(column("site", values=("north", "south")))(registry, tmp_path)
    registry.name("2")
    assert answering(looks(follow)) == "2"


def test_a_graph_that_reads_more_than_a_request_has_is_refused(models: Path):
    wanting = other_contract(columns={n: c for n, c in PUMPS.columns.items() if n != "noise"})
    made = artifact.load(models / "1" / "model")
    assert "noise" in verify._asks_for_more(made, wanting)
    assert verify._asks_for_more(made, PUMPS) == ""


@pytest.mark.parametrize(
    "passing",
    [
        RegistryError("reset"), UnknownId("deleted"), OSError(errno.ENOSPC, "No space left"),
        TimeoutError("slow"), MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_may_pass_by_itself_is_tried_again_later_and_later(
    passing: Exception, follow: Follower, registry: FakeRegistry, clock: Clock
):
    looks(follow)
    registry.failures["2"] = [passing] * 12
    registry.name("2")
    waits = []
    for tries in range(1, 13):
        said = looks(follow)
        refusal = said.refused["2"]
        assert (answering(said), refusal.tries, registry.fetched["2"]) == ("1", tries, tries)
        assert refusal.again_at is not None
        waits.append(refusal.again_at - clock.now)
        assert follow.due() == waits[-1]
        clock.now = refusal.again_at - 0.01
        looks(follow)
        assert registry.fetched["2"] == tries
        clock.now = refusal.again_at
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]
    said = looks(follow)
    assert (answering(said), said.refused, follow.due()) == ("2", {}, float("inf"))


def test_a_refused_version_is_tried_again_when_its_files_changed_or_its_alias_came_back(
    follow: Follower, registry: FakeRegistry, clock: Clock
):
    looks(follow)
    right = registry.tags("2")["artifact"]
    registry.set_tags("2", {"artifact": "f" * 32})
    registry.name("2")
    assert "was registered" in looks(follow).refused["2"].reason
    registry.name("1")
    assert looks(follow).refused == {}
    registry.name("2")
    looks(follow)
    assert registry.fetched["2"] == 2
    registry.set_tags("2", {"artifact": right})
    clock.now += aliases.REST
    assert answering(looks(follow)) == "2"


def test_a_version_that_kills_the_keeper_is_not_tried_a_third_time(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    digest = registry.tags("2")["artifact"]
    looks(made(tmp_path, registry, clock))
    registry.name("2")
    for death in range(1, trying.DEATHS + 1):
        dying = made(tmp_path, registry, clock, start=lambda work: None)
        dying.begin()
        dying.notes.begin("2", digest)  # and here it is killed, so that nothing ends the note
        assert dying.notes.deaths("2", digest) == death
    heir = made(tmp_path, registry, clock)
    heir.begin()
    said = looks(heir)
    assert answering(said) == "1"
    assert "killed the process that loaded it" in said.refused["2"].reason
    assert registry.fetched["2"] == 0
    # A person who moves the alias away and back asks for another try.
    registry.name("1")
    looks(heir)
    registry.name("2")
    assert answering(looks(heir)) == "2"


def test_one_death_is_no_proof_and_an_orderly_end_none_at_all(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    registry.name("2")
    digest = registry.tags("2")["artifact"]
    trying.Notes(tmp_path / ".perennial" / "service" / "pumps" / "trying").begin("2", digest)
    for _ in range(5):
        leaving = made(tmp_path, registry, clock, start=lambda work: None)
        leaving.look()
        leaving.notes.begin("2", digest)
        leaving.leave()
    assert answering(looks(made(tmp_path, registry, clock))) == "2"


def test_the_note_lies_there_before_the_first_byte_is_fetched_and_goes_with_the_try(
    follow: Follower, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
):
    digest, plain, seen = registry.tags("1")["artifact"], registry.fetch, []

    def fetch(version: str) -> Path:
        seen.append(follow.notes.deaths("1", digest))
        return plain(version)

    monkeypatch.setattr(registry, "fetch", fetch)
    looks(follow)
    assert seen == [1]
    assert follow.notes.deaths("1", digest) == 0


def test_a_note_that_is_being_written_is_left_alone_until_the_next_start(follow: Follower):
    follow.notes.folder.mkdir(parents=True)
    half = follow.notes.folder / ".1.abc.tmp"
    half.touch()
    looks(follow)
    assert half.exists()
    follow.begin()
    assert not half.exists()


def test_a_garbled_note_is_no_note(tmp_path: Path):
    notes = trying.Notes(tmp_path)
    for text in ("", "[]", "{", '{"digest": "d"}', '{"digest": "d", "deaths": "many"}', "null"):
        (tmp_path / "2").write_text(text)
        assert notes.deaths("2", "d") == 0
