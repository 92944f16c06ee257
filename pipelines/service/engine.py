"""One worker's answers.

All requests that are readable within two passes of the event loop are predicted together, in one
call of the model: no timer, so a lone request waits for nobody. With one pass, clients that answer
at once come in small groups that stay apart: of 8 some 4 were predicted together, with two all 8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import numpy as np

from pipelines.journal import Journal, JournalFull
from pipelines.serve_params import Serve
from pipelines.service.asked import Answered, Asked, Failed, Unanswerable, Unavailable, unlogged
from pipelines.service.live import Live
from pipelines.service.meters import Meters
from pipelines.service.record import Record
from pipelines.service.state import Model
from pipelines.service.traffic import Traffic
from pipelines.wire.read import Wire

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096
"""Rows of several requests in one call of the model: more would keep the others waiting for too
long, and fewer where their pictures are large. One request may have more, and is with no other."""


class Engine:
    def __init__(
        self, task: str, wire: Wire, live: Live, journal: Journal, meters: Meters, serve: Serve
    ) -> None:
        self.task, self.wire, self.live = task, wire, live
        self.meters = meters
        self.record = Record(task, journal, serve.log)
        self.traffic = Traffic(task, live, serve.challenger)
        self._waiting: list[Asked] = []
        self._at_once = min(ROWS_AT_ONCE, wire.shape.max_pictures)

    def ask(
        self, rows: list[Any], body: bytes, received: float, key: bytes
    ) -> asyncio.Future[Answered]:
        """Resolves at the end of the next pass of the event loop; raises Unavailable or Failed."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(loop.call_soon, self._flush)
        answer: asyncio.Future[Answered] = loop.create_future()
        self._waiting.append(Asked(answer, rows, body, received, key))
        return answer

    def ask_table(
        self, table: Any, media: str, body: bytes, received: float, key: bytes
    ) -> Answered:
        """The same for one bulk request, at once."""
        feeds = self.wire.table_feeds(table)
        canary, now = self.traffic.canary, time.time()
        failed: Model | None = None
        if canary is not None and self.traffic.chosen(key):
            try:
                return self._bulk(canary, "canary", feeds, media, body, received, now)
            except Failed as error:
                log.warning("canary failed, the champion answers", extra={"error": str(error)})
                failed = canary
        answered = self._bulk(self._champion(), "champion", feeds, media, body, received, now)
        if failed is not None:
            self.traffic.weigh(failed, failed=True)
        shadow = self.traffic.shadow
        if shadow is not None and self.traffic.chosen(key):
            given = [(answered, media, body)]
            asyncio.get_running_loop().call_soon(self._shadow, shadow, feeds, given, now)
        return answered

    def _flush(self) -> None:
        """What came in two passes. Whatever goes wrong, nobody is left waiting."""
        asked, self._waiting = self._waiting, []
        try:
            self._in_parts(asked)
        except Exception as error:
            log.exception("requests could not be answered")
            for one in asked:
                one.fail(Failed(f"{type(error).__name__}: {error}"))

    def _in_parts(self, asked: list[Asked]) -> None:
        """In calls of at most `_at_once` rows of several requests together."""
        at = rows = 0
        for upto, one in enumerate(asked):
            if upto > at and rows + len(one.rows) > self._at_once:
                self._share_out(asked[at:upto])
                at, rows = upto, 0
            rows += len(one.rows)
        self._share_out(asked[at:] if at else asked)

    def _share_out(self, asked: list[Asked]) -> None:
        now = time.time()
        canary = self.traffic.canary
        failed: list[Asked] = []
        if canary is not None:
            chosen: list[Asked] = []
            rest: list[Asked] = []
            for one in asked:
                (chosen if self.traffic.chosen(one.key) else rest).append(one)
            # What the canary could not answer, the champion answers.
            failed = self._answer(canary, "canary", chosen, now) if chosen else []
            asked = rest + failed
        if not asked:
            return
        try:
            left = self._answer(self._champion(), "champion", asked, now)
        except Unavailable as nobody:
            for one in asked:
                one.fail(nobody)
            return
        # Rows that the champion cannot answer either are no fault of the canary's.
        if canary is not None and {*map(id, failed)} - {*map(id, left)}:
            self.traffic.weigh(canary, failed=True)

    def _answer(self, model: Model, route: str, asked: list[Asked], now: float) -> list[Asked]:
        """Answer all of `asked` together; returns what the model could not answer."""
        rows = asked[0].rows if len(asked) == 1 else [row for one in asked for row in one.rows]
        try:
            feeds = self.wire.feeds(rows)
            probability = self._run(model, feeds)
        except Failed as failed:
            if len(asked) > 1:  # One request must not fail the others that came with it.
                return [left for one in asked for left in self._answer(model, route, [one], now)]
            if route == "champion":
                asked[0].fail(failed)
            return asked
        done = time.perf_counter()
        took = [done - one.received for one in asked]
        answers = self.record.answers(
            model, route, asked, probability.tolist(), _called(model, probability), took, now
        )
        try:
            self.record.settle()
        except JournalFull as full:
            for one in asked:
                one.fail(unlogged(full))
            return []
        for one, answered in zip(asked, answers, strict=True):
            if not one.answer.done():  # else its client is gone
                one.answer.set_result(answered)
        self.meters.took(route, model.version, len(rows), took)
        self.meters.inputs(feeds)
        if route == "champion" and self.traffic.shadow is not None:
            self._shadow_later(asked, answers, now)
        return []

    def _bulk(
        self,
        model: Model,
        route: str,
        feeds: dict[str, np.ndarray],
        media: str,
        body: bytes,
        received: float,
        now: float,
    ) -> Answered:
        probability = self._run(model, feeds)
        seconds = time.perf_counter() - received
        answered = self.record.bulk(
            model, route, probability, _called(model, probability),
            media=media, body=body, seconds=seconds, now=now,
        )  # fmt: skip
        try:
            self.record.settle()
        except JournalFull as full:
            raise unlogged(full) from full
        self.meters.took(route, model.version, len(probability), (seconds,))
        self.meters.inputs(feeds)
        return answered

    def _run(self, model: Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """(N,) or (N, K) float32 in 0..1; raises Failed. A challenger's time is weighed."""
        began = time.perf_counter()
        try:
            probability = model.artifact.run(feeds)
            # Written so that NaN fails it too; `reduce`, since `min` goes through Python first.
            if not (
                np.minimum.reduce(probability, axis=None) >= 0
                and np.maximum.reduce(probability, axis=None) <= 1
            ):
                if beyond := self.wire.beyond(feeds, probability):
                    raise Unanswerable(beyond.problem)
                raise Failed("its answer is no probability")
        except Exception as error:
            self.meters.failed(model.version)
            if isinstance(error, Unanswerable):
                raise
            raise Failed(f"version {model.version}: {type(error).__name__}: {error}") from error
        if model is not self.live.champion:
            took = time.perf_counter() - began
            self.traffic.weigh(model, False, took, len(probability))
        return probability

    def _shadow_later(self, asked: list[Asked], answers: list[Answered], now: float) -> None:
        """After the answers are handed over: the challenger must not make anyone wait."""
        shadow = self.traffic.shadow
        pairs = zip(asked, answers, strict=True)
        chosen = [(one, answered) for one, answered in pairs if self.traffic.chosen(one.key)]
        if shadow is not None and chosen:
            asyncio.get_running_loop().call_soon(self._shadow_rows, shadow, chosen, now)

    def _shadow_rows(self, model: Model, chosen: list[tuple[Asked, Answered]], now: float) -> None:
        feeds = self.wire.feeds([row for one, _ in chosen for row in one.rows])
        given = [(answered, "json", one.body) for one, answered in chosen]
        self._shadow(model, feeds, given, now)

    def _shadow(
        self,
        model: Model,
        feeds: dict[str, np.ndarray],
        given: list[tuple[Answered, str, bytes]],
        now: float,
    ) -> None:
        """Logged beside the champion's answer, under the same counter, so that the two are paired."""
        began = time.perf_counter()
        try:
            probability = self._run(model, feeds)
        except Failed:  # nobody waits for this answer; the champion has answered these rows
            self.traffic.weigh(model, failed=True)
            return
        at, seconds = 0, time.perf_counter() - began
        for champion, media, body in given:
            upto = at + len(champion.probability)
            self.record.beside(
                champion, model, probability[at:upto],
                media=media, body=body, seconds=seconds, now=now,
            )  # fmt: skip
            at = upto
        self.meters.took("shadow", model.version, at, (seconds,))

    def _champion(self) -> Model:
        if self.live.champion is None:
            raise Unavailable(
                "no-model",
                f"no version of {self.task} answers yet: {self.live.waiting_for()}. "
                f"Make a champion with: perennial tick {self.task}",
            )
        return self.live.champion


def _called(model: Model, probability: np.ndarray) -> list[bool] | list[str]:
    """Of each row, whether it is 1, or which class it is."""
    if model.classes:
        return [model.classes[k] for k in probability.argmax(axis=1).tolist()]
    called: list[bool] = (probability >= model.threshold).tolist()
    return called
