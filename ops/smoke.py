"""Does what would be delivered answer? `make smoke TASK=flights`; its image: `make smoke-image`.

It is started as another machine would start it, with no registry in reach, asked one question of its
own examples, and must answer by the version that it was made with and with its model's probability.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from ops.bento import Bento, built
from ops.image import need_docker
from pipelines import artifact, store
from pipelines.errors import PipelineError, ServiceError
from pipelines.wire.read import Wire

WITHIN = 180.0
"""Seconds until it must be ready: a first start on a busy machine takes half a minute."""


def main(task: str, image: bool, registry: str) -> None:
    bento, port, key = built(task), _free_port(), secrets.token_hex(16)
    name = bento.image(registry) if image else bento.name
    begin = _container(name, port, key) if image else _process(bento, port, key)
    with begin as running:
        version = ask(bento, f"http://127.0.0.1:{port}", key, running)
    print(f"{name} answers by model version {version}")


def ask(bento: Bento, where: str, key: str, running: subprocess.Popen[bytes]) -> str:
    """The version that answered. Raises ServiceError when it is not ready, or answers otherwise."""
    _wait(f"{where}/readyz", running)
    made = artifact.load(bento.model)
    row = Wire(made.contract, 1).example(store.frame(bento.model / "examples.parquet"))
    asked = urllib.request.Request(
        f"{where}/predict",
        json.dumps({"rows": [row]}).encode(),
        {"content-type": "application/json", "x-api-key": key},
    )
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            said = json.load(answer)
    except urllib.error.HTTPError as refused:
        raise ServiceError(f"{bento.name} refused its own example: {refused.read()!r}") from None
    _must_be_its_own(bento, made, row, said)
    return str(said["version"])


def _must_be_its_own(
    bento: Bento, made: artifact.Artifact, row: dict[str, Any], said: dict[str, Any]
) -> None:
    version = bento.facts["model_version"]
    if said["version"] != version:
        raise ServiceError(f"{bento.name} answers by version {said['version']}, not {version}")
    wire = Wire(made.contract, 1)
    rows = wire.rows(json.dumps({"rows": [row]}).encode())
    expected, found = made.run(wire.feeds(rows))[0], said["predictions"][0]["probability"]
    if not abs(found - expected) <= artifact.PARITY:
        raise ServiceError(f"{bento.name} answers {found} where its model says {expected}")


@contextlib.contextmanager
def _process(bento: Bento, port: int, key: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "bentoml", "serve", bento.name,
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="perennial-smoke-") as state:
        env = os.environ | {"PERENNIAL_STATE": state, "PERENNIAL_API_KEY": key}
        # The bento's own code and settings, and no registry: as where nothing else is.
        for name in ("MLFLOW_TRACKING_URI", "PERENNIAL_ROOT", "PYTHONPATH"):
            env.pop(name, None)
        with _ended(subprocess.Popen(command, env=env, start_new_session=True)) as running:
            yield running


@contextlib.contextmanager
def _container(image: str, port: int, key: str) -> Iterator[subprocess.Popen[bytes]]:
    # The key by its name alone: with its value it would stand in the list of processes.
    command = [
        "docker", "run", "--rm", "--publish", f"127.0.0.1:{port}:3000",
        "--env", "PERENNIAL_API_KEY", image,
    ]  # fmt: skip
    need_docker(" ".join(command))
    env = os.environ | {"PERENNIAL_API_KEY": key}
    with _ended(subprocess.Popen(command, env=env, start_new_session=True)) as running:
        yield running


@contextlib.contextmanager
def _ended(running: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Its whole group ends with the block."""
    try:
        yield running
    finally:
        for word, seconds in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, word)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(seconds)
                break


def _wait(address: str, running: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + WITHIN
    while time.monotonic() < until:
        if running.poll() is not None:
            raise ServiceError(f"it ended with status {running.returncode} before it was ready")
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.5)
    raise ServiceError(f"it was not ready within {WITHIN:.0f} s: {address}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("task")
    words.add_argument("--image", action="store_true")
    words.add_argument("--registry", default="")
    given = words.parse_args()
    try:
        main(given.task, given.image, given.registry)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
