"""The challenger is judged against the champion, and replaces it when the verdict says so.

Whatever goes wrong while judging ends in a verdict of hold that names it. What moves the alias
champion is in `moves` only.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines import artifact, ledger, moves, rivals, store, variants
from pipelines.adapters.registry import CHAMPION, PENDING
from pipelines.agreement import unanswerable
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.errors import MissingInput, PipelineError, RegistryError
from pipelines.gate import held, judge
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.records import Verdict
from pipelines.served import live
from pipelines.structure import Expected, rows_digest

if TYPE_CHECKING:
    from pipelines.adapters.registry import Registry

log = logging.getLogger(__name__)

UNREGISTERED = "unregistered"
UNDISTURBED = "undisturbed"
"""The check that fails where a server, the disk or the memory did, and not the model."""
PASSING = (RegistryError, OSError, MemoryError)


def challenge(
    name: str, task: Task, contract: Contract, at: Paths, registry: Registry, period: str
) -> Verdict:
    """gate, then promote if it says so. Raises RegistryError if another was promoted meanwhile."""
    verdict = gate(name, task, contract, at, registry, period)
    if verdict.decision == "promote":
        moves.promote(name, at, registry, verdict.challenger)
    return verdict


def check_of(error: Exception) -> str:
    """The check that fails when judging raised."""
    return UNDISTURBED if isinstance(error, PASSING) else "no_exception"


def disturbed(verdict: Verdict) -> bool:
    return any(check.name == UNDISTURBED and not check.passed for check in verdict.checks)


def unfinished(verdict: Verdict) -> bool:
    """Nothing was found out about the model: what asked for it has no answer yet."""
    return verdict.challenger == UNREGISTERED or disturbed(verdict)


def gate(
    name: str, task: Task, contract: Contract, at: Paths, registry: Registry, period: str
) -> Verdict:
    """Register the trained model as challenger and judge it on its own, unseen test rows.

    period names the verdict's file. Raises MissingInput when there is no model; any other failure
    is a verdict of hold, and `unfinished` tells one that is to be judged again.
    """
    if not (at.model / "manifest.json").is_file():
        raise MissingInput(f"{at.model} holds no model. Make one with: dvc repro train@{name}")
    version, champion = UNREGISTERED, None
    try:
        version = registry.register(artifact.load(at.model), {"verdict": PENDING})
        champion = registry.alias(CHAMPION)
        if version == champion:
            return _champion_already(name, at, version, period)
        verdict = _compare(name, task, contract, at, registry, version, champion)
        _record(at, period, verdict)
        _tag(registry, verdict)
    except Exception as error:
        # Whatever it is, a model that could not be judged to the end is not promoted.
        log.exception("gate %s %s: version %s is held", name, period, version)
        reason = f"judging it raised {type(error).__name__}: {error}"
        verdict = held(name, version, champion, check_of(error), reason)
        _record_failure(at, registry, period, verdict)
    log.info("gate %s %s: %s %s: %s", name, period, verdict.decision, version, verdict.reason)
    return verdict


def _compare(
    name: str,
    task: Task,
    contract: Contract,
    at: Paths,
    registry: Registry,
    version: str,
    champion: str | None,
) -> Verdict:
    tags = registry.tags(version)
    if tags.get("rolled_back") == "true":
        reason = (
            f"version {version} was rolled back by a person. To let it answer again: "
            f"perennial promote {name} --version {version} --force"
        )
        return held(name, version, champion, "not_rolled_back", reason)
    # The registry's copy and not the folder's: what is judged is what would answer.
    made = artifact.load(registry.fetch(version))
    artifact.self_test(made)
    foreign = _foreign(name, contract, made)
    if foreign:
        return held(name, version, champion, "contract", foreign)
    rival, on_record = None, {version: tags.get("artifact", "")}
    if champion is not None:
        try:
            rival = artifact.load(registry.fetch(champion))
        except RegistryError:
            raise
        except PipelineError as error:
            reason = (
                f"champion {champion} cannot be compared with: {error} Or promote by hand: "
                f"perennial promote {name} --version {version} --force"
            )
            return held(name, version, champion, "champion_loads", reason)
        unlike = unanswerable(rival.contract, contract)
        if unlike:
            reason = (
                f"champion {champion} cannot answer rows of contracts/{name}.yaml as it is now: "
                f"{'; '.join(unlike)}. Where the new one is to replace it unproven: "
                f"perennial promote {name} --version {version} --force"
            )
            return held(name, version, champion, "champion_contract", reason)
        on_record[champion] = registry.tags(champion).get("artifact", "")

    rows = store.read_table(at.prepared / "test.parquet", f"dvc repro prepare@{name}")
    # Taken of the rows themselves, so that a table of answers cannot vouch for itself.
    digest = rows_digest(*rivals.named(rows, contract))
    challenging = rivals.scores(version, made, rows, contract, task)
    challenging = replace(challenging, latency_ms=rivals.latency_ms(made, rows))
    return judge(
        name,
        challenging,
        rivals.scores(champion, rival, rows, contract, task) if champion and rival else None,
        rivals.baseline(made, challenging),
        task.gate,
        Expected(
            champion=champion,
            artifacts=on_record,
            rows=digest,
            slices=task.evaluate.slices,
            slice_rows=task.evaluate.slice_rows,
            variant=variants.told(made.about.variants) if made.about.variants else None,
            validation_auc=made.about.metrics.get("validation_auc"),
        ),
        _over_http(at, contract, registry, version, champion) if champion else None,
    )


def _over_http(
    at: Paths, contract: Contract, registry: Registry, version: str, champion: str
) -> live.Live:
    made = {name: registry.made_at(name) for name in (champion, version)}
    return live.gathered(at, contract, champion, version, made)


def _foreign(name: str, contract: Contract, made: Artifact) -> str:
    """Why the artifact is not a model of this task and contract; empty when it is."""
    if made.about.task != name or made.contract.task != name:
        return f"the model is of task {made.about.task}, not {name}. Train again with: dvc repro"
    if {made.about.contract, made.contract.digest} != {contract.digest}:
        return (
            f"the model was trained under contract {made.about.contract[:8]}; "
            f"contracts/{name}.yaml is now {contract.digest[:8]}. Train again with: dvc repro"
        )
    return ""


def _champion_already(name: str, at: Paths, version: str, period: str) -> Verdict:
    """A step that was killed after its promotion, and is done again, gets the verdict of then."""
    path = at.verdict(period)
    if path.is_file():
        before = Verdict.model_validate_json(path.read_text(encoding="utf-8"))
        if before.challenger == version and before.decision == "promote":
            return before
    reason = f"version {version} is the champion already: the same artifact makes no new version"
    return held(name, version, version, "new_model", reason)


def _record(at: Paths, period: str, verdict: Verdict) -> None:
    store.write_text(at.verdict(period), verdict.model_dump_json(indent=1))
    ledger.record(at.ledger, verdict, period=period)


def _record_failure(at: Paths, registry: Registry, period: str, verdict: Verdict) -> None:
    """Each by itself: the disk or the server that failed is likely to fail again."""
    try:
        _record(at, period, verdict)
    except Exception:
        log.exception("the verdict could not be written to %s", at.verdict(period))
    if verdict.challenger == UNREGISTERED:
        return
    try:
        _tag(registry, verdict)
    except Exception:
        log.exception("version %s could not be tagged hold", verdict.challenger)


def _tag(registry: Registry, verdict: Verdict) -> None:
    """`promote` comes last, and whatever was said before is taken back first: half-written tags
    permit nothing."""
    about = {
        "verdict": "hold",
        "verdict_reason": verdict.reason[:5000],
        "verdict_champion": verdict.champion or "",
        "verdict_rows": verdict.rows_digest,
    }
    registry.set_tags(verdict.challenger, about)
    if verdict.decision == "promote":
        registry.set_tags(verdict.challenger, {"verdict": "promote"})
