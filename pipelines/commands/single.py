"""gate, promote, rollback, score, labels, monitor: single steps of the loop, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.commands.options import example, json_option, one_batch, say, task_argument

if TYPE_CHECKING:
    from pipelines.adapters.registry import Registry
    from pipelines.artifact import Artifact
    from pipelines.project import Project


@click.command(epilog=example("dvc repro && perennial gate flights"))
@task_argument
@json_option
def gate(task: str, as_json: bool) -> None:
    """Register the model of `dvc repro` as challenger and judge it against the champion."""
    from pipelines.adapters.registry import Registry
    from pipelines.project import open_project
    from pipelines.stages import promote as stage

    p = open_project(task)
    verdict = stage.gate(p.name, p.task, p.contract, p.at, Registry(p.at), p.task.window.last)
    lines = [f"{'ok  ' if c.passed else 'FAIL'}  {c.name}: {c.reason}" for c in verdict.checks]
    lines.append(f"{verdict.decision} version {verdict.challenger}: {verdict.reason}")
    say(verdict.model_dump(mode="json"), as_json, "\n".join(lines))


@click.command(epilog=example("perennial promote flights"))
@task_argument
@click.option("--version", "version", help="A registered version; else the challenger.")
@click.option(
    "--force", is_flag=True, help="Although the verdict is not promote; recorded as such."
)
@click.option("--by", help="Who let it answer; on the ledger, and with the version.")
@json_option
def promote(task: str, version: str | None, force: bool, by: str | None, as_json: bool) -> None:
    """Move the champion alias to a version that the gate let through."""
    from pipelines import moves
    from pipelines.adapters.registry import Registry
    from pipelines.project import open_project

    p = open_project(task)
    now = moves.promote(p.name, p.at, Registry(p.at), version, force=force, by=by)
    say({"champion": now}, as_json, f"champion of {task} is now version {now}")


@click.command(epilog=example("perennial rollback flights"))
@task_argument
@json_option
def rollback(task: str, as_json: bool) -> None:
    """Put the previous champion back."""
    from pipelines import moves
    from pipelines.adapters.registry import Registry
    from pipelines.project import open_project

    p = open_project(task)
    registry = Registry(p.at)
    before = registry.alias("champion")
    now = moves.rollback(p.name, p.at, registry)
    text = f"champion of {task} is again version {now}"
    if now == before:
        text = (
            f"nothing was changed: version {now} is the previous champion, and it answers already. "
            f"Another one: perennial promote {task} --version <version> --force"
        )
    say({"champion": now, "changed": now != before}, as_json, text)


@click.command(epilog=example("perennial score flights --files inbox/today"))
@task_argument
@click.option("--batch", metavar="PERIOD", help="Answer this landed batch, e.g. 2013-04.")
@click.option("--files", metavar="FOLDER", help="Or each CSV and Parquet file of rows in here.")
@click.option("--out", metavar="FOLDER", help="Where their answers go; else data/6_scored/<task>.")
@json_option
def score(task: str, batch: str | None, files: str | None, out: str | None, as_json: bool) -> None:
    """Let the champion answer a batch, or files of rows; its answers are logged.

    With --files, each file that has no answers yet gets them, as Parquet under its own name. Rows
    are held to the contract as the service's are: a file with a wrong one is refused whole.
    """
    from pipelines.project import open_project
    from pipelines.stages import score as stage

    if (batch is None) == (files is None) or (out is not None and files is None):
        raise click.UsageError("give either --batch, or --files with or without --out")
    p = open_project(task)
    if files is not None:
        _score_files(p, Path(files), p.at.scored if out is None else Path(out), as_json)
        return
    period = str(batch)
    version, model = _champion(p)
    rows = stage.run(p.name, p.contract, p.at, period, model, version)
    said = f"{rows} answers in {p.at.predictions(period)}"
    say({"rows": rows, "version": version}, as_json, said)


def _score_files(p: Project, folder: Path, out: Path, as_json: bool) -> None:
    from dataclasses import asdict
    from functools import cache

    from pipelines.adapters.registry import Registry
    from pipelines.service.verify import verified
    from pipelines.stages import score_files as stage

    registry = Registry(p.at)

    @cache
    def model_of(version: str) -> Artifact:
        digest = registry.tags(version).get("artifact", "")
        return verified(registry.fetch(version), digest, p.contract)

    champion = _champion_version(p, registry)
    done = stage.run(p.name, p.contract, p.at, folder, out, champion, model_of)
    counts = f"{len(done.answered)} answered, {done.before} before, {len(done.refused)} refused"
    lines = [
        f"{a.file}: {a.rows} answers by version {a.version}: {a.answers}" for a in done.answered
    ]
    told = {
        "answered": [asdict(a) for a in done.answered],
        "before": done.before,
        "refused": [str(error) for error in done.refused],
    }
    say(told, as_json, "\n".join([*lines, f"files of {folder}: {counts}"]))
    if done.refused:
        raise type(done.refused[0])("\n".join(map(str, done.refused)))


@click.command(epilog=example("perennial labels flights --batch 2013-04"))
@task_argument
@click.option("--batch", metavar="PERIOD", help="Join the labels of this batch, e.g. 2013-04.")
@click.option(
    "--file", "path", metavar="FILE", help="Or take labels by prediction id: columns id, label."
)
@json_option
def labels(task: str, batch: str | None, path: str | None, as_json: bool) -> None:
    """Join the labels that arrived to the answers given to a batch.

    With --file, a CSV or Parquet file gives labels by the prediction ids that came back over HTTP;
    the first label of an id stays.
    """
    from pipelines.project import open_project
    from pipelines.stages import labels as stage

    if (batch is None) == (path is None):
        raise click.UsageError("give either --batch or --file")
    p = open_project(task)
    if batch is None:
        _labels_from(p, Path(str(path)), as_json)
        return
    rows = stage.run(p.name, p.contract, p.at, batch)
    say({"rows": rows}, as_json, f"{rows} answers to {batch} have a label")


def _labels_from(p: Project, path: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from pipelines.served import labels as served

    counted = asdict(served.take(p.at, p.contract, served.from_file(path, p.contract)))
    text = ", ".join(f"{count} {kind}" for kind, count in counted.items())
    say(counted, as_json, f"labels of {path}: {text}")


@click.command(epilog=example("perennial monitor flights --batch 2013-05"))
@task_argument
@one_batch
@json_option
def monitor(task: str, batch: str, as_json: bool) -> None:
    """Hold a batch, and the labels known by now, against what the champion was trained on."""
    from pipelines.adapters.registry import Registry
    from pipelines.project import open_project
    from pipelines.stages import monitor as stage

    p = open_project(task)
    version, model = _champion(p)
    made = Registry(p.at).made_at(version)
    alarm = stage.run(p.name, p.task, p.contract, p.at, batch, model, version, made)
    said = "ALARM" if alarm.raised else "no alarm"
    text = "\n".join([f"{said} for {batch}, champion version {version}", *alarm.reasons])
    say(alarm.model_dump(mode="json"), as_json, f"{text}\nreport: {p.at.drift_page(batch)}")


def _champion(project: Project) -> tuple[str, Artifact]:
    from pipelines.adapters.registry import Registry
    from pipelines.artifact import load

    registry = Registry(project.at)
    version = _champion_version(project, registry)
    return version, load(registry.fetch(version))


def _champion_version(project: Project, registry: Registry) -> str:
    from pipelines.errors import MissingInput

    version = registry.alias("champion")
    if version is None:
        raise MissingInput(
            f"{project.name} has no champion yet. Make one with: perennial tick {project.name}"
        )
    return version
