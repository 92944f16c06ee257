"""Journals to Parquet and back: no answer lost, none twice. Run: pytest tests/test_served.py"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as datasets
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from pipelines import contract, labelled, served, store
from pipelines.errors import PipelineError
from pipelines.graph import raw_inputs
from pipelines.journal import Asked
from pipelines.paths import Paths
from pipelines.served import answers, bodies, day_files, hidden, table
from pipelines.served.answers import Wanted
from pipelines.slices import row_keys
from pipelines.stages import score
from tests.conftest import REPOSITORY
from tests.fakes import PUMPS, pump_model, pumps
from tests.served_world import BODIES, DAY, NOON, Worker, arrow_body, json_body

EVERYTHING = Wanted(shadow=True)


@pytest.fixture
def at(tmp_path: Path) -> Paths:
    return Paths(tmp_path, "pumps")


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def ids(at: Paths, wanted: Wanted = EVERYTHING) -> list[str]:
    return answers.read(at, PUMPS, wanted)["id"].tolist()


def files(at: Paths) -> list[Path]:
    return [path for folder in served.days(at) for path in day_files.parts(folder)]


def plain(at: Paths) -> pd.DataFrame:
    """As any Arrow reader sees it."""
    return datasets.dataset(at.served_day("x").parent, format="parquet").to_table().to_pandas()


# What was asked and answered is what is read ----------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("media", BODIES)
def test_an_answer_comes_back_with_its_row_whatever_it_was_asked_in(at, worker, media, compacted):
    rows = pumps(40)
    probability = np.linspace(0, 1, 40, dtype=np.float32)
    given = worker.answer(rows, probability, "7", media=media)
    if compacted:
        worker.journal.close()
        done = served.compact(at, PUMPS)
        assert (done.journals, done.rows, done.bad, done.failed) == (1, 40, 0, 0)
        assert not list(at.journals.iterdir())
    found = answers.read(at, PUMPS, Wanted()).set_index("id").loc[given]
    assert (found["probability"].to_numpy() == probability).all()
    assert (found["prediction"] == (probability >= 0.5)).all()
    assert set(found["version"]) == {"7"}
    assert (found["at"] == pd.Timestamp(NOON, unit="s")).all()
    assert found["row"].tolist() == [f"{key:016x}" for key in row_keys(rows, PUMPS).tolist()]
    for name in bodies.asked_columns(PUMPS):
        assert (found[name].to_numpy() == rows[name].to_numpy()).all(), name


def test_the_inputs_read_back_give_the_model_the_same_numbers(at, worker, tmp_path):
    rows = pumps(30).assign(heat=np.where(np.arange(30) % 3, 1 / 3, np.nan))
    given = worker.answer(rows)
    found = answers.read(at, PUMPS, Wanted()).set_index("id").loc[given]
    wanted = raw_inputs(rows, PUMPS, PUMPS.inputs)
    read = raw_inputs(found, PUMPS, PUMPS.inputs)
    for name, values in wanted.items():
        np.testing.assert_array_equal(values, read[name])


def test_a_row_whose_key_was_not_given_has_no_name_and_keeps_the_rest(at, worker):
    rows = pumps(3)
    worker.answer(rows.drop(columns="pump"))
    worker.answer(rows)
    found = answers.read(at, PUMPS, Wanted())
    assert found["row"].tolist()[:3] == ["", "", ""]
    assert all(found["row"].tolist()[3:])
    assert found["heat"].notna().all()


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_the_prediction_on_the_threshold_is_the_one_that_was_given(at, worker, threshold):
    """As a float32, 0.3 lies above the Python number and 0.7 below it."""
    on_it = np.float32(threshold)
    worker.journal.add(
        first=0, rows=1, version="1", route="champion", at=NOON, latency=0.0, threshold=threshold,
        media="json", probabilities=[float(on_it)], body=json_body(pumps(1)),
    )  # fmt: skip
    worker.journal.commit()
    # The service compares a float32 array with a Python number, which NumPy does in float32.
    told = (np.array([on_it]) >= threshold)[0]
    assert answers.read(at, PUMPS, Wanted())["prediction"].tolist() == [int(told)]


BROKEN = {
    "not JSON": b"{",
    "other rows": json_body(pumps(2)),
    "not an object": b"[]",
    "no bytes": b"",
    "not UTF-8": b'{"rows": [{"site": "\xff"}, {}, {}]}',
}


@pytest.mark.parametrize("media", ["json", "arrow", "parquet"])
@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_an_answer_whose_body_cannot_be_read_is_kept_without_it(at, worker, body, media):
    before = worker.answer(pumps(2))
    spoiled = worker.answer(pumps(3), media=media, body=body)
    after = worker.answer(pumps(2), media="arrow")
    worker.journal.close()
    assert served.compact(at, PUMPS).rows == 7
    found = answers.read(at, PUMPS, Wanted()).set_index("id")
    assert set(found.index) == {*before, *spoiled, *after}
    assert found.loc[spoiled, ["heat", "site", "moment"]].isna().all().all()
    assert found.loc[before + after, "heat"].notna().all()


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just("2024-03-04T12:00"),
    st.just("2024-03-04T12:00:00.5"), st.lists(st.integers(), max_size=2), st.just(2**70),
)  # fmt: skip


@given(
    st.lists(st.dictionaries(st.sampled_from(list(PUMPS.columns)), values), min_size=1, max_size=4)
)
@effort(max_examples=200)
def test_no_value_keeps_an_answer_from_being_read(rows):
    """Another contract may have let through what this one would not."""
    import msgspec

    try:
        body = msgspec.json.encode({"rows": rows})
    except (UnicodeEncodeError, msgspec.MsgspecError):
        return
    read = bodies.read([Asked("json", body, len(rows))], PUMPS, hashed=True)
    assert read.num_rows == len(rows)
    assert read.schema == bodies.schema(PUMPS, hashed=True)
    assert len(hidden.row_names(read, PUMPS)) == len(rows)
    sound = [r.get("site") if isinstance(r.get("site"), str) else None for r in rows]
    assert [s for s, r in zip(read["site"].to_pylist(), sound, strict=True) if r is not None] == [
        s for s in sound if s is not None
    ]


# Personal columns -------------------------------------------------------------------------------

PERSONAL = contract.parse(
    PUMPS.model_dump_json()
    .replace('"site":{"type":"category"', '"site":{"personal":true,"type":"category"')
    .replace('"pump":{"type":"integer"', '"pump":{"personal":true,"type":"integer"')
    .replace('"personal":false,', "")
)


@pytest.mark.parametrize("media", BODIES)
def test_personal_columns_are_hashed_as_a_scored_batch_hashes_them(at, tmp_path, media):
    assert PERSONAL.columns["site"].personal
    rows = pumps(20).assign(site="Rue de la Paix")
    worker = Worker(tmp_path, PERSONAL)
    given = worker.answer(rows, media=media)
    assert b"Rue de la Paix" not in b"".join(p.read_bytes() for p in at.journals.iterdir())
    worker.journal.close()
    served.compact(at, PERSONAL)
    assert b"Rue de la Paix" not in b"".join(p.read_bytes() for p in files(at))
    found = answers.read(at, PERSONAL, Wanted()).set_index("id").loc[given]
    model = pump_model(tmp_path / "model" / "m", described=PERSONAL)
    scored = score.answer(rows, PERSONAL, model, "1")
    for name in ("site", "pump"):
        assert found[name].tolist() == scored[name].tolist()
    # The key can no longer be made from the hashes, so it was logged: labels still find the row.
    assert found["row"].tolist() == [name.rsplit("-", 1)[1] for name in scored["id"]]


@pytest.mark.parametrize("media", BODIES)
def test_what_was_logged_before_a_column_became_personal_is_left_out(at, worker, media):
    rows = pumps(5).assign(site="Rue de la Paix")
    worker.answer(rows, media=media)
    worker.journal.close()
    served.compact(at, PERSONAL)
    assert b"Rue de la Paix" not in b"".join(p.read_bytes() for p in files(at))
    found = answers.read(at, PERSONAL, Wanted())
    assert found["site"].isna().all()
    assert found["pump"].isna().all()
    assert found["heat"].notna().all()


def test_a_body_that_cannot_be_hashed_is_not_logged_as_it_is(at, tmp_path):
    worker = Worker(tmp_path, PERSONAL)
    worker.answer(pumps(2), body=b'{"rows": [{"site": "Rue de la Paix"')
    assert b"Rue" not in b"".join(p.read_bytes() for p in at.journals.iterdir())
    assert len(answers.read(at, PERSONAL, Wanted())) == 2


def test_a_personal_number_has_one_hash_whether_or_not_another_row_lacks_it(at, tmp_path):
    rows = pumps(2)
    worker = Worker(tmp_path, PERSONAL)
    alone = worker.answer(rows.iloc[[0]])
    body = json.loads(json_body(rows, PERSONAL))
    del body["rows"][1]["pump"]
    beside = worker.answer(rows, body=json.dumps(body).encode())
    found = answers.read(at, PERSONAL, Wanted()).set_index("id")["pump"]
    assert found[alone[0]] == found[beside[0]] != found[beside[1]]


@pytest.mark.parametrize("midnight", [True, False])
def test_a_time_has_one_hash_whatever_stands_beside_it(midnight):
    """Pandas writes a column of dates without the time of day, and with it once one row has some."""
    born = pd.Series(pd.to_datetime(["1990-01-01 00:00:00", "1990-01-01 05:15:00", None]))
    alone = [hidden.hashed(born.iloc[[i]])[0] for i in range(3)]
    chosen = [0, 0] if midnight else [0, 1, 2, 0]
    beside = hidden.hashed(born.iloc[chosen])
    assert beside.tolist() == [alone[i] for i in chosen]
    assert len(set(alone)) == 3


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from(sorted(BODIES))), min_size=1, max_size=6)
)
def test_requests_hashed_together_are_hashed_as_each_alone(requests):
    hide, rows = (
        hidden.hider(PERSONAL),
        pumps(24).assign(site=[f"{i} Rue de la Paix" for i in range(24)]),
    )
    assert hide is not None
    several, first = [], 0
    for count, media in requests:
        body = BODIES[media](rows.iloc[first : first + count], PERSONAL)
        several.append(Asked(media, body, count))
        first += count
    together = hide(several)
    for asked, one in zip(several, together, strict=True):
        (alone,) = hide([asked])
        assert (one.media, one.keys) == (alone.media, alone.keys)
        assert (
            pa.ipc.open_stream(one.body)
            .read_all()
            .equals(pa.ipc.open_stream(alone.body).read_all())
        )


def test_what_a_full_disk_refused_is_hashed_once_and_written_when_there_is_room(
    at, tmp_path, monkeypatch
):
    worker = Worker(tmp_path, PERSONAL)
    write, full, hashed, count = os.write, [True], hidden.hashed, []
    monkeypatch.setattr(hidden, "hashed", lambda values: count.extend(values) or hashed(values))
    monkeypatch.setattr(os, "write", lambda fd, data: _refuse() if full[0] else write(fd, data))
    first = worker.answer(pumps(3).assign(site="Rue de la Paix"))
    assert worker.journal.pending_bytes > 0
    worker.journal.commit()
    full[0] = False
    second = worker.answer(pumps(2).assign(site="Rue de la Paix"), media="arrow")
    assert worker.journal.pending_bytes == worker.journal.lost == 0
    assert len(count) == 2 * (3 + 2)  # two personal columns, and no row of them twice
    assert b"Rue de la Paix" not in b"".join(p.read_bytes() for p in at.journals.iterdir())
    assert answers.read(at, PERSONAL, Wanted())["id"].tolist() == [*first, *second]


def _refuse() -> int:
    raise OSError(28, "No space left on device")


def test_a_defect_of_the_hashing_logs_nothing_and_is_counted_and_told(at, tmp_path, monkeypatch):
    worker = Worker(tmp_path, PERSONAL)
    monkeypatch.setattr(hidden, "hashed", lambda values: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.answer(pumps(3).assign(site="Rue de la Paix"))
    assert (worker.journal.lost, worker.journal.pending_bytes) == (3, 0)
    assert not b"".join(p.read_bytes() for p in at.journals.iterdir())
    monkeypatch.undo()
    assert (
        ids(at)
        == []
        != worker.answer(pumps(1))
        == answers.read(at, PERSONAL, Wanted())["id"].tolist()
    )


# Compaction -------------------------------------------------------------------------------------


def test_a_journal_in_use_is_read_and_left_alone(at, worker):
    given = worker.answer(pumps(3))
    assert served.compact(at, PUMPS).journals == 0
    assert ids(at) == given
    assert len(list(at.journals.iterdir())) == 1


def test_answers_of_two_days_in_one_journal_go_to_their_days(at, worker):
    before = worker.answer(pumps(2), at=NOON)
    after = worker.answer(pumps(2), at=NOON + DAY)
    again = worker.answer(pumps(2), at=NOON)
    worker.journal.close()
    served.compact(at, PUMPS)
    assert [folder.name for folder in served.days(at)] == ["2024-03-04", "2024-03-05"]
    assert set(ids(at)) == {*before, *after, *again}
    for name in (*before, *after, *again):
        assert answers.find(at, PUMPS, name)["id"] == name
        assert answers.known(at, PUMPS, [name]) == {name}


@pytest.mark.parametrize("journals", [1, 3])
@pytest.mark.parametrize("step", range(12))
def test_killed_at_any_step_no_answer_is_lost_and_none_is_there_twice(
    at, worker, monkeypatch, step, journals
):
    """Every change of a file name or a file's end is a step; the run dies before the n-th of them."""
    given = []
    for _ in range(journals):
        given += worker.answer(pumps(4), at=NOON) + worker.answer(pumps(4), at=NOON + DAY)
        worker.journal.close()
    left = [step]

    class Killed(BaseException):
        pass

    def dying(real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **named)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink"):
            patched.setattr(Path, name, dying(getattr(Path, name)))
        patched.setattr(store.os, "fsync", dying(store.os.fsync))
        with contextlib.suppress(Killed):
            served.compact(at, PUMPS)
    assert sorted(ids(at)) == sorted(given)
    assert served.compact(at, PUMPS).failed == 0
    assert sorted(ids(at)) == sorted(given)
    assert sorted(plain(at)["id"]) == sorted(given)
    assert len(files(at)) == 2


