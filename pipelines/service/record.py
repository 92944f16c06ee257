"""What was answered gets its ids, and goes on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.journal import Journal
from pipelines.journal.frames import id_prefix
from pipelines.serve_params import Log
from pipelines.service.asked import Answered, Asked
from pipelines.service.state import Model


class Record:
    """What it records is in the journal and not yet on disk: that is `settle`."""

    def __init__(self, task: str, journal: Journal, settings: Log) -> None:
        self.task, self.journal = task, journal
        self.durable = settings.mode == "durable"
        self.pending_limit = int(settings.buffer_mb * 1e6)
        self._counter = 0
        self._today: tuple[tuple[int, str], str] = (0, ""), ""

    def answers(
        self,
        model: Model,
        route: str,
        asked: list[Asked],
        probability: list[Any],
        prediction: Sequence[bool] | Sequence[str],
        took: list[float],
        now: float,
    ) -> list[Answered]:
        """Of requests that were answered in one call of the model: their rows one after the other.

        took: seconds of each request.
        """
        version, threshold, classes = model.version, model.threshold, model.classes
        prefix, first, at = self._prefix(model, now), self._counter, 0
        told, frames = [], []
        for one, seconds in zip(asked, took, strict=True):
            rows = len(one.rows)
            upto = at + rows
            values = probability[at:upto]
            told.append(
                Answered(version, route, prefix, first + at, values, prediction[at:upto], classes)
            )
            frames.append((
                first + at, rows, version, route, now, seconds, threshold, "json", None,
                _flat(values, classes), one.body,
            ))  # fmt: skip
            at = upto
        self._counter += at
        self.journal.add_all(frames, at, now)
        return told

    def bulk(
        self,
        model: Model,
        route: str,
        probability: np.ndarray,
        prediction: Sequence[bool] | Sequence[str],
        *,
        media: str,
        body: bytes,
        seconds: float,
        now: float,
    ) -> Answered:
        rows, first = len(probability), self._counter
        answered = Answered(
            model.version, route, self._prefix(model, now), first, probability, prediction,
            model.classes,
        )  # fmt: skip
        self._counter += rows
        self._add(model, answered, media, body, seconds, now)
        return answered

    def beside(
        self,
        champion: Answered,
        model: Model,
        probability: np.ndarray,
        *,
        media: str,
        body: bytes,
        seconds: float,
        now: float,
    ) -> None:
        """A shadow's prediction, under the counter of the answer that was given: so they are paired."""
        shadow = Answered(
            model.version, "shadow", "", champion.first, probability.tolist(), (), model.classes
        )
        self._add(model, shadow, media, body, seconds, now)

    def settle(self) -> None:
        """durable: on disk before anyone hears the answer. Else only when too much waits in memory.

        Raises JournalFull (durable).
        """
        if self.durable or self.journal.pending_bytes > self.pending_limit:
            self.journal.commit()

    def _add(
        self, model: Model, told: Answered, media: str, body: bytes, seconds: float, now: float
    ) -> None:
        values = told.probability
        self.journal.add(
            first=told.first,
            rows=len(values),
            version=told.version,
            route=told.route,
            at=now,
            latency=seconds,
            threshold=model.threshold,
            media=media,
            probabilities=_flat(values, model.classes),
            body=body,
        )

    def _prefix(self, model: Model, now: float) -> str:
        today = (int(now // 86_400), model.version)
        if today != self._today[0]:
            self._today = today, id_prefix(self.task, model.version, now, self.journal.worker)
        return self._today[1]


def _flat(values: Any, classes: tuple[str, ...]) -> list[float] | bytes:
    """As a frame holds them."""
    if isinstance(values, np.ndarray):
        return values.tobytes()
    return [p for row in values for p in row] if classes else values
