"""What depends on what, read from dvc.yaml by itself: an Airflow DAG is parsed every few seconds,
and DVC takes a second to import. tests/test_dags.py holds it against DVC's own graph.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import yaml

GROUPS = ("outs", "metrics", "plots")


def stages_before(dvc_yaml: Path, task: str) -> dict[str, set[str]]:
    """stage -> the stages of the same task whose files it reads, in the order of dvc.yaml."""
    stages = yaml.safe_load(dvc_yaml.read_text(encoding="utf-8"))["stages"]
    told = {name: stage.get("do", stage) for name, stage in stages.items()}
    writes = {
        name: [path for group in GROUPS for path in _paths(stage, group, task)]
        for name, stage in told.items()
    }
    return {
        name: {
            other
            for other in told
            if other != name
            and any(_overlap(d, w) for d in _paths(stage, "deps", task) for w in writes[other])
        }
        for name, stage in told.items()
    }


def _paths(stage: dict[str, Any], group: str, task: str) -> list[PurePosixPath]:
    entries = stage.get(group, [])
    names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    return [PurePosixPath(name.replace("${key}", task)) for name in names]


def _overlap(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one == other or one in other.parents or other in one.parents
