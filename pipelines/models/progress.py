"""How a training in the middle of an epoch says where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

TELL_SECONDS = 0.1
"""Between two reports: what a person can follow, and nothing that a step would notice."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands, in the middle of an epoch."""

    epoch: int
    epochs: int
    batch: int
    """Steps of this epoch that are done."""
    batches: int
    loss: float
    """Of the newest batch that was looked at; NaN before the first look, which on an accelerator is
    after some steps."""
    rows_per_second: float
    """Of all processes, in this epoch."""
    seconds_left: float
    """If no epoch is the last before `epochs`; without the time that judging takes."""


OnStep = Callable[[Progress], None]


class Teller:
    """One epoch's reports."""

    def __init__(
        self, on_step: OnStep | None, epoch: int, epochs: int, batches: int, rows: int, done: int
    ) -> None:
        """rows: of a step; done: steps of this epoch that were done before."""
        self.on_step, self.rows, self.start = on_step, rows, done
        self.epoch, self.epochs, self.batches = epoch, epochs, batches
        self.began = self.told = time.perf_counter()

    def after(self, done: int, loss: float) -> None:
        now = time.perf_counter()
        if self.on_step is None or now - self.told < TELL_SECONDS:
            return
        self.told = now
        a_step = (now - self.began) / (done - self.start)
        left = self.batches * (self.epochs - self.epoch) - done
        self.on_step(
            Progress(
                self.epoch, self.epochs, done, self.batches, loss, self.rows / a_step, left * a_step
            )
        )

    def rows_per_second(self, done: int) -> float:
        return self.rows * (done - self.start) / (time.perf_counter() - self.began)
