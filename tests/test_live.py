"""Run: pytest tests/test_live.py

A worker's models: swapped when the keeper says so, and kept whatever goes wrong.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.paths import Paths
from pipelines.service import backoff, live, wanted
from pipelines.service.live import Live
from pipelines.service.state import Model
from pipelines.service.verify import verified
from pipelines.service.wanted import Reach, Refusal, Version, Wanted
from pipelines.service.watch import Watch
from tests.fakes import PUMPS, pumps
from tests.keeper_world import make_models, version

ROWS = pumps(5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Version]:
    root = make_models(tmp_path_factory.mktemp("models"))
    return {n: version(root / n / "model", n, f"why {n}") for n in ("1", "2", "3")}


@pytest.fixture
def at(tmp_path: Path) -> Paths:
    return Paths(tmp_path, "pumps")


def test_a_registry_counts_as_followed_only_while_the_keeper_looks(
    at: Paths, models: dict[str, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("pipelines.service.live.time.time", lambda: now)
    assert not Worker(at).live.registry_followed(), "the keeper has not spoken"
    for reach, ago, followed in (
        (Reach(), 5.0, True),
        (Reach(), wanted.QUIET_SECONDS + 1, False),
        (Reach(reachable=False), 5.0, False),
    ):
        say(at, models["1"], registry=reach, looked_at=now - ago)
        assert Worker(at).live.registry_followed() is followed


class Worker:
    """Live, and what it told of its swaps."""

    def __init__(self, at: Paths) -> None:
        self.told: list[tuple[str, str, str | None]] = []
        self.live = Live(at, PUMPS, lambda *swap: self.told.append(swap))

    @property
    def answers(self) -> tuple[str | None, str | None]:
        champion, challenger = self.live.champion, self.live.challenger
        return champion and champion.version, challenger and challenger.version


def say(
    at: Paths, champion: Version | None, challenger: Version | None = None, **more: Any
) -> None:
    wanted.write(at.wanted, Wanted(champion=champion, challenger=challenger, **more))


def challenger(worker: Worker) -> Model:
    assert worker.live.challenger is not None
    return worker.live.challenger


def following(*workers: Worker, then: Callable[[], Awaitable[None]]) -> None:
    """Runs `then` while the workers follow."""

    async def run() -> None:
        tasks = [asyncio.create_task(w.live.follow()) for w in workers]
        try:
            await then()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def looks(times: int = 4) -> None:
    """Time enough for some looks at the file; only ever used to see that nothing happens."""
    await asyncio.sleep(times * live.LOOK_SECONDS)


def test_what_is_wanted_is_loaded_before_the_worker_is_made(at: Paths, models: dict[str, Version]):
    say(at, models["1"], models["2"])
    worker = Worker(at)
    assert worker.answers == ("1", "2")
    assert worker.told == []
    champion = worker.live.champion
    assert champion is not None
    assert (champion.since, champion.why, champion.threshold) == (1.0, "why 1", 0.5)


def test_before_the_keeper_has_spoken_nothing_answers_and_it_is_said(at: Paths):
    worker = Worker(at)
    assert worker.answers == (None, None)
    assert worker.live.waiting_for() == "the keeper has not spoken yet"
    json.dumps(worker.live.state(), allow_nan=False)


def test_a_swap_changes_version_and_answers_together(at: Paths, models: dict[str, Version]):
    say(at, models["1"])
    worker = Worker(at)
    expected = {
        n: verified(v.folder, v.digest, PUMPS).predict(ROWS).tolist() for n, v in models.items()
    }
    assert len({tuple(e) for e in expected.values()}) == 3

    async def moves() -> None:
        for number in ("2", "3", "1"):
            say(at, models[number])
            while worker.answers[0] != number:
                model = worker.live.champion
                assert model is not None
                assert model.artifact.predict(ROWS).tolist() == expected[model.version]
                await asyncio.sleep(0)
            model = worker.live.champion
            assert model is not None
            assert model.artifact.predict(ROWS).tolist() == expected[number]

    following(worker, then=moves)
    assert worker.told == [("champion", "swapped", n) for n in ("2", "3", "1")]


def test_every_worker_follows(at: Paths, models: dict[str, Version]):
    workers = [Worker(at) for _ in range(3)]

    async def moves() -> None:
        say(at, models["1"], models["2"])
        await until(lambda: all(w.answers == ("1", "2") for w in workers))
        say(at, models["2"])
        await until(lambda: all(w.answers == ("2", None) for w in workers))

    following(*workers, then=moves)


def spoiled(models: dict[str, Version], tmp_path: Path, name: str) -> Version:
    """Version 2 as it was published, with one file of it lost since."""
    folder = tmp_path / "spoiled"
    shutil.copytree(models["2"].folder, folder)
    (folder / name).unlink()
    return models["2"].model_copy(update={"folder": folder})


@pytest.mark.parametrize("lost", ["model.onnx", "manifest.json", "examples.parquet"])
def test_a_version_that_does_not_load_here_leaves_the_old_one_and_is_not_tried_in_a_loop(
    lost: str,
    at: Paths,
    models: dict[str, Version],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    say(at, models["1"])
    worker = Worker(at)
    tries = []
    monkeypatch.setattr(live, "verified", lambda *a: tries.append(a) or verified(*a))

    async def moves() -> None:
        say(at, spoiled(models, tmp_path, lost))
        await until(lambda: worker.told)
        await looks(10)
        assert len(tries) == 1
        said = worker.live.state()
        assert said["champion"]["version"] == "1"
        assert said["failed"]["champion"]["version"] == "2"
        assert lost in said["failed"]["champion"]["reason"]
        assert said["swaps"]["champion"] == {"swapped": 1, "failed": 1}
        say(at, models["3"])
        await until(lambda: worker.answers[0] == "3")
        assert worker.live.state()["failed"] == {}

    following(worker, then=moves)
    assert worker.told == [("champion", "failed", "2"), ("champion", "swapped", "3")]


def test_what_did_not_load_is_tried_again_by_and_by(
    at: Paths, models: dict[str, Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backoff, "FIRST", 0.01)
    monkeypatch.setattr(backoff, "LONGEST", 0.02)
    broken = spoiled(models, tmp_path, "model.onnx")
    say(at, broken)
    worker = Worker(at)
    assert worker.answers == (None, None)
    assert "version 2 does not load here" in worker.live.waiting_for()

    async def moves() -> None:
        await until(lambda: len(worker.told) > 3)
        assert set(worker.told) == {("champion", "failed", "2")}
        shutil.copy(models["2"].folder / "model.onnx", broken.folder)
        await until(lambda: worker.answers[0] == "2")

    following(worker, then=moves)


def test_with_no_champion_wanted_any_more_the_last_one_goes_on(
    at: Paths, models: dict[str, Version]
):
    say(at, models["1"], models["2"])
    worker = Worker(at)

    async def moves() -> None:
        say(at, None)
        await until(lambda: worker.answers[1] is None)
        await looks()

    following(worker, then=moves)
    assert worker.answers == ("1", None)
    assert worker.told == [("challenger", "swapped", None)]


def test_a_file_that_is_torn_or_gone_changes_nothing_and_is_told(
    at: Paths, models: dict[str, Version]
):
    say(at, models["1"])
    worker = Worker(at)

    async def moves() -> None:
        whole = at.wanted.read_text()
        at.wanted.write_text(whole[: len(whole) // 2])
        await until(lambda: worker.live.state()["keeper"]["unreadable"])
        at.wanted.unlink()
        await looks()
        assert worker.answers[0] == "1"
        say(at, models["2"])
        await until(lambda: worker.answers[0] == "2")
        assert worker.live.state()["keeper"]["unreadable"] == ""

    following(worker, then=moves)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), junk=st.binary(max_size=20))
def test_no_torn_file_is_ever_taken_for_the_keepers_word(
    cut: int, junk: bytes, models: dict[str, Version], tmp_path: Path
):
    at = Paths(tmp_path, "pumps")
    say(at, models["1"])
    watch = Watch(at)
    before = watch.look()
    whole = at.wanted.read_bytes()
    torn = whole[: min(cut, len(whole) - 3)] + junk
    at.wanted.write_bytes(torn)
    assert watch.look() == before
    assert watch.unreadable


def test_since_and_why_are_taken_up_without_loading_anew(
    at: Paths, models: dict[str, Version], monkeypatch: pytest.MonkeyPatch
):
    say(at, models["1"])
    worker = Worker(at)
    loaded = worker.live.champion
    monkeypatch.delattr(live, "verified")
    say(at, models["1"].model_copy(update={"why": "forced by a person", "since": 9.0}))

    async def moves() -> None:
        await until(lambda: worker.live.champion is not loaded)

    following(worker, then=moves)
    after = worker.live.champion
    assert after is not None
    assert loaded is not None
    assert (after.why, after.since, after.artifact) == ("forced by a person", 9.0, loaded.artifact)
    assert worker.told == []


def slow(monkeypatch: pytest.MonkeyPatch, folder: Path) -> threading.Event:
    """The model in this folder loads only when the event is set."""
    ready = threading.Event()

    def load(at: Path, *rest: Any) -> Any:
        if at == folder:
            assert ready.wait(30)
        return verified(at, *rest)

    monkeypatch.setattr(live, "verified", load)
    return ready


def test_a_champion_does_not_wait_for_a_challenger_that_is_slow(
    at: Paths, models: dict[str, Version], monkeypatch: pytest.MonkeyPatch
):
    say(at, models["1"])
    worker = Worker(at)
    ready = slow(monkeypatch, models["3"].folder)

    async def moves() -> None:
        say(at, models["1"], models["3"])
        await looks()
        say(at, models["2"], models["3"])
        await until(lambda: worker.answers == ("2", None))
        ready.set()
        await until(lambda: worker.answers == ("2", "3"))

    following(worker, then=moves)


def test_threads_take_turns_sooner_for_as_long_as_any_version_loads_and_no_longer(
    at: Paths, models: dict[str, Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Kept for good, the short turns cost each request 15 % of processor time."""
    say(at, models["1"])
    worker, usual = Worker(at), sys.getswitchinterval()
    ready = slow(monkeypatch, models["3"].folder)

    def often() -> bool:
        return sys.getswitchinterval() < usual / 50

    async def moves() -> None:
        assert not often()
        say(at, models["1"], models["3"])
        await until(often)
        say(at, spoiled(models, tmp_path, "model.onnx"), models["3"])
        await until(lambda: worker.told)
        assert often()  # the challenger is not there yet
        ready.set()
        await until(lambda: worker.answers == ("1", "3"))
        assert not often()

    following(worker, then=moves)


