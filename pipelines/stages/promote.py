"""The challenger is judged against the champion, and replaces it when the verdict says so.

Whatever goes wrong while judging ends in a verdict of hold that names it. What moves an alias is
in `promote` and `rollback` only, and each move is on the ledger.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines import artifact, ledger, rivals, store, variants
from pipelines.adapters.registry import CHALLENGER, CHAMPION, PREVIOUS, Verify
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


def challenge(
    name: str, task: Task, contract: Contract, at: Paths, registry: Registry, period: str
) -> Verdict:
    """gate, then promote if it says so. Raises RegistryError if another was promoted meanwhile."""
    verdict = gate(name, task, contract, at, registry, period)
    if verdict.decision == "promote":
        promote(name, at, registry, verdict.challenger)
    return verdict


def gate(
    name: str, task: Task, contract: Contract, at: Paths, registry: Registry, period: str
) -> Verdict:
    """Register the trained model as challenger and judge it on its own, unseen test rows.

    period names the verdict's file. Raises MissingInput when there is no model; any other failure
    is a verdict of hold.
    """
    if not (at.model / "manifest.json").is_file():
        raise MissingInput(f"{at.model} holds no model. Make one with: dvc repro train@{name}")
    version, champion = UNREGISTERED, None
    try:
        version = registry.register(artifact.load(at.model))
        champion = registry.alias(CHAMPION)
        if version == champion:
            return _champion_already(name, at, version, period)
        verdict = _compare(name, task, contract, at, registry, version, champion)
        _record(at, period, verdict)
        registry.set_tags(version, _tags(verdict))
    except Exception as error:
        # Whatever it is, a model that could not be judged to the end is not promoted.
        log.exception("gate %s %s: version %s is held", name, period, version)
        reason = f"judging it raised {type(error).__name__}: {error}"
        verdict = held(name, version, champion, "no_exception", reason)
        _record_failure(at, registry, period, verdict)
    log.info("gate %s %s: %s %s: %s", name, period, verdict.decision, version, verdict.reason)
    return verdict


def promote(
    name: str,
    at: Paths,
    registry: Registry,
    version: str | None = None,
    force: bool = False,
    by: str | None = None,
) -> str:
    """Move champion to `version` (None: the challenger) if nobody else was promoted meanwhile.

    by: the person who approved, told with the reason.

    Without `force` the version's verdict must say promote, and the champion must be the one it was
    judged against. Raises RegistryError otherwise, MissingInput when there is no challenger.
    """
    version = version or registry.alias(CHALLENGER)
    if version is None:
        raise MissingInput(f"{name} has no challenger. Make one with: perennial gate {name}")
    if force:
        expect, reason = registry.alias(CHAMPION), f"forced by {by or 'a person'}"
    else:
        expect, reason = _permitted(name, at, registry, version)
        reason = f"approved by {by}; {reason}" if by else reason
    moved = registry.promote(version, expect, _verify(registry))
    _write_move(at, "promotion", name, version, expect, reason, moved)
    registry.set_tags(version, {"rolled_back": "false", "promoted": reason})
    log.info(
        "promote %s: champion is version %s, was %s: %s", name, version, expect or "none", reason
    )
    return version


def rollback(name: str, at: Paths, registry: Registry) -> str:
    """Move champion to `previous`; what it leaves needs a person's force to come back."""
    now = registry.aliases()
    left = now.get(CHAMPION)
    if left and now.get(PREVIOUS) not in (None, left):
        # First, so that a kill before the alias moves leaves a mark and not a gap.
        registry.set_tags(left, {"rolled_back": "true", "verdict": "hold"})
    version, left = registry.rollback(_verify(registry))
    _write_move(at, "rollback", name, version, left, "asked for by a person", left is not None)
    log.info("rollback %s: champion is version %s, was %s", name, version, left or version)
    return version


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
        except PipelineError as error:
            reason = (
                f"champion {champion} cannot be compared with: {error} Or promote by hand: "
                f"perennial promote {name} --version {version} --force"
            )
            return held(name, version, champion, "champion_loads", reason)
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
        live.gathered(at, contract, champion, version) if champion else None,
    )


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
        registry.set_tags(verdict.challenger, _tags(verdict))
    except Exception:
        log.exception("version %s could not be tagged hold", verdict.challenger)


def _tags(verdict: Verdict) -> dict[str, str]:
    """`verdict` comes last: half-written tags permit nothing."""
    return {
        "verdict_reason": verdict.reason[:5000],
        "verdict_champion": verdict.champion or "",
        "verdict_rows": verdict.rows_digest,
        "verdict": verdict.decision,
    }


def _permitted(name: str, at: Paths, registry: Registry, version: str) -> tuple[str | None, str]:
    """The champion that the version was judged against, and why it may replace it."""
    tags = registry.tags(version)
    said = tags.get("verdict")
    here = ledger.newest(at.ledger, "verdict", challenger=version)
    if said == "promote" and here is not None and here["decision"] != "promote":
        failed = [c["reason"] for c in here["checks"] if not c["passed"]]
        said, tags = "hold", {"verdict_reason": "; ".join(failed)}
    if said != "promote":
        why = f"was held: {tags.get('verdict_reason', '')}" if said else "was never judged"
        raise RegistryError(
            f"{name} version {version} {why}. Promote it all the same "
            f"with: perennial promote {name} --version {version} --force"
        )
    return tags.get("verdict_champion") or None, f"verdict: {tags.get('verdict_reason', '')}"


def _verify(registry: Registry) -> Verify:
    return lambda version: _answers_well(registry, version)


def _answers_well(registry: Registry, version: str) -> None:
    artifact.self_test(artifact.load(registry.fetch(version)))


def _write_move(
    at: Paths, kind: str, name: str, version: str, left: str | None, reason: str, moved: bool
) -> None:
    """moved: False when the alias was there already, as after a kill before this line."""
    moves = [e for e in ledger.read(at.ledger) if e["kind"] in ("promotion", "rollback")]
    if moved or not moves or moves[-1]["version"] != version:
        entry = {"kind": kind, "task": name, "version": version, "from": left, "reason": reason}
        ledger.append(at.ledger, entry)
