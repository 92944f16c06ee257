"""pytest tests/test_engine.py: who answers a request, with what, and what is on record of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import asdict

from pipelines.journal import JournalFull
from pipelines.journal.frames import Frame
from pipelines.serve_params import Challenger, Log, Serve
from pipelines.service import engine as engines
from pipelines.service.asked import Answered, Failed, Unavailable
from pipelines.service.engine import Engine
from pipelines.wire import problem
from pipelines.wire.problem import Refused


class Graph:
    """Answers each row with its own value plus `shift`; raises on a row of -1."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.calls: list[int] = []

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        x = feeds["x"]
        self.calls.append(len(x))
        if (x < 0).any():
            raise RuntimeError("poisoned")
        return np.asarray(x + np.float32(self.shift), np.float32)


class Memory:
    """A journal that keeps what it is told."""

    worker = "9f8e7d6c"

    def __init__(self, full: bool = False) -> None:
        self.added: list[dict[str, Any]] = []
        self.on_disk = 0
        self.pending_bytes = self.lost = self.written = 0
        self.full = full

    def add(self, **record: Any) -> None:
        self.added.append(record)
        self.pending_bytes += len(record["body"])

    def add_all(self, answers: list[Any], rows: int, at: float) -> None:
        told = [Frame(*fields) for fields in answers]
        assert rows == sum(frame.rows for frame in told)
        for frame in told:
            assert frame.at == at
            self.add(**asdict(frame))

    def commit(self) -> None:
        if self.full:
            raise JournalFull("no space left on device")
        self.on_disk = len(self.added)
        self.pending_bytes = 0


class Meters:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []
        self.failures: list[str] = []

    def took(self, route: str, version: str, rows: int, seconds: Any) -> None:
        self.told.append((route, version, rows))

    def failed(self, version: str) -> None:
        self.failures.append(version)

    def inputs(self, feeds: Any) -> None: ...


class World:
    def __init__(self, max_pictures: int = 10**6, **serve: Any) -> None:
        self.live = SimpleNamespace(
            champion=model("4"), challenger=None, trip=self._trip, waiting_for=lambda: "no alias"
        )
        self.journal, self.meters = Memory(), Meters()
        wire = SimpleNamespace(feeds=lambda rows: {"x": np.array(rows, np.float32)})
        wire.beyond = lambda feeds, probability: self.beyond
        wire.shape = SimpleNamespace(max_pictures=max_pictures)
        wire.table_feeds = lambda table: {"x": np.array(table, np.float32)}
        made: Any = (wire, self.live, self.journal, self.meters)
        self.engine = Engine("shop", *made, Serve(**serve))
        self.tripped: list[str] = []
        self.beyond: Refused | None = None
        """What the wire says of rows whose answer is no probability."""

    def _trip(self, model: Any, reason: str) -> None:
        self.tripped.append(reason)
        self.live.challenger = None

    def ask(self, *requests: list[float]) -> list[Any]:
        """All in one pass of the event loop; what each got, an exception as such."""

        async def all_at_once() -> list[Any]:
            waiting = [
                self.engine.ask(rows, repr(rows).encode(), 0.0, f"key {i}".encode())
                for i, rows in enumerate(requests)
            ]
            got = await asyncio.gather(*waiting, return_exceptions=True)
            await asyncio.sleep(0)
            return got

        return asyncio.run(all_at_once())


def model(version: str, shift: float = 0.0, threshold: float = 0.5) -> Any:
    return SimpleNamespace(version=version, artifact=Graph(shift), threshold=threshold, classes=())


def ids(answered: Answered) -> list[str]:
    n = len(answered.probability)
    return [f"{answered.prefix}{answered.first + i:x}" for i in range(n)]


def test_each_request_gets_its_own_rows_back() -> None:
    world = World()
    got = world.ask([0.25], [0.5, 0.75], [0.125])
    assert [g.probability for g in got] == [[0.25], [0.5, 0.75], [0.125]]
    assert [g.prediction for g in got] == [[False], [True, True], [False]]