def test_a_bad_frame_ends_its_journal_which_is_set_aside_and_said(at, worker, caplog):
    good = worker.answer(pumps(3))
    size = next(at.journals.iterdir()).stat().st_size
    worker.answer(pumps(3))
    worker.journal.close()
    (path,) = at.journals.iterdir()
    content = bytearray(path.read_bytes())
    content[size + 20] ^= 1
    path.write_bytes(content)
    done = served.compact(at, PUMPS)
    assert (done.rows, done.bad, done.failed) == (3, 1, 0)
    assert ids(at) == good
    (aside,) = at.journals.iterdir()
    assert aside.name == f"{path.name}.bad"
    assert aside.read_bytes() == content
    assert str(aside) in caplog.text
    assert served.compact(at, PUMPS) == served.Compacted()


def test_one_journal_that_fails_keeps_no_other_waiting_and_is_tried_again(
    at, tmp_path, monkeypatch
):
    one, other = Worker(tmp_path), Worker(tmp_path)
    given = one.answer(pumps(2)) + other.answer(pumps(2))
    one.journal.close()
    other.journal.close()
    write = store.atomic

    def full(path: Path) -> Any:
        if path.stem.startswith(one.journal.worker):
            raise OSError(28, "No space left on device")
        return write(path)

    with monkeypatch.context() as patched:
        patched.setattr(store, "atomic", full)
        done = served.compact(at, PUMPS)
    assert (done.journals, done.failed) == (1, 1)
    assert sorted(ids(at)) == sorted(given)
    assert served.compact(at, PUMPS).journals == 1
    assert sorted(ids(at)) == sorted(given)


