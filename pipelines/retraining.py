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

from pipelines import flow, ledger, store, workspace
from pipelines.adapters import dvc as dvcs
from pipelines.adapters import git as gits
from pipelines.adapters.mlflow_home import VARIABLE, configure, experiment
from pipelines.adapters.registry import Registry
from pipelines.errors import RegistryError, WorkspaceError
from pipelines.lock import task_lock
from pipelines.paths import PARAMS, Paths
from pipelines.project import Project
from pipelines.records import Due, Retraining, Verdict
from pipelines.stages import promote

log = logging.getLogger(__name__)

AGAIN = 3
"""Times a retraining is done again from a base that moved, before it gives up."""


def run_stage(project: Project, opened: workspace.Workspace, stage: str) -> None:
    """One stage of dvc.yaml, as `dvc repro` runs it, in the worktree."""
    env = _environment(project, opened) | (_registry(project) if stage == "train" else {})
    dvcs.dvc(project.at.worktree, "repro", "--single-item", f"{stage}@{project.name}", env=env)


def _environment(project: Project, opened: workspace.Workspace) -> dict[str, str]:
    """The worktree's code, the project's sources, and the reason for the run's page."""
    at = project.at
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(at.worktree),
        "PERENNIAL_ROOT": str(at.worktree),
        "PERENNIAL_SOURCES": str(at.root),
        "PERENNIAL_REASON": "; ".join(opened.due.reasons),
        "DVC_NO_ANALYTICS": "true",
    }


def _registry(project: Project) -> dict[str, str]:
    """The project's own MLflow, whose artifacts outlive the worktree."""
    uri = configure(project.at)
    experiment(project.at, project.name)
    return {VARIABLE: uri}


def publish(project: Project, opened: workspace.Workspace) -> Retraining:
    """Commit dvc.lock, push the data, fast-forward the project's branch; then the ledger.

    Somebody who was faster makes it be done again from the new base, where DVC's run cache gives
    back what has not changed. Raises WorkspaceError when the push or the merge is refused: nothing
    is published then, and the next retraining begins anew.
    """
    at, due = project.at, opened.due
    env = _environment(project, opened)
    for _ in range(AGAIN):
        message = f"{workspace.title(due)}: what it read and made\n\n{workspace.reasons(due)}"
        made = gits.commit(at.worktree, message, PARAMS, workspace.LOCK)
        if dvcs.has_remote(at.worktree):
            _push(project, env)
        else:
            log.warning(
                "retrain %s: DVC has no remote, so the data is on this machine only. Name one "
                "with: dvc remote add --default <name> <url>", project.name,
            )  # fmt: skip
        with task_lock(at.lock.with_name("publish.lock"), f"perennial retrain {due.task}", True):
            if gits.fast_forward(at.root, workspace.branch(project), opened.base):
                break
        log.info("retrain %s: %s has moved on; again from there", project.name, opened.base)
        gits.start_again(at.worktree, opened.base)
        workspace.prepare(project, opened)
        again = env | _registry(project)
        dvcs.dvc(at.worktree, "repro", *_targets(project), env=again)
    else:
        raise WorkspaceError(
            f"{opened.base} moved on {AGAIN} times while {project.name} was retrained, so nothing "
            f"was published. Try again with: perennial retrain {project.name}"
        )
    window = project.window(due.last)
    done = Retraining(
        task=project.name, period=due.period, first=window[0], last=due.last,
        reasons=due.reasons, commit=made,
    )  # fmt: skip
    # A tick sweeps away what it takes for half-written while it holds the task.
    with task_lock(at.lock, f"perennial retrain {due.task}", wait=True):
        _keep(project, due.last)
        ledger.record(at.ledger, done)
    return done


def _push(project: Project, env: dict[str, str]) -> None:
    try:
        dvcs.dvc(project.at.worktree, "push", *_targets(project), env=env)
    except WorkspaceError as error:
        raise WorkspaceError(
            f"the data of {project.name} was not pushed to {dvcs.remotes(project.at.worktree)}, so "
            f"nothing is committed to the branch or registered: {error}"
        ) from error


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


def judge(project: Project, opened: workspace.Workspace) -> Verdict:
    """Register what was published as challenger, and let the gate speak; no alias champion moves.

    Raises RegistryError when it could not be registered, or judged to the end: it stays due.
    """
    candidate, registry = project.ending(opened.due.last), Registry(project.at)
    at, due = project.at, opened.due
    with task_lock(at.lock, f"perennial retrain {due.task}", wait=True):
        verdict = promote.gate(
            candidate.name, candidate.task, candidate.contract, candidate.at, registry, due.period
        )
        if promote.unfinished(verdict):
            raise RegistryError(
                f"{project.name}: {verdict.reason}. When it is mended: perennial retrain {due.task}"
            )
        # The gate does not record that the champion came out again; unrecorded, it would stay due.
        ledger.record(at.ledger, verdict, period=due.period)
    done = ledger.newest(at.ledger, "retraining", period=due.period)
    if done and done["commit"]:
        tags = {"commit": done["commit"], "asked_by": "; ".join(due.reasons)[:5000]}
        registry.set_tags(verdict.challenger, tags)
    return verdict


@dataclass(frozen=True)
class Done:
    retraining: Retraining
    verdict: Verdict


def retrain(project: Project, due: Due) -> Done:
    """The whole of it, in this process; the worktree goes whatever happens."""
    opened = workspace.open_workspace(project, due, f"process {os.getpid()}")
    try:
        for stage in flow.PURE:
            run_stage(project, opened, stage)
        published = publish(project, opened)
        return Done(published, judge(project, opened))
    finally:
        workspace.close_workspace(project)
