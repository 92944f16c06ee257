"""Journal frames -> the table of answers that is kept: one schema, whichever version answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import metrics
from pipelines.contract import Contract
from pipelines.journal import Asked
from pipelines.journal.frames import Frame, id_prefix, probabilities
from pipelines.served import bodies, hidden

if TYPE_CHECKING:
    import pyarrow as pa


def own_schema(contract: Contract) -> pa.Schema:
    """`at` is UTC; `row` is the row's key in hex, empty where the request did not give it whole.
    Where there are classes, `probability` is that of each and `prediction` the name of one."""
    import pyarrow as pa

    kinds = (
        pa.string(), pa.string(), pa.string(), pa.timestamp("us"), pa.float32(), pa.float64(),
        pa.list_(pa.float32()) if contract.classes else pa.float32(),
        pa.string() if contract.classes else pa.int8(), pa.string(),
    )  # fmt: skip
    return pa.schema(list(zip(bodies.OWN, kinds, strict=True)))


def schema(contract: Contract) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([*own_schema(contract), *bodies.schema(contract, hashed=True)])


def answers(frames: Sequence[Frame], worker: str, contract: Contract) -> pa.Table:
    """Every answer of at least one frame, with `schema(contract)`."""
    import pyarrow as pa

    asked = bodies.read((Asked(f.media, f.body, f.rows) for f in frames), contract, hashed=True)
    own = {**_without_bodies(frames, worker, contract), "row": _row_names(frames, asked, contract)}
    columns = [pa.array(own[field.name], field.type) for field in own_schema(contract)]
    return pa.Table.from_arrays([*columns, *asked.columns], schema=schema(contract))


def some_columns(
    frames: Sequence[Frame], worker: str, contract: Contract, wanted: pa.Schema
) -> pa.Table:
    """Columns `wanted` of `schema(contract)`; no body is read where none needs it."""
    import pyarrow as pa

    if set(wanted.names) <= set(bodies.OWN) - {"row"}:
        own = _without_bodies(frames, worker, contract)
        return pa.table([pa.array(own[field.name], field.type) for field in wanted], schema=wanted)
    return answers(frames, worker, contract).select(wanted.names)


def _without_bodies(frames: Sequence[Frame], worker: str, contract: Contract) -> dict[str, Any]:
    """The answers' own columns, but `row`: no body is read."""
    rows = [f.rows for f in frames]
    probability = _probabilities(frames, len(contract.classes))
    threshold = np.repeat([f.threshold for f in frames], rows)
    return {
        "id": [name for f in frames for name in ids(f, worker, contract.task)],
        "version": [f.version for f in frames for _ in range(f.rows)],
        "route": [f.route for f in frames for _ in range(f.rows)],
        "at": np.repeat([round(f.at * 1e6) for f in frames], rows).astype("datetime64[us]"),
        "latency_ms": np.repeat([f.latency * 1e3 for f in frames], rows),
        "threshold": threshold,
        "probability": list(probability) if contract.classes else probability,
        "prediction": _called(probability, threshold, contract),
    }


def _probabilities(frames: Sequence[Frame], classes: int) -> np.ndarray:
    """(N,), or (N, K); an answer of another number of classes than today's contract has is NaN."""
    if not classes:
        return np.array(probabilities(frames), np.float32)
    found = []
    for frame in frames:
        of_frame = np.array(probabilities([frame]), np.float32)
        whole = len(of_frame) == frame.rows * classes
        found.append(of_frame if whole else np.full(frame.rows * classes, np.nan, np.float32))
    return np.concatenate([np.empty(0, np.float32), *found]).reshape(-1, classes)


def _called(probability: np.ndarray, threshold: np.ndarray, contract: Contract) -> np.ndarray:
    if contract.classes:
        return contract.named(metrics.called(np.nan_to_num(probability), 0.0))
    # As the service compares: at float32, or an answer on the threshold could read differently.
    return np.asarray(probability >= threshold.astype(np.float32), dtype=np.int8)


def ids(frame: Frame, worker: str, task: str) -> list[str]:
    prefix = id_prefix(task, frame.version, frame.at, worker)
    return [f"{prefix}{i:x}" for i in range(frame.first, frame.first + frame.rows)]


def _row_names(frames: Sequence[Frame], asked: pa.Table, contract: Contract) -> list[str]:
    found = hidden.row_names(asked, contract)
    at = 0
    for frame in frames:
        if frame.keys is not None:
            found[at : at + frame.rows] = frame.keys
        at += frame.rows
    return found
