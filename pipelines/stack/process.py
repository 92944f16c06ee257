"""Processes of the stack: started so that none is lost, recognised, stopped with all they started.

A part is the leader of a session of its own. Its record is written by the new process itself,
before it becomes the program and while it still holds the stack's lock: whoever has the lock sees
every part, even when the `up` that started them was killed between two lines.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pipelines import store
from pipelines.stack.part import Part
from pipelines.stack.places import Places

log = logging.getLogger(__name__)

MARK = "PERENNIAL_STACK"
"""In the environment of all that a stack starts: its folder. Finds what left its session."""

CLOCK = 5.0
"""Seconds by which the system's clock may be set and a process is still known by when it started."""

KILLED_AFTER = 5.0
"""Seconds between SIGTERM and SIGKILL for what outlived its part."""


@dataclass(frozen=True)
class Record:
    part: str
    pid: int
    started: float
    """Seconds since 1970; with `pid` it names one process."""
    settings: str
    """Of the part that was started."""
    url: str | None
    order: int
    """Parts stop in the reverse order of this."""
    stop: int
    """The signal that the part stops well by."""
    patience: float


def read(path: Path) -> Record | None:
    """None when there is none. One that cannot be read names nobody: it is told, and taken as none."""
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError):
        log.warning("%s cannot be read; the part counts as stopped", path)
        return None


def records(places: Places) -> list[Record]:
    """As they were started."""
    found = [read(path) for path in places.records.glob("*.json")]
    return sorted((r for r in found if r is not None), key=lambda r: r.order)


def running(record: Record) -> bool:
    leader = _leader(record)
    return leader is not None and _lives(leader)


def start(part: Part, order: int, places: Places) -> subprocess.Popen[bytes]:
    """Call it holding the stack's lock. The log is that of this start; the one before has `.1`."""
    file, told = places.record(part.name), places.log(part.name)
    told.parent.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    if told.exists():
        told.replace(told.with_suffix(".log.1"))
    user = pwd.getpwnam(part.user) if part.user else None
    settings = part.settings

    def before_the_program() -> None:
        # Started from a script's background, Ctrl+C would be ignored, and a part stop by it never.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        me = psutil.Process()
        made = Record(
            part=part.name,
            pid=me.pid,
            started=me.create_time(),
            settings=settings,
            url=part.url,
            order=order,
            stop=int(part.stop),
            patience=part.patience,
        )
        store.write_json(file, asdict(made))
        if user and user.pw_uid != os.getuid():
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)

    with told.open("ab") as out:
        return subprocess.Popen(
            part.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env=os.environ | dict(part.environment) | {MARK: str(places.home)},
            cwd=places.root, preexec_fn=before_the_program,
        )  # fmt: skip


def stop(record: Record, places: Places) -> None:
    """The part by its own signal, then whatever of it is left; its record goes last."""
    leader = _leader(record)
    below = leader.children(recursive=True) if leader is not None else []
    if leader is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            leader.send_signal(record.stop)
        wait(lambda: not _lives(leader), record.patience)
        below.append(leader)
    _end([*below, *_session(record)])
    places.record(record.part).unlink(missing_ok=True)


def sweep(places: Places) -> list[int]:
    """Ends what carries the stack's mark and has no record; returns their ids.

    A program that renames itself loses its mark, but shares its session with one that has not, or
    has started it.
    """
    mine = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    marked = [p for p in psutil.process_iter() if p.pid not in mine and _marked(p, places)]
    marked += [above for p in marked for above in _parts_above(p, places) if above.pid not in mine]
    sessions = {_session_of(p) for p in marked} - {None, os.getsid(0)}
    found = {p for sid in sessions if sid for p in _members(sid)} | set(marked)
    _end(found)
    return sorted(p.pid for p in found)


def wait(true: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _leader(record: Record) -> psutil.Process | None:
    """The record's process; None when it has ended, or its id is another's by now."""
    try:
        process = psutil.Process(record.pid)
        mine = abs(process.create_time() - record.started) < CLOCK
        return process if mine and os.getsid(record.pid) == record.pid else None
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def _session(record: Record) -> list[psutil.Process]:
    """What is in the part's session. The system gives no id away that still names a session."""
    if _leader(record) is None and psutil.pid_exists(record.pid):
        return []
    return _members(record.pid)


def _members(session: int) -> list[psutil.Process]:
    """With all that they started: some of it leads a session of its own."""
    found = []
    for process in psutil.process_iter():
        if _session_of(process) == session:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [process, *process.children(recursive=True)]
    return found


def _parts_above(process: psutil.Process, places: Places) -> list[psutil.Process]:
    """Those that started it: leaders of a session, at work in the project's folder, as parts are."""
    found = []
    with contextlib.suppress(psutil.Error):
        for above in process.parents():
            if _session_of(above) == above.pid and above.cwd() == str(places.root):
                found.append(above)
    return found


def _session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError):  # ended, or not for us to see
        return None


def _marked(process: psutil.Process, places: Places) -> bool:
    try:
        return bool(process.environ().get(MARK) == str(places.home))
    except (psutil.Error, OSError):  # ended, or another user's
        return False


def _lives(process: psutil.Process) -> bool:
    """A zombie has ended: whoever started it has not asked yet."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end(processes: Iterable[psutil.Process]) -> None:
    every = set(processes)
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in filter(_lives, every):
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(process)
        wait(lambda: not any(map(_lives, every)), KILLED_AFTER)
