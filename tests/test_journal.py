"""What a worker writes, and what of it survives. Run: pytest tests/test_journal.py"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from pipelines import journal as journals
from pipelines.journal import Journal, JournalFull
from pipelines.journal.frames import Frame, Torn, closed, frames, id_prefix, parse_id, probabilities
from pipelines.serve_params import Log
from tests.conftest import REPOSITORY

DAY = 86_400
NOON = 1_364_817_600.0
"""2013-04-01 12:00 UTC."""
BUFFERED, DURABLE = Log(), Log(mode="durable")


def add(journal: Journal, first: int = 0, rows: int = 1, at: float = NOON, **other: object) -> None:
    given = {
        "version": "4", "route": "champion", "latency": 0.002, "threshold": 0.3, "media": "json",
        "probabilities": [0.25] * rows, "body": b'{"rows": []}',
    }  # fmt: skip
    journal.add(first=first, rows=rows, at=at, **(given | other))  # type: ignore[arg-type]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def whole(path: Path) -> tuple[list[Frame], bool]:
    """The frames before the first bad one, and whether there was one."""
    found = []
    try:
        for frame in frames(path):
            found.append(frame)
    except Torn:
        return found, True
    return found, False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "served" / "journals"


# Frames ------------------------------------------------------------------------------------------


float32s = st.floats(0, 1, width=32)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**60), st.lists(float32s, min_size=1, max_size=5), st.binary(max_size=99),
            st.sampled_from(["champion", "canary", "shadow"]), st.floats(0, 2e9), st.booleans(),
        ),
        max_size=6,
    )
)  # fmt: skip
@effort(max_examples=60)
def test_what_was_added_is_read_back(tmp_path_factory, asked):
    folder = tmp_path_factory.mktemp("home") / "journals"
    journal = Journal(folder, "flights", BUFFERED)
    for first, values, body, route, at, bulk in asked:
        given = np.array(values, np.float32).tobytes() if bulk else values
        add(journal, first, len(values), at, body=body, route=route, probabilities=given)
    journal.close()
    found, torn = whole(files(folder)[0])
    assert not torn
    read = [(f.first, list(probabilities([f])), f.body, f.route, f.at) for f in found]
    assert read == [one[:5] for one in asked]
    assert journal.written == sum(len(one[1]) for one in asked)
    assert journal.pending_bytes == journal.lost == 0


@given(st.data())
@effort(max_examples=150)
def test_a_file_cut_or_altered_anywhere_gives_the_frames_before_and_no_other(
    tmp_path_factory, data: st.DataObject
):
    folder = tmp_path_factory.mktemp("home") / "journals"
    journal = Journal(folder, "flights", BUFFERED)
    ends = []
    for i in range(4):
        add(journal, i, body=bytes([i]) * 20)
        journal.commit()
        ends.append(files(folder)[0].stat().st_size)
    journal.close()
    content = files(folder)[0].read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        spoiled = content[:at]
    else:
        spoiled = (
            content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
        )
    path = folder / "spoiled"
    path.write_bytes(spoiled)
    found, torn = whole(path)
    unspoiled = sum(end <= at for end in ends)
    assert [f.first for f in found] == list(range(unspoiled))
    assert torn == (len(spoiled) not in (0, *ends) or len(spoiled) == len(content))


def test_a_tail_of_zeros_is_no_frame(tmp_path: Path):
    (tmp_path / "zeros").write_bytes(bytes(64))
    assert whole(tmp_path / "zeros") == ([], True)


# Ids ---------------------------------------------------------------------------------------------


@given(
    st.from_regex(r"[a-z0-9_]+(-[a-z0-9]+)*", fullmatch=True),
    st.integers(1, 10**6), st.floats(0, 4e9), st.integers(0, 2**32 - 1), st.integers(0, 2**59),
)  # fmt: skip
def test_an_id_is_read_from_the_right_so_a_task_may_have_dashes(task, version, at, worker, counter):
    spelled = f"{id_prefix(task, str(version), at, f'{worker:08x}')}{counter:x}"
    parsed = parse_id(spelled)
    assert parsed is not None
    assert (parsed.task, parsed.version, parsed.worker) == (task, str(version), f"{worker:08x}")
    assert parsed.counter == counter
    assert parsed.day == time.strftime("%Y-%m-%d", time.gmtime(at))


@pytest.mark.parametrize(
    "other",
    [
        "flights-3-00f1e2d3c4b5a697",  # of a batch
        "a-1-20130401-12345678-f0f1e2d3c4b5a697",  # of a batch whose task looks like an id
        "flights-4-20130401-00c0ffee-1F", "flights-4-20130401-00C0FFEE-1f",
        "flights-4-20130401-00c0ffee-01", "flights-4-20130431-00c0ffee-1", "-4-20130401-00c0ffee-1",
        "flights-x-20130401-00c0ffee-1", "flights-٤-20130401-00c0ffee-1", "flights--20130401-00c0ffee-1",
        "flights-4-20130401-00c0ffee-", "flights-4-20130401-00c0ffee--1", "", "-", "\ud800-4-1-2-3",
    ],
)  # fmt: skip
def test_anything_else_is_no_id(other: str):
    assert parse_id(other) is None


# Files -------------------------------------------------------------------------------------------


def test_nothing_is_on_disk_before_the_commit_and_all_of_it_after(folder: Path):
    journal = Journal(folder, "flights", BUFFERED)
    add(journal)
    assert journal.pending_bytes > 0
    assert files(folder)[0].stat().st_size == 0
    journal.commit()
    assert files(folder)[0].stat().st_size > 0
    assert journal.pending_bytes == 0


@pytest.mark.parametrize(
    ("settings", "later"),
    [(Log(rotate_seconds=60), 60.0), (Log(rotate_mb=0.0001), 0.0), (Log(rotate_seconds=1e6), DAY / 2)],
    ids=["age", "size", "midnight"],
)  # fmt: skip
def test_a_file_is_closed_when_it_is_old_or_large_or_of_yesterday(folder: Path, settings, later):
    journal = Journal(folder, "flights", settings)
    journal.commit(NOON + 10 * DAY)  # nothing was written: nothing to close
    add(journal, 0, body=b"x" * 200)
    journal.commit()
    if later:
        journal.commit(NOON + later - 1)
        with closed(files(folder)[0]) as free:
            assert not free
    journal.commit(NOON + later)
    with closed(files(folder)[0]) as free:
        assert free
    add(journal, 1)
    journal.commit()
    assert [[f.first for f in whole(path)[0]] for path in files(folder)] == [[0], [1]]
    with closed(files(folder)[1]) as free:
        assert not free


def test_what_waits_is_written_before_its_file_is_closed(folder: Path):
    journal = Journal(folder, "flights", BUFFERED)
    add(journal)
    journal.commit(NOON + DAY)
    assert len(whole(files(folder)[0])[0]) == 1


def test_every_worker_has_a_name_and_a_file_of_its_own(folder: Path, monkeypatch):
    names = iter(["aaaaaaaa", "aaaaaaaa", "bbbbbbbb", "cccccccc"])
    monkeypatch.setattr(journals.frames.secrets, "token_hex", lambda _: next(names))
    first = Journal(folder, "flights", BUFFERED)
    second = Journal(folder, "flights", BUFFERED)
    (folder.parent / "answers" / "2013-04-01").mkdir(parents=True)
    (folder.parent / "answers" / "2013-04-01" / "cccccccc-000000.parquet").touch()
    assert (first.worker, second.worker) == ("aaaaaaaa", "bbbbbbbb")
    with pytest.raises(StopIteration):  # cccccccc is taken, and there is no further name
        Journal(folder, "flights", BUFFERED)


def test_a_file_that_compaction_took_between_two_calls_is_not_written_to(folder: Path, monkeypatch):
    taken: list[Path] = []
    lock = journals.fcntl.flock

    def removed_first(fd: int, how: int) -> None:
        if not taken:
            taken.extend(files(folder))
            taken[0].unlink()
        lock(fd, how)

    monkeypatch.setattr(journals.fcntl, "flock", removed_first)
    journal = Journal(folder, "flights", BUFFERED)
    add(journal)
    journal.commit()
    assert [len(whole(path)[0]) for path in files(folder)] == [1]
    assert files(folder) != taken


def test_of_two_that_compact_the_second_finds_nothing_left(folder: Path, monkeypatch):
    journal = Journal(folder, "flights", BUFFERED)
    add(journal)
    journal.close()
    (path,) = files(folder)
    with closed(path) as free:
        assert free
        with closed(path) as again:
            assert not again
    lock = journals.frames.fcntl.flock

    def done_meanwhile(fd: int, how: int) -> None:
        path.unlink()
        lock(fd, how)

    monkeypatch.setattr(journals.frames.fcntl, "flock", done_meanwhile)
    with closed(path) as late:
        assert not late
    with closed(path) as later:
        assert not later


# A disk that refuses -----------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """`disk["room"]`: bytes that os.write still takes; the rest is refused as a full disk does."""
    state = {"room": 10**9}
    write = os.write

    def limited(fd: int, data: memoryview) -> int:
        part = data[: state["room"]]
        if len(data) and not len(part):
            raise OSError(28, "No space left on device")
        state["room"] -= len(part)
        return write(fd, part)

    monkeypatch.setattr(journals.os, "write", limited)
    return state


@pytest.mark.parametrize("room", [0, 1, 7, 8, 50, 150])
def test_durable_refuses_the_answer_and_leaves_nothing_torn(folder: Path, disk, room: int):
    journal = Journal(folder, "flights", DURABLE)
    add(journal, 0)
    journal.commit()
    disk["room"] = room
    add(journal, 1, body=b"x" * 200)
    with pytest.raises(JournalFull, match="No space left on device") as refused:
        journal.commit()
    assert isinstance(refused.value.__cause__, OSError)
    assert journal.pending_bytes == 0
    disk["room"] = 10**9
    add(journal, 2)
    journal.commit()
    journal.close()
    found, torn = whole(files(folder)[0])
    assert not torn
    assert [f.first for f in found] == [0, 2]
    assert (journal.written, journal.lost) == (2, 0)


def test_buffered_keeps_what_waits_until_there_is_room(folder: Path, disk):
    journal = Journal(folder, "flights", BUFFERED)
    disk["room"] = 10
    for i in range(5):
        add(journal, i)
        journal.commit()
    assert journal.written == 0
    disk["room"] = 10**9
    journal.commit()
    assert [f.first for f in whole(files(folder)[0])[0]] == list(range(5))
    assert (journal.written, journal.lost) == (5, 0)


def test_what_the_disk_still_refuses_at_the_end_is_counted_as_lost_and_told(
    folder: Path, disk, caplog
):
    journal = Journal(folder, "flights", BUFFERED)
    add(journal, 0, rows=2)
    journal.commit()
    disk["room"] = 10
    for i in (2, 5):
        add(journal, i, rows=3)
        journal.commit()
    journal.close()
    assert (journal.written, journal.lost, journal.pending_bytes) == (2, 6, 0)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "6 answers of flights are lost" in said
    journal.close()
    assert journal.lost == 6


def test_a_full_disk_gets_no_file_more_when_the_one_that_is_open_is_due(folder: Path, disk):
    """Twenty times a second, on a disk that is short already."""
    journal = Journal(folder, "flights", Log(rotate_seconds=60))
    add(journal, 0, at=NOON)
    disk["room"] = 0
    for beat in range(30):
        journal.commit(NOON + 100 + beat)
    assert len(files(folder)) == 1
    disk["room"] = 10**9
    journal.commit(NOON + 140)
    add(journal, 1, at=NOON + 141)
    journal.commit(NOON + 142)
    journal.close()
    assert [[f.first for f in whole(path)[0]] for path in files(folder)] == [[0], [1]]


def test_buffered_drops_and_counts_what_no_longer_fits_into_its_buffer(folder: Path, disk):
    journal = Journal(folder, "flights", Log(buffer_mb=0.001))
    disk["room"] = 0
    most = 0
    for i in range(100):
        add(journal, i, rows=2)
        journal.commit()
        most = max(most, journal.pending_bytes)
    assert most <= 1000
    disk["room"] = 10**9
    journal.commit()
    assert journal.lost > 100
    assert journal.written + journal.lost == 200


def test_a_disk_that_refuses_at_the_start_is_tried_again_at_the_first_answer(folder: Path):
    folder.parent.mkdir(parents=True)
    folder.touch()  # no folder can be made here
    journal = Journal(folder, "flights", DURABLE)
    add(journal, 0)
    with pytest.raises(JournalFull):
        journal.commit()
    folder.unlink()
    add(journal, 1)
    journal.commit()
    assert [f.first for f in whole(files(folder)[0])[0]] == [1]


def test_where_the_torn_end_cannot_be_cut_off_the_next_frame_goes_to_another_file(
    folder: Path, disk, monkeypatch
):
    journal = Journal(folder, "flights", DURABLE)
    add(journal, 0)
    journal.commit()
    monkeypatch.setattr(
        journals.os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O"))
    )
    disk["room"] = 20
    add(journal, 1)
    with pytest.raises(JournalFull):
        journal.commit()
    disk["room"] = 10**9
    add(journal, 2)
    journal.commit()
    found = [whole(path) for path in files(folder)]
    assert [[f.first for f in some] for some, _ in found] == [[0], [2]]
    assert [torn for _, torn in found] == [True, False]


# kill -9 -----------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from pipelines.journal import Journal
from pipelines.serve_params import Log
journal = Journal(Path(sys.argv[1]), "flights", Log(mode=sys.argv[2]))
first = 0
while True:
    for rows in (1, 3, 2):
        journal.add(first=first, rows=rows, version="4", route="champion", at=1364817600.0,
            latency=.001, threshold=.5, media="json", probabilities=[.5] * rows, body=b"x" * 5000)
        first += rows
    if sys.argv[2] == "durable" or journal.pending_bytes > 100_000:
        journal.commit()
        print(first, flush=True)
"""


