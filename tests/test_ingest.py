"""Landing batches: atomic, idempotent, never over what has landed: pytest tests/test_ingest.py"""

from __future__ import annotations

import pandas as pd
import pytest

from pipelines import store
from pipelines.errors import BatchConflict, UnknownId
from pipelines.project import open_project
from pipelines.stages import ingest

PERIODS = ("2013-01", "2013-02")


@pytest.fixture
def project(project_folder):
    return open_project("flights")


def land(project, *periods):
    return ingest.run(project.name, project.task, project.contract, project.at, periods)


def test_landing_twice_changes_nothing(project):
    assert land(project, *PERIODS) == list(PERIODS)
    before = {
        p: (store.md5(project.at.batch(p)), project.at.batch(p).stat().st_mtime_ns) for p in PERIODS
    }
    assert land(project, *PERIODS) == []
    after = {
        p: (store.md5(project.at.batch(p)), project.at.batch(p).stat().st_mtime_ns) for p in PERIODS
    }
    assert before == after


def test_only_the_rows_of_the_period_land(project):
    land(project, "2013-02")
    times = pd.read_parquet(project.at.batch("2013-02"))["scheduled_departure"]
    assert times.dt.strftime("%Y-%m").unique().tolist() == ["2013-02"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.assign(distance=t["distance"] + 1), "different values in distance"),
        (lambda t: t.iloc[1:], "rows against"),
        (lambda t: t.drop(columns="distance"), "columns"),
    ],
)
def test_a_landed_batch_with_other_rows_is_an_error_and_stays(project, change, said):
    land(project, "2013-01")
    path = project.at.batch("2013-01")
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    before = store.md5(path)
    with pytest.raises(BatchConflict, match=said):
        land(project, "2013-01")
    assert store.md5(path) == before


def test_the_same_rows_in_other_bytes_are_the_same_batch(project):
    land(project, "2013-01")
    path = project.at.batch("2013-01")
    pd.read_parquet(path).to_parquet(path, index=False, compression="gzip")
    assert land(project, "2013-01") == []


def test_a_truncated_batch_is_named_with_the_command_that_replaces_it(project):
    land(project, "2013-01")
    path = project.at.batch("2013-01")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        BatchConflict, match=r"cannot be read.*rm .*perennial ingest flights --batch"
    ):
        land(project, "2013-01")


def test_a_batch_that_the_source_lacks_lists_what_it_has(project):
    with pytest.raises(UnknownId, match="2013-01 to 2013-12"):
        land(project, "2014-05")
    assert not project.at.raw.exists()


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "kept.txt"
    store.write_text(path, "old")

    def fail() -> None:
        with store.atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with store.atomic_folder(folder) as new:
        (new / "a").write_text("1")

    def fail() -> None:
        with store.atomic_folder(folder) as new:
            (new / "b").write_text("2")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert [p.name for p in folder.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_torn_line_spoils_only_itself(tmp_path):
    path = tmp_path / "ledger.jsonl"
    store.append_line(path, "one")
    with path.open("a") as file:
        file.write('{"half')
    store.append_line(path, "two")
    assert path.read_text().splitlines() == ["one", '{"half', "two"]
