"""The DAGs are the flow, and a drift alarm starts a retraining. Run: pytest tests/test_dags.py"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import flow, notify, stage_graph
from pipelines.stack import pool
from tests import airflow_world
from tests.airflow_world import Commands
from tests.conftest import REPOSITORY

# Airflow's own API, which dag.test() runs in this process, is tested by Starlette's older client.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx`")

KINDS = ("ingest", "monitor", "retrain", "promote", "score")
TASKS = ("flights", "digits", "asked", "timed")
"""As shipped, two; one that asks a person and a service; one with every timetable."""
DUE = {
    "task": "flights", "period": "2013-06", "last": "2013-05",
    "reasons": ["2013-05: moved: wind", "2013-06: AUC fell"],
}  # fmt: skip
VERDICT = {
    "decision": "promote", "challenger": "7", "reason": "better", "markdown": "**promote**",
    "period": "2013-06",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    flights = content["tasks"]["flights"]
    content["tasks"]["asked"] = flights | {
        "schedule": {"approval": "human", "approval_hours": 5, "service": "http://127.0.0.1:3000"}
    }
    content["tasks"]["timed"] = flights | {
        "schedule": {"retrain": "0 3 * * 1", "score": "@hourly", "catchup": True}
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def bag(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from airflow_world.loaded(tmp_path_factory.mktemp("airflow"), root)


@pytest.fixture(scope="module")
def database(bag: Any) -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def commands(tmp_path: Path, bag: Any, database: None) -> Commands:
    made = Commands(tmp_path)
    for dag in bag.dags.values():
        dag.deadline = None  # dag.test() of Airflow 3.3 looks for the alert under its content
        for task in dag.tasks:
            if hasattr(task, "bash_command"):
                task.env = task.env | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
                task.retries = 0
    return made


def edges(dag: Any) -> set[tuple[str, str]]:
    return {(t.task_id, after) for t in dag.tasks for after in t.downstream_task_ids}


def test_every_task_has_its_dags_and_none_fails_to_load(bag):
    assert bag.import_errors == {}
    assert set(bag.dags) == {f"{kind}_{task}" for kind in KINDS for task in TASKS}


def test_every_dag_says_what_it_is_who_owns_it_and_how_long_it_may_take(bag):
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in bag.dags.values():
        assert dag.doc_md
        assert len(dag.doc_md) > 80
        assert dag.max_active_runs == 1
        assert not dag.catchup or dag.dag_id == "ingest_timed"
        assert dag.deadline
        assert dag.has_on_failure_callback
        assert {"perennial"} < set(dag.tags)
        for task in dag.tasks:
            assert task.owner == "perennial"
            waits_for_a_person = task.task_id == "approve"
            limit = task.response_timeout if waits_for_a_person else task.execution_timeout
            assert limit, task
        DagSerialization.to_dict(dag)


def test_a_run_that_asks_a_person_is_late_only_after_the_persons_time_and_its_own(bag):
    def hours(dag_id: str) -> float:
        (alert,) = bag.dags[dag_id].deadline
        return alert.interval / timedelta(hours=1)

    assert (hours("promote_flights"), hours("promote_asked")) == (12, 12 + 5)
    assert hours("retrain_asked") == 12


def test_nothing_heavy_is_imported_to_read_a_dag():
    light = {"airflow", "of_tasks", "pipelines", "json", "os", "sys", "datetime", "pathlib", "typing",
             "collections", "__future__"}  # fmt: skip
    for path in (REPOSITORY / "dags").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] in light, path
            elif isinstance(node, ast.Import):
                assert {name.name.split(".")[0] for name in node.names} <= light, path


@pytest.mark.parametrize("task", TASKS)
def test_the_stages_of_a_retraining_are_dvcs_own_graph(bag, root, task):
    from dvc.repo import Repo

    dag = bag.dags[f"retrain_{task}"]
    found = {(a, b) for a, b in edges(dag) if a in flow.PURE and b in flow.PURE}
    with Repo.init(root, no_scm=True, force=True) as repo:
        graph = repo.index.graph
        mine = [s for s in graph.nodes if s.name and s.name.endswith(f"@{task}")]
        assert {s.name.split("@")[0] for s in mine} == set(flow.PURE)
        theirs = {
            (other.name.split("@")[0], s.name.split("@")[0])
            for s in mine
            for other in graph.successors(s)
            if other in mine
        }
    assert theirs
    assert found == theirs
    read = stage_graph.stages_before(root / "dvc.yaml", task)
    assert {(b, a) for a, before in read.items() for b in before} == theirs


def test_a_retraining_opens_first_publishes_after_every_stage_and_always_closes(bag):
    dag = bag.dags["retrain_flights"]
    for stage in flow.PURE:
        task = dag.get_task(stage)
        assert "open" in task.get_flat_relative_ids(upstream=True)
        assert "publish" in task.get_flat_relative_ids(upstream=False)
    close = dag.get_task("close")
    assert close.is_teardown
    assert dag.get_task("open").is_setup
    assert dag.get_task("train").pool == "gpu"


def test_every_pool_that_a_task_waits_for_is_made_by_both_stacks(bag):
    """Airflow never starts a task of a pool that is not there, and says so in its log only."""
    named = {task.pool for dag in bag.dags.values() for task in dag.tasks} - {"default_pool"}
    assert named == {pool.POOL}
    compose = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    made = " ".join(compose["services"]["airflow-migrate"]["command"])
    assert f"airflow pools set {pool.POOL} " in made


def wants(dag: Any) -> set[str]:
    """Names of the assets that start it."""

    def leaves(condition: Any) -> set[str]:
        inner = getattr(condition, "objects", None)
        return {condition.name} if inner is None else set().union(*map(leaves, inner))

    return leaves(dag.timetable.asset_condition)


def gives(dag: Any) -> set[str]:
    return {outlet.name for task in dag.tasks for outlet in task.outlets}


@pytest.mark.parametrize("task", TASKS)
def test_each_dag_starts_the_next_by_its_asset(bag, task):
    def dag(kind):
        return bag.dags[f"{kind}_{task}"]

    assert gives(dag("ingest")) == {f"{task}_batch"}
    assert wants(dag("monitor")) == {f"{task}_batch", f"{task}_champion"}
    assert gives(dag("monitor")) == wants(dag("retrain")) == {f"{task}_drift"}
    assert gives(dag("retrain")) == wants(dag("promote")) == {f"{task}_challenger"}
    assert gives(dag("promote")) == {f"{task}_champion"}


def test_a_person_is_asked_only_where_the_task_wants_one(bag):
    assert edges(bag.dags["promote_flights"]) == {("verdict", "promote")}
    asked = bag.dags["promote_asked"]
    assert edges(asked) == {("verdict", "approve"), ("approve", "promote"), ("promote", "smoke")}
    assert asked.get_task("approve").defaults == ["Reject"]
    # Who answered is on the ledger; where nobody is asked, nobody is named.
    assert '--by "$BY"' in asked.get_task("promote").bash_command
    assert "--by" not in bag.dags["promote_flights"].get_task("promote").bash_command


def test_the_name_of_a_batch_comes_from_the_data_interval(bag, commands):
    import pendulum

    at = pendulum.datetime(2013, 5, 1, tz="UTC")  # when April is over
    run = bag.dags["ingest_flights"].test(logical_date=at)
    assert run.state == "success"
    assert commands.said() == [
        "ingest flights --batch 2013-04", "validate flights --batch 2013-04",
    ]  # fmt: skip
    assert bag.dags["ingest_flights"].test(run_conf={"batch": "2013-09"}).state == "success"
    assert commands.said()[-1] == "validate flights --batch 2013-09"


def test_a_source_that_has_ended_is_not_asked_for_more(bag, commands):
    run = bag.dags["ingest_flights"].test(run_conf={"batch": "2014-01"})
    assert states(run) == {"ingest": "skipped", "validate": "skipped"}
    assert commands.said() == []


def test_drift_starts_a_retraining_with_every_reason_and_its_verdict_a_promotion(bag, commands):
    commands.answer({"watch": {"watched": [], "due": DUE}, "step open": DUE, "step judge": VERDICT,
                     "verdict": VERDICT})  # fmt: skip
    assert bag.dags["monitor_flights"].test().state == "success"
    assert last_event("flights_drift") == DUE
    assert bag.dags["retrain_flights"].test().state == "success"
    steps = [words.split("--step ")[1].split()[0] for words in commands.said() if "--step" in words]
    assert steps[0] == "open"
    assert set(steps[1:6]) == set(flow.PURE)
    assert steps[6:] == ["publish", "judge", "close"]
    assert last_event("flights_challenger") == VERDICT
    assert bag.dags["promote_flights"].test().state == "success"
    assert commands.said()[-1] == "promote flights --version 7"


def test_rest_emits_nothing(bag, commands):
    before = events("flights_drift")
    commands.answer({"watch": {"watched": [], "due": None}})
    run = bag.dags["monitor_flights"].test()
    assert run.state == "success"
    assert states(run) == {"watch": "success", "drift": "skipped"}
    assert events("flights_drift") == before


def test_what_was_held_is_not_promoted(bag, commands):
    commands.answer({"verdict": VERDICT | {"decision": "hold"}})
    run = bag.dags["promote_flights"].test()
    assert states(run) == {"verdict": "skipped", "promote": "skipped"}
    assert commands.said() == ["verdict flights --json"]


@pytest.mark.parametrize("task", ["flights", "asked"])
def test_a_retraining_that_made_the_champion_again_promotes_nothing_and_asks_nobody(
    bag, commands, task
):
    commands.answer({"verdict": None})
    run = bag.dags[f"promote_{task}"].test()
    assert run.state == "success"
    assert set(states(run).values()) == {"skipped"}
    assert commands.said() == [f"verdict {task} --json"]


def test_a_retraining_that_nothing_asks_for_does_nothing(bag, commands):
    commands.answer({"step open": None})
    run = bag.dags["retrain_flights"].test()
    assert set(states(run).values()) == {"skipped"}


def test_a_reason_given_by_hand_reaches_the_command_and_never_the_shell(bag, commands):
    commands.answer({"step open": None})
    bag.dags["retrain_flights"].test(run_conf={"reason": 'new "labels" $(touch /tmp/x); `id`'})
    assert commands.reasons()[0] == 'new "labels" $(touch /tmp/x); `id`'
    assert commands.said() == [
        'retrain flights --step open --reason new "labels" $(touch /tmp/x); `id` --json'
    ]


def test_a_stage_that_fails_publishes_nothing_and_still_closes(bag, commands):
    commands.answer({"step open": DUE})
    script = commands.folder / "perennial"
    script.write_text(script.read_text() + "\nif 'train' in words[3:]: sys.exit('out of memory')\n")
    run = bag.dags["retrain_flights"].test()
    found = states(run)
    assert found["train"] == "failed"
    assert found["publish"] == "upstream_failed"
    assert found["close"] == "success"
    assert run.state == "failed"


def test_a_worktree_that_cannot_be_closed_is_told_though_its_run_succeeded(
    bag, commands, monkeypatch
):
    commands.answer({"step open": DUE, "step judge": VERDICT})
    script = commands.folder / "perennial"
    script.write_text(script.read_text() + "\nif 'close' in words[3:]: sys.exit('busy')\n")
    told: list[dict[str, str]] = []
    monkeypatch.setattr(notify, "tell", told.append)
    run = bag.dags["retrain_flights"].test()
    assert states(run)["close"] == "failed"
    assert run.state == "success"
    assert [m["text"] for m in told] == [f"retrain_flights: close failed ({run.run_id})"]


def test_a_batch_in_quarantine_fails_its_run_once_and_is_told_to_nobody(bag, commands):
    before = events("flights_batch")
    script = commands.folder / "perennial"
    script.write_text(script.read_text() + "\nif words[0] == 'validate': sys.exit(6)\n")
    run = bag.dags["ingest_flights"].test(run_conf={"batch": "2013-09"})
    assert states(run) == {"ingest": "success", "validate": "failed"}
    assert run.state == "failed"
    assert events("flights_batch") == before
    assert bag.dags["ingest_flights"].get_task("validate").retries == 0


def states(run: Any) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def events(name: str) -> list[dict]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        return [e.extra for e in found.filter(AssetModel.name == name).order_by(AssetEvent.id)]


def last_event(name: str) -> dict:
    return events(name)[-1]
