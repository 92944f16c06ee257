"""DVC in a retraining's worktree: the project's cache and remotes, its stages, its push."""

from __future__ import annotations

import configparser
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from pipelines.errors import WorkspaceError

BUSY = ("Unable to acquire lock", "is busy, it is being blocked")
TRIES, PAUSE = 5, 3.0
"""Another dvc command of the same folder holds its lock for seconds; DVC itself waits three."""


def share(root: Path, worktree: Path) -> None:
    """Let the worktree use the project's own cache and remotes.

    A worktree lacks config.local, and a relative path in the settings would mean another folder
    there: pushes would go astray without a word. Links are left out because a write through one,
    which root may do, would spoil the cache.
    """
    local = _read(root / ".dvc" / "config.local")
    known = _read(root / ".dvc" / "config")
    if not local.has_section("cache"):
        local.add_section("cache")
    cache = local.get("cache", "dir", fallback=known.get("cache", "dir", fallback="cache"))
    local.set("cache", "dir", _absolute(root / ".dvc", cache))
    local.set("cache", "type", "reflink,copy")
    if not local.has_section("core"):
        local.add_section("core")
    local.set("core", "autostage", "true")  # else each stage ends in a hint to `git add`
    for settings in (known, local):
        for section in settings.sections():
            url = settings.get(section, "url", fallback=None)
            if url is not None:
                if not local.has_section(section):
                    local.add_section(section)
                local.set(section, "url", _absolute(root / ".dvc", url))
    with (worktree / ".dvc" / "config.local").open("w", encoding="utf-8") as file:
        local.write(file)


def _read(path: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read(path, encoding="utf-8")
    return found


def _absolute(base: Path, url: str) -> str:
    """DVC reads a relative path from the folder of the file that names it."""
    return url if "://" in url else os.path.normpath(base / url)


def has_remote(worktree: Path) -> bool:
    return any(
        _read(worktree / ".dvc" / name).has_option("core", "remote")
        for name in ("config", "config.local")
    )


def dvc(worktree: Path, *words: str, env: Mapping[str, str]) -> None:
    """Run it, its output going where ours goes. Raises WorkspaceError with the end of what it said."""
    for attempt in range(1, TRIES + 1):
        done = subprocess.run(
            ["dvc", *words], cwd=worktree, env=dict(env), text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        print(done.stdout, end="", flush=True)
        if done.returncode == 0:
            return
        if not any(word in done.stdout for word in BUSY) or attempt == TRIES:
            break
        time.sleep(PAUSE)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    raise WorkspaceError(
        f"dvc {' '.join(words)} in {worktree} failed: {' '.join(lines[-8:])[:900]}. "
        "What it printed stands above; when it is mended: perennial retrain <task>"
    )