def test_what_is_no_longer_wanted_when_it_is_loaded_is_not_taken(
    at: Paths, models: dict[str, Version], monkeypatch: pytest.MonkeyPatch
):
    say(at, models["1"])
    worker = Worker(at)
    ready = slow(monkeypatch, models["2"].folder)

    async def moves() -> None:
        say(at, models["2"])
        await looks()
        say(at, models["1"])
        ready.set()
        await looks(10)

    following(worker, then=moves)
    assert worker.answers[0] == "1"
    assert worker.told == []


def test_a_challenger_that_tripped_in_one_worker_is_off_in_all_until_another_is_named(
    at: Paths, models: dict[str, Version]
):
    say(at, models["1"], models["2"])
    one, other = Worker(at), Worker(at)

    async def moves() -> None:
        one.live.trip(challenger(one), "3 failed predictions")
        assert one.answers == ("1", None)
        await until(lambda: other.answers == ("1", None))
        await looks()
        late = Worker(at)
        for worker in (one, other, late):
            assert worker.answers == ("1", None)
            off = worker.live.state()["challenger_off"]
            assert (off["version"], off["reason"]) == ("2", "3 failed predictions")
        say(at, models["1"], models["3"])
        await until(lambda: {one.answers, other.answers} == {("1", "3")})
        assert "challenger_off" not in one.live.state()

    following(one, other, then=moves)
    assert one.told[0] == ("challenger", "tripped", "2")


