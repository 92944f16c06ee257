"""Does the service leak? `make bench-soak`, or for fewer minutes: python -m benchmarks.soak 2

Two workers answer at half of what they can, with log, metrics and labels, and the alias is moved once
a minute. Memory (PSS: a page that n processes share counts 1/n for each) and open files of all the
service's processes are looked at all the while, after a beginning in which caches fill.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import load, serving_world
from benchmarks.asking import Asking, Questions, Report, asking
from benchmarks.figures import Figure, close
from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.paths import Paths
from tests.slow.serving import Running, serving

WORKERS, CLIENTS = 2, 16
MINUTES = 20.0
WARM = 0.25
"""Share of the time before what is judged: five minutes of twenty."""
LOOK_SECONDS = 5.0
MOVE_SECONDS = 60.0
LABELS = 50
"""Labels at each look."""
LATE_SECONDS = 150.0
"""Age of the answers that they are for: by then these are in a Parquet file, as with most labels."""
PEAK_SECONDS = 5
FASTEST = 50_000.0
"""Requests a second that no machine reaches: the clients then ask as fast as they are answered."""


@dataclass(frozen=True)
class Look:
    """at: seconds since the start; the numbers are of all processes of the service together."""

    at: float
    service_mb: float
    """Master and workers."""
    keeper_mb: float
    files: int


@dataclass
class Soak:
    peak: float = 0.0
    looks: list[Look] = field(default_factory=list)
    labelled: int = 0
    moves: int = 0


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    home = Path(tempfile.mkdtemp(prefix="perennial-soak-"))
    try:
        at, questions = serving_world.make(home, versions=2)
        params = yaml.safe_load(at.params.read_text())
        params["tasks"][at.task]["serve"] = {"workers": WORKERS}
        at.params.write_text(yaml.safe_dump(params))
        with serving(at, task=at.task) as service:
            soak = Soak(peak=peak(service, questions, home))
            with asking(
                service.url, questions, home / "soak",
                clients=CLIENTS, per_second=soak.peak / 2, keep=False,
            ) as asked:  # fmt: skip
                run(soak, service, at, questions, minutes * 60)
                report = asked.end()
    finally:
        serving_world.remove(home)
    for failure in asked.failures[:5]:
        print(f"failed: {failure.what}: {failure.told}")
    made = detail(soak, report)
    print(f"{soak.peak:.0f} requests a second at most; MB an hour: {made['mb_per_hour']}")
    close("soak", figures(soak, asked, report), made)


def peak(service: Running, questions: Questions, home: Path) -> float:
    """Requests a second, with the clients on the same cores."""
    with asking(
        service.url, questions, home / "peak", clients=CLIENTS, per_second=FASTEST, keep=False
    ) as asked:
        service.until(lambda: len(asked.workers()) == WORKERS, "every worker's first answer")
        began = time.monotonic()
        time.sleep(PEAK_SECONDS)
        seconds = time.monotonic() - began
        return asked.end().requests / seconds


def run(soak: Soak, service: Running, at: Paths, questions: Questions, seconds: float) -> None:
    rows = [json.loads(body)["rows"][0] for body in questions.bodies[:LABELS]]
    began, next_move = time.monotonic(), MOVE_SECONDS
    answered: deque[tuple[float, list[str]]] = deque()
    while (now := time.monotonic() - began) < seconds:
        soak.looks.append(look(service.process.pid, now))
        if answered and now - answered[0][0] >= LATE_SECONDS:
            soak.labelled += label(service, answered.popleft()[1])
        given = service.predict(*rows).json()["predictions"]
        answered.append((now, [p["id"] for p in given]))
        if now >= next_move:
            registry = Registry(at)
            registry.promote(str(2 - soak.moves % 2), registry.alias(CHAMPION), lambda _: None)
            soak.moves += 1
            next_move += MOVE_SECONDS
        time.sleep(LOOK_SECONDS)


def label(service: Running, answered: list[str]) -> int:
    """How many were taken."""
    labels = [{"id": i, "label": n % 2} for n, i in enumerate(answered)]
    got = service.client.post(f"{service.url}/labels", json={"labels": labels})
    return int(got.raise_for_status().json()["accepted"])


def look(service: int, now: float) -> Look:
    memory = {"service": 0.0, "keeper": 0.0}
    files = 0
    for process in load.processes(service):
        of = Path(f"/proc/{process}")
        try:
            files += len(os.listdir(of / "fd"))
            role = (
                "keeper"
                if "pipelines.service.keeper" in (of / "cmdline").read_text()
                else "service"
            )
            rolled = (of / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        memory[role] += next(int(x.split()[1]) for x in rolled if x.startswith("Pss:")) / 1024
    return Look(now, memory["service"], memory["keeper"], files)


def slope(looks: list[Look], of: Callable[[Look], float]) -> float:
    """Per hour, by least squares."""
    return float(np.polyfit([look.at / 3600 for look in looks], [of(look) for look in looks], 1)[0])


def figures(soak: Soak, asked: Asking, report: Report) -> list[Figure]:
    judged = [look for look in soak.looks if look.at >= WARM * soak.looks[-1].at]
    late = soak.looks[-1].at > LATE_SECONDS + 2 * LOOK_SECONDS
    hours = (judged[-1].at - judged[0].at) / 3600

    def growth(of: Callable[[Look], float]) -> float:
        """Share of what it was at the beginning; from the line through all looks."""
        values = [of(look) for look in judged]
        return slope(judged, of) * hours / statistics.median(values)

    return [
        Figure("growth of the service's memory", growth(lambda x: x.service_mb), 0.05, "at most"),
        Figure("growth of the keeper's memory", growth(lambda x: x.keeper_mb), 0.05, "at most"),
        Figure("growth of open files", growth(lambda x: x.files), 0.05, "at most"),
        Figure("failed requests", len(asked.failures), 0, "at most"),
        Figure("answers that are not their version's", report.wrong, 0, "at most"),
        Figure("labels taken", soak.labelled, int(late), "at least"),
        Figure(
            "versions that answered", len(report.by_version), min(soak.moves, 1) + 1, "at least"
        ),
    ]


def detail(soak: Soak, report: Report) -> dict[str, Any]:
    judged = [look for look in soak.looks if look.at >= WARM * soak.looks[-1].at]
    return {
        "peak_per_second": soak.peak,
        "requests": report.requests,
        "moves": soak.moves,
        "mb_per_hour": {
            "service": slope(judged, lambda x: x.service_mb),
            "keeper": slope(judged, lambda x: x.keeper_mb),
        },
        "looks": [asdict(look) for look in soak.looks],
    }


if __name__ == "__main__":
    main()
