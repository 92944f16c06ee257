"""Run: pytest tests/test_keeper.py

The keeper's eye on the registry: what is published, what is refused, and what is left as it was.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import artifact, contract, served
from pipelines.adapters.registry import CHALLENGER, CHAMPION, PENDING
from pipelines.errors import ArtifactError, RegistryError
from pipelines.serve_params import Log
from pipelines.served import Compacted
from pipelines.service import wanted
from pipelines.service.keeper import aliases, follower, keep, starting, trying, upkeep
from pipelines.service.keeper.follower import Follower
from tests.fakes import PUMPS
from tests.keeper_world import (
    Clock,
    FakeRegistry,
    altered,
    answering,
    beside,
    column,
    emptied,
    eventually,
    looks,
    made,
    make_models,
    project,
    trained,
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


@pytest.mark.parametrize(
    "tags", [{"verdict": "hold"}, {"verdict": "promote", "rolled_back": "true"}]
)
def test_a_challenger_that_was_found_to_be_worse_answers_nobody(
    registry: FakeRegistry, tmp_path: Path, clock: Clock, tags: dict[str, str]
):
    """It keeps its alias until the next training. As a shadow nobody hears it, and it goes on."""
    registry.name("1", "2")
    canary, shadow = (
        made(tmp_path / route, registry, clock, route=route) for route in ("canary", "shadow")
    )
    assert looks(canary).challenger is not None, "nobody has judged it"
    registry.set_tags("2", tags)
    clock.now += aliases.REST
    assert looks(canary).challenger is None
    assert looks(shadow).challenger is not None


def test_a_challenger_that_the_gate_has_not_judged_yet_answers_nobody_and_then_at_once(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    """The gate registers it before it compares, and the alias comes with that."""
    registry.set_tags("2", {"verdict": PENDING})
    registry.name("1", "2")
    canary, shadow = (
        made(tmp_path / route, registry, clock, route=route) for route in ("canary", "shadow")
    )
    assert looks(canary).challenger is None
    beside_it = looks(shadow).challenger
    assert beside_it is not None
    assert beside_it.why == "the gate has not judged it yet"
    registry.set_tags("2", {"verdict": "promote"})
    assert looks(canary).challenger is not None, "without a wait"


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
        ({"verdict": PENDING}, "alias moved by hand"),
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


@pytest.mark.parametrize("elsewhere", [False, True])
def test_files_that_were_cleaned_away_are_fetched_again_for_workers_that_start(
    elsewhere: bool,
    follow: Follower,
    registry: FakeRegistry,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    before = looks(follow).champion
    assert before is not None
    clock.now += 1
    before.folder.rename(tmp_path / "in the registry")
    target = tmp_path / "elsewhere" if elsewhere else before.folder
    monkeypatch.setattr(
        registry, "fetch", lambda _: shutil.copytree(tmp_path / "in the registry", target)
    )
    after = looks(follow).champion
    assert after is not None
    assert (after.version, after.since, after.why) == (before.version, before.since, before.why)
    assert after.folder == target
    assert artifact.load(after.folder).digest == before.digest
    assert looks(follow).champion == after


def test_files_that_were_cleaned_away_and_cannot_be_fetched_are_no_tight_loop(
    follow: Follower, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
):
    before = looks(follow).champion
    assert before is not None
    shutil.rmtree(before.folder)
    tries: list[str] = []

    def fetch(version: str) -> Path:
        tries.append(version)
        raise OSError("no route to the registry's files")

    monkeypatch.setattr(registry, "fetch", fetch)
    for _ in range(5):
        said = looks(follow)
    assert said.champion == before  # who has it in memory goes on
    assert "no route" in said.refused["1"].reason
    assert len(tries) == 1


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


def test_no_password_of_an_address_is_told(
    follow: Follower, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
):
    error = RegistryError("MLflow at postgresql://anna:s3cr3t@w/x and http://b:s3cr3t@h: no")
    registry.failures["1"] = [error]
    assert "http://h: no" in looks(follow).refused["1"].reason

    def away() -> dict[str, str]:
        raise error

    monkeypatch.setattr(registry, "aliases", away)
    assert "http://h: no" in looks(follow).registry.error
    assert "s3cr3t" not in follow.at.wanted.read_text()


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


def test_a_refused_version_calls_for_no_look_while_nothing_can_be_done_about_it(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    """Else the keeper, whose rest is as long as `due`, would not rest at all."""
    begun: list[Callable[[], None]] = []
    follow = made(tmp_path, registry, clock, start=begun.append)
    registry.failures["1"] = [RegistryError("no answer")]
    follow.look()
    begun.pop()()
    follow.look()
    assert follow.due() == 2.0
    clock.now += 3
    registry.down = True
    follow.look()
    assert (follow.due(), begun) == (math.inf, [])
    registry.down = False
    follow.look()
    assert (follow.due(), len(begun)) == (math.inf, 1)  # in hand
    begun.pop()()
    follow.look()
    assert (answering(wanted.read(follow.at.wanted)), follow.due()) == ("1", math.inf)


def test_a_version_that_answers_is_not_refused_for_files_it_had_in_between(
    follow: Follower, registry: FakeRegistry, clock: Clock
):
    looks(follow)
    rightly = registry.tags("1")["artifact"]
    registry.failures["1"] = [RegistryError("no answer")]
    for digest in ("0" * 32, rightly):
        registry.set_tags("1", {"artifact": digest})
        clock.now += aliases.REST
        said = looks(follow)
    assert (answering(said), said.refused, follow.due()) == ("1", {}, math.inf)


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
    assert (said.champion.version, said.champion.why) == ("2", starting.CAME_ALONG)
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


def test_a_bento_whose_newer_champion_cannot_be_read_does_not_go_back_to_its_own(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    own = (tmp_path / "bento" / "2", "2")
    shutil.copytree(registry.home / "2", own[0])
    registry.name("3")
    follow = made(tmp_path, registry, clock, own=own)
    follow.begin()
    assert answering(looks(follow)) == "3"

    cleaned = (registry.home / "3").rename(tmp_path / "cleaned away")
    registry.down = True
    for _ in range(2):  # nor at the next start
        heir = made(tmp_path, registry, clock, own=own)
        heir.begin()
        said = looks(heir)
        assert said.champion is None
        assert "version 3, as it lies here, cannot answer" in said.said
    cleaned.rename(registry.home / "3")
    heir = made(tmp_path, registry, clock, own=own)
    heir.begin()
    said = looks(heir)
    assert (answering(said), said.left) == ("3", None), "its files are there again"


def test_a_bento_that_has_been_moved_answers_with_its_own_model_again(
    registry: FakeRegistry, tmp_path: Path, clock: Clock
):
    there, here = tmp_path / "there" / "2", tmp_path / "here" / "2"
    shutil.copytree(registry.home / "2", there)
    registry.down = True
    follow = made(tmp_path, registry, clock, own=(there, "2"))
    follow.begin()
    there.parent.rename(here.parent)
    heir = made(tmp_path, registry, clock, own=(here, "2"))
    heir.begin()
    champion = looks(heir).champion
    assert champion is not None
    assert (champion.version, champion.folder) == ("2", here)


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
        if wanted_before := follow._publisher.written:
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


def test_a_service_that_ends_while_it_is_looked_at_is_no_error(monkeypatch: pytest.MonkeyPatch):
    def going(self: Path, *_: Any, **__: Any) -> str:
        raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr(Path, "read_text", going)
    assert keep._lives(os.getpid())
    assert not keep._lives(2**22 + 1)  # above any process's number


# Upkeep of the log ------------------------------------------------------------------------------


def test_upkeep_that_fails_is_counted_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[Any] = []
    outcomes = [ValueError("torn"), Compacted(rows=5, bad=1), Compacted(rows=2, failed=3)]

    def compact(*_: Any) -> Compacted:
        outcome = outcomes[len([d for d in done if d == "compact"])]
        done.append("compact")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(served, "compact", compact)
    monkeypatch.setattr(served, "retain", lambda at, days, today: done.append((days, today)))
    opened = project(tmp_path)
    keeping = upkeep.Upkeep(opened.at, PUMPS, opened.task.serve.log)
    first, second = date(2024, 3, 1), date(2024, 3, 2)

    def said(today: date) -> dict[str, Any]:
        keeping.once(today)
        told: dict[str, Any] = json.loads(wanted.upkeep(opened.at).read_text())
        kept = ("runs", "rows", "torn_journals", "failures", "failing", "error")
        return {k: told.get(k) for k in kept}

    assert said(first) | {"error": None} == dict(
        runs=1, rows=0, torn_journals=0, failures=1, failing=True, error=None
    )
    assert said(first) == dict(
        runs=2,
        rows=5,
        torn_journals=1,
        failures=1,
        failing=False,
        error="compact: ValueError: torn",
    )
    last = said(second)
    assert (last["rows"], last["failures"], last["failing"]) == (7, 2, True)
    assert "3 journals" in last["error"]
    assert done == ["compact", (90, first), "compact", "compact", (90, second)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no place of its own")
def test_upkeep_goes_on_where_the_system_lets_nobody_step_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """systemd's Nice=19: to ask for 10 is to ask for more than one has."""

    def refused(*_: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    stop, done = threading.Event(), []

    def once(self: upkeep.Upkeep, today: date) -> None:
        done.append(today)
        stop.set()

    monkeypatch.setattr(os, "setpriority", refused)
    monkeypatch.setattr(upkeep.Upkeep, "once", once)
    settings = Log(rotate_seconds=0.001)
    upkeep.Upkeep(project(tmp_path).at, PUMPS, settings).run(stop)
    assert len(done) == 1
