"""One request on its way to its answer, and the two ways in which it gets none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.journal import JournalFull
from pipelines.service.record import Answered


class Unavailable(Exception):
    """No answer can be given now; the message says why and what mends it."""

    def __init__(self, kind: Literal["no-model", "log-full"], said: str) -> None:
        super().__init__(said)
        self.kind: Literal["no-model", "log-full"] = kind


class Failed(Exception):
    """The model raised, or answered with something that is no probability."""


@dataclass(slots=True)
class Asked:
    """One request: its rows as they were decoded, its bytes, and who waits for it."""

    answer: asyncio.Future[Answered]
    rows: list[Any]
    body: bytes
    received: float
    key: bytes

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def unlogged(full: JournalFull) -> Unavailable:
    return Unavailable("log-full", f"answers cannot be logged, so none is given: {full}")
