"""tune: look for better settings of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipelines.commands.options import example, json_option, say, task_argument, wait_option

if TYPE_CHECKING:
    from pipelines.params import Task
    from pipelines.stages.tune import Outcome


@click.command(epilog=example("perennial tune flights --trials 40 --workers 2 --write"))
@task_argument
@click.option("--trials", type=click.IntRange(1), help="How many count; else tune.trials.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that try at once.")
@click.option("--sampler", type=click.Choice(("tpe", "random", "grid")), help="Else tune.sampler.")
@click.option("--nested", is_flag=True, help="Also say what tuning earns on rows it never saw.")
@click.option("--write", is_flag=True, help="Put the best into params.yaml, if it is better.")
@wait_option
@json_option
def tune(
    task: str,
    trials: int | None,
    workers: int,
    sampler: str | None,
    nested: bool,
    write: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Try settings of training on the prepared train rows; the present ones are the first trial.

    What is searched stands in params.yaml: tasks.<task>.tune. A trial is judged on rows later than
    those it was fitted on; validation and test rows are never read. Stopped, even by kill -9, the
    same command goes on with the trials that are left.
    """
    from pipelines.lock import task_lock
    from pipelines.project import open_project
    from pipelines.stages import tune as stage

    p = open_project(task)
    settings = _with(p.task, trials, sampler)
    with task_lock(p.at.tune_lock, f"perennial tune {task}", wait):
        outcome = stage.run(task, settings, p.contract, p.at, workers, nested)
        written = {}
        if write and outcome.better:
            written = stage.write(task, p.task, p.at, outcome.best.values)
    value = outcome.model_dump(mode="json") | {"better": outcome.better, "written": written}
    if outcome.nested:
        mean, spread = outcome.earned
        value["nested_gain"] = {"mean": mean, "spread": spread}
    say(value, as_json, "\n".join(_told(task, outcome, written)))


def _with(task: Task, trials: int | None, sampler: str | None) -> Task:
    from pydantic import ValidationError

    from pipelines.errors import ParamsError
    from pipelines.settings import explain
    from pipelines.tune_params import Tune

    given = {"trials": trials, "sampler": sampler}
    content = task.tune.model_dump() | {k: v for k, v in given.items() if v is not None}
    try:
        return task.model_copy(update={"tune": Tune.model_validate(content)})
    except ValidationError as error:
        raise ParamsError(explain(error, f"params.yaml, with --sampler {sampler}", Tune)) from None


def _told(task: str, outcome: Outcome, written: dict[str, str]) -> list[str]:
    from pipelines.search import described

    folds = len(outcome.present.scores)
    lines = [
        f"{outcome.trials} trials, {outcome.stopped} of them stopped early, each judged on {folds} "
        f"folds of {outcome.rows} train rows",
        f"present  AUC {outcome.present.score:.4f}  {described(outcome.present.values)}",
    ]
    if not outcome.better:
        lines.append("nothing better than the present settings was found")
    else:
        gains = outcome.gains
        lines += [
            f"best     AUC {outcome.best.score:.4f}  {described(outcome.best.values)}",
            f"better by {sum(gains) / folds:.4f}; by fold: {' '.join(f'{g:+.4f}' for g in gains)}",
        ]
    if outcome.nested:
        mean, spread = outcome.earned
        by_fold = " ".join(f"{fold.gain:+.4f}" for fold in outcome.nested)
        lines.append(
            f"nested: on later rows that it never saw, tuning earned {mean:+.4f} AUC, standard "
            f"deviation {spread:.4f}; by fold: {by_fold}"
        )
    if written:
        lines += [f"params.yaml: {key} {change}" for key, change in written.items()]
        lines.append(
            f'Make it a commit with: dvc repro && git commit -m "Tune {task}" params.yaml dvc.lock'
        )
    elif outcome.better:
        lines.append(f"Put it into params.yaml with: perennial tune {task} --write")
    return lines
