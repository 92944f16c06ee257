"""Run: pytest tests/test_keeper.py

The keeper's eye on the registry: what is published, what is refused, and what is left as it was.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipelines
from pipelines import artifact, contract
from pipelines.adapters.registry import CHALLENGER, CHAMPION
from pipelines.errors import ArtifactError, RegistryError, UnknownId
from pipelines.service import aliases, follower, trying, upkeep, verify, wanted
from pipelines.service.follower import Follower
from tests.fakes import BETTER, PUMPS, pump_graph, pump_model
from tests.keeper_world import (
    Clock,
    FakeRegistry,
    eventually,
    make_models,
    other_contract,
    project,
    sign,
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


def made(
    root: Path,
    registry: Any,
    clock: Clock,
    own: tuple[Path, str] | None = None,
    route: str = "canary",
    start: Callable[[Callable[[], None]], None] = lambda work: work(),
) -> Follower:
    return Follower(project(root, route), registry, own, start, clock)


def looks(follow: Follower, times: int = 2) -> wanted.Wanted:
    """A try begins in one look and is published in the next."""
    for _ in range(times):
        follow.look()
    return wanted.read(follow.at.wanted)


def answering(said: wanted.Wanted) -> str | None:
    return said.champion.version if said.champion else None


# What is published ------------------------------------------------------------------------------


def test_the_champion_is_published_with_its_folder_its_digest_and_since_when(
    follow: Follower, registry: FakeRegistry, clock: Clock
):
    follow.begin()
    said = looks(follow)
    assert said.champion is not None
    assert (said.champion.version, said.champion.digest) == ("1", registry.tags("1")["artifact"])
    assert artifact.load(said.champion.folder).digest == said.champion.digest
    assert said.champion.since == clock.now
    assert (said.said, said.refused, said.registry.reachable) == ("", {}, True)


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({}, "alias moved by hand"),
        ({"promoted": "verdict: better"}, "verdict: better"),
        (
            {"verdict": "hold", "verdict_reason": "worse"},
            "alias moved by hand; the gate had said hold: worse",
        ),
        (
            {"promoted": "verdict: better", "rolled_back": "true", "verdict": "hold"},
            "alias moved by hand; the gate had said hold: ",
        ),
    ],
)
def test_why_it_answers_is_what_the_registry_tells(
    follow: Follower, registry: FakeRegistry, tags: dict[str, str], why: str
):
    registry.set_tags("1", tags)
    champion = looks(follow).champion
    assert champion is not None
    assert champion.why == why


def test_a_reason_that_is_written_after_the_alias_moved_is_taken_up(
    follow: Follower, registry: FakeRegistry, clock: Clock
):
    looks(follow)
    since = clock.now
    registry.set_tags("1", {"promoted": "forced by a person"})
    clock.now += aliases.REST
    champion = looks(follow).champion
    assert champion is not None
    assert (champion.why, champion.since) == ("forced by a person", since)
    assert registry.fetched["1"] == 1


def test_challenger_and_champion_follow_their_aliases(follow: Follower, registry: FakeRegistry):
    registry.name("1", "2")
    said = looks(follow)
    assert said.challenger is not None
    assert said.challenger.version == "2"
    registry.name("2", "3")
    said = looks(follow)
    assert said.champion is not None
    assert said.challenger is not None
    assert (said.champion.version, said.challenger.version) == ("2", "3")
    registry.name("2")
    assert looks(follow).challenger is None


def test_a_challenger_that_nobody_asks_or_that_is_the_champion_is_none(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    registry.name("1", "1")
    assert looks(made(tmp_path, registry, clock)).challenger is None
    registry.name("1", "2")
    assert looks(made(tmp_path, registry, clock, route="off")).challenger is None
    assert registry.fetched["2"] == 0


def test_looks_that_find_nothing_new_leave_the_file_and_the_models_alone(
    follow: Follower, registry: FakeRegistry, clock: Clock
):
    looks(follow)
    before = follow.at.wanted.stat()
    looks(follow, 50)
    after = follow.at.wanted.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert registry.fetched == {"1": 1}
    clock.now += aliases.REST
    assert looks(follow).looked_at == clock.now


def test_a_registry_made_anew_has_other_models_under_old_numbers(
    follow: Follower, registry: FakeRegistry, clock: Clock
):
    looks(follow)
    shutil.rmtree(registry.home / "1")
    shutil.copytree(registry.home / "2", registry.home / "1")
    registry.set_tags("1", {"artifact": registry.tags("2")["artifact"]})
    clock.now += aliases.REST
    champion = looks(follow).champion
    assert champion is not None
    assert champion.digest == registry.tags("2")["artifact"]


# What is refused --------------------------------------------------------------------------------

Spoil = Callable[[FakeRegistry, Path], None]


def replaced(graph: bytes) -> Spoil:
    """Another graph in the same files, signed anew: only its answers can tell."""

    def spoil(registry: FakeRegistry, _: Path) -> None:
        (registry.home / "2" / "model.onnx").write_bytes(graph)
        registry.set_tags("2", {"artifact": sign(registry.home / "2")})

    return spoil


def trained(graph: bytes = BETTER, described: contract.Contract = PUMPS) -> Spoil:
    """A model that is sound as far as it itself can tell."""

    def spoil(registry: FakeRegistry, scratch: Path) -> None:
        made = pump_model(scratch / "model", graph, described)
        shutil.rmtree(registry.home / "2")
        shutil.copytree(made.folder, registry.home / "2")
        registry.set_tags("2", {"artifact": made.digest})

    return spoil


def under(described: contract.Contract) -> Spoil:
    """Trained under another contract than the service's."""
    return trained(described=described)


