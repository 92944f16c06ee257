"""ingest, validate, prepare, train, evaluate: the pure half, what dvc.yaml calls."""

from __future__ import annotations

import os

import click

from pipelines.commands.options import (
    batch_option,
    example,
    json_option,
    periods_of,
    say,
    task_argument,
)


@click.command(epilog=example("perennial ingest flights --batch 2013-04"))
@task_argument
@batch_option
@json_option
def ingest(task: str, batch: str | None, as_json: bool) -> None:
    """Land batches from the task's source as immutable Parquet files."""
    from pipelines.project import open_project
    from pipelines.stages import ingest as stage

    p = open_project(task)
    periods = periods_of(p, batch)
    landed = stage.run(p.name, p.task, p.contract, p.at, periods)
    known = len(periods) - len(landed)
    say({"landed": landed}, as_json, f"{len(landed)} landed, {known} already there: {p.at.raw}")


@click.command(epilog=example("perennial validate flights --batch 2013-04"))
@task_argument
@batch_option
@json_option
def validate(task: str, batch: str | None, as_json: bool) -> None:
    """Hold landed batches to their contract; one that fails is quarantined, with a report."""
    from pipelines.project import open_project
    from pipelines.stages import validate as stage

    p = open_project(task)
    results = stage.run(p.name, p.task, p.contract, p.at, periods_of(p, batch))
    lines = [
        f"{r.period}: accepted, {r.rows} rows, {len(r.failures)} warnings  "
        f"{p.at.validation_page(r.period)}"
        for r in results
    ]
    say([r.model_dump(mode="json") for r in results], as_json, "\n".join(lines))


@click.command(epilog=example("perennial prepare flights"))
@task_argument
@json_option
def prepare(task: str, as_json: bool) -> None:
    """Cut the window in time and encode it; statistics come from train rows only."""
    from pipelines.project import open_project
    from pipelines.stages import prepare as stage
    from pipelines.stages.validate import accepted

    p = open_project(task)
    periods = p.window(p.task.window.last)
    results = [accepted(p.at, period, p.contract) for period in periods]
    prepared = stage.run(p.name, p.task, p.contract, p.at, periods, results)
    parts = ", ".join(f"{n} {part}" for part, n in prepared.rows.items())
    say(prepared.model_dump(mode="json"), as_json, f"{parts} rows in {p.at.prepared}")


@click.command(epilog=example("perennial train flights"))
@task_argument
@json_option
def train(task: str, as_json: bool) -> None:
    """Fit one model on the prepared window, export it to ONNX, log it in MLflow."""
    from pipelines.project import open_project
    from pipelines.stages import train as stage

    p = open_project(task)
    reason = os.environ.get("PERENNIAL_REASON", "perennial train")
    about = stage.run(p.name, p.task, p.contract, p.at, reason)
    if about is not None:
        say(about.model_dump(mode="json"), as_json, f"model in {p.at.model}")


@click.command(epilog=example("perennial evaluate flights --json"))
@task_argument
@json_option
def evaluate(task: str, as_json: bool) -> None:
    """Measure the model on its window's newest rows, which training never saw."""
    from pipelines.project import open_project
    from pipelines.stages import evaluate as stage

    p = open_project(task)
    summary = stage.run(p.name, p.task, p.contract, p.at)
    say(summary, as_json, f"test AUC {summary['test_auc']:.4f}, report in {p.at.report}")
