"""Run: pytest tests/slow/test_celery.py -m slow

Where one machine is outgrown: CeleryExecutor with a real Redis and two workers, one of them killed
in the middle of a task. docs/scaling.md
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.stack import airflow, choices, mlflow_server, postgres, process
from pipelines.stack.secrets import Secrets
from tests.slow import serving
from tests.slow.test_stack import Stack, have_postgres, made

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not have_postgres(), reason="needs PostgreSQL: apt-get install postgresql"),
    pytest.mark.skipif(
        shutil.which("redis-server") is None, reason="needs Redis: apt-get install redis-server"
    ),
]

TASKS = 5

DAG = """
import datetime as dt
import os
import pathlib
import time

from airflow.sdk import DAG, get_current_context, task

DONE = pathlib.Path({done!r})

with DAG("shared", schedule=None, catchup=False):

    @task(retries=1, retry_delay=dt.timedelta(seconds=1))
    def work(number):
        # A worker leads the session of all that it runs.
        attempt, worker = get_current_context()["ti"].try_number, os.getsid(0)
        (DONE / f"{{number}}-{{attempt}}-{{worker}}-began").touch()
        time.sleep(6)
        (DONE / f"{{number}}-{{attempt}}-{{worker}}-ended").touch()

    work.expand(number=list(range({tasks})))
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = serving.free_port()
    server = subprocess.Popen(
        ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""],
        cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def stack(redis: str) -> Iterator[Stack]:
    """A running stack whose scheduler hands its tasks to whoever listens at Redis."""
    for one in made("postgres"):
        done = one.at.root / "done"
        done.mkdir()
        (one.at.root / "dags" / "tiny.py").write_text(DAG.format(done=str(done), tasks=TASKS))
        database = f"127.0.0.1:{one.environment['PERENNIAL_PORT_POSTGRES']}/airflow"
        one.environment |= {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": redis,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://perennial@{database}",
            # A worker that is silent for 15 s, not for 5 minutes, has lost its tasks.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        }
        one.say("up")
        yield one


@contextlib.contextmanager
def worker(stack: Stack, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """One task at a time, with the settings that the stack gives Airflow."""
    chosen = choices.read(stack.environment, stack.places)
    environment = stack.environment | airflow.environment(
        stack.at.root, home=stack.places.airflow, database=postgres.url(chosen, "airflow"),
        port=chosen.airflow, secrets=Secrets(stack.places.secrets),
        tracking=mlflow_server.url(chosen), given=stack.environment,
    )  # fmt: skip
    words = (
        "celery", "worker", "--concurrency", "1", "--skip-serve-logs", "--celery-hostname", name,
        "--pid", str(stack.at.root / f"{name}.pid"),  # by default both have the same file
    )  # fmt: skip
    with (stack.at.root / f"{name}.log").open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "airflow", *words], cwd=stack.at.root, env=environment,
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield started
    finally:
        kill(started)


def kill(worker: subprocess.Popen[bytes]) -> None:
    """As a machine that loses power: the worker and all that it runs at once."""
    for one in process._members(worker.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    worker.wait()


def ran(stack: Stack, how: str) -> dict[int, list[tuple[int, int]]]:
    """Task -> (attempt, worker) of those that began, or ended."""
    found: dict[int, list[tuple[int, int]]] = {}
    for file in sorted((stack.at.root / "done").glob(f"*-{how}")):
        number, attempt, pid, _ = file.name.split("-")
        found.setdefault(int(number), []).append((int(attempt), int(pid)))
    return found


def test_a_worker_that_is_killed_in_the_middle_of_a_task_loses_nothing(stack):
    with worker(stack, "first") as first, worker(stack, "second") as second:
        token = stack.token()
        run = stack.airflow("/api/v2/dags/shared/dagRuns", {"logical_date": None}, token)
        until = time.monotonic() + 120
        while first.pid not in {pid for pids in ran(stack, "began").values() for _, pid in pids}:
            assert time.monotonic() < until, Path(stack.at.root / "first.log").read_text()[-3000:]
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGSTOP)  # so that it begins nothing more while it is killed
        kill(first)
        lost = {n for n, tried in ran(stack, "began").items() if (1, first.pid) in tried}
        lost -= set(ran(stack, "ended"))
        assert lost, "the worker was killed between two tasks"
        path, until = f"/api/v2/dags/shared/dagRuns/{run['dag_run_id']}", time.monotonic() + 180
        while run["state"] in ("queued", "running"):
            assert time.monotonic() < until, run
            time.sleep(1)
            run = stack.airflow(path, token=token)
    assert run["state"] == "success"
    ended = ran(stack, "ended")
    assert set(ended) == set(range(TASKS))
    assert all(len(tries) == 1 for tries in ended.values()), "a task was done twice"
    assert {ended[number][0] for number in lost} == {(2, second.pid)}
