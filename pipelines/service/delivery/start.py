"""What a bento needs before it can serve, and where it keeps what it writes.

A bento's own files are only read. What the service writes is in the folder that PERENNIAL_STATE
names, which also holds the settings it runs by: a copy, made at the first start. Replicas of one
bento may share that folder on one machine; another bento takes it over when none of them runs any more.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from pipelines import store
from pipelines.errors import ArtifactError, Busy, ParamsError
from pipelines.lock import task_lock
from pipelines.paths import PARAMS, Paths

FACTS = "delivered.json"
IN_USE = "delivered.in-use"
"""The first file that a bento makes in its folder: where it is, the rest is a bento's too."""
MODEL = "model"
STATE = "PERENNIAL_STATE"


class Held:
    """Open as long as this process lives: it says that the folder's settings are in use."""

    in_use: TextIO | None = None


def environment(src: Path, now: Mapping[str, str]) -> dict[str, str]:
    """What the service must find in its environment, for the bento whose files are in `src`.

    Raises ParamsError, ArtifactError or Busy when it cannot be served so.
    """
    if not (src / FACTS).is_file():
        raise ParamsError(
            f"{src} is no bento: {FACTS} is missing. Make one with: perennial bento <task>"
        )
    facts = json.loads((src / FACTS).read_text(encoding="utf-8"))
    _must_be_delivered(src, facts)
    defaults = {"BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1"}
    if not now.get("MLFLOW_TRACKING_URI"):
        defaults["PERENNIAL_REGISTRY"] = "off"
    return {k: v for k, v in defaults.items() if k not in now} | {
        "PERENNIAL_TASK": facts["task"],
        "PERENNIAL_MODEL": str(src / MODEL),
        "PERENNIAL_MODEL_VERSION": facts["model_version"],
        "PERENNIAL_ROOT": str(_root(src, facts["task"], now)),
    }


def _must_be_delivered(src: Path, facts: Mapping[str, str]) -> None:
    manifest = src / MODEL / "manifest.json"
    found = store.md5(manifest) if manifest.is_file() else "none"
    if found != facts["artifact"]:
        raise ArtifactError(
            f"{src / MODEL} holds artifact {found}, and the bento was made with "
            f"{facts['artifact']}. Make it again with: perennial bento {facts['task']} "
            f"--version {facts['model_version']}"
        )


def _root(src: Path, task: str, now: Mapping[str, str]) -> Path:
    """The build folder is a project of its own; a built bento keeps its state elsewhere."""
    if not (src.parent / "bento.yaml").is_file():
        return src
    home = Path(now.get("BENTOML_HOME") or "~/bentoml").expanduser()
    root = Path(now.get(STATE) or home / "perennial" / task).resolve()
    _must_be_no_project(root)
    if Held.in_use is None:
        Held.in_use = settle(src, root, task)
    return root


def _must_be_no_project(root: Path) -> None:
    """Before anything is written, the lock's file too. Settings without IN_USE are no bento's: not of
    one that was killed as it began, nor of a replica that begins at this moment."""
    if (root / PARAMS).exists() and not ((root / IN_USE).exists() or (root / FACTS).exists()):
        raise ParamsError(
            f"{STATE} names {root}, which is a project, and the bento would write over its "
            f"{PARAMS}. Name a folder of its own with: export {STATE}=<folder>"
        )


def settle(src: Path, root: Path, task: str) -> TextIO:
    """Put the bento's settings into `root`, unless they are there; returns what says "in use".

    Raises Busy while another bento uses the folder.
    """
    lock = Paths(root, task).lock.with_name("delivered.lock")
    with task_lock(lock, f"start of {task}", wait=True):
        in_use = (root / IN_USE).open("a")
        try:
            if not _same(src / FACTS, root / FACTS):
                fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _take_over(src, root, task)
            fcntl.flock(in_use, fcntl.LOCK_SH)
        except BlockingIOError:
            in_use.close()
            raise Busy(
                f"{root} is in use by another bento of {task}. Stop that one first, or name "
                f"another folder with: export {STATE}=<folder>"
            ) from None
        except BaseException:
            in_use.close()
            raise
        return in_use


def _take_over(src: Path, root: Path, task: str) -> None:
    """What the last bento wanted to answer with goes; its answers and labels stay."""
    theirs, at = Paths(src, task), Paths(root, task)
    if at.service.exists():
        shutil.rmtree(at.service)  # one that stays would answer with the last bento's model
    for source, target in ((theirs.contract, at.contract), (theirs.params, at.params)):
        store.write_text(target, source.read_text(encoding="utf-8"))
    # Last: when it is killed before this, the next start does it all again.
    store.write_text(root / FACTS, (src / FACTS).read_text(encoding="utf-8"))


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()
