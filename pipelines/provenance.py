"""Which code and which environment made a thing."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from pipelines.records import Record


class Provenance(Record):
    git_commit: str
    """Empty outside a git repository, or before the first commit."""
    git_dirty: bool
    """True when a tracked file differs from the commit: the commit alone does not rebuild this.
    dvc.lock does not count: it says what came of a run, and changes while the run goes."""
    requirements: str
    """md5 of requirements.lock."""


def here(root: Path) -> Provenance:
    lock = root / "requirements.lock"
    changed = _git(
        root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock"
    )
    return Provenance(
        git_commit=_git(root, "rev-parse", "HEAD"),
        git_dirty=bool(changed),
        requirements=hashlib.md5(lock.read_bytes()).hexdigest() if lock.is_file() else "",
    )


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # a machine without git still trains; its runs say no commit
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
