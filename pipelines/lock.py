"""One process at a time for a task: an advisory lock that says who holds it.

The system frees it when its holder dies, so a killed run leaves nothing to clean up. It works on
one machine; two machines that write the same registry are not kept apart by it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pipelines.errors import Busy

log = logging.getLogger(__name__)


@contextlib.contextmanager
def task_lock(path: Path, command: str, wait: bool) -> Iterator[None]:
    """command: what the holder is doing, for others to read. Raises Busy at once unless `wait`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _taken(file):
            said = f"{path.stem} is held by {_read(file) or 'another process'}"
            if not wait:
                raise Busy(f"{said}. Wait for it with: {command} --wait")
            log.info("%s; waiting", said)
            fcntl.flock(file, fcntl.LOCK_EX)
        since = dt.datetime.now().astimezone().isoformat(timespec="seconds")
        file.truncate(0)
        json.dump({"pid": os.getpid(), "command": command, "since": since}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def holder(path: Path) -> str | None:
    """Who holds the lock, in words; None when nobody does. Only looks, and never takes the lock."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        said = _read(file)
    return said if said and alive(int(said.split()[1])) else None


def alive(pid: int) -> bool:
    """Does a process with this id run on this machine?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and is another user's
        return True
    return True


def _taken(file: TextIO) -> bool:
    """Takes the lock when it is free; closing the file gives it back."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: TextIO) -> str:
    file.seek(0)
    try:
        held = json.loads(file.read())
    except json.JSONDecodeError:  # its holder is writing it at this moment
        return ""
    return f"process {held['pid']} since {held['since']}: {held['command']}"