def test_a_tripped_challenger_whose_alias_went_and_came_back_is_asked_again(
    at: Paths, models: dict[str, Version]
):
    say(at, models["1"], models["2"])
    worker = Worker(at)
    worker.live.trip(challenger(worker), "too slow")

    async def moves() -> None:
        say(at, models["1"])
        wanted.tripped(at, "2").unlink()  # as the keeper does when the alias leaves it
        await until(lambda: "challenger_off" not in worker.live.state())
        say(at, models["1"], models["2"])
        await until(lambda: worker.answers == ("1", "2"))

    following(worker, then=moves)


def test_a_trip_without_a_challenger_or_with_a_full_disk_is_no_error(
    at: Paths, models: dict[str, Version], monkeypatch: pytest.MonkeyPatch
):
    say(at, models["1"], models["2"])
    worker = Worker(at)
    weighed = challenger(worker)
    worker.live.challenger = None
    worker.live.trip(weighed, "too slow")
    assert worker.told == []

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    async def moves() -> None:
        say(at, models["1"], models["2"])
        await until(lambda: worker.answers == ("1", "2"))
        monkeypatch.setattr(wanted, "write", full)
        worker.live.trip(challenger(worker), "too slow")
        await looks()

    following(worker, then=moves)
    assert worker.answers == ("1", None)


