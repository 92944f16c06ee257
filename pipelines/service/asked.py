"""One request on its way to its answer, its answers, and the three ways in which it gets none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipelines.journal import JournalFull
from pipelines.wire.problem import Refused


class Unavailable(Exception):
    """No answer can be given now; the message says why and what mends it."""

    def __init__(self, kind: Literal["no-model", "log-full"], said: str) -> None:
        super().__init__(said)
        self.kind: Literal["no-model", "log-full"] = kind


class Failed(Exception):
    """The model raised, or answered with something that is no probability."""


class Unanswerable(Failed, Refused):
    """It did for the sake of a row that no model can compute with: the asker mends it."""


@dataclass(slots=True)
class Answered:
    """The answers to one request."""

    version: str
    route: str
    prefix: str
    """`<prefix><counter in hex>` names a row's answer; the rows of a request count up from first."""
    first: int
    probability: Sequence[float] | Sequence[list[float]] | np.ndarray
    """(N,), or (N, K) of each class; of a bulk request as the model gave them."""
    prediction: Sequence[bool] | Sequence[str] | np.ndarray
    """Whether it is 1, or which class it is."""
    classes: tuple[str, ...] = ()


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
