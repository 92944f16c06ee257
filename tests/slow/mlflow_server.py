"""MLflow's own servers on a port of this machine, and the calls that its pages make."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pipelines.adapters import mlflow_home
from tests.slow.serving import free_port

RECEIVES = {
    # A receiver on this machine: MLflow refuses http and private addresses otherwise.
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    # Its list of webhooks is read again after a second, not after a minute.
    "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}


@contextlib.contextmanager
def started(command: list[str], log: Path, health: str) -> Iterator[Callable[[], None]]:
    """A server and, as value, the way to kill -9 it with its children."""
    environment = os.environ | mlflow_home.ENVIRONMENT
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop(mlflow_home.VARIABLE, None)
    if "models" in command:
        environment[mlflow_home.VARIABLE] = os.environ[mlflow_home.VARIABLE]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, start_new_session=True
        )

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

        try:
            until = time.monotonic() + 180
            while time.monotonic() < until and process.poll() is None:
                try:
                    urllib.request.urlopen(health, timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.3)
            else:
                raise AssertionError(f"no answer from {health}: {log.read_text()[-3000:]}")
            yield kill
        finally:
            kill()


@dataclass(frozen=True)
class Server:
    """kill: with SIGKILL, all of it."""

    uri: str
    kill: Callable[[], None]

    def name(self, model: str, alias: str, version: str) -> None:
        """The call that the page makes when a person saves an alias."""
        body = {"name": model, "alias": alias, "version": version}
        request = urllib.request.Request(
            f"{self.uri}/ajax-api/2.0/mlflow/registered-models/alias",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=30).close()


@dataclass(frozen=True)
class Home:
    """Where a server keeps its things; it may be started there again. database: made when missing."""

    database: Path
    artifacts: Path
    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def serve(self) -> Iterator[Server]:
        if not self.database.exists():
            self.database.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(mlflow_home._template(self.database.parent), self.database)
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.database}",
            "--workers", "1", "--artifacts-destination", str(self.artifacts),
        ]  # fmt: skip
        with contextlib.ExitStack() as stack:
            with mock.patch.dict(os.environ, RECEIVES):
                server = started(command, self.database.with_suffix(".log"), f"{self.uri}/health")
                kill = stack.enter_context(server)
            yield Server(self.uri, kill)


def home(folder: Path, database: Path | None = None) -> Home:
    return Home(database or folder / "server.db", folder / "served", free_port())
