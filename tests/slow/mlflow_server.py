"""MLflow's own server on a port of this machine, and the calls that its pages make."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pipelines.adapters import mlflow_home
from tests.slow.test_server import free_port, started

RECEIVES = {
    # A receiver on this machine: MLflow refuses http and private addresses otherwise.
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    # Its list of webhooks is read again after a second, not after a minute.
    "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}


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
        uri = f"http://127.0.0.1:{self.port}"
        with contextlib.ExitStack() as stack:
            with mock.patch.dict(os.environ, RECEIVES):
                server = started(command, self.database.with_suffix(".log"), f"{uri}/health")
                kill = stack.enter_context(server)
            yield Server(uri, kill)


def home(folder: Path, database: Path | None = None) -> Home:
    return Home(database or folder / "server.db", folder / "served", free_port())
