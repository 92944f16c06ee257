"""Labels by prediction id, taken once and joined everywhere. Run: pytest tests/test_labelled.py"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from pipelines import labelled, served, store
from pipelines.errors import PipelineError, SourceError
from pipelines.labelled import Counted
from pipelines.paths import Paths
from pipelines.serve_params import Log
from pipelines.served import answers
from pipelines.served import labels as taken
from pipelines.service.routes import PUTS, routes
from pipelines.stages import labels as stage
from pipelines.stages import score
from tests.conftest import REPOSITORY
from tests.fakes import PUMPS, pump_model, pumps
from tests.keeper_world import project
from tests.served_world import NOON, Worker

PERIOD = "2024-03"


@pytest.fixture
def at(tmp_path: Path) -> Paths:
    return Paths(tmp_path, "pumps")


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def name(i: int) -> str:
    return f"pumps-1-20240304-00c0ffee-{i:x}"


def every(ids):
    return ids


# The store --------------------------------------------------------------------------------------

pairs = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), max_size=12)


@given(st.lists(pairs, max_size=5))
@effort(max_examples=80)
def test_whatever_comes_in_whatever_order_the_first_label_of_a_known_id_stays(
    tmp_path_factory, posts
):
    """Against the plainest model there is: a dictionary, one label at a time."""
    path = tmp_path_factory.mktemp("labels") / "labels.db"
    real = {name(i) for i in range(6)}
    kept: dict[str, int] = {}
    for post in posts:
        told: Counter[str] = Counter()
        for i, label in post:
            if name(i) not in real:
                told["unknown"] += 1
            elif name(i) not in kept:
                kept[name(i)] = label
                told["accepted"] += 1
            else:
                told["repeated" if kept[name(i)] == label else "conflicting"] += 1
        given = [(name(i), label) for i, label in post]
        assert labelled.put(path, given, lambda ids: real & set(ids)) == Counted(**told)
        assert labelled.labels(path, [name(i) for i in range(9)]) == kept


def test_what_is_stored_already_is_not_looked_for_among_the_answers(at):
    path = at.served_labels
    labelled.put(path, [(name(1), 1)], every)
    looked: list[str] = []

    def known(ids):
        looked.extend(ids)
        return ids

    assert labelled.put(path, [(name(1), 1), (name(2), 0)], known) == Counted(1, 1)
    assert looked == [name(2)]


def test_nothing_is_labelled_before_anything_came(at):
    assert labelled.labels(at.served_labels, [name(1)]) == {}
    labelled.forget(at.served_labels, "2030-01-01")
    assert not at.served_labels.exists()


CHILD = """
import sys
from pathlib import Path
from pipelines import labelled
path, who, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for i in range(count):
    pairs = [(f"pumps-1-20240304-00c0ffee-{i * 5 + j:x}", who % 2) for j in range(5)]
    counted = labelled.put(path, pairs, lambda ids: ids)
    print(i, counted.accepted, counted.repeated, counted.conflicting, flush=True)
