"""The same rows in each server's own words, and each server's answer as (N,) float probabilities."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.serving_rivals.bare import CATEGORY_BYTES
from pipelines.artifact import Artifact

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"

Read = Callable[[bytes], np.ndarray]


@dataclass(frozen=True)
class Question:
    """What is sent to one address, and how its answer is read."""

    path: str
    kind: str
    body: bytes
    read: Read


@dataclass(frozen=True)
class Rows:
    """Rows as they landed: those of a request, and what the model answers to them."""

    table: pa.Table
    artifact: Artifact

    def expected(self) -> np.ndarray:
        return self.artifact.predict(self.table.to_pandas())

    def plain(self) -> Question:
        return Question("/predict", JSON, _rows(self.table), _named("predictions"))

    def untyped(self) -> Question:
        """What the limits are sent: the same body, but their answer is a bare list."""
        return Question("/predict", JSON, _rows(self.table), _listed)

    def frame(self) -> Question:
        return Question("/frame", JSON, _rows(self.table), _records)

    def arrow(self) -> Question:
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, self.table.schema) as stream:
            stream.write_table(self.table)
        return Question("/predict", ARROW, out.getvalue().to_pybytes(), _streamed)

    def raw(self) -> Question:
        contract, graph = self.artifact.contract, self._feeds()
        parts = [graph[contract.time]]
        parts += [v for v in graph.values() if v.dtype == np.float32]
        texts = [v for v in graph.values() if v.dtype == object]
        parts += [np.char.encode(v.astype(str)).astype(f"S{CATEGORY_BYTES}") for v in texts]
        body = b"".join(part.tobytes() for part in parts)
        return Question("/raw", "application/octet-stream", body, _floats)

    def split(self) -> Question:
        """MLflow's own shape, with the types of the registered signature."""
        columns = {
            name: [None if v == "" or v != v else v for v in values.tolist()]
            for name, values in self._feeds().items()
        }
        data = [list(row) for row in zip(*columns.values(), strict=True)]
        body = json.dumps({"dataframe_split": {"columns": list(columns), "data": data}})
        return Question("/invocations", JSON, body.encode(), _named("predictions"))

    def _feeds(self) -> dict[str, np.ndarray]:
        return self.artifact.feeds(self.table.to_pandas())


def _rows(table: pa.Table) -> bytes:
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
    return json.dumps({"rows": rows}, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _named(key: str) -> Read:
    return lambda body: _probabilities(json.loads(body)[key])


def _records(body: bytes) -> np.ndarray:
    return _probabilities(json.loads(body))


def _probabilities(records: list[dict[str, float]]) -> np.ndarray:
    return np.array([record["probability"] for record in records])


def _listed(body: bytes) -> np.ndarray:
    return np.array(json.loads(body)["probability"])


def _floats(body: bytes) -> np.ndarray:
    return np.frombuffer(body, np.float32)


def _streamed(body: bytes) -> np.ndarray:
    with pa.ipc.open_stream(io.BytesIO(body)) as stream:
        answers: np.ndarray = stream.read_all()["probability"].to_numpy()
    return answers