def column(name: str, **changed: Any) -> contract.Contract:
    columns = PUMPS.columns | {name: PUMPS.columns[name].model_copy(update=changed)}
    return other_contract(columns=columns)


def renamed(old: str, new: str) -> contract.Contract:
    columns = {new if n == old else n: c for n, c in PUMPS.columns.items()}
    return other_contract(columns=columns)


def altered(name: str) -> Spoil:
    def spoil(registry: FakeRegistry, _: Path) -> None:
        path = registry.home / "2" / name
        path.write_bytes(path.read_bytes() + b" ")

    return spoil


def without_examples(registry: FakeRegistry, _: Path) -> None:
    path = registry.home / "2" / "examples.parquet"
    pd.read_parquet(path).head(0).to_parquet(path)
    registry.set_tags("2", {"artifact": sign(registry.home / "2")})


def beside(name: str) -> Spoil:
    return lambda registry, _: (registry.home / "2" / name).write_bytes(b"\x80\x04N.") and None


def emptied(registry: FakeRegistry, _: Path) -> None:
    shutil.rmtree(registry.home / "2")
    (registry.home / "2").mkdir()


def untagged(registry: FakeRegistry, _: Path) -> None:
    del registry.tagged["2"]["artifact"]


def swapped_for_another(registry: FakeRegistry, _: Path) -> None:
    shutil.rmtree(registry.home / "2")
    shutil.copytree(registry.home / "3", registry.home / "2")


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
    "an input more": (under(column("pump", feature=True)), "reads pump, which no request has"),
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


# Slow, away, gone -------------------------------------------------------------------------------


