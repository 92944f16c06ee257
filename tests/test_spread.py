"""pytest tests/test_spread.py: workers with too many keep-alive clients send the surplus away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipelines.service.spread import EVERY, SILENT, Spread
from pipelines.service.worker import shared_by_workers
from tests.keeper_world import project


def clients(n: int) -> set[tuple[str, int]]:
    return {("127.0.0.1", 40_000 + i) for i in range(n)}


def sent_away(worker: Spread) -> int:
    async def answers() -> int:
        return sum(worker.sends_away() for _ in range(100))

    return asyncio.run(answers())


def test_all_clients_on_one_worker_half_are_sent_away(tmp_path: Path) -> None:
    one, two = (Spread(tmp_path / "shared", i, 2) for i in (0, 1))
    two.beat(100.0)
    one.seen |= clients(8)
    one.beat(100.0)
    assert sent_away(one) == 4
    assert sent_away(two) == 0


def test_an_even_spread_and_an_odd_client_stay_as_they_are(tmp_path: Path) -> None:
    one, two = (Spread(tmp_path / "shared", i, 2) for i in (0, 1))
    two.seen |= clients(4)
    two.beat(100.0)
    one.seen |= clients(5)
    one.beat(100.0)
    two.seen |= clients(4)
    two.beat(101.0)
    assert sent_away(one) == 0
    assert sent_away(two) == 0


def test_a_worker_that_has_gone_is_not_counted(tmp_path: Path) -> None:
    """Its clients would otherwise be sent away to nobody."""
    one, two = (Spread(tmp_path / "shared", i, 2) for i in (0, 1))
    two.beat(100.0)
    one.seen |= clients(8)
    one.beat(100.0 + SILENT + 1)
    assert sent_away(one) == 0


def test_what_was_not_sent_away_is_counted_anew_at_the_next_beat(tmp_path: Path) -> None:
    one, two = (Spread(tmp_path / "shared", i, 2) for i in (0, 1))
    two.beat(100.0)
    one.seen |= clients(8)
    one.beat(100.0)
    two.seen |= clients(4)
    two.beat(100.0 + 2 * EVERY)
    one.seen |= clients(4)
    one.beat(100.0 + 2 * EVERY)
    assert sent_away(one) == 0


def test_a_single_worker_shares_with_nobody_and_writes_nothing(tmp_path: Path) -> None:
    alone = Spread(tmp_path / "shared", 0, 1)
    alone.seen |= clients(8)
    alone.beat(100.0)
    assert alone.alone
    assert sent_away(alone) == 0
    assert not (tmp_path / "shared").exists()


def test_the_file_that_workers_share_is_their_services_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas share the state, and in containers of their own all masters may have one number."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "bentoml"))
    found = shared_by_workers(project(tmp_path / "state"))
    assert found.parent == tmp_path / "bentoml"
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    assert shared_by_workers(project(tmp_path / "state")).is_relative_to(tmp_path / "state")