def child(*words: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        **options,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


@pytest.mark.parametrize("mode", ["durable", "buffered"])
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_loses_no_answer_that_was_told_after_its_commit(tmp_path, mode: str, seed: int):
    folder = tmp_path / "home" / "journals"
    process = child(str(folder), mode)
    assert process.stdout is not None
    told = int(process.stdout.readline())
    time.sleep(random.Random(seed).random() * 0.05)
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    said = [told, *(int(line) for line in rest.split("\n")[:-1])]
    (path,) = files(folder)
    found, _ = whole(path)
    counters = [i for f in found for i in range(f.first, f.first + f.rows)]
    assert counters == list(range(len(counters)))
    assert len(counters) >= said[-1]
    with closed(path) as free:
        assert free


def test_the_kernels_own_refusal_in_the_middle_of_a_write_leaves_whole_frames(tmp_path: Path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (52_345, 52_345))

    folder = tmp_path / "home" / "journals"
    process = child(str(folder), "durable", preexec_fn=small_files, stderr=subprocess.PIPE)
    said, error = process.communicate(timeout=60)
    assert "JournalFull" in error
    (path,) = files(folder)
    found, torn = whole(path)
    assert not torn
    assert sum(f.rows for f in found) == int(said.split()[-1])


def test_a_write_in_another_thread_and_the_end_lose_nothing(tmp_path: Path) -> None:
    """The service writes in a thread; what is added meanwhile, and closing, must wait their turn."""
    journal = Journal(tmp_path / "journals", "shop", Log())
    writing, go_on = threading.Event(), threading.Event()
    write = journal._write

    def slow(data: bytes) -> None:
        writing.set()
        go_on.wait(10)
        write(data)

    def add(first: int) -> None:
        journal.add(
            first=first, rows=1, version="4", route="champion", at=1e9, latency=0.001,
            threshold=0.5, media="json", probabilities=[0.25], body=b"{}",
        )  # fmt: skip

    add(0)
    taken = journal.take()
    assert taken is not None
    journal._write = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=journal.put, args=(taken,))
    thread.start()
    writing.wait(10)
    add(1)
    closing = threading.Thread(target=journal.close)
    closing.start()
    go_on.set()
    thread.join(10)
    closing.join(10)
    (path,) = (tmp_path / "journals").iterdir()
    assert [f.first for f in frames(path)] == [0, 1]
    assert (journal.written, journal.lost, journal.pending_bytes) == (2, 0, 0)


