"""The door: each landed batch is held to its contract, once; what fails is put in quarantine.

Kill it anywhere and run it again: the result file is written last for an accepted batch, and the
batch leaves `1_raw` last for a refused one, so what was half done is simply done again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipelines import pages, store
from pipelines.contract import Contract
from pipelines.errors import MissingInput, ParamsError, Quarantined
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.records import Finding, Validation

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

HISTORY = 12
"""Most earlier batches whose row counts say what is usual: a year of months. The pictures of as many
may not come again, or of as many as a window holds, where those are more."""


def run(
    name: str, task: Task, contract: Contract, at: Paths, periods: Sequence[str]
) -> list[Validation]:
    """One accepted result a period, in the same order.

    A batch with a result for the same content and contract is not looked at again. Raises
    Quarantined at the first batch that breaks a critical rule, and for one that did so before and
    was not landed again; MissingInput for one that never landed; ParamsError, and nothing is moved,
    where the contract has changed and refuses batches that it accepted before.
    """
    results = []
    changed: list[Validation] = []
    for period in periods:
        content = _content(at, period)
        digest = hashlib.md5(content).hexdigest()
        stored = _stored(at, period)
        if stored and _holds(stored, digest, contract):
            results.append(stored)
            continue
        result = _check(name, task, contract, at, period, content, digest)
        if not result.accepted and stored and stored.accepted and stored.content == digest:
            changed.append(result)
            continue
        if not result.accepted:
            _put_in_quarantine(at, result)
            raise Quarantined(_refusal(at, result))
        # The page first: a result says that all is there.
        store.write_text(at.validation_page(period), pages.validation(result))
        store.write_text(at.validation(period), _as_json(result))
        results.append(result)
        for finding in result.failures:
            log.warning("validate %s %s: %s", name, period, finding.message)
        log.info(
            "validate %s %s: accepted, %d rows, %d rules, %d warnings",
            name, period, result.rows, len(result.findings), len(result.failures),
        )  # fmt: skip
    if changed:
        raise ParamsError(_contract_refusal(name, changed))
    return results


def _contract_refusal(name: str, changed: Sequence[Validation]) -> str:
    """A batch once accepted stays where it is: it is the contract that has changed, not the batch."""
    broken = sorted({f"{f.column or 'the batch'} {f.rule}" for r in changed for f in r.failures})
    return (
        f"contracts/{name}.yaml no longer accepts {len(changed)} batches that it accepted before "
        f"({changed[0].period} to {changed[-1].period}): {', '.join(broken)}. Nothing was moved. "
        f"See the differences with: perennial contract check {name}; then widen the contract, or, "
        f"where the source now gives other values, land the batches again: rm "
        f"data/1_raw/{name}/<batch>.parquet && perennial ingest {name} --batch <batch>"
    )


def accepted(at: Paths, period: str, contract: Contract) -> Validation:
    """The result that let a batch in, when it is of this very content and contract.

    Raises Quarantined where the batch was refused, MissingInput where it has not landed or has not
    been held to this contract yet.
    """
    digest = hashlib.md5(_content(at, period)).hexdigest()
    stored = _stored(at, period)
    if stored is None or not _holds(stored, digest, contract):
        why = (
            "does not exist"
            if stored is None
            else "is of other rows"
            if stored.content != digest
            else "is of an earlier contract"
        )
        raise MissingInput(
            f"{at.validation(period)} {why}: batch {period} is not validated. "
            f"Validate it with: perennial validate {at.task} --batch {period}"
        )
    return stored


def _content(at: Paths, period: str) -> bytes:
    """The batch's bytes, read once: what is hashed is what is checked."""
    try:
        return at.batch(period).read_bytes()
    except FileNotFoundError:
        refused = _last_refusal(at, period)
        if refused and not at.validation(period).exists():
            raise Quarantined(_refusal(at, refused)) from None
        raise MissingInput(
            f"{at.batch(period)} does not exist. Land it with: perennial ingest {at.task} "
            f"--batch {period} && perennial validate {at.task} --batch {period}"
        ) from None


