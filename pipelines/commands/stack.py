"""stack: MLflow, Airflow and the services on this machine, up, down, and how they stand."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipelines.commands.options import example, json_option, say

if TYPE_CHECKING:
    from pipelines.stack.places import Places
    from pipelines.stack.running import Standing


@click.group()
def stack() -> None:
    """MLflow, Airflow and the services, together on this machine: docs/stack.md."""


@stack.command(epilog=example("STORE=postgres perennial stack up"))
def up() -> None:
    """Start what does not run yet; come back when all is healthy."""
    from pipelines.stack import running, secrets

    places = _places()
    click.echo(_table(running.up(places)))
    logins = secrets.Secrets(places.secrets).logins
    click.echo(f"\nSign in to Airflow as {secrets.ADMIN}; the password is in {logins}")


@stack.command(epilog=example("perennial stack down"))
def down() -> None:
    """Stop all of it, the last started first; nothing is left running."""
    from pipelines.stack import running

    stopped = running.down(_places())
    click.echo(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@stack.command(epilog=example("perennial stack status --json"))
@json_option
def status(as_json: bool) -> None:
    """Each part: running, unhealthy or stopped. Exit code 1 unless all are running."""
    from pipelines.stack import running

    found = running.status(_places())
    say([asdict(standing) for standing in found], as_json, _table(found))
    if any(standing.state != "running" for standing in found):
        raise click.exceptions.Exit(1)


@stack.command(epilog=example('eval "$(perennial stack env)"'))
def env() -> None:
    """Print what makes `airflow` and `mlflow` in this shell mean this stack."""
    import shlex

    from pipelines.stack import running

    for name, value in running.environment(_places()).items():
        click.echo(f"export {name}={shlex.quote(value)}")


@stack.command(epilog=example("perennial stack secrets"))
def secrets() -> None:
    """Make the passwords and keys that are missing, as compose.yaml wants them; say where."""
    from pipelines.stack import secrets as made

    click.echo(made.ensure(_places()).folder)


def _places() -> Places:
    from pipelines.paths import project_root
    from pipelines.stack.places import Places

    return Places(project_root())


def _table(found: list[Standing]) -> str:
    rows = [("part", "state", "pid", "since", "address")]
    rows += [(s.part, s.state, str(s.pid or ""), s.since or "", s.url or "") for s in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"{s.part}: {s.wrong}" for s in found if s.wrong)])
