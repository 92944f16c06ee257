"""What every source of batches keeps: `pytest tests/conformance`. A new source is one more world."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import pytest

from pipelines import contract as contracts
from pipelines import images, periods
from pipelines.contract import Contract
from pipelines.params import Source, Task
from pipelines.sources.base import open_source
from tests.conftest import REPOSITORY, shop

PICTURES = {
    "task": "parts", "time": "time", "key": ["id"], "label": "state",
    "columns": {
        "time": {"type": "timestamp"},
        "id": {"type": "category", "feature": False},
        "image": {"type": "image", "size": [8, 8], "mode": "L"},
        "state": {"type": "category", "feature": False, "values": ["bent", "good"]},
    },
}  # fmt: skip
ORDERS = {
    "task": "orders", "time": "ordered_at", "key": ["order"], "label": "returned",
    "columns": {
        "ordered_at": {"type": "timestamp"},
        "order": {"type": "integer", "feature": False},
        "country": {"type": "category"},
        "price": {"type": "number"},
        "weight": {"type": "number", "nulls": 1},
        "returned": {"type": "integer"},
    },
}  # fmt: skip


class World(NamedTuple):
    settings: dict[str, Any]
    period: str
    contract: Contract


def described(content: dict[str, Any]) -> Contract:
    return Contract.model_validate_json(json.dumps(content))


def shipped(name: str) -> Contract:
    return contracts.load(REPOSITORY / "contracts" / f"{name}.yaml")


def files(root: Path) -> World:
    (root / "inbox").mkdir()
    shop(days=21).to_parquet(root / "inbox" / "orders.parquet", index=False)
    return World({"kind": "files", "path": "inbox/*.parquet"}, "week", described(ORDERS))


def drawn(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)


def folders(root: Path) -> World:
    for number, pixels in enumerate(drawn(12)):
        week, state = f"2024-W{1 + number // 6:02d}", ("bent", "good")[number % 2]
        folder = root / "inbox" / week / state
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(images.png(pixels))
    return World({"kind": "images", "path": "inbox"}, "week", described(PICTURES))


def idx(root: Path) -> World:
    pixels = drawn(10)
    head = struct.pack(">IIII", 0x803, 10, 8, 8)
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels.tobytes()))
    label = struct.pack(">II", 0x801, 10) + bytes([0, 1] * 5)
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(label))
    settings = {"path": "train-images-idx3-ubyte.gz", "first": "2024-W01", "rows": 5}
    return World({"kind": "idx", **settings}, "week", described(PICTURES))


WORLDS: dict[str, Callable[[Path], World]] = {
    "flights": lambda _: World({"kind": "flights"}, "month", shipped("flights")),
    "digits": lambda _: World({"kind": "digits"}, "week", shipped("digits")),
    "files": files,
    "images": folders,
    "idx": idx,
}


def test_every_source_is_held_to_this():
    assert set(WORLDS) == set(get_args(Source.model_fields["kind"].annotation))


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[World, Any]:
    made = WORLDS[request.param](tmp_path)
    plain = {
        "source": made.settings, "period": made.period, "calendar": [], "min_category": 1,
        "window": {"first": "2024-W01", "last": "2024-W02"}, "train": {"seed": 7}, "evaluate": {},
    }  # fmt: skip
    task = Task.model_validate(plain, strict=False)
    return made, open_source(task, made.contract, tmp_path)


def test_batches_come_in_time_order_and_are_named_as_periods_are(world):
    made, source = world
    names = source.periods()
    assert len(names) >= 2
    assert list(names) == sorted(set(names))
    for name in names:
        periods.start_and_end(name, made.period)


def test_a_batch_has_the_contracts_columns_and_lies_in_its_period(world):
    made, source = world
    for name in source.periods()[:2]:
        batch = source.read(name)
        assert set(made.contract.columns) <= set(batch.columns)
        first, last = periods.start_and_end(name, made.period)
        time = batch[made.contract.time]
        assert time.is_monotonic_increasing
        assert pd.Timestamp(first) <= time.min()
        assert time.max() < pd.Timestamp(last)
        assert not batch.duplicated(list(made.contract.key)).any()
        assert len(made.contract.codes(batch[made.contract.label])) == len(batch)


def test_a_batch_that_is_read_again_is_the_same(world):
    _, source = world
    name = source.periods()[0]
    pd.testing.assert_frame_equal(source.read(name), source.read(name))
