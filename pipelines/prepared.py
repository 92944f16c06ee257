"""What prepare leaves for the later stages: `3_prepared/<task>/`."""

from __future__ import annotations

from pipelines import store
from pipelines.paths import Paths
from pipelines.records import DataHash, Record


class Prepared(Record):
    """What later stages need to know of the arrays: `3_prepared/<task>/prepared.json`."""

    first: str
    last: str
    data: tuple[DataHash, ...]
    contract: str
    trained_until: int
    rows: dict[str, int]
    baseline_rate: float
    baseline: dict[str, float]


def load_prepared(at: Paths, name: str) -> Prepared:
    return Prepared.model_validate(
        store.read_json(at.prepared / "prepared.json", f"dvc repro prepare@{name}")
    )
