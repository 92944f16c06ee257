"""tick: one pass of the loop for one new batch. Composes the stages, for people and schedulers.

Each step leaves a file that the next one reads, written atomically, and a step whose file is there
is not done again: a tick that was killed is finished by the same command.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from pipelines import ledger, periods, store, watching
from pipelines.adapters.registry import Registry
from pipelines.adapters.service import Service
from pipelines.artifact import load
from pipelines.candidates import train_candidate
from pipelines.errors import ParamsError, RegistryError
from pipelines.lock import task_lock
from pipelines.project import Project
from pipelines.records import Alarm, Decision, Record, Retraining, Verdict
from pipelines.sources.base import open_source
from pipelines.stages import (
    ask,
    ingest,
    labels,
    promote,
    score,
    validate,
)

log = logging.getLogger(__name__)

PolicyName = Literal["on-alarm", "always", "frozen"]


class Tick(Record):
    """What one tick did: `6_live/<task>/ticks/<period>.json`. The same inputs give the same bytes."""

    task: str
    period: str
    rows: int
    labelled: int
    """Answers to the period `label_delay` earlier that got their labels now."""
    champion: str
    """Version that answered this period."""
    decision: Decision
    alarm: tuple[str, ...]
    """The monitor's reasons; empty when it raised none or had no champion to watch."""
    window: dict[str, str] | None
    """first and last period of the retraining, when there was one."""
    verdict: str | None
    """promote or hold, and why."""
    why: str


def tick(
    project: Project,
    period: str,
    *,
    follow: PolicyName = "on-alarm",
    pages: bool = True,
    wait: bool = False,
    service: Service | None = None,
) -> Tick:
    """Land, validate, label, watch, perhaps retrain and promote, then answer the batch.

    service: ask it over HTTP, and post it the labels, in place of scoring the batch here.
    Raises Busy when another process holds the task, Quarantined when the batch fails at the door
    (nothing is scored and the champion stays).
    """
    periods.start_and_end(period, project.task.period)
    command = f"perennial tick {project.name} --batch {period}"
    with task_lock(project.at.lock, command, wait):
        done = project.at.tick(period)
        if done.is_file():
            log.info("tick %s %s: done before", project.name, period)
            return Tick.model_validate_json(done.read_text())
        _refuse_the_past(project, period)
        for folder in (project.at.raw, project.at.valid, project.at.live):
            store.sweep(folder)
        record = _pass(project, period, follow, pages, service)
        store.write_text(done, record.model_dump_json(indent=1))
        return record


def _refuse_the_past(project: Project, period: str) -> None:
    done = ticks(project)
    if done and period < done[-1].period:
        raise ParamsError(
            f"tick {project.name}: {period} is before {done[-1].period}, which was ticked already; "
            "ticks go forward, so that no model is judged on a past it has seen. "
            f"Go on with: perennial tick {project.name}"
        )


def ticks(project: Project) -> list[Tick]:
    """Every tick done, oldest first."""
    folder = project.at.tick("x").parent
    return [Tick.model_validate_json(p.read_text()) for p in sorted(folder.glob("*.json"))]


def next_period(project: Project) -> str:
    """The batch that the next tick is for: after the last tick, or after the first window."""
    done = ticks(project)
    return project.shift(done[-1].period if done else project.task.window.last, 1)


def waits_for(project: Project) -> str:
    """Why the next batch is not due, in words; empty: it is.

    One whose period goes on is landed by name only: it never changes once it is landed, so what comes
    in later would be in no batch. Periods of a day to come are another clock's, or made up.
    """
    period = next_period(project)
    if period not in open_source(project.task, project.contract, project.at.root).periods():
        return f"the source has no batch {period} yet"
    return _goes_on(project, period)


def _goes_on(project: Project, period: str) -> str:
    if not periods.goes_on(period, project.task.period):
        return ""
    _, end = periods.start_and_end(period, project.task.period)
    return (
        f"{period} goes on until {end:%Y-%m-%dT%H:%M} (UTC), and a batch is landed once. As it is now "
        f"it is landed by: perennial tick {project.name} --batch {period}"
    )


