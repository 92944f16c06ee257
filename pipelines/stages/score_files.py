"""The champion answers files of rows: Parquet for whoever asked, and the log that the service writes.

The log comes first, then the answers for whoever asked, each file whole. So a run that was killed is
finished by the next one with the same ids and the same version, and a content that was answered is
never logged again, under whatever name it comes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import store
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.errors import (
    BatchConflict,
    MissingInput,
    ParamsError,
    PipelineError,
    Quarantined,
    SourceError,
)
from pipelines.lock import task_lock
from pipelines.paths import Paths
from pipelines.served import bodies, files
from pipelines.sources import rows as handed
from pipelines.wire.problem import Problem, Refused
from pipelines.wire.read import Wire
from pipelines.wire.schema import Shape

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

SOURCE = b"perennial.source"
"""In the answers' metadata: name and sha256 of the file that was answered."""
OWN = ("id", "version", "probability", "prediction")


@dataclass(frozen=True)
class Answered:
    file: str
    rows: int
    version: str
    answers: Path


@dataclass(frozen=True)
class Done:
    answered: list[Answered]
    before: int
    """Files that an earlier run answered."""
    refused: list[PipelineError]


def run(
    name: str,
    contract: Contract,
    at: Paths,
    folder: Path,
    out: Path,
    champion: str,
    model_of: Callable[[str], Artifact],
) -> Done:
    """Answer each file of `folder` that has no answers in `out` yet.

    A file is answered whole or refused whole, and the others are answered all the same. model_of:
    version -> its artifact. Raises MissingInput, ParamsError, Busy.
    """
    again = f"perennial score {name} --files {folder}"
    if not folder.is_dir():
        raise MissingInput(f"--files: {folder} is no folder. Make it with: mkdir -p {folder}")
    if out.resolve() == folder.resolve():
        raise ParamsError(
            f"--out: {out} is where the questions are, and answers there would be asked next time. "
            f"Without --out they go to {at.scored}: {again}"
        )
    done: list[Answered] = []
    refused: list[PipelineError] = []
    before = 0
    with task_lock(at.score_lock, again, wait=False):
        store.sweep(at.served_files)
        for path in handed.files(folder):
            target = out / f"{path.stem}.parquet"
            try:
                content = path.read_bytes()
                if target.exists():
                    _must_answer(target, path, content)
                    before += 1
                    continue
                rows, wire = _read(path, content, contract, again)
            except (SourceError, Quarantined, BatchConflict) as error:
                refused.append(error)
                continue

            claim = files.claim_of(at, content, champion)
            try:
                made = files.answer(claim, contract, rows, wire, model_of(claim.version))
            except Refused as unanswerable:
                refused.append(Quarantined(_told(path, unanswerable.problem, again)))
                continue

            files.record(at, contract, claim, made)
            files.write(target, _for_who_asked(made, contract, path.name, claim.digest))
            done.append(Answered(path.name, len(made), claim.version, target))
            log.info(
                "score %s %s: %d rows by version %s", name, path.name, len(made), claim.version
            )
    return Done(done, before, refused)


def _must_answer(target: Path, path: Path, content: bytes) -> None:
    """Raises BatchConflict when the answers there are to something else."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        metadata = parquet.read_schema(target).metadata or {}
    except (pa.ArrowException, OSError):
        metadata = {}
    source = json.loads(metadata.get(SOURCE, b"{}"))
    digest = hashlib.sha256(content).hexdigest()
    if source.get("sha256") != digest:
        there = (
            f"the answers to a {source['file']} of other content" if source else "something else"
        )
        raise BatchConflict(
            f"{path} is not answered: {target} holds {there}, and an answer given cannot be taken "
            "back. Give the file a name of its own: "
            f"mv {path} {path.with_stem(f'{path.stem}-{digest[:8]}')}"
        )


def _read(path: Path, content: bytes, contract: Contract, again: str) -> tuple[pa.Table, Wire]:
    """The rows, and what makes the graph's inputs of them.

    Raises SourceError, or Quarantined naming rows, columns, values and what is allowed.
    """
    import pyarrow as pa

    try:
        written = handed.read(path.suffix, content, Shape(contract, 1))
        wire = Wire(contract, max(1, written.num_rows), bounded=False)
        # By the service's own way in, so that the same rows are refused.
        return wire.table(files.stream(written), "arrow"), wire
    except Refused as refused:
        raise Quarantined(_told(path, refused.problem, again)) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}. Replace it, then: {again}") from error


def _told(path: Path, why: Problem, again: str) -> str:
    lines = [f"  {mistake.message}" for mistake in why.errors] or [f"  {why.detail}"]
    lines += [f"  and {why.more:,} more"] if why.more else []
    told = "\n".join(lines)
    return (
        f"{path} is not answered; its first row is rows[0]:\n{told}\nMend the file, then: {again}"
    )


def _for_who_asked(made: pa.Table, contract: Contract, file: str, digest: str) -> pa.Table:
    keys = [bodies.stored(key) for key in contract.key if bodies.stored(key) in made.column_names]
    source = {SOURCE: json.dumps({"file": file, "sha256": digest})}
    return made.select([*OWN, *keys]).replace_schema_metadata(source)
