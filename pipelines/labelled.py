"""Labels by prediction id, as they came in over HTTP or in a file. SQLite, shared by processes.

The first label of an id stays: a later one that says otherwise is counted as conflicting, and a
label already counted in an alarm or a verdict is never another one afterwards.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

WAIT_SECONDS = 30.0
"""Time that a writer waits for the others."""


@dataclass(frozen=True)
class Counted:
    accepted: int = 0
    """New, and on disk."""
    repeated: int = 0
    """The same label as before."""
    conflicting: int = 0
    """Another label than before, which stays."""
    unknown: int = 0
    """No answer has this id."""


def put(
    path: Path,
    pairs: Sequence[tuple[str, int]],
    known: Callable[[Collection[str]], Collection[str]],
) -> Counted:
    """pairs: id and label, by number. known: those of the ids that answers have.

    On disk when it returns; all or none. Raises sqlite3.OperationalError when the disk refuses or
    other writers hold the file for too long.
    """
    first: dict[str, int] = {}
    for name, label in pairs:
        first.setdefault(name, label)
    with _opened(path) as database:
        database.execute("CREATE TEMP TABLE asked (id TEXT PRIMARY KEY, label INTEGER)")
        database.executemany("INSERT INTO asked VALUES (?, ?)", first.items())
        before = _stored(database)
        # Outside of the transaction: looking through answers must not keep other writers waiting.
        real = set(known(first.keys() - before.keys()))
        with _transaction(database):
            stored = _stored(database)
            new = {name: first[name] for name in first if name in real and name not in stored}
            database.executemany(
                "INSERT INTO labels VALUES (?, ?, ?, ?)",
                [(name, label, day_of_id(name), time.time()) for name, label in new.items()],
            )
    return _counted(pairs, stored, new)


def labels(path: Path, ids: Collection[str]) -> dict[str, int]:
    """Label of each of the ids that has one."""
    if not path.is_file():
        return {}
    with _opened(path) as database:
        database.execute("CREATE TEMP TABLE asked (id TEXT PRIMARY KEY, label INTEGER)")
        database.executemany("INSERT OR IGNORE INTO asked VALUES (?, NULL)", ((i,) for i in ids))
        return _stored(database)


def forget(path: Path, first: str) -> None:
    """Remove the labels of answers given before the day `first`, e.g. 2013-04-01."""
    if not path.is_file():
        return
    with _opened(path) as database, _transaction(database):
        database.execute("DELETE FROM labels WHERE day < ?", (first.replace("-", ""),))


def day_of_id(name: str) -> str:
    """20130401: ids are `<task>-<version>-<day>-<worker>-<counter>`."""
    return name.rsplit("-", 3)[1]


def _counted(
    pairs: Sequence[tuple[str, int]], stored: dict[str, int], new: dict[str, int]
) -> Counted:
    """new: the ids that were accepted now; each of them once, a second time it is a repetition."""
    accepted = repeated = conflicting = unknown = 0
    fresh = dict(new)
    for name, label in pairs:
        if fresh.pop(name, None) is not None:
            accepted += 1
        elif name not in stored and name not in new:
            unknown += 1
        elif stored.get(name, new.get(name)) == label:
            repeated += 1
        else:
            conflicting += 1
    return Counted(accepted, repeated, conflicting, unknown)


def _stored(database: sqlite3.Connection) -> dict[str, int]:
    return dict(database.execute("SELECT id, labels.label FROM asked JOIN labels USING (id)"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        _prepare(database)
        yield database
    finally:
        database.close()


def _prepare(database: sqlite3.Connection) -> None:
    """WAL: readers and one writer do not wait for each other. FULL: synced before a commit returns."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself while two connections make the same file WAL.
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
    database.execute("PRAGMA synchronous=FULL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS labels "
        "(id TEXT PRIMARY KEY, label INTEGER NOT NULL, day TEXT NOT NULL, at REAL NOT NULL) "
        "WITHOUT ROWID"
    )


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
