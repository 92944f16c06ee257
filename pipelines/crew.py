"""Processes that work on jobs: handed one at a time, heard while they work, and free to be killed.

What a job's process says comes to the one that handed it out, who alone keeps the records. So a
killed process leaves nothing half written, and takes no other with it. When the one that hands out
is killed, its processes end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Literal

from pipelines.errors import PipelineError

ENDS_IN = 5.0
"""Seconds that a process has to end after SIGTERM."""

Report = Callable[[Any], None]
"""Called by a job at each of its steps; it does not return when the job is to stop there."""
Work = Callable[[Any, Report], Any]


class Stopped(Exception):
    """Raised inside a job that was told to stop."""


@dataclass(frozen=True)
class Heard:
    """step: answer it. done, stopped: the process is free again. broke: its job raised what `said`
    is. died: the process is gone, and its job with it."""

    what: Literal["step", "done", "stopped", "broke", "died"]
    ticket: Any
    said: Any = None


class Crew:
    """make: called once in each process; gives what does its jobs. Both are found by name there."""

    def __init__(self, size: int, make: Callable[..., Work], *given: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks of torch's threads
        self._pipes: dict[Connection, SpawnProcess] = {}
        self._tickets: dict[Connection, Any] = {}
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, make, given), daemon=True)
            process.start()
            theirs.close()
            self._pipes[ours] = process

    def __len__(self) -> int:
        return len(self._pipes)

    @property
    def free(self) -> int:
        return len(self._pipes) - len(self._tickets)

    @property
    def busy(self) -> list[Any]:
        """Tickets of the jobs at work."""
        return list(self._tickets.values())

    def give(self, ticket: Any, job: Any) -> None:
        """ticket: comes back with all that is heard of the job."""
        pipe = next(p for p in self._pipes if p not in self._tickets)
        self._tickets[pipe] = ticket
        try:
            pipe.send(job)
        except OSError:  # it died idle: `hear` tells
            return

    def answer(self, ticket: Any, go_on: bool) -> None:
        pipe = next(p for p, t in self._tickets.items() if t is ticket)
        try:
            pipe.send(go_on)
        except OSError:  # it died meanwhile: `hear` tells
            return

    def hear(self) -> Iterator[Heard]:
        """Waits until a process at work has something to say."""
        for ready in wait(list(self._tickets)):
            assert isinstance(ready, Connection)
            try:
                what, said = ready.recv()
            except (EOFError, OSError):
                what, said = "died", self._pipes.pop(ready).pid
            ticket = self._tickets[ready]
            if what != "step":
                del self._tickets[ready]
            yield Heard(what, ticket, said)

    def close(self) -> None:
        for process in self._pipes.values():
            process.terminate()
        for pipe, process in self._pipes.items():
            process.join(ENDS_IN)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
        self._pipes.clear()
        self._tickets.clear()


def _work(pipe: Connection, make: Callable[..., Work], given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is told to all; the one above ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(value: Any) -> None:
        pipe.send(("step", value))
        if not pipe.recv():
            raise Stopped

    work: Work | None = None
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            work = work or make(*given)
            said = ("done", work(job, report))
        except Stopped:
            said = ("stopped", None)
        except PipelineError as error:
            said = ("broke", error)
        except Exception:  # a fault of ours: it goes up with where it happened
            said = ("broke", RuntimeError(traceback.format_exc()))
        pipe.send(said)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
