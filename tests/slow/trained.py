"""Trainings that take no time, in the real MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines import artifact, store
from pipelines.adapters import tracking
from pipelines.adapters.registry import Registry
from pipelines.paths import Paths
from pipelines.prepared import Prepared
from pipelines.provenance import Provenance
from pipelines.records import DataHash
from pipelines.stages import promote as stage
from tests.fakes import BETTER, PUMPS, WORSE, pump_model, pumps
from tests.gate_world import PERIOD, TASK

PREPARED = Prepared(
    first="2024-01",
    last="2024-02",
    data=(DataHash(period="2024-02", md5="a" * 32, rows=10, validation="b" * 32),),
    contract=PUMPS.digest,
    trained_until=5,
    rows={"train": 3},
    baseline_rate=0.2,
    baseline={},
)
MADE_BY = Provenance(git_commit="c" * 40, git_dirty=True, requirements="d" * 32)


def train(at: Paths, graph: bytes, folder: Path) -> str:
    """A training that takes no time; returns the artifact's digest."""
    with tracking.training_run(at, "pumps", TASK, PREPARED, MADE_BY, "an alarm") as run:
        for epoch in range(3):
            run.epoch(epoch, {"loss": 1 / (epoch + 1)})
        made = pump_model(folder, graph)
        run.model(folder, made.about.metrics)
    return made.digest


def challenge(at: Paths, registry: Any = None) -> Any:
    return stage.challenge("pumps", TASK, PUMPS, at, registry or Registry(at), PERIOD)


def every_alias_loads(at: Paths) -> dict[str, str]:
    registry = Registry(at)
    for version in registry.aliases().values():
        artifact.self_test(artifact.load(registry.fetch(version)))
    return registry.aliases()


def prepare_world(root: Path) -> Paths:
    """A champion, and a better challenger that was just trained and is not registered yet."""
    at = Paths(root, "pumps")
    train(at, WORSE, root / "first" / "model")
    version = Registry(at).register(artifact.load(root / "first" / "model"))
    Registry(at).promote(version, None, lambda _: None)
    train(at, BETTER, at.model)
    store.write_table(at.prepared / "test.parquet", pumps())
    return at
