"""All that one worker process holds, and its beat: what is done twenty times a second beside answering."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pipelines
from pipelines.journal import Journal, JournalFull
from pipelines.lock import alive
from pipelines.project import Project
from pipelines.served.hidden import hider
from pipelines.service.delivery.start import FACTS
from pipelines.service.engine import Engine
from pipelines.service.live import Live
from pipelines.service.meters import Meters
from pipelines.service.spread import Spread
from pipelines.wire.read import Wire

log = logging.getLogger(__name__)

CODE = Path(pipelines.__file__).parent.parent
SLOW_BEAT = 2.0
"""Seconds between two looks at the keeper and at what changes rarely."""


class Worker:
    def __init__(self, project: Project, index: int, workers: int) -> None:
        serve = project.task.serve
        self.project, self.serve = project, serve
        self.wire = Wire(project.contract, serve.max_rows)
        self.meters = Meters(project.name, self.wire)
        self.meters.buffer.set(serve.log.buffer_mb * 1e6)
        self.live = Live(project.at, project.contract, self._swapped)
        self.journal = Journal(
            project.at.journals, project.name, serve.log, hider(project.contract)
        )
        self.engine = Engine(project.name, self.wire, self.live, self.journal, self.meters, serve)
        # Of its own: labels and loads, which may take long, must not keep records waiting.
        self._writer = ThreadPoolExecutor(1, "journal")
        self.spread = Spread(shared_by_workers(project), index, workers)
        self.parent = os.getppid()
        self._began = time.time()
        self._ended = False
        self._keeper: subprocess.Popen[bytes] | None = None
        self._full = False
        self._slow_next = 0.0

    async def start(self) -> None:
        self._guard_keeper()
        self._follows = asyncio.create_task(self.live.follow(), name="follow")
        # Each by itself: a disk that takes its time must not keep the metrics from telling of it.
        self._beats = [
            asyncio.create_task(self._often(work), name="beat")
            for work in (self._commit, self._beat)
        ]
        settle_garbage()

    async def stop(self) -> None:
        """After the last request: what is still in memory is written."""
        # The beats end by themselves: cancelled, one could lose what it had taken and not yet written.
        self._ended = True
        self._follows.cancel()
        await asyncio.gather(*self._beats, self._follows, return_exceptions=True)
        self._writer.shutdown(wait=False)
        self.journal.close()
        self._flush_meters()

    async def _often(self, work: Callable[[], Awaitable[None]]) -> None:
        every = self.serve.log.flush_ms / 1000
        while not self._ended:
            await asyncio.sleep(every)
            try:
                await work()
            except Exception:  # a beat that fails is told, and the next one comes all the same
                log.exception("beat failed")

    async def _beat(self) -> None:
        self._flush_meters()
        self.spread.beat()
        if time.monotonic() >= self._slow_next:
            self._slow_next = time.monotonic() + SLOW_BEAT
            self._leave_with_parent()
            self._guard_keeper()
            self._gauge()

    async def _commit(self) -> None:
        """In a thread, with the closing of a file that is full: a disk that takes its time must not
        keep requests waiting."""
        taken = self.journal.take(time.time())
        if taken is None:
            return
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._writer, self.journal.put, taken)
        except OSError as error:
            if not self._full:
                log.error("answers cannot be logged", extra={"error": str(error)})
            self._full = True
            with contextlib.suppress(JournalFull):  # durable: who asked was told already
                self.journal.refused(taken, error)
            return
        if self._full:
            log.warning("answers are logged again", extra={"lost_rows": self.journal.lost})
            self._full = False

    def _flush_meters(self) -> None:
        self.meters.flush(self.journal.pending_bytes, self.journal.lost, self.journal.written)

    def _swapped(self, slot: str, outcome: str, version: str | None) -> None:
        self.meters.swaps.labels(self.project.name, slot, outcome).inc()
        settle_garbage()
        self._gauge()

    def _gauge(self) -> None:
        name, state = self.project.name, self.live
        for slot, model in (("champion", state.champion), ("challenger", state.challenger)):
            self.meters.live_since.labels(name, slot).set(model.since if model else 0)
            number = int(model.version) if model and model.version.isdigit() else 0
            self.meters.version.labels(name, slot).set(number)
        self.meters.registry_up.set(1 if state.registry_followed() else 0)
        told = state.state()
        self.meters.refused.set(len(told["refused"]))
        done = max(told["upkeep"].get("compacted_at", 0.0), self._began)
        self.meters.upkeep_due.set(done + self.serve.log.rotate_seconds)
        if is_monitored(self.project):
            self.meters.looked.labels(name).set(last_alarm(self.project))
        forget_dead_workers()

    def _leave_with_parent(self) -> None:
        """BentoML's master was killed: nobody would restart this worker, or stop it."""
        if os.getppid() != self.parent:
            log.error("the master is gone, so this worker ends")
            os.kill(os.getpid(), signal.SIGTERM)

    def _guard_keeper(self) -> None:
        """Start the keeper when none runs: any worker does, the keeper's own lock lets one live."""
        if self._keeper is not None and self._keeper.poll() is None:
            return
        if not _free(self.project.at.service / "keeper.lock"):
            return
        # The same code as here, whatever lies in the folder: a bento is served from anywhere.
        path = [str(CODE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipelines.service.keeper", self.project.name,
             "--parent", str(self.parent)],
            cwd=self.project.at.root, env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        )  # fmt: skip


def shared_by_workers(project: Project) -> Path:
    """A file of this service alone: in BentoML's own folder, since replicas may share the state, and
    their masters, each in a container of its own, may have the same number."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR") or project.at.service
    return Path(folder) / f"spread-{os.getppid()}"


def settle_garbage() -> None:
    """What is loaded stays: the collector need not walk it again, which costs 50 ms each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


def forget_dead_workers() -> None:
    """A worker that was killed leaves its gauges behind, and "the oldest version that answers" would
    be its for ever; the client library drops them only when it is told."""
    from prometheus_client import multiprocess

    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    files = Path(folder).glob("gauge_live*_*.db") if folder else ()
    for pid in {int(file.stem.rsplit("_", 1)[1]) for file in files}:
        if not alive(pid):
            with contextlib.suppress(FileNotFoundError):  # another worker was quicker
                multiprocess.mark_process_dead(pid)


def is_monitored(project: Project) -> bool:
    """A bento's answers are looked at where its model was made, and not beside it."""
    at = project.at
    return at.alarm("x").parent.is_dir() or not (at.root / FACTS).is_file()


def last_alarm(project: Project) -> float:
    """When the monitor last spoke, Unix time; 0.0 before it ever did."""
    folder = project.at.alarm("x").parent
    return max((p.stat().st_mtime for p in folder.glob("*.json")), default=0.0)


def _free(lock: Path) -> bool:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