def test_what_a_full_disk_refused_in_a_thread_is_kept_in_its_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journals", "shop", Log())
    told = {"rows": 1, "version": "4", "route": "champion", "at": 1e9, "latency": 0.001}
    told |= {"threshold": 0.5, "media": "json", "probabilities": [0.25], "body": b"{}"}
    journal.add(first=0, **told)
    taken = journal.take()
    assert taken is not None
    journal.add(first=1, **told)
    journal.refused(taken, OSError(28, "No space left on device"))
    journal.close()
    (path,) = (tmp_path / "journals").iterdir()
    assert [f.first for f in frames(path)] == [0, 1]
    assert journal.lost == 0


def test_what_is_added_while_a_file_is_closed_in_a_thread_begins_the_next_one(tmp_path: Path):
    """The loop goes on answering; and the next file is closed in its time, not never."""
    journal = Journal(tmp_path / "journals", "shop", Log(rotate_seconds=60))
    add(journal, 0)
    closing = journal.take(NOON + 60)
    assert closing is not None
    add(journal, 1, at=NOON + 61)
    thread = threading.Thread(target=journal.put, args=(closing,))
    thread.start()
    thread.join(10)
    journal.commit(NOON + 62)
    first, second = files(tmp_path / "journals")
    assert [[f.first for f in whole(path)[0]] for path in (first, second)] == [[0], [1]]
    for later, gone in ((63, False), (121, True)):
        journal.commit(NOON + later)
        with closed(first) as ended, closed(second) as free:
            assert (ended, free) == (True, gone)


def test_a_disk_that_refuses_as_a_file_is_closed_keeps_what_waits_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    journal = Journal(tmp_path / "journals", "shop", Log(rotate_seconds=60))
    add(journal, 0)
    closing = journal.take(NOON + 60)
    assert closing is not None

    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", full)
        with pytest.raises(OSError, match="No space"):
            journal.put(closing)
    journal.refused(closing, OSError(28, "No space left on device"))
    journal.commit(NOON + 61)
    written = files(tmp_path / "journals")[-1]
    assert [f.first for f in whole(written)[0]] == [0]
    assert (journal.lost, journal.pending_bytes) == (0, 0)
    with closed(written) as free:
        assert free, "it is as old as its first answer, which had to wait"
