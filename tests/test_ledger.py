"""Run: pytest tests/test_ledger.py"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import gate, ledger
from pipelines.errors import Busy
from pipelines.lock import holder, task_lock
from pipelines.records import Alarm, Decision


def decision(period: str, action: str = "rest") -> Decision:
    return Decision(task="pumps", period=period, action=action, reasons=("because",))


def alarm(period: str, raised: bool = False) -> Alarm:
    return Alarm(
        task="pumps", period=period, champion="1", rows=9, columns=(), raised=raised, reasons=()
    )


def test_entries_come_back_in_order_with_kind_and_time(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, {"kind": "promotion", "version": "2"})
    ledger.record(path, decision("2024-03"))
    kinds = [entry["kind"] for entry in ledger.read(path)]
    assert kinds == ["promotion", "decision"]
    assert all(entry["at"].endswith("+00:00") for entry in ledger.read(path))


def test_no_ledger_is_an_empty_one(tmp_path: Path):
    assert ledger.read(tmp_path / "none.jsonl") == []


def test_a_step_done_again_leaves_one_line_and_another_answer_two(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    assert ledger.record(path, decision("2024-03"))
    assert not ledger.record(path, decision("2024-03"))
    assert ledger.record(path, decision("2024-04"))
    assert not ledger.record(path, decision("2024-03"))
    assert ledger.record(path, decision("2024-03", "retrain"))
    assert ledger.record(path, decision("2024-03"))
    assert len(ledger.read(path)) == 4


def test_a_verdict_that_differs_in_a_clocks_measure_only_is_the_same(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    held = gate.held("pumps", "2", "1", "latency", "60.1 ms")
    again = gate.held("pumps", "2", "1", "latency", "60.2 ms")
    other = gate.held("pumps", "2", "1", "size", "9 MB")
    assert ledger.record(path, held, period="2024-03")
    assert not ledger.record(path, again, period="2024-03")
    assert ledger.record(path, other, period="2024-03")
    newest = ledger.newest(path, "verdict", challenger="2")
    assert newest is not None
    assert newest["checks"][0]["name"] == "size"
    assert ledger.newest(path, "verdict", challenger="9") is None


@given(cut=st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_a_torn_line_spoils_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: int):
    path = tmp_path_factory.mktemp("torn") / "ledger.jsonl"
    for period in ("2024-01", "2024-02", "2024-03"):
        ledger.record(path, decision(period))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    left = ledger.read(path)
    ledger.record(path, decision("2024-09"))
    after = ledger.read(path)
    assert after[: len(left)] == left
    assert after[-1]["period"] == "2024-09"
    assert len(after) == len(left) + 1


def test_a_torn_line_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "ledger.jsonl"
    ledger.record(path, decision("2024-01"))
    with path.open("a") as file:
        file.write('{"kind": "deci')
    with caplog.at_level(logging.WARNING):
        assert len(ledger.read(path)) == 1
    assert "line 2 is torn" in caplog.text


def test_history_gives_the_records_of_earlier_periods(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    for period in ("2024-02", "2024-01", "2024-03"):
        ledger.record(path, alarm(period))
        ledger.record(path, decision(period))
    ledger.record(path, alarm("2024-01", raised=True))
    assert ledger.history(path, before="2024-03") == [
        alarm("2024-01", raised=True),
        decision("2024-01"),
        alarm("2024-02"),
        decision("2024-02"),
    ]


# The lock ----------------------------------------------------------------------------------


def hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    with task_lock(path, "perennial tick pumps", wait=False):
        ready.set()
        time.sleep(60)


@pytest.fixture
def held(tmp_path: Path) -> tuple[Path, int]:
    """A lock that another process holds, and the process."""
    context = multiprocessing.get_context("fork")
    path, ready = tmp_path / "pumps.lock", context.Event()
    process = context.Process(target=hold, args=(path, ready))
    process.start()
    assert ready.wait(10)
    yield path, process.pid
    process.kill()
    process.join()


def test_a_held_lock_says_who_holds_it_and_how_to_wait(held: tuple[Path, int]):
    path, pid = held
    with (
        pytest.raises(Busy, match=rf"process {pid} since .*perennial tick pumps.*--wait"),
        task_lock(path, "perennial tick pumps --batch 2024-03", wait=False),
    ):
        pass
    assert f"process {pid}" in str(holder(path))


def test_the_lock_of_a_killed_process_is_free(held: tuple[Path, int]):
    path, pid = held
    os.kill(pid, signal.SIGKILL)
    with task_lock(path, "perennial tick pumps", wait=True):
        assert f"process {os.getpid()}" in str(holder(path))
    assert holder(path) is None


def test_nobody_holds_a_lock_that_never_was(tmp_path: Path):
    assert holder(tmp_path / "none.lock") is None