def test_a_challenger_that_was_swapped_since_it_was_weighed_stays(
    at: Paths, models: dict[str, Version]
):
    say(at, models["1"], models["2"])
    worker = Worker(at)
    weighed = challenger(worker)

    async def moves() -> None:
        say(at, models["1"], models["3"])
        await until(lambda: worker.answers == ("1", "3"))
        worker.live.trip(weighed, "too slow")
        await looks()

    following(worker, then=moves)
    assert worker.answers == ("1", "3")
    assert wanted.all_tripped(at) == []
    worker.live.trip(replace(challenger(worker), why="told anew"), "too slow")
    assert worker.answers == ("1", None)


def test_the_tripped_files_of_another_artifact_with_the_same_number_do_not_count(
    at: Paths, models: dict[str, Version]
):
    say(at, models["1"], models["2"])
    worker = Worker(at)
    worker.live.trip(challenger(worker), "too slow")
    say(at, models["1"], models["3"].model_copy(update={"version": "2"}))
    assert Worker(at).answers == ("1", "2")


def test_the_state_tells_all_and_is_plain_json(at: Paths, models: dict[str, Version]):
    refusal = Refusal(digest="d", reason="wrong", since=0.5, tries=2, again_at=9.0)
    away = Reach(reachable=False, since=3.0, error="no answer")
    say(
        at, models["1"], registry=away, refused={"7": refusal}, said="version 1 goes on", looked_at=5.0
    )  # fmt: skip
    wanted.upkeep(at).write_text('{"runs": 3, "failures": 1}')
    said = json.loads(json.dumps(Worker(at).live.state(), allow_nan=False))
    assert said["champion"]["since"] == "1970-01-01T00:00:01.000+00:00"
    assert said["champion"]["artifact"] == models["1"].digest
    assert said["refused"]["7"]["reason"] == "wrong"
    assert said["registry"]["reachable"] is False
    assert said["registry"]["error"] == "no answer"
    assert said["keeper"]["looked_at"] == "1970-01-01T00:00:05.000+00:00"
    assert said["upkeep"]["failures"] == 1
    assert said["said"] == "version 1 goes on"


def test_what_is_waited_for_is_told(at: Paths, models: dict[str, Version]):
    say(at, None, said="the registry has no alias champion; nothing answers")
    assert "no alias champion" in Worker(at).live.waiting_for()
    say(at, None, registry=Reach(reachable=False, error="refused"))
    assert Worker(at).live.waiting_for() == "the registry is out of reach (refused)"
    at.wanted.write_text("{")
    assert "wanted.json cannot be read" in Worker(at).live.waiting_for()
