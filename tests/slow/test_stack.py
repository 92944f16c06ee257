"""Run: pytest tests/slow/test_stack.py -m slow

The stack as a person has it: up, up again, something dies, down; over SQLite, then over PostgreSQL.
The tests of one store share one stack and follow each other in the order of this file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipelines.adapters import mlflow_home
from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.errors import MissingInput
from pipelines.paths import Paths
from pipelines.stack import choices, postgres, process
from pipelines.stack.places import Places
from pipelines.stack.secrets import Secrets
from tests.conftest import REPOSITORY
from tests.fakes import WORSE
from tests.slow import serving

pytestmark = pytest.mark.slow

DAG = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.bash import BashOperator

with DAG("tiny", schedule=None, catchup=False):
    BashOperator(
        task_id="finds_its_tools", pool="gpu",
        bash_command='perennial --version && dvc --version && test "$PERENNIAL_ROOT" = {root}',
    )
"""


def have_postgres() -> bool:
    try:
        postgres.programs()
    except MissingInput:
        return False
    return True


@dataclass
class Stack:
    at: Paths
    environment: dict[str, str]

    @property
    def places(self) -> Places:
        return Places(self.at.root)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", "stack", *words],
            cwd=self.at.root, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def say(self, *words: str, status: int = 0) -> str:
        done = self.begin(*words)
        out, err = done.communicate(timeout=400)
        assert done.returncode == status, out + err
        return out

    def standing(self, status: int = 0) -> dict[str, dict[str, Any]]:
        return {s["part"]: s for s in json.loads(self.say("status", "--json", status=status))}

    def pids(self) -> dict[str, int]:
        return {name: standing["pid"] for name, standing in self.standing().items()}

    def processes(self) -> list[str]:
        """All that live and are of this stack: by mark, by folder, by the session of a part."""
        mine, root = os.getpid(), str(self.at.root)
        found = []
        for running in psutil.process_iter():
            try:
                of_it = running.cwd().startswith(root) or process._marked(running, self.places)
                if running.pid != mine and of_it and process._lives(running):
                    found.append(f"{running.pid} {' '.join(running.cmdline())}")
            except psutil.Error:
                continue
        return found

    def airflow(self, path: str, body: dict[str, Any] | None = None, token: str = "") -> Any:
        url = f"http://127.0.0.1:{self.environment['PERENNIAL_PORT_AIRFLOW']}{path}"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        method = "GET" if body is None else "POST"
        got = httpx.request(method, url, json=body, headers=headers, timeout=30)
        assert got.is_success, got.text
        return got.json()

    def token(self) -> str:
        password = Secrets(self.places.secrets).admin_password()
        return str(
            self.airflow("/auth/token", {"username": "admin", "password": password})["access_token"]
        )


