"""Run: pytest tests/slow/test_airflow.py -m slow

Flights under a real Airflow: months land, and what follows is decided by nobody but the DAGs, and a
person where the task wants one. The tests of a store share one stack and follow each other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pipelines.adapters import mlflow_home
from pipelines.adapters.registry import CHALLENGER, CHAMPION, Registry
from tests.slow import airflow_stack
from tests.slow.airflow_stack import Airflow
from tests.slow.test_stack import have_postgres

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module", params=["embedded", "postgres"])
def airflow(request: pytest.FixtureRequest) -> Iterator[Airflow]:
    if request.param == "postgres" and not have_postgres():
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    yield from airflow_stack.stack(request.param, {"approval": "human"})


@pytest.fixture
def registry(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv(mlflow_home.VARIABLE, airflow.mlflow)
    return Registry(airflow.at)


def waiting(airflow: Airflow) -> list[dict]:
    found = airflow.ask(
        "GET", "/api/v2/dags/~/dagRuns/~/hitlDetails?response_received=false&limit=10"
    )
    return found["hitl_details"]


def answer(airflow: Airflow, choice: str) -> dict:
    """What a person does on the page of required actions; returns what was asked."""
    (asked,) = airflow.until(lambda: waiting(airflow), "a question")
    time.sleep(8)  # answered in the first seconds, the task that parks itself may miss it
    task = asked["task_instance"]
    path = f"/api/v2/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/approve/-1"
    airflow.ask("PATCH", f"{path}/hitlDetails", {"chosen_options": [choice], "params_input": {}})
    return asked


def land(airflow: Airflow, month: str) -> None:
    run = airflow.trigger("ingest_flights", batch=month)
    airflow.until(
        lambda: airflow.states("ingest_flights", run)["validate"] == "success", f"{month} landed"
    )


def backfill(airflow: Airflow) -> None:
    """January to March. On SQLite month by month: there a backfill of Airflow 3.3 ends in "database is
    locked" whenever the scheduler writes between a look and a write of its own."""
    if airflow.environment["STORE"] == "embedded":
        for month in ("2013-01", "2013-02", "2013-03"):
            land(airflow, month)
        return
    airflow.shell(
        'eval "$(perennial stack env)"; airflow backfill create --dag-id ingest_flights '
        "--from-date 2013-01-01 --to-date 2013-03-01 --max-active-runs 1"
    )


def watched(airflow: Airflow, month: str) -> dict:
    def told() -> dict | None:
        found = [d for d in airflow.told("decision") if d["period"] == month]
        return found[-1] if found else None

    return airflow.until(told, f"{month} watched")


def judged(airflow: Airflow, month: str) -> dict | None:
    found = [v for v in airflow.told("verdict") if v["period"] == month]
    return found[-1] if found else None


def ended(airflow: Airflow, dag: str) -> int:
    return sum(run["state"] == "success" for run in airflow.runs(dag))


def training(airflow: Airflow) -> str | None:
    run = airflow.runs("retrain_flights")[-1]["dag_run_id"]
    return airflow.states("retrain_flights", run).get("train")


def test_months_that_are_backfilled_make_a_first_model_and_a_person_lets_it_answer(
    airflow, registry
):
    backfill(airflow)
    asked = answer(airflow, "Approve")
    assert "version 1" in asked["subject"].lower()
    assert "| baseline |" in asked["body"]
    airflow.until(lambda: registry.alias(CHAMPION) == "1", "version 1 is champion")
    assert sorted(p.stem for p in airflow.at.raw.glob("*.parquet")) == [
        "2013-01", "2013-02", "2013-03",
    ]  # fmt: skip


def test_a_month_whose_challenger_is_no_better_changes_nothing(airflow, registry):
    land(airflow, "2013-04")
    assert watched(airflow, "2013-04")["action"] == "rest"
    land(airflow, "2013-05")
    assert watched(airflow, "2013-05")["action"] == "retrain"
    verdict = airflow.until(lambda: judged(airflow, "2013-05"), "a verdict")
    assert verdict["decision"] == "hold"
    airflow.until(lambda: ended(airflow, "promote_flights") == 2, "the second challenger's run")
    run = airflow.runs("promote_flights")[-1]["dag_run_id"]
    assert set(airflow.states("promote_flights", run).values()) == {"skipped"}
    assert registry.alias(CHAMPION) == "1"


def test_drift_changes_the_champion_without_a_further_command_though_the_scheduler_dies(
    airflow, registry
):
    land(airflow, "2013-06")
    decision = watched(airflow, "2013-06")
    assert decision["action"] == "retrain"
    airflow.until(lambda: training(airflow) == "running", "a training")
    airflow.kill("airflow-scheduler")
    airflow.up()
    asked = answer(airflow, "Approve")
    assert "version 3" in asked["subject"].lower()
    assert decision["reasons"][0][:60] in asked["body"]
    airflow.until(lambda: registry.alias(CHAMPION) == "3", "version 3 is champion")


def test_the_retraining_is_a_commit_that_names_its_reason_and_so_do_run_tags_and_ledger(
    airflow, registry
):
    reason = airflow.told("decision")[-1]["reasons"][0]
    done = airflow.told("retraining")[-1]
    assert done["last"] == "2013-05"
    assert reason in done["reasons"][0]
    assert reason in airflow.git("log", "-1", "--format=%B", done["commit"])
    assert airflow.git("merge-base", "main", done["commit"]) == done["commit"]
    assert 'last: "2013-05"' in airflow.git("show", f"{done['commit']}:params.yaml")
    tags = registry.tags("3")
    assert tags["commit"] == done["commit"]
    assert reason in tags["asked_by"]
    assert not airflow.at.worktree.exists()


def test_a_challenger_that_a_person_rejects_never_answers(airflow, registry):
    import mlflow

    airflow.command("promote", "flights", "--version", "1", "--force")
    with registry._client():
        mlflow.MlflowClient().set_registered_model_alias("flights", CHALLENGER, "3")
    airflow.trigger("promote_flights")
    answer(airflow, "Reject")
    airflow.until(lambda: ended(airflow, "promote_flights") == 4, "the run is over")
    run = airflow.runs("promote_flights")[-1]["dag_run_id"]
    assert airflow.states("promote_flights", run)["promote"] == "skipped"
    assert registry.alias(CHAMPION) == "1"


def test_every_run_of_every_dag_has_ended_well(airflow):
    airflow.until(lambda: not airflow.in_state("queued", "running"), "every run is over")
    assert airflow.in_state("failed") == []
