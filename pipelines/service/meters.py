"""What Prometheus reads of one worker; BentoML's own /metrics adds the workers up.

Requests only append to lists here; the numbers reach the metrics twenty times a second, in one step
for all of them. One `observe` a request would cost more than its prediction.
"""

from __future__ import annotations

import bisect
from collections import Counter as Tally
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from pipelines.labelled import Counted
from pipelines.wire.read import Wire

if TYPE_CHECKING:
    from prometheus_client import Histogram

SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip


class Meters:
    """prometheus_client must be imported after BentoML has named its folder: make it in the worker."""

    def __init__(self, task: str, wire: Wire) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self.wire = wire
        self._requests: Tally[tuple[str, str, str]] = Tally()
        self._rows: Tally[tuple[str, str]] = Tally()
        self._took: dict[tuple[str, str], list[float]] = {}
        self._failures: Tally[str] = Tally()
        self._inputs: list[dict[str, np.ndarray]] = []
        t = {"task": task}

        self.task = task
        self.requests = Counter(
            "perennial_requests", "Requests to /predict.", ["task", "status", "kind", "route"]
        )
        self.rows = Counter("perennial_rows", "Rows answered.", ["task", "route", "version"])
        self.seconds = Histogram(
            "perennial_request_seconds", "From the first byte of a request to its answer.",
            ["task", "route", "version"], buckets=SECONDS,
        )  # fmt: skip
        self.failures = Counter(
            "perennial_model_failures",
            "Predictions that raised or were no number.",
            ["task", "version"],
        )
        self.outside = Counter(
            "perennial_inputs_out_of_contract", "Values answered although outside their limits.",
            ["task", "column"],
        )  # fmt: skip
        self.swaps = Counter("perennial_swaps", "Changes of version.", ["task", "slot", "outcome"])
        self.labels = Counter("perennial_labels", "Labels received.", ["task", "outcome"])
        self.lost = Counter(
            "perennial_log_lost_rows", "Answers given whose record was lost.", ["task"]
        ).labels(**t)
        self.written = Counter("perennial_log_written_rows", "Answers on record.", ["task"]).labels(
            **t
        )
        self.pending = Gauge(
            "perennial_log_pending_bytes", "Records that wait in memory.", ["task"],
            multiprocess_mode="livesum",
        ).labels(**t)  # fmt: skip
        self.buffer = Gauge(
            "perennial_log_buffer_bytes", "Most records that may wait in memory.", ["task"],
            multiprocess_mode="livesum",
        ).labels(**t)  # fmt: skip
        self.live_since = Gauge(
            "perennial_model_live_since_seconds", "When the live version began to answer, Unix time.",
            ["task", "slot"], multiprocess_mode="livemax",
        )  # fmt: skip
        self.version = Gauge(
            "perennial_model_version", "Version that answers.", ["task", "slot"],
            multiprocess_mode="livemin",
        )  # fmt: skip
        self.registry_up = Gauge(
            "perennial_registry_reachable",
            "1 when the registry answered the keeper, less than a minute ago.",
            ["task"], multiprocess_mode="livemin",
        ).labels(**t)  # fmt: skip
        self.refused = Gauge(
            "perennial_versions_refused", "Versions that an alias names and that were refused.",
            ["task"], multiprocess_mode="livemax",
        ).labels(**t)  # fmt: skip
        self.upkeep_due = Gauge(
            "perennial_upkeep_due_seconds",
            "When the keeper should have turned closed journals into files again, Unix time.",
            ["task"], multiprocess_mode="livemax",
        ).labels(**t)  # fmt: skip
        self.looked = Gauge(
            "perennial_monitor_last_seconds",
            "When the monitor last spoke, Unix time; 0: never. Not there where none is at work.",
            ["task"], multiprocess_mode="livemax",
        )  # fmt: skip
        # Born at 0: that it began with 1 no `increase` would see.
        for outcome in ("swapped", "failed", "tripped"):
            for slot in ("champion", "challenger"):
                self.swaps.labels(task, slot, outcome)
        for sort in fields(Counted):
            self.labels.labels(task, sort.name)
        self._children: dict[tuple[str, str], Histogram] = {}
        self._lost_before = self._written_before = 0

    # on the request path
    def took(self, route: str, version: str, rows: int, seconds: Iterable[float]) -> None:
        key = (route, version)
        self._rows[key] += rows
        known = self._took.get(key)
        if known is None:
            known = self._took[key] = []
        known.extend(seconds)

    def refuse(self, status: int, kind: str) -> None:
        self._requests[(str(status), kind, "")] += 1

    def failed(self, version: str) -> None:
        self._failures[version] += 1

    def inputs(self, feeds: dict[str, np.ndarray]) -> None:
        self._inputs.append(feeds)

    # twenty times a second
    def flush(self, pending: int, lost: int, written: int) -> None:
        for (route, version), seconds in self._took.items():
            if not seconds:
                continue
            if route != "shadow":
                self.requests.labels(self.task, "200", "answered", route).inc(len(seconds))
            _observe_all(self._child(route, version), seconds)
            self.rows.labels(self.task, route, version).inc(self._rows.pop((route, version), 0))
            self._took[(route, version)] = []
        for (status, kind, route), n in self._requests.items():
            self.requests.labels(self.task, status, kind, route).inc(n)
        self._requests.clear()
        for version, n in self._failures.items():
            self.failures.labels(self.task, version).inc(n)
        self._failures.clear()
        self._count_outside()
        self.pending.set(pending)
        self.lost.inc(lost - self._lost_before)
        self.written.inc(written - self._written_before)
        self._lost_before, self._written_before = lost, written

    def _count_outside(self) -> None:
        inputs, self._inputs = self._inputs, []
        if not inputs:
            return
        together = {name: np.concatenate([f[name] for f in inputs]) for name in self.wire.watched}
        for column, n in self.wire.out_of_contract(together).items():
            self.outside.labels(self.task, column).inc(n)

    def _child(self, route: str, version: str) -> Histogram:
        key = (route, version)
        if key not in self._children:
            self._children[key] = self.seconds.labels(self.task, route, version)
        return self._children[key]


def _observe_all(histogram: Histogram, seconds: list[float]) -> None:
    """`observe` for many values at once.

    Not a public way in: the client library has none (prometheus_client 0.26). test_meters.py holds
    that it leaves the same numbers as `observe`.
    """
    ordered = sorted(seconds)
    histogram._sum.inc(sum(ordered))
    before = 0
    for bound, bucket in zip(histogram._upper_bounds, histogram._buckets, strict=True):
        upto = bisect.bisect_right(ordered, bound)
        if upto > before:
            bucket.inc(upto - before)
            before = upto
