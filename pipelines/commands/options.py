"""What the commands share: their argument, their options, the way they say a result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pipelines.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.project import Project


def example(line: str) -> str:
    """An epilog that click prints as it stands."""
    return f"\b\nExample:\n  {line}"


def _tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from pipelines import params, paths

    try:
        known = params.load(paths.project_root() / paths.PARAMS).tasks
    except PipelineError:  # completion has nowhere to show an error
        return []
    return [name for name in known if name.startswith(incomplete)]


task_argument = click.argument("task", shell_complete=_tasks)
batch_option = click.option(
    "--batch", metavar="PERIOD", help="One batch, e.g. 2013-04; else the window of params.yaml."
)
one_batch = click.option(
    "--batch", metavar="PERIOD", required=True, help="The batch, e.g. 2013-04."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
wait_option = click.option("--wait", is_flag=True, help="Wait for whoever holds the task.")


def say(value: Any, as_json: bool, text: str) -> None:
    if as_json:
        click.echo(json.dumps(value, indent=1, sort_keys=True, default=str))
    elif text:
        click.echo(text)


def periods_of(project: Project, batch: str | None) -> Sequence[str]:
    if batch is None:
        return project.window(project.task.window.last)
    from pipelines import periods

    periods.start_and_end(batch, project.task.period)
    return (batch,)
