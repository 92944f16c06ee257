"""How fast is the service, and beside what? `make bench-serving`

Trains a model of flights in a project of its own, starts the service and its rivals, all with that
model, and takes turns: every server gets the same rows, on loopback, from `wrk`. Servers share one
core and wrk has the other, so a server is measured while the others are up and idle.

`python -m benchmarks.serving limit_tick ours` measures these servers only, and judges nothing.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks import load
from benchmarks.figures import Figure, close
from benchmarks.serving_rivals import rounds
from benchmarks.serving_rivals.bodies import Rows
from benchmarks.serving_rivals.rounds import BULK_CONNECTIONS, Measured, ratio
from benchmarks.serving_rivals.servers import SERVERS, World, service
from pipelines import artifact
from pipelines.paths import Paths

REPOSITORY = Path(__file__).parent.parent
MANY = 1000
"""Rows of a bulk request."""
FEW_CLIENTS = (4, 8)
"""Connections that two workers must share."""

Shares = dict[int, list[dict[str, int]]]
"""Answers by worker in each round, by connections."""


def main() -> None:
    load.need_wrk()
    chosen = sys.argv[1:]
    if unknown := set(chosen) - set(SERVERS):
        sys.exit(f"no server {', '.join(sorted(unknown))}; there are: {', '.join(SERVERS)}")
    if not load.pinned(0):
        print("only one core, or no taskset: servers and wrk share what there is")
    home = Path(tempfile.mkdtemp(prefix="perennial-serving-"))
    try:
        world = make_world(home)
        one, many = rows_of(world)
        asked = {name: SERVERS[name](world, one, many) for name in chosen or SERVERS}
        measured, memory = rounds.measure(world, asked, one, many)
        print(rounds.as_table(measured, memory))
        if chosen:
            return
        two = service(world, one, many, workers=2)
        shares = rounds.shares(world, two, one, FEW_CLIENTS)
    finally:
        # Its keeper may still be at the log of the last answers.
        shutil.rmtree(home, ignore_errors=True)
    close("serving", figures(measured, shares), detail(measured, memory, shares))


def make_world(home: Path) -> World:
    project = home / "project"
    project.mkdir()
    shutil.copy(REPOSITORY / "params.yaml", project)
    shutil.copytree(REPOSITORY / "contracts", project / "contracts")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "tick", "flights", "--batch", "2013-04"],
        cwd=REPOSITORY,
        env=kept | {"PERENNIAL_ROOT": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"the model could not be made:\n{done.stdout}{done.stderr}")
    shutil.copytree(project, home / "twin")
    trained = Paths(project, "flights", candidate="2013-03")
    return World(home, project, home / "twin", trained.model, trained.prepared / "encoder.json")


def rows_of(world: World) -> tuple[Rows, Rows]:
    """One row, and MANY rows that begin with it."""
    made = artifact.load(world.model)
    wanted = list(dict.fromkeys((*made.contract.key, *made.contract.inputs)))
    landed = pq.read_table(Paths(world.project, "flights").batch("2013-04"), columns=wanted)
    landed = landed.replace_schema_metadata(None)
    probability = made.predict(landed.to_pandas())
    rest = probability * 1000 % 1
    # The first answer is recognised by its first three digits, so none may be near to rounding.
    clear = (probability > 0.1) & (rest > 0.2) & (rest < 0.8)
    table = landed.slice(int(np.argmax(clear)), MANY)
    return Rows(table.slice(0, 1), made), Rows(table, made)


def figures(measured: Measured, shares: Shares) -> list[Figure]:
    def rate(*rivals: str) -> float:
        """Against the hardest of them."""
        return min(ratio(measured, "Perennial", rival, 64, _rate) for rival in rivals)

    ours, limit, no_log = (
        f"{n}, close" for n in ("Perennial", "bare ASGI, batching", "Perennial, no log")
    )
    tail = ratio(measured, ours, limit, 64, lambda r: r.p99)
    log = ratio(measured, ours, no_log, 64, lambda r: r.cpu)
    arrow, raw = (f"{name}, {MANY} rows" for name in ("Perennial, Arrow", "raw arrays"))
    bulk = ratio(measured, arrow, raw, BULK_CONNECTIONS, _rate)
    failed = sum(r.failed for found in measured.values() for r in found)
    fastapi = rate("FastAPI, ONNX", "FastAPI, torch")
    bento = rate("BentoML, pydantic", "BentoML, DataFrame")
    return [
        Figure(
            "over bare ASGI with batching",
            ratio(measured, ours, limit, 64, _rate),
            0.75,
            "at least",
        ),
        Figure("over bare ASGI without", rate("bare ASGI"), 1.0, "at least"),
        Figure("over FastAPI with pydantic", fastapi, 2.5, "at least"),
        Figure("over BentoML's default endpoint", bento, 12, "at least"),
        Figure("over mlflow models serve", rate("mlflow models serve"), 50, "at least"),
        Figure("p99 over that of bare ASGI with batching", tail, 1.5, "at most"),
        Figure(f"{MANY} rows: Arrow over raw arrays", bulk, 0.55, "at least"),
        Figure("processor time with the log over without", log, 1.1, "at most"),
        *(
            Figure(
                f"two workers, {clients} clients: the lesser share",
                _lesser(found),
                0.25,
                "at least",
            )
            for clients, found in shares.items()
        ),
        Figure("failed requests", failed, 0, "at most"),
        # Where others took their share, or wrk was the slower side, the figures above mean nothing.
        Figure("servers' share of their core under full load", _core(measured), 0.85, "at least"),
        Figure("wrk's share of its core", _wrk(measured), 0.95, "at most"),
    ]


def _rate(measured: load.Round) -> float:
    return measured.rate


def _core(measured: Measured) -> float:
    return statistics.median(found.server_share for found in rounds.full(measured))


def _wrk(measured: Measured) -> float:
    return max(found.wrk_share for found in rounds.full(measured))


def _lesser(found: list[dict[str, int]]) -> float:
    """Median of the rounds; 0 in one where a single worker answered everything."""
    counts = [sorted(by_worker.values()) for by_worker in found]
    return statistics.median(two[0] / sum(two) if len(two) == 2 else 0.0 for two in counts)


def detail(measured: Measured, memory: dict[str, float], shares: Shares) -> dict[str, Any]:
    return {
        "servers": {f"{label}, c={c}": rounds.medians(r) for (label, c), r in measured.items()},
        "memory_mb": memory,
        "answers_by_worker": {
            f"c={c}": [sorted(by.values()) for by in found] for c, found in shares.items()
        },
        "cores": sorted(os.sched_getaffinity(0)),
    }


if __name__ == "__main__":
    main()