def test_days_that_are_over_become_one_file_each_and_today_stays_as_it_is(at, tmp_path):
    now = time.time()
    given, today = [], []
    for _ in range(3):
        worker = Worker(tmp_path)
        given += worker.answer(pumps(5), at=NOON) + worker.answer(
            pumps(5), media="arrow", at=NOON + DAY
        )
        today += worker.answer(pumps(5), at=now)
        worker.journal.close()
    served.compact(at, PUMPS)
    assert [len(day_files.parts(folder)) for folder in served.days(at)] == [1, 1, 3]
    assert sorted(ids(at)) == sorted(plain(at)["id"]) == sorted(given + today)
    late = Worker(tmp_path)
    given += late.answer(pumps(2), at=NOON)
    late.journal.close()
    served.compact(at, PUMPS)
    assert [len(day_files.parts(folder)) for folder in served.days(at)] == [1, 1, 3]
    assert sorted(ids(at)) == sorted(plain(at)["id"]) == sorted(given + today)
    before = [path.stat().st_mtime_ns for path in files(at)]
    served.compact(at, PUMPS)
    assert [path.stat().st_mtime_ns for path in files(at)] == before


def test_a_day_that_cannot_be_folded_keeps_no_other_waiting_and_is_counted(at, tmp_path, caplog):
    for _ in range(2):
        worker = Worker(tmp_path)
        for day in range(3):
            worker.answer(pumps(2), at=NOON + day * DAY)
        worker.journal.close()
        with caplog.at_level("ERROR"):
            done = served.compact(at, PUMPS)
        for bad in files(at)[:1]:
            bad.write_bytes(b"no Parquet at all")
    assert (done.journals, done.failed) == (1, 1)
    assert [len(day_files.parts(folder)) for folder in served.days(at)] == [2, 1, 1]
    assert str(served.days(at)[0]) in caplog.text


