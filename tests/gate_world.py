"""A champion that answers and a better challenger: what the tests of the wired gate break."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines import rivals, store
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.records import Scores, Verdict
from pipelines.stages import promote as stage
from tests.fakes import BETTER, PUMPS, WORSE, MemoryRegistry, pump_model, pumps

TASK = Task.model_validate_json(
    """{
    "source": {"kind": "files", "path": "inbox"}, "period": "month", "calendar": [],
    "min_category": 50, "train": {"seed": 7},
    "window": {"first": "2024-01", "last": "2024-03"},
    "evaluate": {"slices": ["site", "moment"], "slice_rows": 100},
    "gate": {"bootstrap": 50, "min_class_rows": 50}
    }"""
)
PERIOD = "2024-03"


@dataclass
class World:
    """One task's files and its registry, where version 1 is champion."""

    at: Paths
    registry: Any
    monkeypatch: pytest.MonkeyPatch
    task: Task = TASK
    contract: Contract = PUMPS

    def challenger(self, graph: bytes = BETTER, **about: Any) -> Artifact:
        shutil.rmtree(self.at.model, ignore_errors=True)
        return pump_model(self.at.model, graph, **about)

    def rows(self, table: Any) -> None:
        store.write_table(self.at.prepared / "test.parquet", table)

    def gate_settings(self, **changed: Any) -> None:
        settings = self.task.gate.model_copy(update=changed)
        self.task = self.task.model_copy(update={"gate": settings})

    def answers(self, version: str, spoil: Callable[[Scores], Scores]) -> None:
        """Spoil the table of one version's answers on its way to the gate."""
        plain = rivals.scores

        def spoiled(who: str, *rest: Any) -> Scores:
            table = plain(who, *rest)
            return spoil(table) if who == version else table

        self.monkeypatch.setattr(rivals, "scores", spoiled)

    def challenge(self) -> Verdict:
        return stage.challenge("pumps", self.task, self.contract, self.at, self.registry, PERIOD)


def build(root: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    at = Paths(root, "pumps")
    pump_model(at.model, BETTER)
    store.write_table(at.prepared / "test.parquet", pumps())
    registry = MemoryRegistry(root / "registry")
    version = registry.register(pump_model(root / "first" / "model", WORSE))
    registry.promote(version, None, lambda _: None)
    return World(at, registry, monkeypatch)
