"""Watch what was answered, batch by batch, and say whether a retraining is due.

What is due is read from the ledger each time and never from a message: a message that was lost, or
told twice, changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pipelines import ledger, periods, policy, store
from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.agreement import unanswerable
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
    made = registry.made_at(champion)
    alarm = monitor.run(
        name, task, project.contract, at, period, model, champion, made, pages=pages
    )
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
    # One that is in quarantine, or never landed, has none.
    landed = set(_landed(project))
    return sum(store.rows_in(project.at.batch(p)) for p in fresh if p in landed)


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
                _answer(project, registry, period, champion)
            if project.shift(period, project.task.label_delay) in watched(project):
                # It landed late: the batch that brings its labels is not watched again.
                labels.run(name, contract, at, period)
            _, decision = judge(project, registry, period, champion)
            yield decision


def _answer(project: Project, registry: Registry, period: str, champion: str) -> None:
    """Before it is judged: what was decided on is not looked at again, and would stay unanswered."""
    model = load(registry.fetch(champion))
    unlike = unanswerable(model.contract, project.contract)
    if unlike:
        log.warning(
            "watch %s %s: left unanswered, version %s cannot: %s",
            project.name, period, champion, "; ".join(unlike),
        )  # fmt: skip
        return
    score.run(project.name, project.contract, project.at, period, model, champion)


def waiting(project: Project) -> list[str]:
    """Batches that were accepted and not watched yet, oldest first; one that was repaired, and
    landed after a later one was watched, is among them. What a training has seen, or a tick has
    passed, is not looked back on."""
    seen = watched(project)
    ticked = [path.stem for path in project.at.tick("x").parent.glob("*.json")]
    last = max([project.task.window.last, *ticked])
    return [p for p in _landed(project) if p > last and p not in seen]


def watched(project: Project) -> set[str]:
    return {entry["period"] for entry in ledger.of_kind(project.at.ledger, "decision")}


def _landed(project: Project) -> list[str]:
    at = project.at
    return sorted(p.stem for p in at.valid.glob("*.json") if at.batch(p.stem).is_file())


def due(project: Project, registry: Registry) -> Due | None:
    """The retraining that is called for, with every reason since the last verdict; None: rest.

    Without a champion it is the first training, once the window of params.yaml has landed; when
    its challenger was held, again with each batch that lands later.
    """
    now = registry.alias(CHAMPION)
    judged = max(_answered(project, now), default="")
    decisions = {e["period"]: e for e in ledger.of_kind(project.at.ledger, "decision")}
    calling = [e for p, e in sorted(decisions.items()) if e["action"] == "retrain" and p > judged]
    if calling:
        reasons = [f"{e['period']}: {reason}" for e in calling for reason in e["reasons"]]
        # A later training may have come in between, asked for by a person or a clock.
        trained = project.shift(project.task.window.last, project.task.label_delay)
        return _due(project, max(trained, calling[-1]["period"]), reasons)
    if now is not None:
        return None
    landed = _landed(project)
    first = project.shift(project.task.window.last, project.task.label_delay)
    period = max([first, *landed]) if first <= judged else first
    missing = set(project.window(project.shift(period, -project.task.label_delay))) - set(landed)
    return None if missing or period <= judged else _due(project, period, [FIRST])


def _answered(project: Project, champion: str | None) -> Iterator[str]:
    """Periods whose alarm has its answer: a verdict that stands.

    Held because the registry or the disk failed is no answer, nor is a model that was found better
    than a champion that has gone meanwhile, and never answered itself: it is to be judged again.
    """
    entries = ledger.read(project.at.ledger)
    moves = [entry for entry in entries if entry["kind"] in ("promotion", "rollback")]
    # Whoever was moved to, moved away from, or watched has answered; some moves are by hand in MLflow.
    answering = {entry[which] for entry in moves for which in ("version", "from")}
    answering |= {entry["champion"] for entry in entries if entry["kind"] == "alarm"}
    for entry in entries:
        if entry["kind"] == "verdict" and not promote.unfinished(ledger.verdict_of(entry)):
            of_now = champion in (entry["champion"], entry["challenger"])
            if entry["decision"] == "hold" or of_now or entry["challenger"] in answering:
                yield entry["period"]


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