def test_many_small_files_of_today_become_one_and_a_large_one_is_left(at, worker, monkeypatch):
    monkeypatch.setattr(day_files, "MANY", 4)
    given = []
    for i in range(9):
        given += worker.answer(pumps(5), at=time.time())
        worker.journal.close()
        served.compact(at, PUMPS)
        assert len(files(at)) <= 4
        if i == 4:
            monkeypatch.setattr(day_files, "SMALL_BYTES", max(p.stat().st_size for p in files(at)))
            large = [p for p in files(at) if p.stat().st_size >= day_files.SMALL_BYTES]
    assert sorted(ids(at)) == sorted(plain(at)["id"]) == sorted(given)
    assert all(path.exists() for path in large)
    assert answers.known(at, PUMPS, given) == set(given)


def test_a_part_that_comes_back_after_it_was_folded_is_not_counted_twice(at, tmp_path):
    """Killed between the Parquet file and the journal's end, the journal is compacted again."""
    kept = tmp_path / "kept"
    for _ in range(2):
        worker = Worker(tmp_path)
        worker.answer(pumps(5))
        worker.journal.close()
    shutil.copytree(at.journals, kept)
    served.compact(at, PUMPS)
    given = ids(at)
    for path in kept.iterdir():
        shutil.copy(path, at.journals)
    assert ids(at) == given
    served.compact(at, PUMPS)
    assert ids(at) == given
    assert sorted(plain(at)["id"]) == sorted(given)


