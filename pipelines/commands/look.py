"""trace, status, contract: looking, and the first contract of a task."""

from __future__ import annotations

import click

from pipelines.commands.options import example, json_option, say, task_argument


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


@contract.command(epilog=example("perennial contract propose churn --from 'inbox/*.csv' --label churned"))
@task_argument
@click.option("--from", "path", help="Folder or glob of CSV or Parquet; else the task's landed batches.")
@click.option("--time", help="The time column; else the first that reads as one.")
@click.option("--key", help="Columns that name a row, with commas.")
@click.option("--label", help="The 0/1 column to predict.")
@click.option("--write", is_flag=True, help="Write contracts/<task>.yaml (never over one that is there).")
def propose(
    task: str, path: str | None, time: str | None, key: str | None, label: str | None, write: bool
) -> None:
    """Infer a first contract from data, for a person to review and edit."""
    from pipelines import propose as proposals
    from pipelines import store
    from pipelines.errors import ParamsError
    from pipelines.paths import Paths, project_root

    at = Paths(project_root(), task)
    tables = proposals.read(at, path)
    columns = tuple(key.split(",")) if key else None
    text = proposals.propose(task, tables, time=time, key=columns, label=label)
    if not write:
        click.echo(text)
        return
    if at.contract.exists():
        raise ParamsError(
            f"{at.contract} is there already, and a person reviewed it. See what differs with: "
            f"perennial contract check {task}, or remove it first with: rm {at.contract}"
        )
    store.write_text(at.contract, text)
    click.echo(f"{at.contract} written: review it, then see it held with: perennial contract check {task}")


@contract.command(epilog=example("perennial contract check flights"))
@task_argument
@click.option("--from", "path", help="Folder or glob of CSV or Parquet; else the task's landed batches.")
@json_option
def check(task: str, path: str | None, as_json: bool) -> None:
    """Say where the contract and the data differ. Exit code 1 when they do."""
    from pipelines import contract as contracts
    from pipelines import propose as proposals
    from pipelines.paths import Paths, project_root

    at = Paths(project_root(), task)
    found = proposals.differences(contracts.load(at.contract), proposals.read(at, path))
    say(found, as_json, "\n".join(found) or f"{at.contract.name} and the data agree")
    if found:
        raise click.exceptions.Exit(1)
