"""Answers to whole files of rows, in the log beside those that the service gave.

A file is known by its content. Its claim is written first, then its answers, each whole: killed
between the two, the same claim gives the same answers under the same ids.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import store
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.errors import ArtifactError
from pipelines.journal import Asked
from pipelines.journal.frames import Frame, day_of, id_prefix
from pipelines.paths import Paths
from pipelines.records import Record
from pipelines.served import answers, table
from pipelines.served.day_files import CHUNK_ROWS, coded
from pipelines.served.hidden import hider
from pipelines.wire.read import Wire
from pipelines.wire.schema import pictures_at_once

if TYPE_CHECKING:
    import pyarrow as pa

ROUTE = "file"
"""In the log, where the service says champion or canary."""


class Claim(Record):
    """`6_served/<task>/files/<worker>-<sha256>.json`: by whom, and under which ids, it is answered."""

    digest: str
    """sha256 of the file's bytes."""
    version: str
    worker: str
    """In the ids, where the service has the worker that answered: a part of `digest`."""
    at: float
    """Unix time; its UTC day is the day in the ids."""


def claim_of(at: Paths, content: bytes, champion: str) -> Claim:
    """The claim that this content has; else a new one for `champion`, which is not on disk yet."""
    digest = hashlib.sha256(content).hexdigest()
    for known in at.served_files.glob(f"*-{digest}.json"):
        return Claim.model_validate_json(known.read_text(encoding="utf-8"))
    parts = [digest[i : i + 8] for i in range(0, len(digest), 8)]
    # No worker of the service, and no other file, may have the same: ids are made of it.
    worker = next(w for w in parts if next(at.served.rglob(f"{w}-*"), None) is None)
    return Claim(digest=digest, version=champion, worker=worker, at=time.time())


def answer(
    claim: Claim,
    contract: Contract,
    rows: pa.Table,
    wire: Wire,
    model: Artifact,
) -> pa.Table:
    """One answer a row, in their order, with `table.schema(contract)`.

    rows: of the wire. Raises Refused naming rows that the model cannot compute with, and ArtifactError
    when an answer is no probability for another reason.
    """
    import pyarrow as pa

    parts = []
    at_once = min(CHUNK_ROWS, pictures_at_once(contract))
    for first in range(0, rows.num_rows, at_once):
        part = rows.slice(first, at_once)
        began = time.perf_counter()
        feeds = wire.table_feeds(part)
        probability = model.run(feeds)
        latency = time.perf_counter() - began
        # Written so that NaN fails it too.
        if not (probability.min() >= 0 and probability.max() <= 1):
            raise wire.beyond(feeds, probability, first) or ArtifactError(
                f"version {claim.version} answers with what is no probability. "
                f"Go back with: perennial rollback {contract.task}"
            )
        body, media, keys = stream(part), "arrow", None
        if (hide := hider(contract)) is not None:
            ((body, media, keys),) = hide([Asked(media, body, part.num_rows)])
        frame = Frame(
            first=first, rows=part.num_rows, version=claim.version, route=ROUTE, at=claim.at,
            latency=latency, threshold=model.about.threshold, media=media, keys=keys,
            probabilities=probability.astype("<f4").tobytes(), body=body,
        )  # fmt: skip
        parts.append(table.answers([frame], claim.worker, contract))
    return pa.concat_tables(parts)


def record(at: Paths, contract: Contract, claim: Claim, made: pa.Table) -> None:
    """made: from `answer`. In the log, once, when it returns; call it holding `at.score_lock`."""
    claimed = at.served_files / f"{claim.worker}-{claim.digest}.json"
    if claimed.is_file():
        prefix = id_prefix(contract.task, claim.version, claim.at, claim.worker)
        if answers.known(at, contract, [f"{prefix}0"]):
            return
    else:
        store.write_text(claimed, claim.model_dump_json(indent=1))
    # Written here and then moved: in the day's own folder, whoever folds it sweeps unfinished files.
    ready = claimed.with_suffix(".parquet")
    write(ready, made)
    day = at.served_day(day_of(claim.at))
    day.mkdir(parents=True, exist_ok=True)
    ready.replace(day / f"{claim.worker}-000000.parquet")


def write(path: Path, made: pa.Table) -> None:
    import pyarrow.parquet as parquet

    with store.atomic(path) as temporary:
        parquet.write_table(made, temporary, compression="zstd", use_dictionary=coded(made.schema))


def stream(rows: pa.Table) -> bytes:
    """As an Arrow stream."""
    import pyarrow as pa

    out: Any = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, rows.schema) as written:
        written.write_table(rows)
    return bytes(out.getvalue())
