"""Answers over HTTP without a service: journals as workers write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from pipelines.contract import Contract
from pipelines.journal import Journal
from pipelines.journal.frames import id_prefix
from pipelines.paths import Paths
from pipelines.serve_params import Log
from pipelines.served.bodies import asked_columns
from pipelines.served.hidden import hider
from tests.fakes import PUMPS

NOON = 1_709_553_600.0
"""2024-03-04 12:00 UTC."""
DAY = 86_400.0


def json_body(rows: pd.DataFrame, contract: Contract = PUMPS, keys: bool = True) -> bytes:
    names = [n for n in (asked_columns(contract) if keys else contract.inputs) if n in rows]
    records = [
        {n: None if v is pd.NaT or v != v else spelled(v) for n, v in row.items()}
        for row in rows[names].to_dict("records")
    ]
    return msgspec.json.encode({"rows": records})


def spelled(value: Any) -> Any:
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


def arrow_body(rows: pd.DataFrame, contract: Contract = PUMPS) -> bytes:
    table = pa.Table.from_pandas(rows[list(asked_columns(contract))], preserve_index=False)
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return bytes(out.getvalue())


def parquet_body(rows: pd.DataFrame, contract: Contract = PUMPS) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pandas(rows[list(asked_columns(contract))], preserve_index=False)
    parquet.write_table(table, out)
    return out.getvalue()


BODIES = {"json": json_body, "arrow": arrow_body, "parquet": parquet_body}


class Worker:
    """One worker of a task's service."""

    def __init__(self, root: Path, contract: Contract = PUMPS, log: Log | None = None) -> None:
        self.at, self.contract = Paths(root, contract.task), contract
        self.journal = Journal(self.at.journals, contract.task, log or Log(), hider(contract))
        self.counter = 0

    def answer(
        self,
        rows: pd.DataFrame,
        probability: np.ndarray | None = None,
        version: str = "1",
        route: str = "champion",
        at: float = NOON,
        media: str = "json",
        first: int | None = None,
        body: bytes | None = None,
    ) -> list[str]:
        """Ids of the answers; first: stand beside an answer that was given before, as a shadow does."""
        if first is None:
            first, self.counter = self.counter, self.counter + len(rows)
        values = np.full(len(rows), 0.5) if probability is None else probability
        values = np.asarray(values, np.float32)
        self.journal.add(
            first=first, rows=len(rows), version=version, route=route, at=at, latency=0.001,
            threshold=0.5, media=media, body=BODIES[media](rows, self.contract) if body is None else body,
            probabilities=values.ravel().tolist() if media == "json" else values.tobytes(),
        )  # fmt: skip
        self.journal.commit()
        prefix = id_prefix(self.contract.task, version, at, self.journal.worker)
        return [f"{prefix}{i:x}" for i in range(first, first + len(rows))]

    def one_by_one(self, rows: pd.DataFrame, probability: np.ndarray, **how: Any) -> list[str]:
        return [
            name
            for i in range(len(rows))
            for name in self.answer(rows.iloc[[i]], probability[[i]], **how)
        ]
