"""trace, status, contract: looking, and the first contract of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipelines.commands.options import example, json_option, say, task_argument

if TYPE_CHECKING:
    from pandas import DataFrame

    from pipelines.paths import Paths


@click.command(epilog=example("perennial trace flights-3-00f1e2d3c4b5a697"))
@click.argument("prediction")
@json_option
def trace(prediction: str, as_json: bool) -> None:
    """From one answer to model, run, commit, params, data, validation and verdict."""
    from pipelines import trace as traces
    from pipelines.project import open_project

    found = traces.trace(open_project(traces.task_of(prediction)), prediction)
    say(found, as_json, traces.as_text(found))


@click.command(epilog=example("perennial status --json"))
@json_option
def status(as_json: bool) -> None:
    """Every task on one screen: batches, champion, last alarm and verdict, what to type next."""
    from pipelines import status as statuses

    found = statuses.status()
    say(found, as_json, statuses.as_text(found))


@click.group()
def contract() -> None:
    """The reviewed description of a batch: propose a first one, check batches against it."""


from_option = click.option(
    "--from", "path", help="Folder or glob of CSV or Parquet; else the task's landed batches."
)
period_option = click.option(
    "--period",
    type=click.Choice(["hour", "day", "week", "month"]),
    default="week",
    show_default=True,
    help="Length of one batch, with --from.",
)


@contract.command(
    epilog=example("perennial contract propose churn --from 'inbox/*.csv' --key id --label churned")
)
@task_argument
@from_option
@period_option
@click.option("--time", help="The time column; else the first that reads as one.")
@click.option("--key", help="Columns that name a row, with commas.")
@click.option("--label", help="The 0/1 column to predict.")
@click.option("--write", is_flag=True, help="Write contracts/<task>.yaml, never over one there.")
def propose(
    task: str,
    path: str | None,
    period: str,
    time: str | None,
    key: str | None,
    label: str | None,
    write: bool,
) -> None:
    """Infer a first contract from data, for a person to review and edit."""
    from pipelines import store
    from pipelines.errors import ParamsError
    from pipelines.paths import Paths, project_root
    from pipelines.proposal import propose as proposals

    at = Paths(project_root(), task)
    if write and at.contract.exists():
        raise ParamsError(
            f"{at.contract} is there already, and a person reviewed it. See what differs with: "
            f"perennial contract check {task}, or remove it first with: rm {at.contract}"
        )
    batches = _batches(at, path, time, period)
    columns = tuple(key.split(",")) if key else None
    text = proposals.propose(task, batches, time=time, key=columns, label=label)
    if not write:
        click.echo(text)
        return
    store.write_text(at.contract, text)
    click.echo(
        f"{at.contract} written. Review it, then hold your data against it with: "
        f"perennial contract check {task}"
    )


@contract.command(epilog=example("perennial contract check flights"))
@task_argument
@from_option
@json_option
def check(task: str, path: str | None, as_json: bool) -> None:
    """Say where the contract and the data differ. Exit code 1 when they do."""
    from pipelines.project import open_project
    from pipelines.proposal import propose as proposals

    p = open_project(task)
    landed = path is None and p.at.raw.is_dir()
    if landed or path:
        batches = _batches(p.at, path, p.contract.time, p.task.period)
    else:
        from pipelines.sources.base import open_source

        source = open_source(p.task, p.contract, p.at.root)
        batches = {period: source.read(period) for period in source.periods()}
    found = proposals.differences(p.contract, batches)
    agree = f"{p.at.contract.name} and {len(batches)} batches agree"
    say(found, as_json, "\n".join(found) or agree)
    if found:
        raise click.exceptions.Exit(1)


def _batches(at: Paths, path: str | None, time: str | None, period: str) -> dict[str, DataFrame]:
    """Period -> rows: the landed batches, or files cut by their time column."""
    from pipelines.errors import MissingInput
    from pipelines.proposal import propose as proposals
    from pipelines.sources.files import read_files

    if path is None:
        found = sorted(at.raw.glob("*.parquet"))
        if not found:
            raise MissingInput(
                f"{at.raw} holds no batch yet. Name your files with: "
                f"perennial contract propose {at.task} --from 'folder/*.csv'"
            )
        return {file.stem: rows for file in found for _, rows in read_files(str(file), at.task)}
    tables = [rows for _, rows in read_files(str(at.root / path), at.task)]
    return proposals.by_period(tables, time, period)
