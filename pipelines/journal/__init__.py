"""What a worker writes while it answers: one append-only file, whole frames only.

A worker holds a lock on its open file; a file whose lock is free was closed, or its worker is
dead, and may be compacted.

What `kill -9` loses: in durable mode nothing that was answered; in buffered mode what was added
since the last commit, `flush_ms` at most. Bytes are handed to the system and not synced: a machine
that loses its power loses what the system had not yet written.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import astuple, replace

from pipelines.journal.frames import SUFFIX, Fields, Frame, framed, unused_worker
from pipelines.serve_params import Log

log = logging.getLogger(__name__)

_DAY = 86_400


class JournalFull(Exception):
    """The disk refused an answer's record; nothing of it was written."""


class Asked(NamedTuple):
    """A request's body as it came."""

    media: str
    body: bytes
    rows: int


class Hidden(NamedTuple):
    """A body whose personal values are hashed."""

    body: bytes
    media: str
    keys: list[str] | None
    """Row keys, where a personal column is part of them and they cannot be made from the body."""


Hide = Callable[[Sequence[Asked]], list[Hidden]]
"""One for each that was asked."""


class Taken(NamedTuple):
    """Answers that are on their way to the file."""

    frames: list[bytes]
    bare: list[Frame]
    """Newer ones, whose personal values are not hashed yet."""
    rows: int
    began: float
    """Unix time of the first answer in the file, or of these frames; 0.0 for none."""
    closes: bool
    """The file is old or large enough: `put` lets go of it, and the next one begins another."""


class Journal:
    """A worker's event loop is its only user; only `put` may run in another thread, so that a disk
    that takes its time keeps nobody waiting.

    `pending_bytes` wait in memory; `written` and `lost` count rows. When the disk refuses, durable
    mode raises, so that no answer leaves without its record; buffered mode keeps what waits until
    it is more than `buffer_mb`, then drops it and counts it as lost, and answers go on.
    """

    def __init__(self, folder: Path, task: str, log: Log, hide: Hide | None = None) -> None:
        """hide: for what `put` writes, since it takes as long for a hundred requests as for one."""
        self.pending_bytes = self.written = self.lost = 0
        self._folder, self._task, self._settings, self._hide = folder, task, log, hide
        self._pending: list[bytes] = []
        self._bare: list[Frame] = []
        self._rows = 0
        self._writing = threading.Lock()
        self._fd: int | None = None
        self._sequence = self._size = 0
        self._began = 0.0
        self.worker = unused_worker(folder.parent)
        # A disk that is full now may have room at the first answer.
        with contextlib.suppress(OSError):
            self._open()

    def add(
        self,
        *,
        first: int,
        rows: int,
        version: str,
        route: str,
        at: float,
        latency: float,
        threshold: float,
        media: str,
        probabilities: list[float] | bytes,
        body: bytes,
    ) -> None:
        """Into memory. A shadow's frame has the `first` and `at` of the answer it stands beside."""
        fields = (
            first, rows, version, route, at, latency, threshold, media, None, probabilities, body,
        )  # fmt: skip
        self.add_all([fields], rows, at)

    def add_all(self, answers: Sequence[Fields], rows: int, at: float) -> None:
        """Those of one moment, `rows` in all; a request at a time costs three times as much."""
        if self._hide is None:
            made = [framed(fields) for fields in answers]
            self._pending += made
            self.pending_bytes += sum(map(len, made))
        else:
            bare = [Frame(*fields) for fields in answers]
            self._bare += bare
            self.pending_bytes += sum(len(frame.body) for frame in bare)
        self._rows += rows
        if not self._began:
            self._began = at

    def commit(self, now: float | None = None) -> None:
        """`take` and `put` in one. Raises JournalFull (durable)."""
        taken = self.take(now)
        if taken is None:
            return
        try:
            self.put(taken)
        except OSError as error:
            self.refused(taken, error)

    def take(self, now: float | None = None) -> Taken | None:
        """All that was added, for `put`, and for `refused` when that raises OSError.

        now: unix time, to have the file closed with it when it is old or large enough, and at
        midnight UTC; None leaves it open.
        """
        closes = now is not None and self._due(now)
        if not (self._pending or self._bare or closes):
            return None
        taken = Taken(self._pending, self._bare, self._rows, self._began, closes)
        self._forget()
        if closes:
            self._began = 0.0
        return taken

    def put(self, taken: Taken) -> None:
        """Hand it to the system, whole or not at all. Raises OSError."""
        with self._writing:
            try:
                if taken.frames or taken.bare:
                    self._write(self._data(taken))
                    self.written += taken.rows
            finally:
                # One that nothing could be written to is kept: else a full disk had another each time.
                if taken.closes and (self._size or not (taken.frames or taken.bare)):
                    self._let_go()

    def _data(self, taken: Taken) -> bytes:
        if self._hide is not None and taken.bare:
            try:
                hidden = self._hide([Asked(f.media, f.body, f.rows) for f in taken.bare])
            except Exception:  # a defect: whoever asked for this tells it
                self.lost += taken.rows
                raise
            # Kept: what the disk refuses comes twenty times a second, and is not hashed again.
            taken.frames.extend(
                framed(astuple(replace(frame, body=one.body, media=one.media, keys=one.keys)))
                for frame, one in zip(taken.bare, hidden, strict=True)
            )
            taken.bare.clear()
        return b"".join(taken.frames)

    def _due(self, now: float) -> bool:
        settings = self._settings
        return bool(self._began) and (
            now - self._began >= settings.rotate_seconds
            or self._size >= settings.rotate_mb * 1e6
            or now // _DAY != self._began // _DAY
        )

    def close(self) -> None:
        """Commit what waits and let go of the file; the next commit begins another. What the disk
        refuses is lost: nobody waits for its room any longer."""
        try:
            self.commit()
        finally:
            with self._writing:  # a `put` in another thread ends first
                self._let_go()
            if self._rows:
                self._lose("the service ends, and the disk took none of it")
            self._began = 0.0

    def _write(self, data: bytes) -> None:
        fd = self._open() if self._fd is None else self._fd
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(fd, left) :]
        except OSError:
            try:
                os.ftruncate(fd, self._size)
            except OSError:  # its end stays torn, so nothing may follow it
                self._let_go()
            raise
        self._size += len(data)

    def refused(self, taken: Taken, error: OSError) -> None:
        """After a `put` that raised. Raises JournalFull (durable)."""
        if self._settings.mode == "durable":
            raise JournalFull(
                f"{self._folder} cannot be written: {error.strerror}. "
                f"Make room on that disk: {self._task} answers again as soon as there is some"
            ) from error
        self._pending = taken.frames + self._pending
        self._bare = taken.bare + self._bare
        self._began = taken.began
        self.pending_bytes += sum(map(len, taken.frames)) + sum(len(f.body) for f in taken.bare)
        self._rows += taken.rows
        if self.pending_bytes > self._settings.buffer_mb * 1e6:
            self._lose(str(error.strerror))

    def _lose(self, why: str) -> None:
        log.error(
            "%d answers of %s are lost to the log: %s cannot be written: %s",
            self._rows, self._task, self._folder, why,
        )  # fmt: skip
        self.lost += self._rows
        self._forget()

    def _forget(self) -> None:
        self._pending, self._bare = [], []
        self.pending_bytes = self._rows = 0

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = self._folder / f"{self.worker}-{self._sequence:06d}{SUFFIX}"
            self._sequence += 1
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self._fd, self._size = fd, 0
                return fd
            os.close(fd)  # compaction came between the two calls and took it for a dead worker's

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._size = None, 0