def test_the_files_are_one_dataset_whichever_version_and_medium(at, worker):
    for version, media in enumerate(BODIES, 1):
        worker.answer(pumps(3), version=str(version), media=media)
        worker.answer(pumps(3).drop(columns="pump"), version=str(version), at=time.time())
        worker.journal.close()
        served.compact(at, PUMPS)
    found = datasets.dataset(at.served_day("x").parent, format="parquet")
    assert found.schema.remove_metadata() == table.schema(PUMPS)
    for path in files(at):
        assert pa.parquet.read_schema(path).remove_metadata() == table.schema(PUMPS)
    assert set(found.to_table()["version"].to_pylist()) == {"1", "2", "3"}


def test_after_a_change_of_the_contract_the_answers_of_before_are_read_with_it(at, worker):
    worker.answer(pumps(3))
    worker.journal.close()
    served.compact(at, PUMPS)
    text = PUMPS.model_dump_json().replace('"noise"', '"tone"')
    changed = contract.parse(text.replace('"site":{"type":"category"', '"site":{"type":"number"'))
    renamed = pumps(3).rename(columns={"noise": "tone"}).assign(site=1.5)
    late = Worker(worker.at.root, changed)
    late.answer(renamed, version="2")
    late.journal.close()
    served.compact(at, changed)
    found = answers.read(at, changed, Wanted())
    assert len(found) == 6
    old = found[found["version"] == "1"]
    assert old["tone"].isna().all()
    assert old["site"].isna().all()
    assert old["heat"].notna().all()
    assert found.loc[found["version"] == "2", "tone"].notna().all()
    assert len(answers.read(at, PUMPS, Wanted())) == 6


def test_a_contract_may_call_its_columns_as_the_log_does(at, tmp_path):
    text = PUMPS.model_dump_json().replace('"heat"', '"id"').replace('"moment"', '"at"')
    named = contract.parse(text)
    worker = Worker(tmp_path, named)
    rows = pumps(4).rename(columns={"heat": "id", "moment": "at"})
    given = worker.answer(rows)
    worker.journal.close()
    served.compact(at, named)
    found = answers.read(
        at, named, Wanted(since=dt.datetime(2024, 3, 2), until=dt.datetime(2024, 3, 3))
    )
    assert found["id"].tolist() == given
    assert (found["asked_id"].to_numpy() == rows["id"].to_numpy()).all()
    assert (found["asked_at"] == rows["at"]).all()
    assert all(found["row"])


# Reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_rows_are_chosen_by_their_own_time_to_the_second(at, worker, compacted):
    rows = pumps(1000)
    given = np.array(worker.answer(rows))
    if compacted:
        worker.journal.close()
        served.compact(at, PUMPS)
    since, until = rows["moment"].iloc[100], rows["moment"].iloc[200]
    wanted = Wanted(since=since.to_pydatetime(), until=until.to_pydatetime(), columns=("id",))
    assert set(ids(at, wanted)) == set(given[100:200])
    assert list(answers.read(at, PUMPS, wanted).columns) == ["id"]


def test_a_shadow_is_no_answer_that_anyone_was_given(at, worker):
    given = worker.answer(pumps(3), version="1")
    shadow = worker.answer(pumps(3), version="2", route="shadow", first=0)
    assert ids(at, Wanted()) == given
    assert set(ids(at, Wanted(shadow=True))) == {*given, *shadow}
    assert answers.known(at, PUMPS, [*given, *shadow]) == set(given)
    worker.journal.close()
    served.compact(at, PUMPS)
    assert ids(at, Wanted()) == given
    assert answers.known(at, PUMPS, [*given, *shadow]) == set(given)
    assert answers.find(at, PUMPS, shadow[0])["route"] == "shadow"


def test_no_id_is_known_but_those_that_were_given(at, worker):
    given = worker.answer(pumps(3))
    near = [name[:-1] + "7" for name in given] + [
        given[0].replace("pumps-1-", "pumps-2-"), given[0].replace("20240304", "20240305"),
        given[0].replace("pumps", "lumps"), "", "nonsense", "pumps-1-00f1e2d3c4b5a697",
    ]  # fmt: skip
    for _ in range(2):
        assert answers.known(at, PUMPS, [*given, *near]) == set(given)
        assert answers.find(at, PUMPS, near[0]) is None
        worker.journal.close()
        served.compact(at, PUMPS)