def _stored(at: Paths, period: str) -> Validation | None:
    path = at.validation(period)
    if not path.is_file():
        return None
    try:
        return Validation.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        log.warning("%s is not a result of this version (%s): checking again", path, error.title)
        return None


def _holds(stored: Validation, digest: str, contract: Contract) -> bool:
    return stored.accepted and stored.content == digest and stored.contract == contract.digest


def _check(
    name: str, task: Task, contract: Contract, at: Paths, period: str, content: bytes, digest: str
) -> Validation:
    table = _table(content)
    if isinstance(table, Finding):
        findings: tuple[Finding, ...] = (table,)
        rows = 0
    else:
        # Great Expectations takes seconds to import: only when there is something to check.
        from pipelines import looks
        from pipelines.adapters import expectations

        rows = len(table)
        history = _history(at, period)
        within = _earlier(at, period, max(HISTORY, task.window.batches))
        earlier = looks.before([at.batch(name) for name in within], contract)
        findings = expectations.check(
            table, contract, period, task.period, history, at.data_docs, earlier
        )
    return Validation(
        task=name,
        period=period,
        content=digest,
        contract=contract.digest,
        rows=rows,
        accepted=not any(f.stops for f in findings),
        findings=findings,
    )


def _table(content: bytes) -> pd.DataFrame | Finding:
    """The batch; where its bytes are no whole Parquet file, the finding that says so."""
    import pyarrow as pa

    try:
        return store.frame(content)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        observed = f"{len(content):,} bytes: {' '.join(str(error).split())}"
        allowed = "a whole Parquet file"
        return Finding(
            rule="readable",
            column=None,
            severity="critical",
            passed=False,
            observed=observed,
            allowed=allowed,
            message=f"the batch breaks readable: {observed}; allowed: {allowed}",
        )


def _history(at: Paths, period: str) -> list[int]:
    """Row counts of the accepted batches before this one, oldest first; names sort by time."""
    found = (_stored(at, name) for name in _earlier(at, period, HISTORY))
    return [result.rows for result in found if result]


def _earlier(at: Paths, period: str, most: int) -> list[str]:
    return sorted(p.stem for p in at.valid.glob("*.json") if p.stem < period)[-most:]


def _put_in_quarantine(at: Paths, result: Validation) -> None:
    """Out of the way, so that a repaired batch can land; nothing that calls it accepted stays."""
    at.validation(result.period).unlink(missing_ok=True)
    at.validation_page(result.period).unlink(missing_ok=True)
    batch = at.batch(result.period)
    with store.atomic_folder(at.quarantined(result.period, result.content)) as folder:
        (folder / "batch.parquet").write_bytes(batch.read_bytes())
        (folder / "result.json").write_text(_as_json(result), encoding="utf-8")
        (folder / "report.html").write_text(pages.validation(result), encoding="utf-8")
    batch.unlink()


def _last_refusal(at: Paths, period: str) -> Validation | None:
    reports = at.quarantine.glob(f"{period}-????????/result.json")
    newest = max(reports, key=lambda path: path.stat().st_mtime_ns, default=None)
    return Validation.model_validate_json(newest.read_text("utf-8")) if newest else None


def _refusal(at: Paths, result: Validation) -> str:
    broken = [f"  {f.message}" for f in result.findings if f.stops]
    report = at.quarantined(result.period, result.content) / "report.html"
    return "\n".join(
        [
            f"validate {at.task}: batch {result.period} is in quarantine, {len(broken)} broken:",
            *broken,
            f"Report: {report}",
            f"Repair the source, or correct {at.contract}, then run: "
            f"perennial ingest {at.task} --batch {result.period}",
        ]
    )


def _as_json(result: Validation) -> str:
    return result.model_dump_json(indent=1) + "\n"
