"""git, as far as a retraining needs it: a worktree of its own, commits, and a fast-forward."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from pipelines.errors import WorkspaceError

NOBODY = {
    "GIT_AUTHOR_NAME": "perennial", "GIT_AUTHOR_EMAIL": "perennial@localhost",
    "GIT_COMMITTER_NAME": "perennial", "GIT_COMMITTER_EMAIL": "perennial@localhost",
}  # fmt: skip
"""Who commits where git knows nobody, as in a container."""


def git(folder: Path, *words: str) -> str:
    """What it printed. Raises WorkspaceError with what git said."""
    done = _run(folder, *words)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise WorkspaceError(
            f"git {shlex.join(words)} in {folder} failed: {said[:500]}. "
            f"See its state with: git -C {folder} status"
        )
    return done.stdout.strip()


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True, text=True, check=False, env=os.environ | _identity(folder),
        )  # fmt: skip
    except FileNotFoundError:
        raise WorkspaceError(
            "a retraining is a commit, and git is not installed. Install it with: "
            "apt-get install git"
        ) from None


def _identity(folder: Path) -> dict[str, str]:
    named = subprocess.run(
        ["git", "-C", str(folder), "config", "user.email"], capture_output=True, check=False
    )
    return {} if named.returncode == 0 or "GIT_AUTHOR_EMAIL" in os.environ else NOBODY


def branch_of(root: Path) -> str:
    """The branch that is checked out in the project: what retrainings start from and end on."""
    done = _run(root, "symbolic-ref", "--short", "HEAD")
    if done.returncode or _run(root, "rev-parse", "--verify", "HEAD").returncode:
        raise WorkspaceError(
            f"{root} is not on a branch with a commit, so a retraining has nothing to start from. "
            f"Make one with: git -C {root} init && git -C {root} add -A && git -C {root} commit "
            "-m first; or go back to one with: git switch main"
        )
    return done.stdout.strip()


def changed(root: Path, *paths: str) -> list[str]:
    """Tracked files among `paths` that differ from the commit."""
    said = git(root, "status", "--porcelain", "--untracked-files=no", "--", *paths)
    return [line.split(maxsplit=1)[1] for line in said.splitlines()]


def add_worktree(root: Path, folder: Path, branch: str, base: str) -> None:
    """A fresh checkout of `base` on `branch`; what was left there by a killed run goes first."""
    remove_worktree(root, folder, branch)
    folder.parent.mkdir(parents=True, exist_ok=True)
    git(root, "worktree", "add", "--quiet", "-B", branch, str(folder), base)


def remove_worktree(root: Path, folder: Path, branch: str) -> None:
    _run(root, "worktree", "remove", "--force", "--force", str(folder))
    if folder.exists():  # git does not know it: a run was killed while it was made or removed
        shutil.rmtree(folder)
    git(root, "worktree", "prune")
    if _run(root, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}").returncode == 0:
        git(root, "branch", "--quiet", "-D", branch)


def commit(folder: Path, message: str, *paths: str) -> str:
    """Commit these files if any of them changed; returns the commit that now stands."""
    there = [path for path in paths if (folder / path).exists()]
    git(folder, "add", "--", *there)
    if _run(folder, "diff", "--cached", "--quiet").returncode:
        git(folder, "commit", "--quiet", "--no-verify", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def fast_forward(root: Path, branch: str) -> bool:
    """Move the project's branch to `branch`; False when it has moved elsewhere meanwhile."""
    if _run(root, "merge-base", "--is-ancestor", "HEAD", branch).returncode:
        return False
    git(root, "merge", "--quiet", "--ff-only", branch)
    return True