def test_of_a_row_answered_twice_by_one_version_the_latest_counts():
    asked = pd.DataFrame(
        {
            "version": ["1", "1", "2", "1", "1"],
            "row": ["a", "a", "a", "", ""],
            "n": range(5),
        }
    )
    assert answers.latest(asked)["n"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("first", ["_of_journals", "_of_files"])
def test_a_reader_misses_nothing_and_sees_nothing_twice_while_files_move(
    at, worker, monkeypatch, first
):
    """Compaction runs between the reader's two looks, whichever comes first."""
    given = worker.answer(pumps(3))
    worker.journal.close()
    look = getattr(answers, first)

    def then_compacted(*words: Any) -> Any:
        found = look(*words)
        served.compact(at, PUMPS)
        return found

    monkeypatch.setattr(answers, first, then_compacted)
    assert ids(at) == given
    assert ids(at) == given


def test_answers_are_counted_while_their_files_move(at, worker, monkeypatch):
    worker.answer(pumps(3))
    worker.journal.close()
    served.compact(at, PUMPS)
    rows_in, gone = store.rows_in, [1]

    def moving(path: Path) -> int:
        if gone:
            gone.pop()
            raise FileNotFoundError(path)
        return rows_in(path)

    monkeypatch.setattr(store, "rows_in", moving)
    assert answers.count(at) == 3


CHILD = """
import sys
from pathlib import Path
import numpy as np
from pipelines.serve_params import Log
from tests.fakes import pumps
from tests.served_world import NOON, Worker
rows = pumps(2)
worker = Worker(Path(sys.argv[1]), log=Log(rotate_mb=0.02))
while True:
    print(*worker.answer(rows), flush=True)
    worker.journal.commit(NOON)
"""


def test_while_workers_answer_and_one_is_killed_every_answer_is_read_once(at):
    """Two real processes write and rotate; meanwhile this one compacts, folds and reads."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(at.root)], stdout=subprocess.PIPE, text=True,
            cwd=REPOSITORY,
        )
        for _ in range(2)
    ]  # fmt: skip
    told: list[str] = []
    try:
        for turn in range(8):
            for process in running:
                assert process.stdout is not None
                for _ in range(20):
                    told += process.stdout.readline().split()
            if turn % 2:
                served.compact(at, PUMPS)
            found = ids(at)
            assert set(told) <= set(found)
            assert len(set(found)) == len(found)
    finally:
        for process in running:
            process.kill()
            rest, _ = process.communicate()
            told += rest[: rest.rfind("\n") + 1].split()
    assert served.compact(at, PUMPS).failed == 0
    assert set(told) <= set(ids(at))
    assert sorted(plain(at)["id"]) == sorted(ids(at))
    assert not list(at.journals.iterdir())


def test_a_file_folded_away_under_the_reader_is_looked_for_again(at, tmp_path, monkeypatch):
    given = []
    for _ in range(2):
        worker = Worker(tmp_path)
        given += worker.answer(pumps(3), at=time.time())
        worker.journal.close()
    served.compact(at, PUMPS)
    read, moved = answers._file, []

    def first_gone(path: Path, *rest: Any) -> Any:
        if not moved:
            moved.append(path)
            day_files._fold(path.parent, day_files.parts(path.parent), fewest=2)
        return read(path, *rest)

    monkeypatch.setattr(answers, "_file", first_gone)
    assert sorted(ids(at)) == sorted(given)
    assert moved


def test_however_slowly_folded_files_go_every_reader_finds_every_answer_once(
    at, tmp_path, monkeypatch
):
    """Seen in a soak: five readings, each begun anew, all met a file that was just going."""
    given = []
    for _ in range(12):
        worker = Worker(tmp_path)
        given += worker.answer(pumps(2), at=time.time())
        worker.journal.close()
    served.compact(at, PUMPS)
    (day,) = served.days(at)
    going = day_files.parts(day)
    monkeypatch.setattr(day_files, "_clear", lambda *_: None)
    day_files._fold(day, going, fewest=2)
    read, rows_in = answers._file, store.rows_in

    def meets(reading: Any) -> Any:
        """Whoever opens one of the parts comes just too late."""

        def wrapped(path: Path, *rest: Any) -> Any:
            if path in going:
                path.unlink()
            return reading(path, *rest)

        return wrapped

    monkeypatch.setattr(answers, "_file", meets(read))
    monkeypatch.setattr(store, "rows_in", meets(rows_in))
    assert sorted(ids(at)) == sorted(given)
    assert answers.known(at, PUMPS, given) == set(given)
    assert answers.count(at) == len(given)


def write_answers(path: Path, rows: int, groups: int) -> list[str]:
    """A file of answers, of so many rows in each of its groups; returns their ids."""
    schema = table.schema(PUMPS)
    path.parent.mkdir(parents=True, exist_ok=True)
    named = [f"pumps-4-20240304-{9:08x}-{i:x}" for i in range(rows * groups)]
    with parquet.ParquetWriter(path, schema.with_metadata({day_files.PARTS: b"[]"})) as writer:
        for first in range(0, rows * groups, rows):
            filled = {
                "id": pa.array(named[first : first + rows]),
                "route": pa.array(["champion"] * rows),
            }
            columns = [filled.get(f.name, pa.nulls(rows, f.type)) for f in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return named


def test_a_look_for_some_ids_holds_no_more_of_a_folded_day_than_a_row_group(at):
    """Seen in a soak: workers that took labels grew by 150 MB each, once their day was folded."""
    path = at.served_day("2024-03-04") / f"{day_files.FOLDED}00000000.parquet"
    named = write_answers(path, rows=2000, groups=160)
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        assert answers.known(at, PUMPS, named[::80_000]) == set(named[::80_000])
    finally:
        pa.set_memory_pool(before)
    whole = parquet.read_table(path, columns=["id"], partitioning=None).nbytes
    assert 0 < pool.max_memory() < whole / 8


GROWTH = """
import pathlib, sys
import pyarrow.dataset, pyarrow.parquet
from pipelines import served
from pipelines.paths import Paths
from pipelines.served import answers
from tests.fakes import PUMPS

def kilobytes():  # its own; what it shares with others is no growth
    told = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in told if line.startswith("RssAnon:"))

at, given = Paths(pathlib.Path(sys.argv[1]), "pumps"), sys.argv[2:]
"""
LOOK = """
answers.known(at, PUMPS, ["pumps-4-20240303-00000009-1"])  # whose day has nothing
before = kilobytes()
assert answers.known(at, PUMPS, given) == set(given)
print(kilobytes() - before)
"""
FOLD = """
served.compact(at, PUMPS)  # a small day first: what Arrow takes once for all
waiting, day = map(pathlib.Path, given)
waiting.rename(day)
before = kilobytes()
served.compact(at, PUMPS)
assert len(list(day.iterdir())) == 1
print(kilobytes() - before)
"""


def grown(act: str, at: Paths, *given: object) -> int:
    """Kilobytes that a process of its own holds more after it than before."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH + act, str(at.root), *map(str, given)],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


