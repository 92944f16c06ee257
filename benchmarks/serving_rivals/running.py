"""Servers as processes: started, asked once, ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.load import processes
from benchmarks.serving_rivals.bodies import Question
from benchmarks.serving_rivals.servers import Server

HOST = "127.0.0.1"
PATIENCE = 180.0
"""Seconds to start in: many servers start at once, on one core."""


@dataclass(frozen=True)
class Running:
    name: str
    server: Server
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def url(self, question: Question) -> str:
        return f"http://{HOST}:{self.port}{question.path}"

    def ask(self, question: Question) -> np.ndarray:
        """Raises OSError or HTTPException where nothing answers, RuntimeError where it refuses."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        with contextlib.closing(connection):
            headers = {"Content-Type": question.kind}
            connection.request("POST", question.path, question.body, headers)
            reply = connection.getresponse()
            body = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{self.name}{question.path}: {reply.status} {body[:500]!r}")
        return question.read(body)

    def until_ready(self, question: Question) -> None:
        """Any status but 200 within the time is a server that is not ready yet."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask(question)
                return
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                if self.process.poll() is None and time.monotonic() < until:
                    time.sleep(0.2)
                    continue
                sys.exit(f"{self.name} does not answer: {error}\n{self.last_words()}")

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def started(name: str, server: Server, home: Path, prefix: list[str]) -> Iterator[Running]:
    """prefix: what keeps the command on one core."""
    port, log = free_port(), home / f"{name}.log"
    command = [*prefix, *server.command, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=home,
            env=_clean(os.environ) | server.environment,
            stdout=out,
            stderr=out,
        )
    try:
        yield Running(name, server, process, port, log)
    finally:
        _end(process)


def _clean(environ: os._Environ[str]) -> dict[str, str]:
    """What a person has set for their own project must not reach the servers of this one."""
    ours = ("PERENNIAL_", "MLFLOW_", "BENTOML_")
    kept = {name: value for name, value in environ.items() if not name.startswith(ours)}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """First asked, then made to, with all that it has started."""
    below = processes(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    for left in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
