"""A retraining as a commit: in a git worktree of its own, by DVC, judged like any other.

open, the stages of `dvc.yaml`, publish, judge, close: each step is a process of its own when
Airflow runs them, so what they share lies in a file beside the worktree. The project's own checkout
changes in one moment only, the fast-forward in publish; what failed before it has changed nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines import flow, ledger, store
from pipelines.adapters import dvc as dvcs
from pipelines.adapters import git as gits
from pipelines.adapters.git import git
from pipelines.adapters.mlflow_home import VARIABLE, configure, experiment
from pipelines.adapters.registry import Registry
from pipelines.errors import Busy, MissingInput, WorkspaceError
from pipelines.lock import alive, task_lock
from pipelines.paths import PARAMS, Paths
from pipelines.project import Project
from pipelines.records import Due, Record, Retraining, Verdict
from pipelines.stages import promote

log = logging.getLogger(__name__)

LOCK = "dvc.lock"
AGAIN = 3
"""Times a retraining is done again from a base that moved, before it gives up."""


class Workspace(Record):
    """What the steps of one retraining share: `.perennial/worktrees/<task>.json`."""

    due: Due
    base: str
    """Branch that it starts from and ends on."""
    owner: str
    """Airflow's run, or the process that a person started."""


def branch(project: Project) -> str:
    return f"retrain/{project.name}"


def open_workspace(project: Project, due: Due, owner: str) -> Workspace:
    """A fresh worktree on the project's branch, its window moved to `due.last`, committed.

    Raises Busy when a living process has one open, WorkspaceError when params.yaml or a contract
    of the project was changed and not committed: the training would not be of them.
    """
    at = project.at
    if at.workspace.is_file():
        _refuse_alive(project, Workspace.model_validate_json(at.workspace.read_text("utf-8")))
    base = gits.branch_of(at.root)
    _refuse_changed(project)
    opened = Workspace(due=due, base=base, owner=owner)
    gits.add_worktree(at.root, at.worktree, branch(project), base)
    store.write_text(at.workspace, opened.model_dump_json(indent=1))
    _prepare(project, opened)
    return opened


def _refuse_alive(project: Project, left: Workspace) -> None:
    kind, _, number = left.owner.partition(" ")
    if kind == "process" and int(number) != os.getpid() and alive(int(number)):
        raise Busy(
            f"a retraining of {project.name} is made by {left.owner} in {project.at.worktree}. "
            f"Wait for it, or end it with: kill {number}"
        )


def _refuse_changed(project: Project) -> None:
    at = project.at
    files = gits.changed(at.root, PARAMS, LOCK, str(at.contract.relative_to(at.root)))
    if files:
        raise WorkspaceError(
            f"{', '.join(files)} differ from the commit, so a retraining would not be of what "
            f"stands there. Keep the change with: git commit {' '.join(files)}; or drop it with: "
            f"git restore {' '.join(files)}"
        )


def _prepare(project: Project, opened: Workspace) -> None:
    """The window's end, as a commit: the code and settings that the model will name."""
    at, due = project.at, opened.due
    dvcs.share(at.root, at.worktree)
    params = at.worktree / PARAMS
    store.write_text(params, move_window(params.read_text("utf-8"), project.name, due.last))
    gits.commit(at.worktree, f"{_title(due)}\n\n{_reasons(due)}", PARAMS)
    _bring_batches(project, due.last)


def _title(due: Due) -> str:
    return f"Retrain {due.task} up to {due.last}"


def _reasons(due: Due) -> str:
    return "\n".join(f"- {reason}" for reason in due.reasons)


def move_window(text: str, task: str, last: str) -> str:
    """params.yaml with the window of one task ending at `last`, and no other character changed."""
    node: Any = yaml.compose(text)
    for key in ("tasks", task, "window", "last"):
        found = [value for name, value in node.value if name.value == key]
        if not found:
            raise WorkspaceError(
                f"{PARAMS} of the branch has no tasks.{task}.window.last. Add it with: git commit "
                f"{PARAMS}"
            )
        node = found[0]
    moved = f'{text[: node.start_mark.index]}"{last}"{text[node.end_mark.index :]}'
    return text if node.value == last else moved


def _bring_batches(project: Project, last: str) -> None:
    """The landed batches of the window: a source may have forgotten what the project has not."""
    at = project.at
    there = Paths(at.worktree, project.name)
    for period in project.window(last):
        missing = [p for p in (at.batch(period), at.validation(period)) if not p.is_file()]
        if missing:
            raise MissingInput(
                f"{missing[0]} does not exist: batch {period} of the window has not landed. Land "
                f"it with: perennial ingest {project.name} --batch {period} && "
                f"perennial validate {project.name} --batch {period}"
            )
        for source, copy in (
            (at.batch(period), there.batch(period)),
            (at.validation(period), there.validation(period)),
            (at.validation_page(period), there.validation_page(period)),
        ):
            if not copy.exists() and source.is_file():
                with store.atomic(copy) as temporary:
                    shutil.copyfile(source, temporary)


