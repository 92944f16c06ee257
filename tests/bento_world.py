"""A project of the pumps, and a small package, from which bentos are staged."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.paths import Paths
from pipelines.project import Project
from pipelines.provenance import Provenance
from pipelines.service.delivery import stage as delivery
from tests.fakes import BETTER, PUMPS, pump_model
from tests.gate_world import TASK

BY = Provenance(git_commit="c" * 40, git_dirty=False, requirements="d" * 32)


def small_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the code, with its lock, so that a test may change them."""
    package = folder / "repository" / "pipelines"
    (package / "service").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "service" / "page.html").write_text("<p>")
    (package.parent / delivery.LOCK).write_text("bentoml==1.4.39\n")
    monkeypatch.setattr(delivery, "CODE", package)
    return package


def make_project(root: Path) -> Project:
    at = Paths(root, "pumps")
    at.contract.parent.mkdir(parents=True)
    described = PUMPS.model_dump(mode="json", exclude_none=True)
    at.contract.write_text(yaml.safe_dump(described))
    task = TASK.model_dump(mode="json", exclude_defaults=True)
    at.params.write_text(yaml.safe_dump({"tasks": {"pumps": task, "other": {**task}}}))
    return Project("pumps", TASK, PUMPS, at)


def staged(root: Path, graph: bytes = BETTER, by: Provenance = BY) -> delivery.Staged:
    return delivery.stage(make_project(root), "3", pump_model(root / "m" / "model", graph), by)


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
