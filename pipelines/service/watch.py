"""A worker's eye on the keeper's file: cheap enough for twenty looks a second, and never an exception."""

from __future__ import annotations

import logging
import os

from pipelines.paths import Paths
from pipelines.service import wanted
from pipelines.service.wanted import Tripped, Version, Wanted

log = logging.getLogger(__name__)


class Watch:
    def __init__(self, at: Paths) -> None:
        self.at = at
        self.unreadable = ""
        """Why the file as it lies there was left out; empty when it was read."""
        self._last: Wanted | None = None
        self._seen: tuple[int, ...] = ()

    def look(self) -> Wanted | None:
        """What the keeper said last; a file that is torn or gone changes nothing."""
        try:
            there = os.stat(self.at.wanted)
        except OSError:
            return self._last
        seen = (there.st_mtime_ns, there.st_ino, there.st_size)
        if seen != self._seen:
            self._seen = seen
            try:
                self._last, self.unreadable = wanted.read(self.at.wanted), ""
            except (OSError, ValueError) as error:
                self.unreadable = str(error).splitlines()[0][:300]
                log.error("wanted.json cannot be read", extra={"error": self.unreadable})
        return self._last

    def tripped(self, version: Version) -> Tripped | None:
        """What a worker, this one or another, has said of the version as a challenger."""
        try:
            off = Tripped.model_validate_json(wanted.tripped(self.at, version.version).read_bytes())
        except (OSError, ValueError):
            return None
        return off if off.digest == version.digest else None
