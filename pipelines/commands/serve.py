"""serve: the champion over HTTP."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import click

from pipelines.commands.options import example, task_argument

STARTS_WITHIN = 120.0
"""Seconds until a service that does not answer counts as failed; a busy machine needs half a minute."""
ENDS_WITHIN = 30.0
"""Seconds that a service has to answer those who asked and to write its log; then it is killed."""


@click.command(epilog=example("perennial serve flights"))
@task_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65_535))
@click.option("--workers", type=click.IntRange(1, 64), help="Processes; else serve.workers.")
def serve(task: str, host: str, port: int, workers: int | None) -> None:
    """Answer over HTTP with the champion, and follow it when it changes."""
    from pipelines.project import open_project
    from pipelines.service import access

    p = open_project(task)
    access.must_have_key(host, access.key_from_environment())
    _must_be_free(host, port)
    # Of its own: BentoML empties its metrics folder at every start, of whichever service.
    home = p.at.service / f"bentoml-{port}"
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "PERENNIAL_ROOT": str(p.at.root),
        "PERENNIAL_TASK": task,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": "1",
    }
    if workers:
        os.environ["PERENNIAL_WORKERS"] = str(workers)
    click.echo(
        f"starting {task} on http://{host}:{port} (a page for people; Ctrl+C stops it); "
        f"ready when this answers: curl -f http://{host}:{port}/readyz",
        err=True,
    )
    sys.stderr.flush()
    command = [
        sys.executable, "-m", "bentoml", "serve", "pipelines.service.app:service",
        "--host", host, "--port", str(port), "--working-dir", str(p.at.root),
    ]  # fmt: skip
    os.execv(sys.executable, command)


@contextlib.contextmanager
def running(task: str) -> Iterator[str]:
    """The address of a service that runs until the block ends; its own words go to a log file."""
    import requests

    from pipelines.errors import ServiceError
    from pipelines.project import open_project

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = open_project(task).at.service / "service.log"
    told.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipelines", "serve", task, "--port", str(port)]
    with told.open("ab") as out:
        service = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + STARTS_WITHIN
        while True:
            with contextlib.suppress(requests.RequestException):
                requests.get(f"{url}/livez", timeout=5).raise_for_status()
                break
            if service.poll() is not None or time.monotonic() > until:
                raise ServiceError(
                    f"the service of {task} did not start; its last words are in {told}. "
                    f"Start it by hand with: perennial serve {task}"
                )
            time.sleep(0.2)
        yield url
    finally:
        service.terminate()
        try:
            service.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


def _must_be_free(host: str, port: int) -> None:
    from pipelines.errors import ParamsError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ParamsError(
                f"--port {port} on {host} cannot be had: {error.strerror}. "
                "Choose another with: --port 3001"
            ) from None