def test_requests_of_one_pass_are_one_call_of_the_model() -> None:
    world = World()
    world.ask(*[[0.5]] * 50)
    assert world.live.champion.artifact.calls == [50]


def test_who_comes_a_pass_later_is_in_the_same_call_and_who_comes_after_that_in_the_next() -> None:
    world = World()

    async def asked_in_turn() -> list[Answered]:
        first = world.engine.ask([0.25], b"1", 0.0, b"1")
        await asyncio.sleep(0)
        second = world.engine.ask([0.5], b"2", 0.0, b"2")
        await asyncio.sleep(0)
        third = world.engine.ask([0.75], b"3", 0.0, b"3")
        return list(await asyncio.gather(first, second, third))

    got = asyncio.run(asked_in_turn())
    assert [g.probability for g in got] == [[0.25], [0.5], [0.75]]
    assert world.live.champion.artifact.calls == [2, 1]


@pytest.mark.parametrize(("rows", "pictures"), [(4, 10**6), (4096, 4)])
def test_no_call_of_the_model_is_larger_than_the_limit(
    monkeypatch: pytest.MonkeyPatch, rows: int, pictures: int
) -> None:
    monkeypatch.setattr(engines, "ROWS_AT_ONCE", rows)
    world = World(pictures)
    got = world.ask([0.25] * 3, [0.5] * 3, [0.75], [0.125] * 9, [0.5])
    assert world.live.champion.artifact.calls == [3, 4, 9, 1]
    assert [len(g.probability) for g in got] == [3, 3, 1, 9, 1]


def test_no_two_rows_share_an_id() -> None:
    world = World()
    got = world.ask([0.25], [0.5, 0.75]) + world.ask([0.125])
    assert len({i for g in got for i in ids(g)}) == 4


def test_each_answer_is_on_record_as_it_was_given() -> None:
    world = World()
    got = world.ask([0.25], [0.5, 0.75])
    for answered, record in zip(got, world.journal.added, strict=True):
        assert record["first"] == answered.first
        assert record["probabilities"] == answered.probability
        assert (record["version"], record["route"], record["media"]) == ("4", "champion", "json")
        assert record["threshold"] == 0.5
    assert world.journal.added[1]["body"] == b"[0.5, 0.75]"


def test_one_bad_request_does_not_fail_the_others_of_its_pass() -> None:
    world = World()
    got = world.ask([0.25], [-1.0], [0.75])
    assert [got[0].probability, got[2].probability] == [[0.25], [0.75]]
    assert isinstance(got[1], Failed)
    assert [r["body"] for r in world.journal.added] == [b"[0.25]", b"[0.75]"]


@pytest.mark.parametrize("shift", [float("nan"), float("inf"), 1.0, -1.0])
def test_what_is_no_probability_is_never_answered(shift: float) -> None:
    world = World()
    world.live.champion = model("4", shift)
    (got,) = world.ask([0.5])
    assert isinstance(got, Failed)
    assert world.journal.added == []


def test_rows_beyond_what_the_model_can_compute_with_are_the_askers_to_mend() -> None:
    """Alone: whoever came with them is answered as ever."""
    world = World()
    world.live.champion = model("4", float("inf"))
    world.beyond = problem.refused("unanswerable-rows", "rows[0].x is 3e+38")
    (got,) = world.ask([0.25])
    assert isinstance(got, Refused)
    assert got.problem is world.beyond.problem
    assert world.journal.added == []
    with pytest.raises(Refused):
        bulk(world, [0.25])

    world.live.champion = picky("4")
    got = world.ask([0.25], [0.875], [0.75])
    assert [got[0].probability, got[2].probability] == [[0.25], [0.75]]
    assert isinstance(got[1], Refused)


def picky(version: str) -> Any:
    """Gives no number to a row of 0.875."""

    class Picky(Graph):
        def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
            return np.where(feeds["x"] == 0.875, np.float32("nan"), super().run(feeds))

    made = model(version)
    made.artifact = Picky()
    return made


