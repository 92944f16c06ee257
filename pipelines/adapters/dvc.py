"""DVC in a retraining's worktree: the project's cache and remotes, its stages, its push."""

from __future__ import annotations

import configparser
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from pipelines.errors import WorkspaceError

BUSY = ("Unable to acquire lock", "is busy, it is being blocked")
TRIES, PAUSE = 5, 3.0
"""Another dvc command of the same folder holds its lock for seconds; DVC itself waits three."""

MARK = "PERENNIAL_RETRAINING"
"""In the environment of all that DVC runs here: the worktree. Finds what a killed run has left."""


def share(root: Path, worktree: Path) -> None:
    """Let the worktree use the project's own cache and remotes.

    A worktree lacks config.local, and a relative path in the settings would mean another folder
    there: pushes would go astray without a word. Links are left out because a write through one,
    which root may do, would spoil the cache.
    """
    if not (worktree / ".dvc" / "config").is_file():
        raise WorkspaceError(
            f"{root}/.dvc/config is in no commit, so a retraining has no DVC. Put it there with: "
            "dvc init; git add .dvc .dvcignore && git commit -m dvc"
        )
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


def remotes(worktree: Path) -> str:
    """Where a push goes, in words."""
    told = [_read(worktree / ".dvc" / name) for name in ("config", "config.local")]
    urls = {s: c.get(s, "url") for c in told for s in c.sections() if c.has_option(s, "url")}
    return ", ".join(f"{section.strip(chr(39))} at {url}" for section, url in urls.items())


def dvc(worktree: Path, *words: str, env: Mapping[str, str]) -> None:
    """Run it; what it says goes to standard error, line by line.

    Raises WorkspaceError with the end of what it said.
    """
    marked = {**env, MARK: str(worktree.resolve())}
    for attempt in range(1, TRIES + 1):
        status, lines = _say(["dvc", *words], worktree, marked)
        if status == 0:
            return
        if not any(word in line for word in BUSY for line in lines) or attempt == TRIES:
            break
        time.sleep(PAUSE)
    told = [line.strip() for line in lines if line.strip()]
    raise WorkspaceError(
        f"dvc {' '.join(words)} in {worktree} failed: {' '.join(told[-8:])[:900]}. "
        f"What it printed stands above; when it is mended: perennial retrain {worktree.name}"
    )


def _say(command: list[str], folder: Path, env: Mapping[str, str]) -> tuple[int, list[str]]:
    lines = []
    with subprocess.Popen(
        command, cwd=folder, env=env, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            lines.append(line)
    return process.returncode, lines


def end_left(worktree: Path) -> None:
    """End what a killed run left running in the worktree: it would write into the next one.

    Known by its mark and not by where it stands: a person's shell may stand there too.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
            if process.environ().get(MARK) == str(worktree.resolve()):
                process.kill()
