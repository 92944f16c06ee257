"""Beside the workers, in a process of its own: says what they shall answer with, and tidies their log.

    python -m pipelines.service.keeper <task> --parent <pid of the service>

MLflow, with its seconds of import and its hangs, is never in a worker. One keeper a task and machine;
a second one ends at once. When it is killed, the next one goes on from what it had published.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from pipelines.adapters.registry import Registry
from pipelines.errors import Busy, PipelineError
from pipelines.lock import alive, task_lock
from pipelines.paths import Paths
from pipelines.project import Project, open_project
from pipelines.service import logs
from pipelines.service.keeper.follower import Follower
from pipelines.service.keeper.upkeep import Upkeep

log = logging.getLogger(__name__)

REGISTRY, MODEL, MODEL_VERSION = (
    "PERENNIAL_REGISTRY", "PERENNIAL_MODEL", "PERENNIAL_MODEL_VERSION"
)  # fmt: skip
"""off: follow no registry. The others name the artifact that a bento carries, and its version."""

ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""A registry that is away is asked again at the next look anyway; a long wait would hide a move."""

TICK = 0.02
"""Seconds between two looks at `wake`, and at whether a try has ended."""
PARENT_TICK = 0.5


def keep(project: Project, stop: threading.Event) -> None:
    """Until `stop`. Raises Busy when another keeper of the task runs."""
    at, serve = project.at, project.task.serve
    with task_lock(at.service / "keeper.lock", f"perennial serve {at.task}", wait=False):
        upkeep = Upkeep(at, project.contract, serve.log)
        threading.Thread(target=upkeep.run, args=(stop,), daemon=True).start()
        registry = None if os.environ.get(REGISTRY) == "off" else Registry(at)
        follower = Follower(project, registry, carried())
        try:
            follower.begin()
            while not stop.is_set():
                woken = _time_of(at.wake)
                follower.look()
                _rest(follower, at, woken, serve.poll_seconds, stop)
        finally:
            follower.leave()


def carried() -> tuple[Path, str] | None:
    """Folder and version of the artifact that came with the service."""
    folder = os.environ.get(MODEL)
    return (Path(folder), os.environ.get(MODEL_VERSION) or "0") if folder else None


def _rest(follower: Follower, at: Paths, woken: int, seconds: float, stop: threading.Event) -> None:
    """Until the next look is due: by the clock, a knock, a try that ended, or one to be repeated."""
    until = time.monotonic() + min(seconds, follower.due())
    while time.monotonic() < until and follower.ended.empty() and _time_of(at.wake) == woken:
        if stop.wait(TICK):
            return


def _time_of(wake: Path) -> int:
    try:
        return wake.stat().st_mtime_ns
    except OSError:
        return 0


def _watch(parent: int, stop: threading.Event) -> None:
    while _lives(parent):
        time.sleep(PARENT_TICK)
    log.info("the service is gone, so the keeper goes", extra={"parent": parent})
    stop.set()


def _lives(pid: int) -> bool:
    """A process that has ended and that nobody has buried yet does not count."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:  # gone, or going while it is read, or a system without /proc
        return alive(pid)
    return after_name.split()[0] not in "ZX"


def main(words: list[str]) -> int:
    given = argparse.ArgumentParser(prog="python -m pipelines.service.keeper")
    given.add_argument("task")
    given.add_argument("--parent", type=int, help="the service's process: the keeper ends with it")
    asked = given.parse_args(words)
    logs.configure()
    os.environ.update(ENVIRONMENT)
    stop = threading.Event()

    def leave(signal_number: int, frame: FrameType | None) -> None:
        stop.set()
        raise SystemExit(0)  # out of a wait for the registry as well

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    if asked.parent is not None:
        threading.Thread(target=_watch, args=(asked.parent, stop), daemon=True).start()
    try:
        keep(open_project(asked.task), stop)
    except Busy:
        return 0
    except PipelineError as error:
        log.error(str(error))
        return error.exit_status
    return 0