of_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc how large a process is")


@of_linux
def test_a_look_for_some_ids_in_a_folded_day_leaves_a_worker_as_large_as_it_was(at):
    """Seen in two soaks: workers that took labels grew by 150 MB each, once their day was folded, and
    then still by 30. Here it is 1 MB; 20 when whole row groups are read by Arrow's threads."""
    path = at.served_day("2024-03-04") / f"{day_files.FOLDED}00000000.parquet"
    named = write_answers(path, day_files.GROUP_ROWS, groups=5)
    assert grown(LOOK, at, *named[::8000]) < 8_000


@of_linux
def test_the_folding_of_a_day_leaves_the_keeper_as_large_as_it_was(at):
    """Seen in a soak: the keeper grew by 64 MB at the first. Here it is 2 MB; 21 when Arrow's threads read,
    56 when Arrow keeps what it let go of."""
    day = at.served_day("2024-03-04")
    for name in ("one", "two"):
        write_answers(day.with_name("2024-03-03") / f"{name}.parquet", rows=100, groups=1)
        write_answers(day.with_name("waiting") / f"{name}.parquet", day_files.GROUP_ROWS, groups=3)
    assert grown(FOLD, at, day.with_name("waiting"), day) < 8_000


@pytest.mark.parametrize("folded", [False, True])
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(at, worker, folded):
    worker.answer(pumps(3))
    worker.journal.close()
    served.compact(at, PUMPS)
    (path,) = files(at)
    if folded:
        path = path.rename(path.with_name(f"{day_files.FOLDED}00000000.parquet"))
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(PipelineError, match=rf"{path} cannot be read.*mv {path}"):
        ids(at)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_replay_sees_nothing_that_was_served(at, worker, compacted):
    given = worker.answer(pumps(3))
    if compacted:
        worker.journal.close()
        served.compact(at, PUMPS)
    replay = Paths(at.root, "pumps", replay="always")
    assert ids(at) == given
    assert ids(replay) == []
    assert answers.known(replay, PUMPS, given) == set()


# Retention --------------------------------------------------------------------------------------


def test_what_is_older_than_it_may_be_goes_with_its_labels_and_the_rest_stays(at, worker):
    given = [worker.answer(pumps(2), at=NOON + day * DAY) for day in range(5)]
    worker.journal.close()
    served.compact(at, PUMPS)
    for some in given:
        labelled.put(at.served_labels, [(name, 1) for name in some], lambda ids: ids)
    today = dt.date(2024, 3, 4) + dt.timedelta(days=6)
    assert served.retain(at, 4, today) == 2
    kept = [name for some in given[2:] for name in some]
    assert ids(at) == kept
    assert set(labelled.labels(at.served_labels, [n for some in given for n in some])) == set(kept)
    assert served.retain(at, 4, today) == 0


def test_a_journal_set_aside_goes_when_it_is_as_old(at, worker):
    worker.answer(pumps(2))
    (path,) = at.journals.iterdir()
    aside = path.rename(path.with_name(path.name + ".bad"))
    today = dt.date.today()
    served.retain(at, 4, today)
    assert aside.exists()
    served.retain(at, 4, today + dt.timedelta(days=6))
    assert not aside.exists()
    assert at.journals.is_dir()


def test_counting_looks_at_closed_journals(at, worker):
    assert answers.count(at) == 0
    worker.answer(pumps(7))
    worker.answer(pumps(5), media="arrow")
    worker.journal.close()
    served.compact(at, PUMPS)
    assert answers.count(at) == 12


def test_arrow_bodies_of_other_widths_read_alike(at, worker):
    rows = pumps(6)
    narrow = rows.assign(
        heat=rows["heat"].astype("float32"), site=rows["site"].astype("category"),
        pump=rows["pump"].astype("int16"), moment=rows["moment"].astype("datetime64[ns]"),
    )  # fmt: skip
    worker.answer(rows, media="arrow")
    worker.answer(narrow, media="arrow", body=arrow_body(narrow))
    found = answers.read(at, PUMPS, Wanted())
    one, other = found.iloc[:6].reset_index(drop=True), found.iloc[6:].reset_index(drop=True)
    for name in ("site", "pump", "moment", "row"):
        assert (one[name] == other[name]).all()
    np.testing.assert_array_equal(one["heat"].astype("float32"), other["heat"].astype("float32"))