def made(store: str) -> Iterator[Stack]:
    """A project that holds almost nothing, in a folder that PostgreSQL's own user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="stack-"))
    folder.chmod(0o755)
    at = serving.project(folder / "project")
    (at.root / "dags").mkdir()
    (at.root / "dags" / "tiny.py").write_text(DAG.replace("{root}", str(at.root)))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (mlflow_home.VARIABLE, "PERENNIAL_ROOT", *choices.VARIABLES.values())
    }
    environment |= {"PYTHONPATH": str(REPOSITORY), "STORE": store}
    for variable in choices.VARIABLES.values():
        if "PORT" in variable:
            environment[variable] = str(serving.free_port())
    stack = Stack(at, environment)
    try:
        yield stack
    finally:
        stack.say("down")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def embedded() -> Iterator[Stack]:
    yield from made("embedded")


@pytest.fixture(scope="module")
def real() -> Iterator[Stack]:
    yield from made("postgres")


@pytest.fixture
def registry_of_the_stack(embedded, monkeypatch) -> Registry:
    port = embedded.environment["PERENNIAL_PORT_MLFLOW"]
    monkeypatch.setenv(mlflow_home.VARIABLE, f"http://127.0.0.1:{port}")
    return Registry(embedded.at)


def champion_that_answers(stack: Stack) -> str:
    url = f"http://127.0.0.1:{stack.environment['PERENNIAL_PORT_SERVICE']}/predict"
    until = time.monotonic() + serving.WITHIN
    # 503 until the champion is fetched and warmed up.
    while (got := httpx.post(url, json=serving.body(), timeout=30)).status_code == 503:
        assert time.monotonic() < until
        time.sleep(0.2)
    return str(got.json()["version"])


# SQLite


def test_up_serves_the_champion_that_was_made_without_a_server(embedded):
    serving.champion(embedded.at, serving.version(embedded.at))
    said = embedded.say("up")
    assert champion_that_answers(embedded) == "1"
    assert {s["state"] for s in embedded.standing().values()} == {"running"}
    secrets = Secrets(embedded.places.secrets)
    assert str(secrets.logins) in said
    assert secrets.admin_password() not in said


def test_a_second_up_changes_nothing(embedded):
    before = embedded.pids()
    embedded.say("up")
    assert embedded.pids() == before


def test_a_version_that_is_registered_through_the_server_is_the_next_one(
    embedded, registry_of_the_stack
):
    assert registry_of_the_stack.alias(CHAMPION) == "1"
    assert serving.version(embedded.at, WORSE) == "2"


def test_a_dags_task_finds_its_tools_and_the_pool_of_one_slot(embedded):
    token = embedded.token()
    assert embedded.airflow("/api/v2/pools/gpu", token=token)["slots"] == 1
    run = embedded.airflow("/api/v2/dags/tiny/dagRuns", {"logical_date": None}, token)
    path, until = f"/api/v2/dags/tiny/dagRuns/{run['dag_run_id']}", time.monotonic() + 60
    while run["state"] in ("queued", "running"):
        assert time.monotonic() < until, run
        time.sleep(0.5)
        run = embedded.airflow(path, token=token)
    assert run["state"] == "success"


def test_a_part_that_was_killed_is_told_and_up_mends_it_alone(embedded):
    before = embedded.pids()
    os.kill(before["airflow-scheduler"], signal.SIGKILL)
    told = embedded.standing(status=1)
    assert told["airflow-scheduler"]["state"] == "stopped"
    assert {s["state"] for name, s in told.items() if name != "airflow-scheduler"} == {"running"}
    embedded.say("up")
    after = embedded.pids()
    assert after.pop("airflow-scheduler") != before.pop("airflow-scheduler")
    assert after == before


def test_a_part_that_hangs_is_unhealthy(embedded):
    pid = embedded.pids()["mlflow"]
    below = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for one in below:
        one.suspend()
    try:
        told = embedded.standing(status=1)["mlflow"]
    finally:
        for one in below:
            one.resume()
    assert told["state"] == "unhealthy"
    assert "/health does not answer" in told["wrong"]


def test_down_leaves_no_process_and_the_commands_go_on_without_a_server(embedded, monkeypatch):
    monkeypatch.delenv(mlflow_home.VARIABLE, raising=False)
    stopped = embedded.say("down")
    assert stopped.index("service-pumps") < stopped.index("airflow") < stopped.index("mlflow")
    assert embedded.processes() == []
    assert {s["state"] for s in embedded.standing(status=1).values()} == {"stopped"}
    registry = Registry(embedded.at)
    assert registry.alias(CHAMPION) == "1"
    assert registry.fetch("2").is_dir()


# PostgreSQL


@pytest.mark.skipif(not have_postgres(), reason="needs PostgreSQL: apt-get install postgresql")
class TestPostgres:
    def test_up_that_is_killed_in_the_middle_leaves_nothing_that_down_does_not_stop(self, real):
        up = real.begin("up")
        until = time.monotonic() + 120
        while not real.places.record("airflow-migrate").exists():
            assert up.poll() is None, up.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        up.kill()
        up.communicate()
        assert len(real.processes()) > 2
        real.say("down")
        assert real.processes() == []

    def test_the_next_up_ends_well_and_keeps_its_state_in_postgres(self, real):
        real.say("up")
        assert next(iter(real.standing())) == "postgres"
        secrets = Secrets(real.places.secrets)
        found = {}
        for database, table in (("airflow", "dag_run"), ("mlflow", "registered_models")):
            done = subprocess.run(
                [postgres.programs() / "psql", "-h", "127.0.0.1", "-U", "perennial", "-d", database,
                 "-p", real.environment["PERENNIAL_PORT_POSTGRES"], "-Atc", f"SELECT count(*) FROM {table}"],
                env=os.environ | {"PGPASSFILE": str(secrets.pgpass)},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found[database] = done.stdout.strip()
        assert found == {"airflow": "0", "mlflow": "0"}
        assert not (real.at.mlflow / "mlflow.db").exists()
        assert not real.places.airflow_database.exists()

    def test_nobody_comes_in_without_the_password(self, real):
        done = subprocess.run(
            [postgres.programs() / "psql", "-h", "127.0.0.1", "-U", "perennial", "-d", "mlflow", "-w",
             "-p", real.environment["PERENNIAL_PORT_POSTGRES"], "-c", "SELECT 1"],
            env=os.environ | {"PGPASSFILE": "/dev/null"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode
        assert "no password supplied" in done.stderr

    def test_once_chosen_postgres_needs_no_word_to_be_meant(self, real):
        del real.environment["STORE"]
        assert real.standing()["postgres"]["state"] == "running"
        real.environment["STORE"] = "embedded"
        done = real.begin("up")
        assert "other settings" in done.communicate()[1]
        del real.environment["STORE"]
        real.say("down")
        assert real.processes() == []
