"""The near limit with batching: the requests of two turns of the event loop share one model call.

No validation, no log, no metrics, no version, no errors. `/raw` takes the graph's own arrays.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import msgspec

from benchmarks.serving_rivals.bare import Columns, Receive, Send, answer, body_of

Waiting = tuple[list[dict[str, Any]], asyncio.Future[list[float]]]


class Tick:
    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.waiting: list[Waiting] = []

    def submit(self, rows: list[dict[str, Any]]) -> asyncio.Future[list[float]]:
        loop = asyncio.get_running_loop()
        if not self.waiting:
            # Runs after all the requests that this turn and the next one read are parsed: no timer.
            loop.call_soon(loop.call_soon, self.flush)
        answered: asyncio.Future[list[float]] = loop.create_future()
        self.waiting.append((rows, answered))
        return answered

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        rows = [row for asked, _ in waiting for row in asked]
        probability = self.columns.artifact.run(self.columns.of_rows(rows)).tolist()
        at = 0
        for asked, answered in waiting:
            if not answered.done():
                answered.set_result(probability[at : at + len(asked)])
            at += len(asked)


def app() -> Any:
    columns = Columns()
    tick = Tick(columns)
    # Collections that walk all that was imported are the p99 of a small server.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)

    async def serve(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body = await body_of(receive)
        if scope["path"] == "/raw":
            probability = columns.artifact.run(columns.of_bytes(body))
            await answer(send, probability.tobytes(), b"application/octet-stream")
            return
        answers = await tick.submit(msgspec.json.decode(body)["rows"])
        await answer(send, msgspec.json.encode({"probability": answers}))

    return serve