def read_workspace(project: Project) -> Workspace:
    if not (project.at.workspace.is_file() and project.at.worktree.is_dir()):
        raise MissingInput(
            f"no retraining of {project.name} is open. Open one with: "
            f"perennial retrain {project.name} --step open"
        )
    return Workspace.model_validate_json(project.at.workspace.read_text("utf-8"))


def run_stage(project: Project, opened: Workspace, stage: str) -> None:
    """One stage of dvc.yaml, as `dvc repro` runs it, in the worktree."""
    env = _environment(project, opened) | (_registry(project) if stage == "train" else {})
    dvcs.dvc(project.at.worktree, "repro", "--single-item", f"{stage}@{project.name}", env=env)


def _environment(project: Project, opened: Workspace) -> dict[str, str]:
    """The worktree's code, the project's sources, and the reason for the run's page."""
    at = project.at
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(at.worktree),
        "PERENNIAL_ROOT": str(at.worktree),
        "PERENNIAL_SOURCES": str(at.root),
        "PERENNIAL_REASON": "; ".join(opened.due.reasons),
    }


def _registry(project: Project) -> dict[str, str]:
    """The project's own MLflow, whose artifacts outlive the worktree."""
    uri = configure(project.at)
    experiment(project.at, project.name)
    return {VARIABLE: uri}


def publish(project: Project, opened: Workspace) -> Retraining:
    """Commit dvc.lock, push the data, fast-forward the project's branch; then the ledger.

    Somebody who was faster makes it be done again from the new base, where DVC's run cache gives
    back what has not changed. Raises WorkspaceError when the push or the merge is refused: nothing
    is published then, and the next retraining begins anew.
    """
    at, due = project.at, opened.due
    env = _environment(project, opened)
    for _ in range(AGAIN):
        message = f"{_title(due)}: what it read and made\n\n{_reasons(due)}"
        made = gits.commit(at.worktree, message, PARAMS, LOCK)
        if dvcs.has_remote(at.worktree):
            dvcs.dvc(at.worktree, "push", "--quiet", *_targets(project), env=env)
        else:
            log.warning(
                "retrain %s: DVC has no remote, so the data is on this machine only. Name one "
                "with: dvc remote add --default <name> <url>", project.name,
            )  # fmt: skip
        with task_lock(at.lock.with_name("publish.lock"), f"perennial retrain {due.task}", True):
            if gits.fast_forward(at.root, branch(project)):
                break
        log.info("retrain %s: %s has moved on; again from there", project.name, opened.base)
        git(at.worktree, "reset", "--quiet", "--hard", opened.base)
        _prepare(project, opened)
        again = env | _registry(project)
        dvcs.dvc(at.worktree, "repro", "--quiet", *_targets(project), env=again)
    else:
        raise WorkspaceError(
            f"{opened.base} moved on {AGAIN} times while {project.name} was retrained, so nothing "
            f"was published. Try again with: perennial retrain {project.name}"
        )
    _keep(project, due.last)
    window = project.window(due.last)
    done = Retraining(
        task=project.name, period=due.period, first=window[0], last=due.last,
        reasons=due.reasons, commit=made,
    )  # fmt: skip
    ledger.record(at.ledger, done)
    return done


def _targets(project: Project) -> list[str]:
    return [f"{stage}@{project.name}" for stage in flow.PURE]


def _keep(project: Project, last: str) -> None:
    """What the gate reads, where a tick keeps it: the worktree goes, the candidate stays."""
    kept = project.ending(last).at
    made = Paths(project.at.worktree, project.name)
    for source, folder in (
        (made.prepared, kept.prepared),
        (made.model, kept.model),
        (made.report, kept.report),
    ):
        with store.atomic_folder(folder) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)


def judge(project: Project, opened: Workspace) -> Verdict:
    """Register what was published as challenger, and let the gate speak; no alias champion moves."""
    candidate, registry = project.ending(opened.due.last), Registry(project.at)
    verdict = promote.gate(
        candidate.name, candidate.task, candidate.contract, candidate.at, registry,
        opened.due.period,
    )  # fmt: skip
    done = ledger.newest(project.at.ledger, "retraining", last=opened.due.last)
    if done and done["commit"] and verdict.challenger != promote.UNREGISTERED:
        tags = {"commit": done["commit"], "asked_by": "; ".join(opened.due.reasons)[:5000]}
        registry.set_tags(verdict.challenger, tags)
    return verdict


def close_workspace(project: Project) -> None:
    """Remove the worktree and its branch; nothing to do when there is none."""
    gits.remove_worktree(project.at.root, project.at.worktree, branch(project))
    project.at.workspace.unlink(missing_ok=True)


@dataclass(frozen=True)
class Done:
    retraining: Retraining
    verdict: Verdict


def retrain(project: Project, due: Due) -> Done:
    """The whole of it, in this process; the worktree goes whatever happens."""
    opened = open_workspace(project, due, f"process {os.getpid()}")
    try:
        for stage in flow.PURE:
            run_stage(project, opened, stage)
        published = publish(project, opened)
        return Done(published, judge(project, opened))
    finally:
        close_workspace(project)
