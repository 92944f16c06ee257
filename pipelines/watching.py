"""Watch what was answered, batch by batch, and say whether a retraining is due.

What is due is read from the ledger each time and never from a message: a message that was lost, or
told twice, changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pipelines import ledger, periods, policy, store
from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.artifact import load
from pipelines.errors import MissingInput
from pipelines.lock import task_lock
from pipelines.project import Project
from pipelines.records import Alarm, Decision, Due
from pipelines.stages import labels, monitor, promote, score, validate

log = logging.getLogger(__name__)

FIRST = "first model"


def judge(
    project: Project, registry: Registry, period: str, champion: str, *, pages: bool = True
) -> tuple[Alarm, Decision]:
    """The alarm of a batch, and what the policy makes of it; both are on the ledger."""
    name, task, at = project.name, project.task, project.at
    known = project.shift(period, -task.label_delay)
    model = load(registry.fetch(champion))
    alarm = monitor.run(name, task, project.contract, at, period, model, champion, pages=pages)
    decision = policy.decide(
        name,
        period,
        alarm,
        ledger.history(at.ledger, before=period),
        task.policy,
        _new_labels(project, known, period),
    )
    ledger.record(at.ledger, alarm)
    ledger.record(at.ledger, decision)
    return alarm, decision


def _new_labels(project: Project, known: str, period: str) -> int:
    """Labelled rows that no training of the loop had seen when this period was first decided on.

    Its own training comes after that: deciding again, after a kill, must give the same.
    """
    trained = []
    for entry in ledger.read(project.at.ledger):
        if entry["kind"] == "decision" and entry["period"] == period:
            break
        if entry["kind"] == "retraining":
            trained.append(entry["last"])
    last = max(trained, default=project.task.window.last)
    if known <= last:
        return 0
    fresh = periods.between(project.shift(last, 1), known, project.task.period)
    return sum(store.rows_in(project.at.batch(p)) for p in fresh)


def watch(project: Project, registry: Registry, wait: bool = False) -> Iterator[Decision]:
    """Label, judge and answer every batch that has landed since; one decision each, oldest first.

    Nothing is watched before there is a champion. A batch is answered by the champion of now, and
    not again when the service was asked for it.
    """
    name, at, contract = project.name, project.at, project.contract
    with task_lock(at.lock, f"perennial watch {name}", wait):
        for period in waiting(project):
            champion = registry.alias(CHAMPION)
            if champion is None:
                log.info("watch %s %s: no champion yet", name, period)
                return
            validate.accepted(at, period, contract)
            labels.run(name, contract, at, project.shift(period, -project.task.label_delay))
            if not at.asked(period).is_file():
                model = load(registry.fetch(champion))
                score.run(name, contract, at, period, model, champion)
            _, decision = judge(project, registry, period, champion)
            yield decision


def waiting(project: Project) -> list[str]:
    """Batches that were accepted and not watched yet, oldest first."""
    told = [entry["period"] for entry in ledger.of_kind(project.at.ledger, "decision")]
    ticked = [path.stem for path in project.at.tick("x").parent.glob("*.json")]
    last = max([project.task.window.last, *told, *ticked])
    return [p for p in _landed(project) if p > last]


def _landed(project: Project) -> list[str]:
    at = project.at
    return sorted(p.stem for p in at.valid.glob("*.json") if at.batch(p.stem).is_file())


def due(project: Project, registry: Registry) -> Due | None:
    """The retraining that is called for, with every reason since the last verdict; None: rest.

    Without a champion it is the first training, once the window of params.yaml has landed; when
    its challenger was held, again with each batch that lands later.
    """
    # Held because the registry could not be reached is no answer to anybody's alarm.
    said = [
        entry
        for entry in ledger.of_kind(project.at.ledger, "verdict")
        if entry["challenger"] != promote.UNREGISTERED
    ]
    judged = max((entry["period"] for entry in said), default="")
    decisions = {e["period"]: e for e in ledger.of_kind(project.at.ledger, "decision")}
    calling = [e for p, e in sorted(decisions.items()) if e["action"] == "retrain" and p > judged]
    if calling:
        reasons = [f"{e['period']}: {reason}" for e in calling for reason in e["reasons"]]
        return _due(project, calling[-1]["period"], reasons)
    if registry.alias(CHAMPION) is not None:
        return None
    landed = _landed(project)
    first = project.shift(project.task.window.last, project.task.label_delay)
    period = max([first, *landed]) if first <= judged else first
    missing = set(project.window(project.shift(period, -project.task.label_delay))) - set(landed)
    return None if missing or period <= judged else _due(project, period, [FIRST])


def asked(project: Project, reason: str) -> Due:
    """A retraining on the newest labels that a person or a clock asks for."""
    landed = _landed(project)
    if not landed:
        raise MissingInput(
            f"{project.name} has no batch to train on. Land one with: perennial ingest "
            f"{project.name} && perennial validate {project.name}"
        )
    last = max(project.shift(landed[-1], -project.task.label_delay), project.task.window.last)
    return _due(project, project.shift(last, project.task.label_delay), [reason])


def _due(project: Project, period: str, reasons: list[str]) -> Due:
    last = project.shift(period, -project.task.label_delay)
    return Due(task=project.name, period=period, last=last, reasons=tuple(reasons))
