"""What both limits share: parsing that checks nothing, and the two messages of an ASGI answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from operator import itemgetter
from typing import Any

import numpy as np

from benchmarks.serving_rivals import model

CATEGORY_BYTES = 32
"""Width of a category in the raw body; the contract's longest value has 30."""

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Columns:
    """Rows to the graph's inputs, by the quickest way that was found."""

    def __init__(self) -> None:
        self.artifact = model.opened()
        contract, inputs = self.artifact.contract, self.artifact.graph_inputs
        self.time = contract.time
        self.numbers = [n for n in inputs if n in contract.numbers]
        self.categories = [n for n in inputs if n in contract.categories]
        self._numbers_of = itemgetter(*self.numbers)

    def of_rows(self, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        time = np.array([row[self.time] for row in rows], dtype="datetime64[s]")
        # One array of all numbers: one for each column costs ten times as much. None becomes NaN.
        block = np.array([self._numbers_of(row) for row in rows], dtype=np.float32)
        return (
            {self.time: time.astype(np.int64)}
            | dict(zip(self.numbers, np.ascontiguousarray(block.T), strict=True))
            | {
                name: np.array([row[name] or "" for row in rows], dtype=object)
                for name in self.categories
            }
        )

    def of_bytes(self, body: bytes) -> dict[str, np.ndarray]:
        """N int64 seconds, then each number column as N float32, then each category as N texts."""
        width = 8 + 4 * len(self.numbers) + CATEGORY_BYTES * len(self.categories)
        count = len(body) // width
        texts_at = count * (8 + 4 * len(self.numbers))
        block = np.frombuffer(body, np.float32, count * len(self.numbers), offset=8 * count)
        texts = np.frombuffer(body, f"S{CATEGORY_BYTES}", offset=texts_at)
        # onnxruntime takes byte strings too, and answers wrongly: it keeps their padding.
        decoded = texts.astype(f"U{CATEGORY_BYTES}").reshape(-1, count)
        return (
            {self.time: np.frombuffer(body, np.int64, count)}
            | dict(zip(self.numbers, block.reshape(-1, count), strict=True))
            | dict(zip(self.categories, decoded, strict=True))
        )


async def body_of(receive: Receive) -> bytes:
    message = await receive()
    if not message.get("more_body"):
        return bytes(message["body"])
    parts = [message["body"]]
    while message.get("more_body"):
        message = await receive()
        parts.append(message["body"])
    return b"".join(parts)


async def answer(send: Send, body: bytes, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
