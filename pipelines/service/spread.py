"""Several workers share few keep-alive clients.

Workers take connections from one listening socket, and the one that is awake takes them all: with
four or eight clients, one of two workers did 97 % of the work. So each worker says in a shared file
how many clients it has, and one that has more than its part answers the surplus with
`Connection: close`: the client comes again, and an idle worker is there first.
"""

from __future__ import annotations

import asyncio
import math
import mmap
import os
import struct
import time
from pathlib import Path

SLOT = struct.Struct("<dd")
"""When the worker last spoke (Unix time), and how many clients it had."""
SLOTS = 64
EVERY = 0.5
SOON, AWAY = 0.0003, 0.003
"""Seconds after an answer that its connection is closed, and that the next ones are left to others."""
SILENT = 3.0
"""Seconds after which a worker counts as gone."""


class Spread:
    def __init__(self, path: Path, worker: int, workers: int) -> None:
        """worker: 0 .. workers - 1."""
        self.alone = workers < 2
        self.worker = worker % SLOTS
        self.seen: set[tuple[str, int]] = set()
        self.surplus = 0
        self._next = 0.0
        if not self.alone:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                os.ftruncate(handle, SLOT.size * SLOTS)
                self._shared = mmap.mmap(handle, SLOT.size * SLOTS)
            finally:
                os.close(handle)

    def beat(self, now: float | None = None) -> None:
        """Tell the others, hear them, and see how many clients are too many here."""
        now = time.time() if now is None else now
        if self.alone or now < self._next:
            return
        self._next = now + EVERY
        mine = len(self.seen)
        self.seen.clear()
        SLOT.pack_into(self._shared, self.worker * SLOT.size, now, mine)
        counts = [
            n
            for spoke, n in (SLOT.unpack_from(self._shared, i * SLOT.size) for i in range(SLOTS))
            if now - spoke < SILENT
        ]
        self.surplus = max(0, mine - math.ceil(sum(counts) / len(counts)))

    def sends_away(self) -> bool:
        """Shall this answer end its connection? At most `surplus` times until the next beat."""
        if not self.surplus:
            return False
        self.surplus -= 1
        # The client comes again at once, and a busy worker is often there before one that sleeps: so
        # this one looks away for the moment that it takes.
        asyncio.get_running_loop().call_later(SOON, time.sleep, AWAY)
        return True
