"""What the keeper says reaches the workers: its file is written when it says something new."""

from __future__ import annotations

import logging
from pathlib import Path

from pipelines.service import wanted
from pipelines.service.keeper.aliases import REST
from pipelines.service.wanted import Wanted

log = logging.getLogger(__name__)


class Publisher:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: Wanted | None = None
        self._unwritten = ""

    def publish(self, said: Wanted, now: float) -> Wanted:
        """Written only when it says something new, or `looked_at` is old; a full disk is tried
        again. Returns what was said, with the time of it; now: Unix time."""
        before = self.written
        if before is not None and now - before.looked_at < REST and _same(said, before):
            return said
        said = said.model_copy(update={"looked_at": now})
        try:
            wanted.write(self.path, said)
        except OSError as error:
            if self._unwritten != str(error):
                log.error("wanted.json cannot be written", extra={"error": str(error)})
            self._unwritten = str(error)
            return said
        self.written, self._unwritten = said, ""
        return said


def _same(said: Wanted, before: Wanted) -> bool:
    return said.model_copy(update={"looked_at": before.looked_at}) == before