"""


def child(path: Path, who: int, count: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", CHILD, str(path), str(who), str(count)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def test_writers_at_the_same_time_agree_on_one_label_each(at):
    running = [child(at.served_labels, who, 40) for who in range(4)]
    said = [process.communicate(timeout=120)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0] * 4
    counted = np.array([[int(n) for n in line.split()] for lines in said for line in lines])
    assert counted[:, 1].sum() == 200, "each id was accepted from exactly one of them"
    assert counted[:, 1:].sum() == 800
    # Of each id's three other writers one agrees and two do not.
    assert (counted[:, 2].sum(), counted[:, 3].sum()) == (200, 400)
    assert len(labelled.labels(at.served_labels, [name(i) for i in range(200)])) == 200


@pytest.mark.parametrize("after", [1, 3, 8])
def test_kill_9_keeps_every_label_that_was_counted_and_no_half_of_a_post(at, after: int):
    process = child(at.served_labels, 1, 10_000)
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split("\n")[:-1]
    told = after + len(rest)
    stored = labelled.labels(at.served_labels, [name(i) for i in range(told * 5 + 50)])
    assert len(stored) >= told * 5
    assert len(stored) % 5 == 0


def test_a_post_that_fails_in_the_middle_leaves_nothing(at):
    def known(ids):
        raise PipelineError("the answers cannot be read")

    with pytest.raises(PipelineError):
        labelled.put(at.served_labels, [(name(1), 1)], known)
    assert labelled.labels(at.served_labels, [name(1)]) == {}


# Taking them in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_labels_of_answers_given_are_taken_and_others_counted(at, worker, compacted):
    given = worker.answer(pumps(4))
    shadow = worker.answer(pumps(4), version="2", route="shadow", first=0)
    if compacted:
        worker.journal.close()
        served.compact(at, PUMPS)
    posted = [(n, 1) for n in given[:3]] + [(given[0], 1), (given[1], 0), (shadow[0], 1)]
    posted += [("", 1), ("nonsense", 0), ("lumps" + given[3][5:], 1), (given[3][:-1] + "\x00", 1)]
    posted += [("\ud800", 1), (given[3].replace("pumps-1", "pumps-9"), 1)]
    assert taken.take(at, PUMPS, posted) == Counted(3, 1, 1, 7)
    assert taken.take(at, PUMPS, posted) == Counted(0, 4, 1, 7)
    assert labelled.labels(at.served_labels, given) == dict.fromkeys(given[:3], 1)


def test_a_label_that_comes_after_its_answer_was_removed_is_still_a_repetition(at, worker):
    given = worker.answer(pumps(2))
    taken.take(at, PUMPS, [(given[0], 1)])
    worker.journal.close()
    for path in at.journals.iterdir():
        path.unlink()
    assert taken.take(at, PUMPS, [(n, 1) for n in given]) == Counted(repeated=1, unknown=1)


def test_a_store_that_is_no_store_is_named_with_what_to_do(at, worker):
    given = worker.answer(pumps(1))
    at.served_labels.write_bytes(b"no database at all, " * 200)
    with pytest.raises(PipelineError, match=rf"{at.served_labels} cannot be used"):
        taken.take(at, PUMPS, [(given[0], 1)])


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_labels_is_read_as_csv_or_parquet(tmp_path):
    expected = [(name(1), 1), (name(2), 0)]
    text = f"id,label\n{name(1)},1\n{name(2)}, 0\n"
    assert taken.from_file(written(tmp_path / "a.csv", text), PUMPS) == expected
    marked = written(tmp_path / "b.csv", "\ufeff" + text.replace("\n", "\r\n"))
    assert taken.from_file(marked, PUMPS) == expected
    for kind in ("int64", "float64", "bool", "int8"):
        table = pd.DataFrame({"label": [1, 0], "id": [name(1), name(2)]}).astype({"label": kind})
        table.to_parquet(tmp_path / "c.parquet")
        assert taken.from_file(tmp_path / "c.parquet", PUMPS) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"id,label\n{name(1)},1\n{name(2)},2\n", r"line 3: label is '2'; it must be 0 or 1"),
        (f"id,label\n{name(1)},\n", r"line 2: label is ''"),
        (f"id,label\n{name(1)}\n", r"line 2: label is ''"),
        (f"id,label\n{name(1)},nan\n", r"line 2: label is 'nan'"),
        ("id,label\nx,1\n", r"line 2: id is 'x'; it must be one that the service of pumps gave"),
        ("id,label\npumps-3-00f1e2d3c4b5a697,1\n", r"line 2: id is .*label of a batch's answer"),
        (f"id,label\n{name(1).replace('pumps', 'flights')},1\n", r"line 2: id is 'flights"),
        ("id,value\nx,1\n", r"has no column label; it has: id, value"),
        ("", r"has no column id, label; it has: none"),
    ],
)
def test_a_wrong_file_is_told_by_line_and_value_with_the_command(tmp_path, text, said):
    with pytest.raises(SourceError, match=said) as wrong:
        taken.from_file(written(tmp_path / "labels.csv", text), PUMPS)
    assert "perennial labels pumps --file" in str(wrong.value)


@pytest.mark.parametrize("file", ["missing.csv", "missing.parquet", "bytes.csv", "bytes.parquet"])
def test_a_file_that_cannot_be_read_is_an_error_for_people(tmp_path, file):
    if file.startswith("bytes"):
        (tmp_path / file).write_bytes(b"\xff\xfe\x00PAR1")
    with pytest.raises(SourceError, match=file):
        taken.from_file(tmp_path / file, PUMPS)


@pytest.mark.parametrize("label", [None, 2, 0.5, float("nan"), "yes"])
def test_a_wrong_label_in_a_parquet_file_is_told_by_its_row(tmp_path, label):
    table = pd.DataFrame({"id": [name(1), name(2)], "label": [label, label]})
    table.to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(SourceError, match=r"labels.parquet row 0: label is"):
        taken.from_file(tmp_path / "labels.parquet", PUMPS)


# The batch's own labels -------------------------------------------------------------------------


def landed(at: Paths, rows: pd.DataFrame) -> None:
    store.write_table(at.batch(PERIOD), rows)


def test_the_labels_of_a_landed_batch_find_the_answers_over_http_by_their_row(at, worker):
    rows = pumps(50)
    landed(at, rows)
    given = worker.answer(rows.iloc[:30], version="1") + worker.answer(
        rows.iloc[20:50], version="2"
    )
    nameless = worker.answer(rows.drop(columns="pump").iloc[:5])
    shadow = worker.answer(rows.iloc[:30], version="3", route="shadow", first=0)
    assert stage.run("pumps", PUMPS, at, PERIOD) == 60
    stored = labelled.labels(at.served_labels, [*given, *nameless, *shadow])
    truth = [*rows["failed"].iloc[:30], *rows["failed"].iloc[20:50]]
    assert [stored[n] for n in given] == truth
    assert set(stored) == set(given)
    assert not at.labels(PERIOD).exists()
    assert stage.run("pumps", PUMPS, at, PERIOD) == 60


def test_both_kinds_of_answers_are_labelled_and_a_label_that_came_before_stays(
    at, worker, tmp_path
):
    rows = pumps(20)
    landed(at, rows)
    model = pump_model(tmp_path / "model" / "m")
    assert score.run("pumps", PUMPS, at, PERIOD, model, "1") == 20
    given = worker.answer(rows.iloc[:4])
    wrong = 1 - int(rows["failed"].iloc[0])
    taken.take(at, PUMPS, [(given[0], wrong)])
    assert stage.run("pumps", PUMPS, at, PERIOD) == 24
    assert labelled.labels(at.served_labels, given)[given[0]] == wrong
    assert len(pd.read_parquet(at.labels(PERIOD))) == 20
    late = worker.answer(rows.iloc[4:6])
    assert stage.run("pumps", PUMPS, at, PERIOD) == 26
    assert set(labelled.labels(at.served_labels, late)) == set(late)


def test_without_any_answer_there_is_nothing_to_label(at):
    assert stage.run("pumps", PUMPS, at, PERIOD) == 0
    landed(at, pumps(10))
    assert stage.run("pumps", PUMPS, at, PERIOD) == 0
    assert not at.labels(PERIOD).exists()


def test_answers_to_rows_of_another_time_are_none_of_the_batch(at, worker):
    landed(at, pumps(10))
    worker.answer(pumps(10, start="2024-04-02"))
    assert stage.run("pumps", PUMPS, at, PERIOD) == 0


def test_batch_and_http_answers_together_are_the_answers_of_a_period(at, worker, tmp_path):
    rows = pumps(10)
    landed(at, rows)
    assert answers.given(at, PUMPS, PERIOD, "month") is None
    model = pump_model(tmp_path / "model" / "m")
    score.run("pumps", PUMPS, at, PERIOD, model, "1")
    both = worker.answer(rows, at=time.time() + 60) + worker.answer(pumps(3, start="2024-04-02"))
    found = answers.given(at, PUMPS, PERIOD, "month")
    assert len(found) == 20
    assert set(both[:10]) <= set(found["id"])
    kept = answers.latest(found)
    assert sorted(kept["id"]) == sorted(both[:10])


def test_a_label_changes_nothing_but_itself(at):
    """Every order of three posts ends in the same set of ids."""
    posts = ([(name(1), 0)], [(name(2), 1)], [(name(3), 0)])
    ends = set()
    for n, order in enumerate(itertools.permutations(posts)):
        path = at.root / f"{n}.db"
        for post in order:
            labelled.put(path, post, every)
        ends.add(frozenset(labelled.labels(path, [name(i) for i in range(5)]).items()))
    assert len(ends) == 1


def test_the_database_lets_readers_read_while_one_writes(at):
    labelled.put(at.served_labels, [(name(1), 1)], every)
    writer = sqlite3.connect(at.served_labels, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert labelled.labels(at.served_labels, [name(1)]) == {name(1): 1}
    finally:
        writer.execute("ROLLBACK")
        writer.close()


def test_many_labels_in_one_post(at, worker):
    rows = pumps(5000)
    given = worker.answer(rows, at=NOON)
    assert taken.take(at, PUMPS, [(n, 1) for n in given]) == Counted(accepted=5000)


# Over HTTP: POST /labels


def posted(
    root: Path, *bodies: list[tuple[str, int]], mode: str = "buffered", before: Any = None
) -> list[httpx.Response]:
    """All at the same time; before: called in the loop that answers them."""
    worker: Any = MagicMock()
    app = routes(project(root, log=Log(mode=mode)), worker)  # type: ignore[arg-type]

    async def ask() -> list[httpx.Response]:
        if before is not None:
            before()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://pumps") as client:
            return await asyncio.gather(
                *(
                    client.post(
                        "/labels", json={"labels": [{"id": n, "label": y} for n, y in body]}
                    )
                    for body in bodies
                )
            )

    return asyncio.run(ask())


def test_a_label_that_comes_before_its_answer_is_on_record_is_looked_for_again(
    at, worker, monkeypatch
):
    known = worker.answer(pumps(2))
    commit = worker.journal.commit
    with monkeypatch.context() as buffered:
        buffered.setattr(worker.journal, "commit", lambda: None)
        late = worker.answer(pumps(2))

    def later() -> None:
        asyncio.get_running_loop().call_later(Log().flush_ms / 1000, commit)

    pairs = [(known[0], 1), (late[0], 0), (late[0], 0), ("nobody's", 1)]
    (got,) = posted(at.root, pairs, before=later)
    assert got.json() == {"accepted": 2, "repeated": 1, "conflicting": 0, "unknown": 1}
    assert labelled.labels(at.served_labels, [*known, *late]) == {known[0]: 1, late[0]: 0}
    (again,) = posted(at.root, [(late[1], 1), (late[0], 1)])
    assert again.json() == {"accepted": 1, "repeated": 0, "conflicting": 1, "unknown": 0}


def test_in_durable_mode_an_unknown_id_is_told_at_once(at, worker, monkeypatch):
    take, calls = taken.take, []
    monkeypatch.setattr(taken, "take", lambda *a: calls.append(a) or take(*a))
    (got,) = posted(at.root, [("nobody's", 1)], mode="durable")
    assert (got.json()["unknown"], len(calls)) == (1, 1)


def test_labels_that_cannot_be_stored_are_refused_with_a_word_of_their_own(at, worker):
    given = worker.answer(pumps(1))
    at.served_labels.write_bytes(b"no database at all, " * 200)
    (got,) = posted(at.root, [(given[0], 1)])
    assert (got.status_code, got.headers["retry-after"]) == (503, "1")
    assert got.json()["type"] == "/problems/labels-not-taken"


def test_many_posts_at_once_leave_threads_for_what_else_a_worker_does(at, worker, monkeypatch):
    given = worker.answer(pumps(8))
    take, inside, most, lock = taken.take, [0], [0], threading.Lock()

    def counted(*words: Any) -> Counted:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        with lock:
            inside[0] -= 1
        return take(*words)

    monkeypatch.setattr(taken, "take", counted)
    got = posted(at.root, *([(name, 1)] for name in given))
    assert [one.json()["accepted"] for one in got] == [1] * 8
    assert most[0] <= PUTS
