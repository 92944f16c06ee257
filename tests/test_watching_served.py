"""The watching half reads what was served over HTTP too. Run: pytest tests/test_watching_served.py"""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from pipelines import labelled, report, served, status, store, trace
from pipelines.__main__ import cli
from pipelines.errors import MissingInput, UnknownId
from pipelines.params import task
from pipelines.paths import Paths
from pipelines.project import Project
from pipelines.slices import row_keys
from pipelines.stages import labels, monitor, score
from tests.conftest import REPOSITORY
from tests.fakes import BETTER, PUMPS, WORSE, pump_model, pumps
from tests.served_world import NOON, Worker

TASK = task(REPOSITORY / "params.yaml", "flights").model_copy(update={"period": "week"})
WEEK = "2024-W10"
"""4 to 10 March."""
MADE = dt.datetime(2024, 3, 1)
"""When the versions were registered."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        version: pump_model(folder / version / "model", graph)
        for version, graph in (("1", WORSE), ("2", BETTER))
    }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    at = Paths(tmp_path, "pumps")
    store.write_table(at.batch(WEEK), readings())
    return Project("pumps", TASK, PUMPS, at)


@pytest.fixture
def worker(project: Project) -> Worker:
    return Worker(project.at.root)


def readings() -> pd.DataFrame:
    return pumps(600, "2024-03-04")


def labelled_rows(project: Project, version: str) -> pd.DataFrame | None:
    return monitor._labelled("pumps", TASK, PUMPS, project.at, WEEK, version, MADE)


def join(project: Project) -> int:
    return labels.run("pumps", PUMPS, project.at, WEEK)


# The monitor ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_the_monitor_judges_answers_over_http_as_it_does_a_batchs(
    project, worker, models, compacted
):
    rows = readings()
    score.run("pumps", PUMPS, project.at, WEEK, models["1"], "1")
    join(project)
    of_batch = labelled_rows(project, "1")
    project.at.predictions(WEEK).unlink()
    project.at.labels(WEEK).unlink()
    assert labelled_rows(project, "1") is None
    worker.answer(rows, models["1"].predict(rows), "1")
    assert labelled_rows(project, "1") is None, "no label has come yet"
    if compacted:
        worker.journal.close()
        served.compact(project.at, PUMPS)
    assert join(project) == len(rows)
    over_http = labelled_rows(project, "1")
    columns = ["row", "probability", "label", *PUMPS.inputs]
    one, other = (t[columns].sort_values("row", ignore_index=True) for t in (of_batch, over_http))
    pd.testing.assert_frame_equal(one, other, check_dtype=False)
    for name in PUMPS.inputs:
        assert one[name].dtype.kind == other[name].dtype.kind


def test_a_row_answered_in_the_batch_and_over_http_counts_once_with_the_latest(
    project, worker, models
):
    rows = readings()
    score.run("pumps", PUMPS, project.at, WEEK, models["1"], "1")
    worker.answer(rows[:100], np.full(100, 0.125), "1", at=time.time() + 60)
    worker.answer(rows[100:200], np.full(100, 0.125), "1", at=NOON)  # before the batch was scored
    join(project)
    found = labelled_rows(project, "1")
    assert len(found) == len(rows)
    assert found["row"].is_unique
    assert (found["probability"] == 0.125).sum() == 100


def test_neither_shadows_nor_other_versions_count_as_answers_of_the_champion(
    project, worker, models
):
    rows = readings()
    worker.answer(rows[:300], version="1")
    worker.answer(rows[:300], version="2", route="shadow", first=0)
    worker.answer(rows[300:400], version="2", route="canary")
    join(project)
    assert len(labelled_rows(project, "1")) == 300
    canary = labelled_rows(project, "2")
    assert len(canary) == 100
    assert set(canary["route"]) == {"canary"}


def test_rows_without_a_key_count_each_once_their_labels_came_by_id(project, worker):
    rows = readings()[:50].drop(columns="pump")
    given = worker.answer(rows) + worker.answer(rows)
    labelled.put(project.at.served_labels, [(n, 1) for n in given[:70]], lambda ids: ids)
    assert len(labelled_rows(project, "1")) == 70


def test_a_replay_judges_its_own_answers_only(project, worker):
    worker.answer(readings())
    join(project)
    replay = Project("pumps", TASK, PUMPS, Paths(project.at.root, "pumps", replay="always"))
    assert labelled_rows(project, "1") is not None
    assert labelled_rows(replay, "1") is None


# The report -------------------------------------------------------------------------------------


def keys() -> np.ndarray:
    return row_keys(readings(), PUMPS)


def test_the_report_has_the_latest_answer_to_each_row_in_the_batchs_order(project, worker, models):
    rows = readings()
    with pytest.raises(MissingInput, match=f"perennial score pumps --batch {WEEK}"):
        report.answers_in_order(project, WEEK, keys())
    shuffled = rows.sample(frac=1, random_state=1)
    worker.answer(shuffled[:500], models["1"].predict(shuffled[:500]), "1", media="arrow")
    expected = models["1"].predict(rows)
    expected[~rows["pump"].isin(shuffled["pump"][:500]).to_numpy()] = np.nan
    np.testing.assert_array_equal(report.answers_in_order(project, WEEK, keys()), expected)
    score.run("pumps", PUMPS, project.at, WEEK, models["2"], "2")
    whole = report.answers_in_order(project, WEEK, keys())
    np.testing.assert_array_equal(whole, models["2"].predict(rows))


# trace and status -------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_an_id_that_came_back_over_http_is_found_with_its_row_and_period(
    project, worker, compacted
):
    rows = readings()
    given = worker.answer(rows[:5], version="3") + worker.answer(
        rows[5:9], version="3", media="arrow"
    )
    if compacted:
        worker.journal.close()
        served.compact(project.at, PUMPS)
    for i, name in enumerate(given):
        answer, period = trace._find(project, name)
        assert (answer["id"], answer["version"], period) == (name, "3", WEEK)
        assert answer["heat"] == rows["heat"][i]
        assert answer["moment"] == rows["moment"][i]
        assert trace.task_of(name) == "pumps"


def test_an_id_of_a_batch_is_found_as_before(project, models):
    score.run("pumps", PUMPS, project.at, WEEK, models["1"], "1")
    name = status.some_prediction(project, WEEK)
    assert name is not None
    answer, period = trace._find(project, name)
    assert (answer["id"], answer["route"], period) == (name, "batch", WEEK)
    assert trace.task_of(name) == "pumps"


def test_an_id_that_nobody_was_given_is_told_as_such(project, worker):
    (name,) = worker.answer(readings()[:1])
    for other in (name[:-1] + "7", name.replace("pumps-1", "pumps-2"), "pumps-1-00f1e2d3c4b5a697"):
        with pytest.raises(UnknownId, match="no logged prediction"):
            trace._find(project, other)
    with pytest.raises(UnknownId, match="flights-3-20130401-00c0ffee-1f"):
        trace.task_of("nonsense")


def test_a_row_without_a_time_has_no_period(project, worker):
    (name,) = worker.answer(readings()[:1], body=b"no rows can be read of this")
    assert trace._find(project, name)[1] == "unknown"


def test_status_has_an_answer_to_show_where_only_http_gave_any(project, worker):
    with pytest.raises(MissingInput, match=f"perennial score pumps --batch {WEEK}"):
        status.some_prediction(project, WEEK)
    assert status._shown(project, WEEK) is None
    given = worker.answer(readings()[:3])
    assert status.some_prediction(project, WEEK) == given[0]


# The command ------------------------------------------------------------------------------------


def flights(root: Path) -> tuple[Worker, list[str]]:
    from pipelines import contract

    worker = Worker(root, contract.load(root / "contracts" / "flights.yaml"))
    row = pd.DataFrame(
        {"scheduled_departure": [pd.Timestamp("2013-04-01T05:15")], "carrier": ["UA"]}
    )
    return worker, worker.answer(pd.concat([row] * 4))


def test_labels_of_a_file_are_taken_once(project_folder):
    _, given = flights(project_folder)
    file = project_folder / "late.csv"
    file.write_text("id,label\n" + "".join(f"{n},1\n" for n in given[:3]) + f"{given[0][:-1]}f,0\n")
    words = ["labels", "flights", "--file", str(file), "--json"]
    first, again = (CliRunner().invoke(cli, words) for _ in range(2))
    assert json.loads(first.output) == {
        "accepted": 3,
        "repeated": 0,
        "conflicting": 0,
        "unknown": 1,
    }
    assert json.loads(again.output) == {
        "accepted": 0,
        "repeated": 3,
        "conflicting": 0,
        "unknown": 1,
    }
    shown = CliRunner().invoke(cli, words[:-1]).output
    assert "0 accepted, 3 repeated, 0 conflicting, 1 unknown" in shown


@pytest.mark.parametrize("words", [[], ["--batch", "2013-04", "--file", "x.csv"]])
def test_labels_are_of_a_batch_or_of_a_file(project_folder, words):
    done = CliRunner().invoke(cli, ["labels", "flights", *words])
    assert done.exit_code == 2
    assert "either --batch or --file" in done.output
