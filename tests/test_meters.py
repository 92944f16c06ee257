"""pytest tests/test_meters.py: what Prometheus reads is what happened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, multiprocess

from pipelines.paths import Paths
from pipelines.service import worker
from pipelines.service.delivery.start import FACTS
from pipelines.service.meters import SECONDS, Meters, _observe_all


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """The library keeps one registry a process; each test has its own."""
    found = CollectorRegistry()
    for kind in ("Counter", "Gauge", "Histogram"):
        made = getattr(prometheus_client, kind)
        monkeypatch.setattr(
            prometheus_client, kind, lambda *a, made=made, **k: made(*a, registry=found, **k)
        )
    return found


@pytest.fixture
def meters(registry: CollectorRegistry) -> Meters:
    wire: Any = SimpleNamespace(
        watched=("price",),
        out_of_contract=lambda feeds: {"price": int((feeds["price"] > 100).sum())},
    )
    return Meters("shop", wire)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"task": "shop"} | labels)


@given(st.lists(st.one_of(st.floats(0, 5), st.sampled_from(SECONDS)), min_size=1, max_size=200))
def test_many_at_once_leave_the_same_as_one_after_another(seconds: list[float]) -> None:
    """The library's `observe` is the truth; ours reaches into it for speed."""
    one_by_one, at_once = (
        Histogram("seconds", "x", buckets=SECONDS, registry=CollectorRegistry()) for _ in range(2)
    )
    for each in seconds:
        one_by_one.observe(each)
    _observe_all(at_once, seconds)
    for expected, found in zip(
        next(iter(one_by_one.collect())).samples, next(iter(at_once.collect())).samples, strict=True
    ):
        if not expected.name.endswith("_created"):
            assert (found.name, found.labels) == (expected.name, expected.labels)
            assert found.value == pytest.approx(expected.value)


def test_nothing_is_told_before_the_flush_and_nothing_twice(
    meters: Meters, registry: CollectorRegistry
) -> None:
    meters.took("champion", "4", 7, [0.001, 0.002])
    assert value(registry, "perennial_rows_total", route="champion", version="4") is None
    for _ in range(3):
        meters.flush(pending=0, lost=0, written=0)
    assert value(registry, "perennial_rows_total", route="champion", version="4") == 7
    answered = {"status": "200", "kind": "answered", "route": "champion"}
    assert value(registry, "perennial_requests_total", **answered) == 2
    count = "perennial_request_seconds_count"
    assert value(registry, count, route="champion", version="4") == 2


def test_a_shadow_is_no_request(meters: Meters, registry: CollectorRegistry) -> None:
    meters.took("shadow", "5", 3, [0.001])
    meters.flush(pending=0, lost=0, written=0)
    assert value(registry, "perennial_rows_total", route="shadow", version="5") == 3
    shadowed = {"status": "200", "kind": "answered", "route": "shadow"}
    assert value(registry, "perennial_requests_total", **shadowed) is None


def test_refusals_are_counted_by_kind(meters: Meters, registry: CollectorRegistry) -> None:
    meters.refuse(422, "invalid-rows")
    meters.refuse(422, "invalid-rows")
    meters.refuse(413, "too-large")
    meters.flush(pending=0, lost=0, written=0)
    wrong = {"status": "422", "kind": "invalid-rows", "route": ""}
    assert value(registry, "perennial_requests_total", **wrong) == 2


def test_values_out_of_contract_are_counted_over_all_requests(
    meters: Meters, registry: CollectorRegistry
) -> None:
    meters.inputs({"price": np.array([1.0, 200.0])})
    meters.inputs({"price": np.array([300.0])})
    meters.flush(pending=0, lost=0, written=0)
    meters.flush(pending=0, lost=0, written=0)
    assert value(registry, "perennial_inputs_out_of_contract_total", column="price") == 2


def test_the_log_is_told_as_it_stands(meters: Meters, registry: CollectorRegistry) -> None:
    meters.flush(pending=900, lost=2, written=10)
    meters.flush(pending=100, lost=5, written=40)
    assert value(registry, "perennial_log_pending_bytes") == 100
    assert value(registry, "perennial_log_lost_rows_total") == 5
    assert value(registry, "perennial_log_written_rows_total") == 40


def test_a_dead_workers_gauges_may_be_gone_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers clear up at the same time."""
    (tmp_path / f"gauge_livemax_{2**22 + 1}.db").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    asked = []

    def gone(pid: int) -> None:
        asked.append(pid)
        raise FileNotFoundError("gauge_livemax")

    monkeypatch.setattr(multiprocess, "mark_process_dead", gone)
    worker.forget_dead_workers()
    assert asked == [2**22 + 1]


def test_a_bento_says_nothing_of_a_monitor_that_is_elsewhere(
    meters: Meters, registry: CollectorRegistry, tmp_path: Path
) -> None:
    """It would be quiet for ever, and nobody there could make it speak."""
    assert value(registry, "perennial_monitor_last_seconds") is None
    served: Any = SimpleNamespace(at=Paths(tmp_path, "shop"))
    assert worker.is_monitored(served), "a project, whose monitor may never have spoken"
    (tmp_path / FACTS).write_text("{}")
    assert not worker.is_monitored(served)
    served.at.alarm("2024-01").parent.mkdir(parents=True)
    assert worker.is_monitored(served)


def test_what_counts_changes_is_there_before_the_first_one(
    registry: CollectorRegistry, meters: Meters
) -> None:
    """Prometheus' `increase` does not see that a series was born with 1."""
    for slot in ("champion", "challenger"):
        for outcome in ("swapped", "failed", "tripped"):
            assert value(registry, "perennial_swaps_total", slot=slot, outcome=outcome) == 0
    for outcome in ("accepted", "repeated", "conflicting", "unknown"):
        assert value(registry, "perennial_labels_total", outcome=outcome) == 0