def test_without_a_champion_the_answer_says_what_mends_it() -> None:
    world = World()
    world.live.champion = None
    (got,) = world.ask([0.5])
    assert isinstance(got, Unavailable)
    assert got.kind == "no-model"
    assert "perennial tick shop" in str(got)


def test_a_pass_is_answered_by_one_version_even_when_it_is_swapped_in_the_middle() -> None:
    """Version and probability of an answer always belong together."""
    world = World()
    old, new = model("4"), model("5", shift=0.25)

    class Swapping(Graph):
        def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
            world.live.champion = new
            return super().run(feeds)

    old.artifact = Swapping()
    world.live.champion = old
    got = world.ask([0.25], [0.5]) + world.ask([0.25])
    assert [(g.version, g.probability) for g in got] == [("4", [0.25]), ("4", [0.5]), ("5", [0.5])]
    assert all(f"-{g.version}-" in g.prefix for g in got)


# durable and buffered
def test_durable_answers_are_on_record_before_they_are_given() -> None:
    world = World(log=Log(mode="durable"))
    seen: list[int] = []

    async def asked() -> None:
        answer = world.engine.ask([0.5], b"x", 0.0, b"k")
        answer.add_done_callback(lambda _: seen.append(world.journal.on_disk))
        await answer

    asyncio.run(asked())
    assert seen == [1]


def test_durable_gives_no_answer_that_cannot_be_logged() -> None:
    world = World(log=Log(mode="durable"))
    world.journal.full = True
    got = world.ask([0.5], [0.25])
    assert [g.kind for g in got] == ["log-full", "log-full"]


def test_buffered_writes_at_once_only_when_too_much_waits() -> None:
    world = World(log=Log(buffer_mb=0.00002))
    world.ask([0.5])
    assert world.journal.on_disk == 0
    world.ask([0.5] * 10)
    assert world.journal.on_disk == 2


# the challenger
def challenged(route: str, share: float = 1.0, **limits: Any) -> World:
    world = World(challenger=Challenger(route=route, share=share, **limits))  # type: ignore[arg-type]
    world.live.challenger = model("5", shift=0.125)
    return world


def test_a_canary_answers_its_share_and_the_champion_the_rest() -> None:
    world = challenged("canary", share=0.5)
    got = world.ask(*[[0.25]] * 40)
    routes = [g.route for g in got]
    assert 5 < routes.count("canary") < 35
    for answered in got:
        expected = ("5", [0.375]) if answered.route == "canary" else ("4", [0.25])
        assert (answered.version, answered.probability) == expected
    again = world.ask(*[[0.25]] * 40)
    assert [g.route for g in again] == routes


def test_what_the_canary_cannot_answer_the_champion_answers() -> None:
    world = challenged("canary", max_errors=2)
    world.live.challenger.artifact.shift = float("nan")
    for _ in range(2):
        (got,) = world.ask([0.25])
        assert (got.version, got.route) == ("4", "champion")
    assert world.tripped == ["2 failed predictions (2 are too many)"]
    assert world.meters.failures == ["5", "5"]


def test_rows_that_the_champion_cannot_answer_either_are_no_fault_of_the_canarys() -> None:
    world = challenged("canary", max_errors=1)
    world.live.champion, world.live.challenger = picky("4"), picky("5")
    for _ in range(3):
        (got,) = world.ask([0.875])
        assert isinstance(got, Failed)
        with pytest.raises(Failed):
            bulk(world, [0.875])
        got = world.ask([0.25], [0.875])
        assert (got[0].version, got[0].probability) == ("5", [0.25])
    assert world.tripped == []
    world.live.champion = model("4")
    got = world.ask([0.25], [0.875])
    assert [(g.version, g.probability) for g in got] == [("5", [0.25]), ("4", [0.875])]
    assert world.tripped == ["1 failed predictions (1 are too many)"]


