"""watch, retrain, verdict, smoke: what a scheduler runs between a batch and a promotion."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from pipelines import flow
from pipelines.commands.options import example, json_option, say, task_argument, wait_option

if TYPE_CHECKING:
    from pipelines.project import Project
    from pipelines.records import Due

STEPS = ("open", *flow.PURE, "publish", "judge", "close")


@click.command(epilog=example("perennial watch flights"))
@task_argument
@wait_option
@json_option
def watch(task: str, wait: bool, as_json: bool) -> None:
    """Answer, label and judge every batch that has landed since; say whether a retraining is due.

    Unlike `tick` it trains nothing: `perennial retrain` does.
    """
    from pipelines import watching
    from pipelines.adapters.registry import Registry
    from pipelines.project import open_project

    p = open_project(task)
    registry = Registry(p.at)
    decisions = list(watching.watch(p, registry, wait))
    due = watching.due(p, registry)
    lines = [f"{d.period}  {d.action}: {'; '.join(d.reasons)}" for d in decisions]
    lines.append(
        f"due: a retraining up to {due.last}. Make it with: perennial retrain {task}"
        if due
        else "nothing is due"
    )
    value = {
        "watched": [d.model_dump(mode="json") for d in decisions],
        "due": due.model_dump(mode="json") if due else None,
    }
    say(value, as_json, "\n".join(lines))


@click.command(epilog=example("perennial retrain flights"))
@task_argument
@click.option("--reason", help="Retrain on the newest labels although nothing asks for it; why.")
@click.option(
    "--step", type=click.Choice(STEPS), help="One step only, as Airflow runs them; else all."
)
@json_option
def retrain(task: str, reason: str | None, step: str | None, as_json: bool) -> None:
    """Make the retraining that is due: a commit in a git worktree, a challenger, a verdict.

    The branch that is checked out gets the commit by fast-forward; the champion stays until
    `perennial promote`.
    """
    from pipelines import retraining, workspace
    from pipelines.project import open_project

    p = open_project(task)
    if step not in (None, "open"):
        _one_step(p, str(step), as_json)
        return
    due = _due(p, reason)
    if due is None:
        say(None, as_json, f"nothing is due for {task}. Retrain all the same with: --reason <why>")
        return
    if step is None:
        done = retraining.retrain(p, due)
        verdict = done.verdict
        text = (
            f"retrained up to {due.last}, commit {str(done.retraining.commit)[:12]}\n"
            f"{verdict.decision} version {verdict.challenger}: {verdict.reason}"
        )
        if verdict.decision == "promote":
            text += f"\nLet it answer with: perennial promote {task}"
        say(verdict.model_dump(mode="json"), as_json, text)
        return
    run = os.environ.get("AIRFLOW_CTX_DAG_RUN_ID")
    owner = f"airflow {run}" if run else f"process {os.getpid()}"
    workspace.open_workspace(p, due, owner)
    say(due.model_dump(mode="json"), as_json, f"{p.at.worktree}: {'; '.join(due.reasons)}")


def _due(p: Project, reason: str | None) -> Due | None:
    from pipelines import watching
    from pipelines.adapters.registry import Registry

    found = watching.due(p, Registry(p.at))
    return found or (watching.asked(p, reason) if reason else None)


def _one_step(p: Project, step: str, as_json: bool) -> None:
    from pipelines import retraining, workspace

    if step == "close":
        workspace.close_workspace(p)
        return
    opened = workspace.read_workspace(p)
    if step == "publish":
        done = retraining.publish(p, opened)
        say(done.model_dump(mode="json"), as_json, f"commit {done.commit}")
    elif step == "judge":
        verdict = retraining.judge(p, opened)
        text = f"{verdict.decision} version {verdict.challenger}: {verdict.reason}"
        say(verdict.model_dump(mode="json"), as_json, text)
    else:
        retraining.run_stage(p, opened, step)


@click.command(epilog=example("perennial verdict flights"))
@task_argument
@json_option
def verdict(task: str, as_json: bool) -> None:
    """What the gate said of the challenger, as Markdown for who must decide."""
    from pipelines.adapters.registry import CHALLENGER, Registry
    from pipelines.project import open_project
    from pipelines.service.pages.page import mlflow
    from pipelines.verdicts import as_markdown, of_version

    p = open_project(task)
    version = Registry(p.at).alias(CHALLENGER)
    if version is None:
        say(None, as_json, f"{task} has no challenger. Make one with: perennial retrain {task}")
        return
    found = of_version(p, version)
    text = as_markdown(p, found, mlflow(task, version)["address"])
    value = found.model_dump(mode="json") | {"reason": found.reason, "markdown": text}
    say(value, as_json, text)


@click.command(epilog=example("perennial smoke flights --service http://127.0.0.1:3000"))
@task_argument
@click.option("--service", metavar="URL", required=True, help="Where the task is served.")
def smoke(task: str, service: str) -> None:
    """Wait until the service answers with the champion, then ask it one real row."""
    from pipelines.adapters.registry import CHAMPION, Registry
    from pipelines.adapters.service import Service
    from pipelines.errors import MissingInput
    from pipelines.project import open_project
    from pipelines.service.access import key_from_environment
    from pipelines.store import read_table

    p = open_project(task)
    registry = Registry(p.at)
    version = registry.alias(CHAMPION)
    if version is None:
        raise MissingInput(f"{task} has no champion. Make one with: perennial promote {task}")
    asked = Service(service, key_from_environment())
    asked.wait_for(version)
    examples = read_table(registry.fetch(version) / "examples.parquet", "perennial retrain")
    wanted = list(dict.fromkeys((*p.contract.key, *p.contract.inputs)))
    ids = asked.predict(examples[wanted].head(1))
    click.echo(f"{service} answers with version {version}: {ids[0]}")
