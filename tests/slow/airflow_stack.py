"""A clone with flights under a real stack, and Airflow's REST API as its pages use it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from pipelines import ledger
from pipelines.adapters import mlflow_home
from pipelines.paths import Paths
from pipelines.stack import choices
from pipelines.stack.places import Places
from pipelines.stack.secrets import Secrets
from tests.conftest import REPOSITORY
from tests.slow import serving

WITHIN = 420.0
"""Seconds for a retraining from its alarm to its verdict, on two busy cores."""


@dataclass
class Airflow:
    at: Paths
    environment: dict[str, str]
    token: str = ""

    def command(self, *words: str, status: int = 0) -> str:
        env = self.environment | (
            {} if words[0] == "stack" else {mlflow_home.VARIABLE: self.mlflow}
        )
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *words], cwd=self.at.root, env=env,
            text=True, capture_output=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def shell(self, script: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.at.root, text=True,
            env=self.environment | {"PATH": path}, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.environment['PERENNIAL_PORT_MLFLOW']}"

    def up(self) -> None:
        self.command("stack", "up")
        password = Secrets(Places(self.at.root).secrets).admin_password()
        body = {"username": "admin", "password": password}
        self.token = ""
        self.token = self.ask("POST", "/auth/token", body)["access_token"]

    def kill(self, part: str) -> None:
        """-9, the part alone: what it started lives on, as when a scheduler runs out of memory."""
        record = json.loads(Places(self.at.root).record(part).read_text())
        os.kill(record["pid"], signal.SIGKILL)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self.environment['PERENNIAL_PORT_AIRFLOW']}{path}"
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        got = httpx.request(method, url, json=body, headers=headers, timeout=60)
        assert got.is_success, got.text
        return got.json()

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Oldest first."""
        found = self.ask("GET", f"/api/v2/dags/{dag}/dagRuns?order_by=run_after&limit=100")
        return list(found["dag_runs"])

    def in_state(self, *states: str) -> list[str]:
        """Runs of all DAGs in one of these states."""
        asked = "&".join(f"state={state}" for state in states)
        found = self.ask("GET", f"/api/v2/dags/~/dagRuns?{asked}&limit=100")
        return [f"{run['dag_id']} {run['dag_run_id']}" for run in found["dag_runs"]]

    def states(self, dag: str, run: str) -> dict[str, str]:
        found = self.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")
        return {ti["task_id"]: ti["state"] for ti in found["task_instances"]}

    def trigger(self, dag: str, **conf: Any) -> str:
        body = {"logical_date": None, "conf": conf}
        return str(self.ask("POST", f"/api/v2/dags/{dag}/dagRuns", body)["dag_run_id"])

    def until(self, found: Callable[[], Any], what: str, within: float = WITHIN) -> Any:
        """Waits for `found` to be true; fails at once when a run of any DAG fails."""
        ends = time.monotonic() + within
        while not (value := found()):
            failed = self.in_state("failed")
            assert not failed, f"{what}: failed: {', '.join(failed)}\n{self.log()}"
            assert time.monotonic() < ends, f"{what}: not within {within:.0f} s\n{self.log()}"
            time.sleep(1.0)
        return value

    def log(self) -> str:
        """The runs with their states, and the end of the logs of tasks that failed."""
        lines = []
        for dag in self.ask("GET", "/api/v2/dags?limit=100")["dags"]:
            for run in self.runs(dag["dag_id"]):
                states = self.states(dag["dag_id"], run["dag_run_id"])
                lines.append(f"{dag['dag_id']} {run['dag_run_id']} {run['state']} {states}")
        logs = sorted((Places(self.at.root).airflow / "logs").rglob("attempt=*.log"))
        failed = [p for p in logs if "failed" in p.read_text(errors="replace").lower()]
        return "\n".join([*lines, *(p.read_text(errors="replace")[-3000:] for p in failed[-3:])])

    def told(self, kind: str) -> list[dict[str, Any]]:
        return ledger.of_kind(self.at.ledger, kind)

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.at.root), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


def project(folder: Path, schedule: dict[str, Any]) -> Paths:
    """What `git clone` of this working tree gives, with a schedule, committed."""
    git = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(git, capture_output=True, text=True, check=True).stdout.splitlines():
        if (REPOSITORY / name).is_file() and not name.startswith(("tests", "docs", "benchmarks")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    content = yaml.safe_load((folder / "params.yaml").read_text())
    task = content["tasks"]["flights"]
    # Alone: a second service would want the port after this one's, which may be anybody's.
    content["tasks"] = {"flights": task}
    task["evaluate"]["bootstrap"] = 100
    task["schedule"] = task.get("schedule", {}) | schedule
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    who = ["-c", "user.name=tester", "-c", "user.email=tester@example.com"]
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return Paths(folder, "flights")


def stack(store: str, schedule: dict[str, Any]) -> Iterator[Airflow]:
    """Down at the end, whatever happens. In a folder that PostgreSQL's own user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="airflow-"))
    folder.chmod(0o755)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (mlflow_home.VARIABLE, "PERENNIAL_ROOT", *choices.VARIABLES.values())
    }
    environment |= {"PYTHONPATH": str(folder / "project"), "STORE": store}
    environment["AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"] = "0.1"
    # A task whose scheduler died is tried again after this time; the default is five minutes.
    environment["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"] = "30"
    for variable in choices.VARIABLES.values():
        if "PORT" in variable:
            environment[variable] = str(serving.free_port())
    running = Airflow(project(folder / "project", schedule), environment)
    try:
        running.up()
        yield running
    finally:
        running.command("stack", "down")
        shutil.rmtree(folder)
