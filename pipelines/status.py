"""Every task on one screen, from files and the registry; nothing is changed."""

from __future__ import annotations

from typing import Any

from pipelines import ledger, params, paths, watching
from pipelines.adapters.registry import Registry
from pipelines.errors import MissingInput
from pipelines.lock import holder
from pipelines.loop import next_period, ticks, waits_for
from pipelines.project import Project, open_project
from pipelines.served import answers
from pipelines.sources.base import open_source

SAID = ("alarm", "decision", "verdict", "promotion", "rollback")
"""Entries of the ledger whose newest is shown where no tick tells of it."""


def status() -> list[dict[str, Any]]:
    known = params.load(paths.project_root() / paths.PARAMS).tasks
    projects = [open_project(name) for name in known]
    return [of_task(project, Registry(project.at)) for project in projects]


def of_task(project: Project, registry: Registry) -> dict[str, Any]:
    at = project.at
    landed = sorted(path.stem for path in at.raw.glob("*.parquet"))
    done = ticks(project)
    last = done[-1] if done else None
    return {
        "task": project.name,
        "batches": {"count": len(landed), "first": landed[:1], "last": landed[-1:]},
        "accepted": len(list(at.valid.glob("*.json"))),
        "quarantined": sorted(path.name for path in at.quarantine.glob("*")),
        "aliases": registry.aliases(),
        "last_said": {kind: ledger.newest(at.ledger, kind) for kind in SAID},
        "last_tick": last.model_dump(mode="json") if last else None,
        "prediction": _shown(project, last.period) if last else None,
        "served": answers.count(at),
        "held_by": holder(at.lock),
        "next": _next(project, registry),
    }


def _next(project: Project, registry: Registry) -> str:
    """What the loop waits for, as a command; why there is none, when the source has none yet.

    Of who watches (Airflow does), the retraining that is due; else the next batch to tick.
    """
    watched = max(watching.watched(project), default="")
    done = ticks(project)
    if watched and (not done or watched > done[-1].period):
        found = watching.due(project, registry)
        if found:
            return f"perennial retrain {project.name}: {'; '.join(found.reasons)}"
        period = project.shift(watched, 1)
        return f"nothing is due; {period} is watched once it has landed"
    period = next_period(project)
    offered = open_source(project.task, project.contract, project.at.root).periods()
    if period in offered and (why := waits_for(project)):
        return f"nothing is due: {why}"
    if period in offered:
        return f"perennial tick {project.name} --batch {period}"
    last = offered[-1] if offered else "none"
    return f"nothing is due: the source's last batch is {last}; {period} is awaited"


def some_prediction(project: Project, period: str) -> str:
    """The id of one answer to the period. Raises MissingInput when there is none in the log."""
    given = answers.given(project.at, project.contract, period, project.task.period)
    if given is None:
        raise MissingInput(
            f"{project.name} has no answers to {period} in its log. "
            f"Make them with: perennial score {project.name} --batch {period}"
        )
    return str(given["id"].iloc[0])


def _shown(project: Project, period: str) -> str | None:
    try:
        return some_prediction(project, period)
    except MissingInput:  # too old for the log: everything else is still worth showing
        return None


def as_text(found: list[dict[str, Any]]) -> str:
    blocks = []
    for task in found:
        batches, tick = task["batches"], task["last_tick"]
        span = f", {batches['first'][0]} to {batches['last'][0]}" if batches["count"] else ""
        lines = [
            f"task         {task['task']}",
            f"batches      {batches['count']} landed{span}; {task['accepted']} accepted; "
            f"quarantined: {', '.join(task['quarantined']) or 'none'}",
            "registry     "
            + (
                ", ".join(f"{a} = version {v}" for a, v in sorted(task["aliases"].items()))
                or "empty"
            ),
        ]
        if tick:
            decision = tick["decision"]
            verdict = f"{tick['verdict']}: {tick['why']}" if tick["verdict"] else "no training"
            lines += [
                f"last tick    {tick['period']}: {tick['rows']} rows answered by version {tick['champion']}",
                f"alarm        {'; '.join(tick['alarm']) or 'none'}",
                f"policy       {decision['action']}: {'; '.join(decision['reasons'])}",
                f"verdict      {verdict}",
            ]
            if task["prediction"]:
                lines.append(f"one answer   perennial trace {task['prediction']}")
        else:
            lines += _said(task["last_said"])
        if task["served"]:
            lines.append(f"over HTTP    {task['served']} answers in the log")
        if task["held_by"]:
            lines.append(f"held by      {task['held_by']}")
        blocks.append("\n".join([*lines, f"next         {task['next']}"]))
    return "\n\n".join(blocks)


def _said(newest: dict[str, dict[str, Any] | None]) -> list[str]:
    """What was decided last, of the ledger."""
    lines = []
    if alarm := newest["alarm"]:
        told = "; ".join(alarm["reasons"]) or "none"
        lines.append(f"alarm        {alarm['period']}: {told}")
    if decision := newest["decision"]:
        told = "; ".join(decision["reasons"])
        lines.append(f"policy       {decision['period']}: {decision['action']}: {told}")
    if verdict := newest["verdict"]:
        failed = [c["reason"] for c in verdict["checks"] if not c["passed"]]
        told = f": {failed[0]}" if failed else ""
        lines.append(f"verdict      version {verdict['challenger']}: {verdict['decision']}{told}")
    moves = [move for move in (newest["promotion"], newest["rollback"]) if move]
    for move in sorted(moves, key=lambda move: str(move["at"]))[-1:]:
        lines.append(
            f"{move['kind']:<12} version {move['version']} at {move['at']}: {move['reason']}"
        )
    return lines