def test_a_slow_version_is_published_when_it_is_ready_and_holds_up_no_other(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    follow = made(tmp_path, registry, clock, start=follower.in_thread)
    eventually(lambda: answering(looks(follow)) == "1")
    registry.slow["3"] = threading.Event()
    registry.name("1", "3")
    looks(follow, 5)
    registry.name("2", "3")
    eventually(lambda: answering(looks(follow)) == "2")
    assert wanted.read(follow.at.wanted).challenger is None
    registry.slow["3"].set()
    eventually(lambda: looks(follow).challenger is not None)
    assert registry.fetched["3"] == 1


def test_a_version_whose_alias_moved_on_while_it_was_tried_is_not_published(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    follow = made(tmp_path, registry, clock, start=follower.in_thread)
    eventually(lambda: answering(looks(follow)) == "1")
    registry.slow["2"] = threading.Event()
    registry.name("2")
    looks(follow)
    registry.name("3")
    eventually(lambda: answering(looks(follow)) == "3")
    registry.slow["2"].set()
    eventually(lambda: looks(follow) and not follow._in_hand)
    assert answering(looks(follow, 5)) == "3"


def test_a_version_whose_files_changed_while_it_was_tried_is_tried_anew(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    begun: list[Callable[[], None]] = []
    follow = made(tmp_path, registry, clock, start=begun.append)
    follow.look()
    begun.pop()()
    trained()(registry, tmp_path / "scratch")
    shutil.rmtree(registry.home / "1")
    shutil.copytree(registry.home / "2", registry.home / "1")
    registry.set_tags("1", {"artifact": registry.tags("2")["artifact"]})
    clock.now += aliases.REST
    assert answering(looks(follow, 1)) is None
    begun.pop()()
    champion = looks(follow, 1).champion
    assert champion is not None
    assert champion.digest == registry.tags("2")["artifact"]


def test_an_alias_that_flaps_ends_where_it_ends_and_nothing_is_loaded_twice_at_once(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    follow = made(tmp_path, registry, clock, start=follower.in_thread)
    for turn in range(200):
        registry.name("12"[turn % 2], "3" if turn % 3 else None)
        follow.look()
    registry.name("3", "2")

    def settled() -> bool:
        said = looks(follow)
        return answering(said) == "3" and said.challenger is not None and not follow._in_hand

    eventually(settled)
    said = looks(follow, 5)
    assert (answering(said), said.challenger and said.challenger.version) == ("3", "2")
    assert registry.most_at_once == 1


def test_a_registry_that_is_away_changes_nothing_but_what_is_said_of_it(
    follow: Follower, registry: FakeRegistry, clock: Clock
):
    registry.name("1", "2")
    before = looks(follow)
    registry.down = True
    clock.now += 1
    first = looks(follow, 1)
    away = looks(follow, 30)
    assert away == first  # said once, although no two errors read alike
    assert (away.champion, away.challenger) == (before.champion, before.challenger)
    assert (away.registry.reachable, away.registry.since) == (False, clock.now)
    assert "no answer" in away.registry.error
    registry.down = False
    registry.name("3", "2")
    clock.now += 60
    back = looks(follow)
    assert (answering(back), back.registry.reachable, back.registry.error) == ("3", True, "")


def test_an_error_of_any_kind_while_the_aliases_are_read_is_a_registry_that_is_away(
    follow: Follower, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
):
    looks(follow)

    def garbage() -> dict[str, str]:
        raise KeyError("aliases")

    monkeypatch.setattr(registry, "aliases", garbage)
    said = looks(follow)
    assert (answering(said), said.registry.reachable) == ("1", False)
    assert "KeyError" in said.registry.error


def test_a_try_that_ends_while_the_registry_is_away_waits_for_its_word(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    follow = made(tmp_path, registry, clock)
    follow.look()
    registry.down = True
    assert answering(looks(follow, 3)) is None
    registry.down = False
    assert answering(looks(follow, 1)) == "1"
    assert registry.fetched["1"] == 1


def test_without_the_alias_the_champion_goes_on_and_it_is_said(
    follow: Follower, registry: FakeRegistry
):
    looks(follow)
    registry.name(None)
    said = looks(follow)
    assert answering(said) == "1"
    assert "no alias champion; version 1 goes on answering" in said.said
    assert "perennial promote pumps --version 1 --force" in said.said


def test_a_version_deleted_under_its_alias_leaves_the_one_before_it(
    follow: Follower, registry: FakeRegistry
):
    looks(follow)
    registry.name("9")
    said = looks(follow)
    assert answering(said) == "1"
    assert "no tag `artifact`" in said.refused["9"].reason
    registry.name(None)
    assert looks(follow).refused == {}


# At the start -----------------------------------------------------------------------------------


def test_with_the_registry_down_what_answered_last_answers_again(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    registry.name("1", "2")
    before = looks(made(tmp_path, registry, clock))
    registry.down = True
    clock.now += 1000
    heir = made(tmp_path, registry, clock)
    heir.begin()
    said = looks(heir)
    assert (said.champion, said.challenger) == (before.champion, before.challenger)
    assert not said.registry.reachable


def test_what_answered_last_is_left_out_when_it_was_spoiled_and_fetched_anew_when_it_can_be(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    whole = looks(made(tmp_path, registry, clock)).champion
    assert whole is not None
    graph = (whole.folder / "model.onnx").read_bytes()
    (whole.folder / "model.onnx").write_bytes(graph[:-1])
    registry.down = True
    heir = made(tmp_path, registry, clock)
    heir.begin()
    said = looks(heir)
    assert said.champion is None
    assert "version 1, as it lies here, cannot answer" in said.said
    (whole.folder / "model.onnx").write_bytes(graph)
    registry.down = False
    assert answering(looks(heir)) == "1"


def test_a_service_whose_contract_was_changed_does_not_take_up_the_old_model(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    looks(made(tmp_path, registry, clock))
    registry.down = True
    heir = made(tmp_path, registry, clock)
    heir.contract = column("heat", type="integer")
    heir.begin()
    said = looks(heir)
    assert said.champion is None
    assert "heat is of type number in the model" in said.said


def test_a_garbled_file_at_the_start_is_as_none(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    follow = made(tmp_path, registry, clock)
    follow.at.service.mkdir(parents=True)
    for text in ("", "{", "[]", '{"champion": 4}', "\x00"):
        follow.at.wanted.write_text(text)
        heir = made(tmp_path, registry, clock)
        heir.begin()
        assert answering(looks(heir)) == "1"


def test_a_disk_that_is_full_keeps_the_last_word_and_the_new_one_follows(
    follow: Follower, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
):
    looks(follow)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.store.os.fsync", full)
        registry.name("2")
        assert answering(looks(follow, 5)) == "1"
    # The note could not be written either, so the try itself waits its two seconds.
    follow.clock.now += 2  # type: ignore[attr-defined]
    assert answering(looks(follow)) == "2"
    assert [p.name for p in follow.at.service.glob(".*")] == []


# A bento's own model ----------------------------------------------------------------------------


def test_a_bento_answers_with_its_own_model_where_no_registry_is_followed(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    alone = made(tmp_path, None, clock, own=(registry.home / "2", "2"))
    alone.begin()
    said = looks(alone)
    assert said.champion is not None
    assert (said.champion.version, said.champion.why) == ("2", follower.CAME_ALONG)
    assert said.champion.digest == registry.tags("2")["artifact"]
    assert said.said == ""


def test_the_registrys_champion_comes_before_the_one_that_was_carried(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    def begun() -> Follower:
        follow = made(tmp_path, registry, clock, own=(registry.home / "2", "2"))
        follow.begin()
        return follow

    registry.down = True
    follow = begun()
    assert answering(looks(follow)) == "2"
    registry.down = False
    registry.name(None)
    assert answering(looks(follow)) == "2"
    registry.name("3")
    assert answering(looks(follow)) == "3"
    registry.down = True
    assert answering(looks(begun())) == "3"


def test_a_carried_model_is_verified_like_any_other(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    for spoil in (beside("model.pkl"), altered("model.onnx"), emptied):
        folder = registry.home / "2"
        shutil.rmtree(folder)
        shutil.copytree(registry.home / "3", folder)
        spoil(registry, tmp_path)
        alone = made(tmp_path, None, clock, own=(folder, "2"))
        alone.begin()
        said = looks(alone)
        assert said.champion is None
        assert "cannot answer" in said.said


# A challenger that was tripped -------------------------------------------------------------------


def test_a_tripped_challenger_is_forgiven_when_the_alias_names_another(
    follow: Follower, registry: FakeRegistry
):
    registry.name("1", "2")
    looks(follow)
    off = wanted.tripped(follow.at, "2")
    off.write_text("{}")
    looks(follow)
    assert off.exists()
    registry.name("1", "3")
    looks(follow)
    assert not off.exists()


# Whatever happens -------------------------------------------------------------------------------

GOOD, BAD = ("1", "2"), ("3", "4")
MOVES = st.one_of(
    st.tuples(st.just("name"), st.sampled_from([*GOOD, *BAD, None]), st.sampled_from([*GOOD, *BAD, None])),
    st.sampled_from([("down",), ("up",), ("look",), ("restart",), ("hour",), ("full",), ("roomy",)]),
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(MOVES, max_size=40))
def test_whatever_happens_what_answers_may_answer_and_in_the_end_follows_its_alias(
    moves: list[tuple[Any, ...]],
    models: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
):
    root = tmp_path_factory.mktemp("world")
    registry, clock = FakeRegistry(root / "registry", models), Clock()
    registry.tagged["4"] = {"artifact": "4" * 32}
    registry.name(None)
    full = []

    def quick(folder: Path, digest: str, _: contract.Contract) -> None:
        if folder.name in BAD:
            raise ArtifactError("it is wrong")

    def write(path: Path, said: wanted.Wanted) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(said.model_dump_json())

    monkeypatch.setattr(trying, "verified", quick)
    monkeypatch.setattr(wanted, "write", write)
    follow = made(root, registry, clock)
    seen: set[str] = set()
    for move, *given_ in moves:
        if move == "name":
            registry.name(*given_)
        elif move in ("down", "up"):
            registry.down = move == "down"
        elif move in ("full", "roomy"):
            full[:] = [1] if move == "full" else []
        elif move == "hour":
            clock.now += 3600
        elif move == "restart":
            follow = made(root, registry, clock)
            follow.begin()
        else:
            follow.look()
        champion = follow.wanted.champion
        assert champion is None or champion.version in GOOD
        if not registry.down and CHAMPION in registry.moved:
            seen.add(registry.moved[CHAMPION])
        # Nobody ever answers that no alias named, and once somebody answers, somebody always does.
        assert champion is None or champion.version in seen
        if wanted_before := follow._written:
            assert wanted_before.champion is None or champion is not None
    registry.down = False
    full.clear()
    clock.now += 3600
    looks(follow, 3)
    said = wanted.read(follow.at.wanted)
    if (named := registry.moved.get(CHAMPION)) in GOOD:
        assert (answering(said), said.said) == (named, "")
    else:
        assert said.said != ""
    challenger = registry.moved.get(CHALLENGER)
    expected = challenger if challenger in GOOD and challenger != named else None
    assert (said.challenger.version if said.challenger else None) == expected
    assert set(said.refused) == {v for v in (named, challenger) if v in BAD}


# Upkeep of the log ------------------------------------------------------------------------------


def test_upkeep_that_fails_is_counted_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[Any] = []

    def compact(*_: Any) -> None:
        done.append("compact")
        if len(done) == 1:
            raise ValueError("a journal is torn")

    fake = SimpleNamespace(
        compact=compact, retain=lambda at, days, today: done.append((days, today))
    )
    monkeypatch.setattr(pipelines, "served", fake, raising=False)
    monkeypatch.setitem(sys.modules, "pipelines.served", fake)  # type: ignore[arg-type]
    opened = project(tmp_path)
    keeping = upkeep.Upkeep(opened.at, PUMPS, opened.task.serve.log)
    first, second = date(2024, 3, 1), date(2024, 3, 2)
    for today in (first, first, second):
        keeping.once(today)
    assert done == ["compact", (90, first), "compact", "compact", (90, second)]
    said = json.loads(wanted.upkeep(opened.at).read_text())
    assert (said["runs"], said["failures"]) == (3, 1)
    assert said["error"] == "compact: ValueError: a journal is torn"
