"""What prepare leaves for the later stages: `3_prepared/<task>/`."""

from __future__ import annotations

from pipelines import store
from pipelines.encoder import Encoder
from pipelines.paths import Paths
from pipelines.records import DataHash, Record, Rows


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


def load_rows(at: Paths, part: str, name: str) -> Rows:
    return Rows(**store.read_arrays(at.prepared / f"{part}.npz", f"dvc repro prepare@{name}"))


def load_encoder(at: Paths, name: str) -> Encoder:
    return Encoder.model_validate(
        store.read_json(at.prepared / "encoder.json", f"dvc repro prepare@{name}")
    )


def load_prepared(at: Paths, name: str) -> Prepared:
    return Prepared.model_validate(
        store.read_json(at.prepared / "prepared.json", f"dvc repro prepare@{name}")
    )