def _pass(
    project: Project, period: str, follow: PolicyName, pages: bool, service: Service | None
) -> Tick:
    name, task, contract, at = project.name, project.task, project.contract, project.at
    known = project.shift(period, -task.label_delay)
    needed = periods.between(project.window(known)[0], period, task.period)
    missing = [p for p in needed if p == period or not at.batch(p).is_file()]
    ingest.run(name, task, contract, at, missing)
    rows = validate.run(name, task, contract, at, needed)[-1].rows

    if service:
        ask.tell(name, contract, at, known, service)
    labelled = labels.run(name, contract, at, known)
    registry = Registry(at)
    champion = _found(project, registry, period)
    alarm, decision = _watch(project, registry, period, champion, follow, pages)

    verdict = None
    if decision.action == "retrain":
        verdict = _retrain(project.ending(known), registry, period, decision)
    version = registry.alias("champion")
    if version is None:
        raise ParamsError(
            f"tick {name}: no model has passed the gate yet ({verdict.reason if verdict else ''}), so "
            f"{period} cannot be answered. Read the verdict in {at.verdict(period)}, then widen the "
            "window or choose another model with: edit params.yaml"
        )
    if service:
        ask.run(name, contract, at, period, service, version)
    else:
        score.run(name, contract, at, period, load(registry.fetch(version)), version)
    return Tick(
        task=name,
        period=period,
        rows=rows,
        labelled=labelled,
        champion=version,
        decision=decision,
        alarm=alarm.reasons if alarm else (),
        window={"first": project.window(known)[0], "last": known} if verdict else None,
        verdict=verdict.decision if verdict else None,
        why=verdict.reason if verdict else "; ".join(decision.reasons),
    )


def _found(project: Project, registry: Registry, period: str) -> str | None:
    """The champion that this batch found, which is the one to be watched and judged against.

    A tick that was killed after its own promotion finds its challenger there; what it decided
    before must not be decided anew by another model.
    """
    champion = registry.alias("champion")
    path = project.at.verdict(period)
    if path.is_file():
        said = Verdict.model_validate_json(path.read_text(encoding="utf-8"))
        if said.decision == "promote" and said.challenger == champion:
            return said.champion
    return champion


def _watch(
    project: Project,
    registry: Registry,
    period: str,
    champion: str | None,
    follow: PolicyName,
    pages: bool,
) -> tuple[Alarm | None, Decision]:
    """The alarm, and what the policy makes of it."""

    def decide(action: Literal["retrain", "rest"], reason: str) -> Decision:
        return Decision(task=project.name, period=period, action=action, reasons=(reason,))

    if champion is None:
        return None, decide("retrain", watching.FIRST)
    if follow == "frozen":
        return None, decide("rest", "policy frozen: the first model answers for ever")
    if follow == "always":
        return None, decide("retrain", "policy always: every batch makes a training")
    return watching.judge(project, registry, period, champion, pages=pages)


def _retrain(candidate: Project, registry: Registry, period: str, decision: Decision) -> Verdict:
    """A training in a folder of its own, then the gate; promotion when the gate says so."""
    window = candidate.window(candidate.task.window.last)
    train_candidate(candidate, "; ".join(decision.reasons))
    done = Retraining(
        task=candidate.name,
        period=period,
        first=window[0],
        last=window[-1],
        reasons=decision.reasons,
        commit=None,
    )
    ledger.record(candidate.at.ledger, done)
    verdict = promote.challenge(
        candidate.name, candidate.task, candidate.contract, candidate.at, registry, period
    )
    if promote.disturbed(verdict):
        raise RegistryError(
            f"tick {candidate.name}: {verdict.reason}. When it is mended: "
            f"perennial tick {candidate.name} --batch {period}"
        )
    return verdict


def through(
    project: Project,
    last: str | None,
    on_tick: Callable[[Tick], None],
    wait: bool = False,
    service: Service | None = None,
) -> list[Tick]:
    """Tick every batch that has not been, up to `last`; None: the next one, if it is due."""
    upto = last or next_period(project)
    if last is None and waits_for(project):
        return []
    done = []
    while (period := next_period(project)) <= upto:
        if last not in (None, period) and (why := _goes_on(project, period)):
            raise ParamsError(f"tick {project.name}: {why}")
        done.append(tick(project, period, wait=wait, service=service))
        on_tick(done[-1])
    return done
