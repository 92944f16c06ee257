"""One search: settings are asked for, tried by a crew, and judged on rows later than their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pipelines import metrics, tuning
from pipelines.adapters.tune_runs import TuneRun
from pipelines.adapters.tuner import PRESENT, Study, Trial
from pipelines.crew import Crew, Report
from pipelines.errors import ArtifactError, PipelineError
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.tasks.base import KINDS, load_encoder, load_rows
from pipelines.tuning import Fold, Values

log = logging.getLogger(__name__)

KILLED = (
    "every worker was killed, perhaps for want of memory. The trials so far are kept; the same "
    "command goes on, with fewer at once by: --workers 1"
)


@dataclass(frozen=True)
class Job:
    values: Values
    folds: tuple[Fold, ...]
    reports: bool
    """Is a search listening, that may stop it?"""


@dataclass(frozen=True)
class Judged:
    """scores: one a fold; none where the training broke down, and why."""

    scores: tuple[float, ...]
    broke: str = ""
    memory: bool = False
    """Was it for want of memory? That may be another's use of it, and no answer about the settings."""


@dataclass(eq=False)
class _Ticket:
    trial: Trial
    run: str
    steps: list[float] = field(default_factory=list)


def rows_of(task: Task, at: Paths) -> Any:
    """The train rows, those that are one and the same once: a fold that is fitted on one of them and
    judged on the other praises what learns by heart."""
    rows = load_rows(at, "train", task)
    names = KINDS[task.kind].known_by(rows)
    if names is None:
        return rows
    _, first = np.unique(names, return_index=True)
    return rows if len(first) == len(rows) else rows.take(np.sort(first))


def bench(name: str, task: Task, at: Paths) -> Callable[[Job, Report], Judged]:
    """What a worker does its jobs with: the rows, read once."""
    rows, encoder = rows_of(task, at), load_encoder(at, task)

    def judge(job: Job, report: Report) -> Judged:
        trained = task.model_copy(update={"train": tuning.applied(task.train, job.values)})
        scores: list[float] = []
        for fold in job.folds:
            listens = job.reports and len(job.folds) == 1
            try:
                scores.append(_fit(name, trained, rows, encoder, fold, report if listens else None))
            except ArtifactError as error:
                # A rate of learning too high, or a network too large, is an answer; all else is a fault.
                if not isinstance(error.__cause__, FloatingPointError | MemoryError):
                    raise
                return Judged(
                    (), str(error.__cause__), memory=isinstance(error.__cause__, MemoryError)
                )
            if job.reports and len(scores) < len(job.folds):
                report(float(np.mean(scores)))
        return Judged(tuple(scores))

    return judge


def _fit(
    name: str, task: Task, rows: Any, encoder: Any, fold: Fold, report: Report | None
) -> float:
    """AUC on the fold's rows. report: told of the best epoch so far, at each epoch."""
    kind, seen = KINDS[task.kind], []

    def on_epoch(_: int, values: dict[str, float]) -> None:
        seen.append(values["validation_auc"])
        if report is not None:
            report(max(seen))

    train, validation, judged = (
        rows.take(part) for part in (fold.train, fold.validation, fold.judged)
    )
    with threadpool_limits(task.train.threads):
        fitted = kind.fit(name, task, train, validation, encoder, on_epoch)
    # Once more, for what `fit` has loaded as well: boosted trees answer with all cores.
    with threadpool_limits(task.train.threads):
        return metrics.auc(judged.label, kind.answers(fitted, judged))


def search(
    task: Task,
    crew: Crew,
    recorded: TuneRun,
    study: Study,
    folds: tuple[Fold, ...],
    title: str = "",
) -> None:
    """Until as many trials count as tune.trials says; those of before count too."""
    for left in study.bury():
        recorded.killed(left)
    today = tuning.present(task.train, task.tune.space)
    tickets: list[_Ticket] = []
    try:
        while True:
            while crew.free and study.left(task.tune.trials) > 0:
                trial = study.ask(today)
                run = recorded.trial(f"{title}trial {trial.index}", trial.index, trial.values)
                tickets.append(_Ticket(trial, run))
                study.note_run(trial, run)
                crew.give(tickets[-1], Job(trial.values, folds, reports=True))
            if not crew.busy:
                break
            for heard in crew.hear():
                ticket = heard.ticket
                if heard.what == "step":
                    ticket.steps.append(heard.said)
                    go_on = study.step(ticket.trial, len(ticket.steps), heard.said)
                    crew.answer(ticket, go_on)
                elif heard.what == "broke":
                    raise heard.said
                elif heard.what == "died":
                    log.warning(
                        "%strial %d: its process %d was killed; it does not count",
                        title, ticket.trial.index, heard.said,
                    )  # fmt: skip
                    tickets.remove(ticket)
                    study.fail(ticket.trial)
                    recorded.killed(ticket.run)
                else:
                    judged = heard.said if heard.what == "done" else Judged((), "stopped early")
                    if judged.memory and ticket.trial.index == PRESENT:
                        raise PipelineError(
                            f"the present settings, which all others are held against: {judged.broke}; "
                            "or with fewer workers: --workers 1. The same command goes on"
                        )
                    _tell(study, recorded, ticket, judged, title)
                    tickets.remove(ticket)
    finally:
        quietly(study.fail_open)
        for ticket in tickets:
            quietly(recorded.killed, ticket.run)
    if study.left(task.tune.trials) > 0:
        raise PipelineError(KILLED)


def _tell(study: Study, recorded: TuneRun, ticket: _Ticket, judged: Judged, title: str) -> None:
    trial = ticket.trial
    score = float(np.mean(judged.scores)) if judged.scores else None
    # Killed between the two, the trial does not count and comes again; the other way round, a run of
    # one that counts would stay open for ever.
    recorded.trial_ended(ticket.run, ticket.steps, score, judged.broke or "complete")
    study.tell(trial, score, judged.scores)
    said = judged.broke if score is None else f"AUC {score:.4f}"
    log.info("%strial %d: %s, %s", title, trial.index, said, described(trial.values))


def fit_all(crew: Crew, jobs: Sequence[Job]) -> list[float]:
    """The mean score of each job; NaN where its training broke down."""
    found: dict[int, float] = {}
    waiting = list(range(len(jobs)))
    while len(found) < len(jobs):
        while crew.free and waiting:
            place = waiting.pop(0)
            crew.give(place, jobs[place])
        if not crew.busy:
            raise PipelineError(KILLED)
        for heard in crew.hear():
            if heard.what == "broke":
                raise heard.said
            if heard.what == "died":
                waiting.append(heard.ticket)
            else:
                scores = heard.said.scores
                found[heard.ticket] = float(np.mean(scores)) if scores else float("nan")
    return [found[place] for place in range(len(jobs))]


def described(values: Values) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def quietly(close: Callable[..., None], *given: object) -> None:
    """The failure that is on its way out matters more than one on top of it."""
    try:
        close(*given)
    except PipelineError as error:
        log.error("while stopping: %s", error)
