"""A running service of the pumps, in a project of its own, with versions that take no time to make."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from pipelines.adapters.registry import CHALLENGER, CHAMPION, Registry
from pipelines.paths import Paths
from tests.conftest import REPOSITORY
from tests.fakes import BETTER, PUMPS, pump_model

WITHIN = 60.0
"""Seconds that anything awaited may take on a busy machine before a test gives up."""


def project(root: Path, **serve: Any) -> Paths:
    """params.yaml and contract of the pumps; no model yet."""
    task = {
        "source": {"kind": "files", "path": "inbox/*.csv"},
        "period": "month",
        "calendar": [],
        "min_category": 5,
        "window": {"first": "2024-01", "last": "2024-02"},
        "train": {"family": "logistic", "seed": 7},
        "evaluate": {"slices": []},
        "serve": serve,
    }
    (root / "contracts").mkdir(parents=True)
    (root / "params.yaml").write_text(yaml.safe_dump({"tasks": {"pumps": task}}))
    described = PUMPS.model_dump(mode="json", exclude_none=True)
    (root / "contracts" / "pumps.yaml").write_text(yaml.safe_dump(described))
    return Paths(root, "pumps")


def version(at: Paths, graph: bytes = BETTER, **about: Any) -> str:
    """A new registered version of that graph; it is nobody's champion yet."""
    folder = at.root / "made" / str(time.monotonic_ns())
    made = pump_model(folder / "model", graph, **about)
    registry = Registry(at)
    found = registry.register(made)
    shutil.rmtree(folder)
    return found


def name(at: Paths, alias: str, number: str | None) -> None:
    """Move an alias as MLflow's own UI does: no gate, no ledger."""
    registry = Registry(at)
    with registry._client() as client:
        if number is None:
            client.delete_registered_model_alias("pumps", alias)
        else:
            client.set_registered_model_alias("pumps", alias, number)


def champion(at: Paths, number: str) -> None:
    name(at, CHAMPION, number)
    if Registry(at).alias(CHALLENGER) == number:
        name(at, CHALLENGER, None)


def row(**other: Any) -> dict[str, Any]:
    given = {"moment": "2024-03-02T10:00:00", "site": "north", "heat": 0.5, "noise": -0.25}
    return given | {"repair_cost": 0.1, "pump": 7} | other


def body(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"rows": list(rows) or [row()]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    at: Paths
    url: str
    process: subprocess.Popen[bytes]
    told: Path
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))

    def predict(self, *rows: dict[str, Any], **headers: str) -> httpx.Response:
        got = self.client.post(f"{self.url}/predict", json=body(*rows), headers=headers)
        return got

    def get(self, path: str) -> httpx.Response:
        return self.client.get(self.url + path)

    def answering(self) -> str | None:
        """Version that a new connection gets."""
        got = httpx.post(f"{self.url}/predict", json=body(), timeout=30)
        return str(got.json()["version"]) if got.status_code == 200 else None

    def wait_for(self, number: str) -> None:
        self.until(lambda: self.answering() == number, f"version {number} to answer")

    def until(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WITHIN
        while True:
            # While the service starts, or a worker comes back, connections are refused.
            with contextlib.suppress(httpx.TransportError):
                if true():
                    return
            said = self.told.read_text()[-4000:]
            assert self.process.poll() is None, (
                f"the service ended while waiting for {what}\n{said}"
            )
            assert time.monotonic() < end, f"waited {WITHIN} s for {what}\n{said}"
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """Process ids of those that answer."""
        listed = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
        return [int(pid) for pid, args in lines if "_bentoml_impl.worker" in args]

    def stop(self, wait: float = 30) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(wait)


@contextlib.contextmanager
def serving(
    at: Paths, *words: str, ready: bool = True, task: str = "pumps", **environment: str
) -> Iterator[Running]:
    """`perennial serve`, until the block ends. ready: wait until a version answers."""
    port = free_port()
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
    env.pop("PERENNIAL_ROOT", None)
    told = at.root / "service.log"
    command = [sys.executable, "-m", "pipelines", "serve", task, "--port", str(port), *words]
    with told.open("ab") as out:
        process = subprocess.Popen(command, cwd=at.root, env=env, stdout=out, stderr=out)
    running = Running(at, f"http://127.0.0.1:{port}", process, told)
    try:
        running.until(lambda: running.get("/livez").status_code == 200, "the port")
        if ready:
            running.until(lambda: running.get("/readyz").status_code == 200, "a version")
        yield running
    finally:
        running.client.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def with_champion(root: Path, **environment: str) -> Iterator[Running]:
    """The service of a new project at `root`, whose version 1 answers."""
    at = project(root)
    champion(at, version(at))
    with serving(at, **environment) as service:
        yield service
