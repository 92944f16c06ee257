"""Where a retraining is made: a git worktree of its own, on a branch of its own, with its window moved.

Opened, used by several processes one after the other, closed. What they share lies beside it.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import psutil
import yaml

from pipelines import store
from pipelines.adapters import dvc as dvcs
from pipelines.adapters import git as gits
from pipelines.errors import Busy, MissingInput, WorkspaceError
from pipelines.lock import task_lock
from pipelines.paths import PARAMS, Paths
from pipelines.project import Project
from pipelines.records import Due, Record

LOCK = "dvc.lock"

CLOCK = 5.0
"""Seconds by which the system's clock may be set and a process is still known by when it started."""


class Workspace(Record):
    """What the steps of one retraining share: `.perennial/worktrees/<task>.json`."""

    due: Due
    base: str
    """Branch that it starts from and ends on."""
    owner: str
    """Airflow's run, or the process that a person started."""
    started: float | None = None
    """When that process started, in seconds since 1970: by now its number may be another's."""


def branch(project: Project) -> str:
    return f"retrain/{project.name}"


def open_workspace(project: Project, due: Due, owner: str) -> Workspace:
    """A fresh worktree on the project's branch, its window moved to `due.last`, committed.

    Raises Busy when a living process has one open, WorkspaceError when params.yaml or a contract
    of the project was changed and not committed: the training would not be of them.
    """
    at = project.at
    lock = at.lock.with_name(f"{project.name}-retrain.lock")
    with task_lock(lock, f"perennial retrain {project.name}", wait=True):
        if at.workspace.is_file():
            left = Workspace.model_validate_json(at.workspace.read_text("utf-8"))
            _refuse_alive(project, left, owner)
        base = gits.branch_of(at.root)
        _refuse_changed(project)
        opened = Workspace(due=due, base=base, owner=owner, started=_started(owner))
        store.write_text(at.workspace, opened.model_dump_json(indent=1))
    try:
        dvcs.end_left(at.worktree)
        gits.add_worktree(at.root, at.worktree, branch(project), base)
        prepare(project, opened)
    except BaseException:
        close_workspace(project)
        raise
    return opened


def _refuse_alive(project: Project, left: Workspace, owner: str) -> None:
    """One of Airflow's runs may take over what another left: it never has two at a time."""
    said = f"a retraining of {project.name} is made by {left.owner} in {project.at.worktree}"
    kind, _, number = left.owner.partition(" ")
    if kind == "process" and int(number) != os.getpid() and _lives(left):
        raise Busy(f"{said}. Wait for it, or end it with: kill {number}")
    if kind == "airflow" and not owner.startswith("airflow "):
        raise Busy(
            f"{said}. Wait for it; or, if Airflow runs it no longer, clear it away with: "
            f"perennial retrain {project.name} --step close"
        )


def _lives(left: Workspace) -> bool:
    now = _started(left.owner)
    return now is not None and (left.started is None or abs(now - left.started) < CLOCK)


def _started(owner: str) -> float | None:
    """When the process began that has the owner's number; None where none has, or it has none."""
    kind, _, number = owner.partition(" ")
    if kind != "process":
        return None
    try:
        return float(psutil.Process(int(number)).create_time())
    except psutil.NoSuchProcess:
        return None


def _refuse_changed(project: Project) -> None:
    at = project.at
    files = gits.changed(at.root, PARAMS, LOCK, str(at.contract.relative_to(at.root)))
    if files:
        raise WorkspaceError(
            f"{', '.join(files)} differ from the commit, so a retraining would not be of what "
            f"stands there. Put the change away with: git stash push --include-untracked -- "
            f"{' '.join(files)}; or keep it with: git add {' '.join(files)} && "
            f"git commit -m settings -- {' '.join(files)}"
        )


def prepare(project: Project, opened: Workspace) -> None:
    """The window's end, as a commit: the code and settings that the model will name."""
    at, due = project.at, opened.due
    dvcs.share(at.root, at.worktree)
    params = at.worktree / PARAMS
    text = params.read_bytes().decode()  # its line ends stay as they are
    with store.atomic(params) as temporary:
        temporary.write_bytes(move_window(text, project.name, due.last).encode())
    gits.commit(at.worktree, f"{title(due)}\n\n{reasons(due)}", PARAMS)
    _bring_batches(project, due.last)


def title(due: Due) -> str:
    return f"Retrain {due.task} up to {due.last}"


def reasons(due: Due) -> str:
    return "\n".join(f"- {reason}" for reason in due.reasons)


def move_window(text: str, task: str, last: str) -> str:
    """params.yaml with the window of one task ending at `last`, and no other character changed.

    Raises WorkspaceError where that cannot be: it is not written there, or is shared by an anchor.
    """
    node: Any = yaml.compose(text)
    for key in ("tasks", task, "window", "last"):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [value for name, value in pairs if name.value == key]
        if not found:
            raise WorkspaceError(
                f"{PARAMS} of the branch has no tasks.{task}.window.last written out. Add it with: "
                f"edit {PARAMS} && git commit -m settings {PARAMS}"
            )
        node = found[-1]
    if node.value == last:
        return text
    moved = f'{text[: node.start_mark.index]}"{last}"{text[node.end_mark.index :]}'
    wanted = _content(text)
    wanted["tasks"][task]["window"]["last"] = last
    try:
        alone = _content(moved) == wanted
    except yaml.YAMLError:
        alone = False
    if not alone:
        raise WorkspaceError(
            f"{PARAMS}: tasks.{task}.window.last cannot be moved alone: it is shared by an anchor, "
            f"or not a plain or quoted value. Write it out with: edit {PARAMS}"
        )
    return moved


def _content(text: str) -> Any:
    """What a YAML text says, where no two places are one object, as an anchor would make them."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


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


def close_workspace(project: Project) -> None:
    """Remove the worktree and its branch; nothing to do when there is none."""
    dvcs.end_left(project.at.worktree)
    gits.remove_worktree(project.at.root, project.at.worktree, branch(project))
    project.at.workspace.unlink(missing_ok=True)
