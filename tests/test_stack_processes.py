"""Processes of the stack, started and stopped: pytest tests/test_stack_processes.py"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines.errors import ServiceError
from pipelines.lock import task_lock
from pipelines.stack import process, running
from pipelines.stack.part import Part
from pipelines.stack.places import Places
from tests.conftest import REPOSITORY
from tests.stack_world import program, project, started


@pytest.fixture
def places(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    yield from project(project_folder, monkeypatch)


def test_a_started_part_is_on_record_and_runs_in_a_session_of_its_own(places):
    record = started(program(""), places)
    assert process.running(record)
    assert os.getsid(record.pid) == record.pid != os.getsid(0)
    assert process.records(places) == [record]


def test_a_stopped_part_leaves_no_process_not_even_one_that_left_its_session(places):
    child = "import subprocess; subprocess.Popen(['sleep', '61'], start_new_session=True)"
    record = started(program(child), places)
    process.wait(lambda: bool(process.psutil.Process(record.pid).children()), 10)
    children = process.psutil.Process(record.pid).children()
    process.stop(record, places)
    assert children
    assert not process.running(record)
    assert not any(process._lives(child) for child in children)
    assert process.read(places.record("program")) is None


def test_a_part_that_hears_no_signal_is_killed(places):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    record = started(replace(program(deaf), patience=0.2), places)
    process.wait(lambda: "deaf" in places.log("program").read_text(), 10)
    process.stop(record, places)
    assert not process.running(record)


def test_ctrl_c_works_on_a_part_that_was_started_where_it_is_ignored(places):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        record = started(program("", stop=signal.SIGINT), places)
    finally:
        signal.signal(signal.SIGINT, before)
    began = time.monotonic()
    process.stop(record, places)
    assert time.monotonic() - began < 4


def test_a_dead_parts_children_are_ended_before_it_is_started_again(places):
    child = "import subprocess; subprocess.Popen(['sleep', '62'])"
    record = started(program(child), places)
    process.wait(lambda: bool(process.psutil.Process(record.pid).children()), 10)
    orphan = process.psutil.Process(record.pid).children()[0]
    os.kill(record.pid, signal.SIGKILL)
    process.wait(lambda: not process.running(record), 10)
    running._clear("program", places)
    assert not process._lives(orphan)


def test_a_record_of_a_process_that_ended_counts_as_stopped(places):
    record = started(program(""), places)
    os.kill(record.pid, signal.SIGKILL)
    assert process.wait(lambda: not process.running(record), 10)


def test_a_foreign_process_with_the_records_id_is_neither_ours_nor_stopped(places):
    other = subprocess.Popen(["sleep", "63"], start_new_session=True)
    try:
        record = replace(started(program(""), places), pid=other.pid, started=time.time() - 3600)
        assert not process.running(record)
        process.stop(record, places)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("torn", ["", "{", '{"part": "program"}', "[1]"])
def test_a_torn_record_is_told_and_its_process_is_found_by_its_mark(places, torn, caplog):
    record = started(program(""), places)
    places.record("program").write_text(torn)
    assert process.read(places.record("program")) is None
    assert "counts as stopped" in caplog.text
    running.down(places)
    assert not process.running(record)
    assert list(places.records.iterdir()) == []


def test_a_renamed_part_with_a_torn_record_is_found_by_what_it_started(places):
    code = """
import os, subprocess, sys
if "PERENNIAL_STACK" in os.environ:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(65)"], start_new_session=True)
    print("has a child", flush=True)
    del os.environ["PERENNIAL_STACK"]
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(66)"])
"""
    record = started(program(code), places)
    leader = process.psutil.Process(record.pid)
    process.wait(lambda: "import time; time.sleep(66)" in leader.cmdline(), 10)
    places.record("program").write_text("")
    running.down(places)
    assert not process.running(record)


def test_another_projects_stack_is_not_swept(places, tmp_path_factory):
    other = Places(tmp_path_factory.mktemp("other"))
    record = started(program(""), other)
    assert process.sweep(places) == []
    assert process.running(record)
    process.stop(record, other)


def test_whoever_has_the_lock_sees_every_part_even_when_up_was_killed(places):
    """The new process holds the lock until it is on record."""
    code = f"""
import os, pathlib, signal, sys
from pipelines.lock import task_lock
from pipelines.stack import process
from pipelines.stack.part import Part
from pipelines.stack.places import Places
places = Places(pathlib.Path({str(places.root)!r}))
write, up = process.store.write_json, os.getpid()
def slow(*given):
    import time
    os.kill(up, signal.SIGKILL)
    time.sleep(1)
    write(*given)
process.store.write_json = slow
with task_lock(places.lock, "up", wait=True):
    process.start(Part("late", ("sleep", "64"), {{}}, ask=lambda s: None), 0, places)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    with task_lock(places.lock, "down", wait=True):
        (record,) = process.records(places)
    assert record.part == "late"
    running.down(places)
    assert not process.running(record)


def test_parts_stop_in_the_reverse_order_of_their_start(places):
    for order, name in enumerate(("postgres", "mlflow", "service")):
        started(program("", name), places, order)
    assert running.down(places) == ["service", "mlflow", "postgres"]
    assert running.down(places) == []


def test_what_runs_with_other_settings_is_not_taken_for_what_is_asked_for(places):
    part = program("")
    started(part, places)
    assert running._runs(part, places)
    with pytest.raises(ServiceError, match=r"other settings .* perennial stack down"):
        running._runs(replace(part, environment={"STORE": "elsewhere"}), places)
    # A shell in which programs lie elsewhere asks for the same.
    assert running._runs(replace(part, environment={"PATH": "/elsewhere"}), places)


def test_a_part_that_ends_at_once_shows_the_end_of_its_log(places):
    part = Part(
        "sad", (sys.executable, "-c", "raise SystemExit('no such thing')"), {}, lambda s: None
    )
    popen = process.start(part, 0, places)
    popen.wait()
    with pytest.raises(ServiceError, match=r"(?s)sad ended.*no such thing\n.*perennial stack down"):
        running._wait(part, places, {"sad": popen})


def test_an_errand_that_fails_says_how_and_leaves_no_record(places):
    part = Part("migrate", (sys.executable, "-c", "import sys; sys.exit(3)"), {}, lambda s: None)
    with pytest.raises(ServiceError, match="migrate ended with status 3"):
        running._run_to_end(places, part)
    assert process.records(places) == []


def test_status_tells_what_runs_and_left_the_plan(places):
    record = started(program("", "service-gone"), places)
    assert asdict(running.status(places)[-1])["pid"] == record.pid
