"""git, as far as a retraining needs it: a worktree of its own, commits, and a fast-forward."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from pipelines.errors import WorkspaceError

NOBODY = {"name": "perennial", "email": "perennial@localhost"}
"""Who commits where git knows nobody, as in a container."""
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
"""Set inside a git hook; they would win over the folder that is named."""


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
            # No hooks: DVC's own, for one, runs `dvc checkout` in the worktree that is being made.
            ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *words],
            capture_output=True, text=True, check=False, env=_environment(folder),
        )  # fmt: skip
    except FileNotFoundError:
        raise WorkspaceError(
            "a retraining is a commit, and git is not installed. Install it with: "
            "apt-get install git"
        ) from None


def _environment(folder: Path) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    for what, nobody in NOBODY.items():
        asked = ["git", "-C", str(folder), "config", f"user.{what}"]
        if subprocess.run(asked, capture_output=True, check=False, env=env).returncode:
            for who in ("AUTHOR", "COMMITTER"):
                env.setdefault(f"GIT_{who}_{what.upper()}", nobody)
    return env


def branch_of(root: Path) -> str:
    """The branch that is checked out in the project: what retrainings start from and end on."""
    done = _run(root, "symbolic-ref", "--short", "HEAD")
    if done.returncode or _run(root, "rev-parse", "--verify", "HEAD").returncode:
        raise WorkspaceError(
            f"{root} is not on a branch with a commit, so a retraining has nothing to start from. "
            f"Make one with: git -C {root} init && git -C {root} add -A && git -C {root} commit "
            "-m first; or go back to one with: git switch main"
        )
    top = Path(git(root, "rev-parse", "--show-toplevel"))
    if top.resolve() != root.resolve():
        raise WorkspaceError(
            f"{root} is a folder of the repository {top}, and a retraining needs a project at the "
            f"top of its own. Make it one with: git -C {root} init"
        )
    return done.stdout.strip()


def changed(root: Path, *paths: str) -> list[str]:
    """Files among `paths` that differ from the commit, or are in none."""
    said = git(root, "status", "--porcelain", "--untracked-files=all", "--", *paths)
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


def fast_forward(root: Path, branch: str, base: str) -> bool:
    """Move `base` to `branch`; False when it has moved elsewhere meanwhile."""
    if _run(root, "merge-base", "--is-ancestor", base, branch).returncode:
        return False
    if _run(root, "symbolic-ref", "--short", "HEAD").stdout.strip() == base:
        git(root, "merge", "--quiet", "--ff-only", branch)
    else:  # a person has checked out another branch meanwhile: it is not theirs that moves
        git(root, "fetch", "--quiet", ".", f"{branch}:{base}")
    return True


def start_again(folder: Path, base: str) -> None:
    """The worktree stands on `base`, and what it had committed stays in the history.

    A model that DVC's run cache gives back names the commit that it was first trained at; without
    this merge, which takes nothing from it, that commit would be lost with the branch.
    """
    before = git(folder, "rev-parse", "HEAD")
    git(folder, "reset", "--quiet", "--hard", base)
    message = f"Trained before {base} moved on; its settings come again below"
    git(folder, "merge", "--quiet", "--strategy", "ours", "-m", message, before)