def test_a_shadow_is_logged_beside_and_never_answered() -> None:
    world = challenged("shadow")
    got = world.ask([0.25], [0.5, 0.75])
    assert [(g.version, g.route) for g in got] == [("4", "champion")] * 2
    champion, shadow = (
        [r for r in world.journal.added if r["route"] == route] for route in ("champion", "shadow")
    )
    assert [r["first"] for r in shadow] == [r["first"] for r in champion]
    assert [r["probabilities"] for r in shadow] == [[0.375], [0.625, 0.875]]
    assert {r["version"] for r in shadow} == {"5"}


def test_a_shadow_that_fails_is_weighed_and_nobody_hears_of_it() -> None:
    world = challenged("shadow", max_errors=1)
    world.live.challenger.artifact.shift = float("nan")
    (got,) = world.ask([0.25])
    assert got.probability == [0.25]
    assert len(world.tripped) == 1
    assert [r["route"] for r in world.journal.added] == ["champion"]


def test_off_means_that_the_challenger_is_never_called() -> None:
    world = challenged("off")
    world.ask(*[[0.25]] * 20)
    assert world.live.challenger.artifact.calls == []


# one bulk request
def bulk(world: World, rows: list[float]) -> Answered:
    async def asked() -> Answered:
        got = world.engine.ask_table(rows, "arrow", b"bytes", 0.0, b"k")
        await asyncio.sleep(0)
        return got

    return asyncio.run(asked())


def test_bulk_is_answered_and_logged_like_the_rest() -> None:
    world = World()
    got = bulk(world, [0.25, 0.75])
    assert list(got.probability) == [0.25, 0.75]
    (record,) = world.journal.added
    assert np.frombuffer(record["probabilities"], np.float32).tolist() == [0.25, 0.75]
    assert (record["media"], record["body"], record["rows"]) == ("arrow", b"bytes", 2)


def test_bulk_takes_the_same_ways_as_the_rest() -> None:
    assert bulk(challenged("canary"), [0.25]).version == "5"
    world = challenged("canary")
    world.live.challenger.artifact.shift = float("nan")
    assert bulk(world, [0.25]).version == "4"
    world = challenged("shadow")
    bulk(world, [0.25])
    assert [r["route"] for r in world.journal.added] == ["champion", "shadow"]


@pytest.mark.parametrize("wrong", [Failed, Unavailable])
def test_bulk_fails_as_the_rest_does(wrong: type[Exception]) -> None:
    world = World(log=Log(mode="durable"))
    world.journal.full = wrong is Unavailable
    with pytest.raises(wrong):
        bulk(world, [0.25 if wrong is Unavailable else -1.0])


def test_a_client_that_has_gone_is_passed_over() -> None:
    world = World()

    async def asked() -> float:
        gone = world.engine.ask([0.25], b"x", 0.0, b"k")
        stays = world.engine.ask([0.5], b"y", 0.0, b"k")
        gone.cancel()
        return (await stays).probability[0]

    assert asyncio.run(asked()) == 0.5


@pytest.mark.parametrize("breaks", ["feeds", "trip", "add"])
def test_whatever_breaks_nobody_is_left_waiting(breaks: str) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("gone")

    world = challenged("canary", max_errors=1)
    world.live.challenger.artifact.shift = float("nan")
    holder = {"feeds": world.engine.wire, "trip": world.live, "add": world.journal}[breaks]
    setattr(holder, breaks, broken)

    async def asked() -> list[Any]:
        asking = [world.engine.ask([0.25], b"x", 0.0, b"k") for _ in range(3)]
        async with asyncio.timeout(5):
            return await asyncio.gather(*asking, return_exceptions=True)

    got = asyncio.run(asked())
    if breaks == "trip":  # the champion had answered by then
        assert [one.probability for one in got] == [[0.25]] * 3
        return
    assert [type(one) for one in got] == [Failed] * 3
    assert "FileNotFoundError: gone" in str(got[0])
