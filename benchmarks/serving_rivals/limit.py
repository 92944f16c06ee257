"""The near limit: bare ASGI and ONNX Runtime, one call of the model for each request.

No validation, no log, no metrics, no version, no errors.
"""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.serving_rivals.bare import Columns, Receive, Send, answer, body_of


def app() -> Any:
    columns = Columns()

    async def serve(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        rows = msgspec.json.decode(await body_of(receive))["rows"]
        probability = columns.artifact.run(columns.of_rows(rows))
        await answer(send, msgspec.json.encode({"probability": probability.tolist()}))

    return serve
