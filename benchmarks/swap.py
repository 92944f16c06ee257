"""What do those who ask notice when the champion changes? `make bench-swap`

A model of flights and two that differ from it, MLflow's server, the service with two workers and
clients that know each version's answers. The alias is moved by the call that MLflow's page makes,
once through the page itself in headless Chromium, and then again with MLflow's webhook to wake the
keeper. Pictures of the page are left beside the figures; docs/ui has such ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import mlflow_page, serving_world
from benchmarks.asking import Asking, Questions, asking
from benchmarks.figures import RESULTS, Figure, close
from pipelines.adapters import mlflow_home
from pipelines.paths import Paths
from tests.slow import mlflow_server
from tests.slow.browser import NAMES, Tab, browser
from tests.slow.mlflow_server import Server
from tests.slow.serving import Running, serving

WORKERS, CLIENTS, PER_SECOND = 2, 16, 1200
MOVES, MOVES_WITH_WEBHOOK, MOVES_UNSEEN = 20, 10, 10
EVERY = (3.0, 4.0)
"""Seconds between two moves; by chance, so that they do not keep step with the keeper's looks."""
DURING = 1.0
"""Seconds from a move on whose requests count as during the swap; it is over by then, or nearly."""
POLL, SELDOM = 0.5, 30.0
"""serve.poll_seconds; the second so long that hardly any move is seen but by the webhook."""
SECRET = "a secret of this benchmark"


@dataclass
class Round:
    """moves: when, Unix time, and each worker's seconds from then to its first new answer."""

    moves: list[tuple[float, list[float]]] = field(default_factory=list)
    unseen: list[float] = field(default_factory=list)
    """When an alias was moved that no service follows: what the registry's own work costs them."""
    requests: int = 0
    failed: int = 0
    wrong: int = 0
    p99: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Milliseconds: during swaps, during moves that no service follows, and in peace."""

    def add(self, asked: Asking) -> None:
        report = asked.end()
        for failure in asked.failures[:5]:
            print(f"failed: {failure.what}: {failure.told}")
        if report.wrong:
            print(f"wrong: {report.sample}")
        self.requests, self.wrong = report.requests, report.wrong
        self.failed = len(asked.failures)
        sent, took = asked.latencies().T
        swaps = during(sent, [at for at, _ in self.moves])
        unseen = during(sent, self.unseen)
        peace = ~swaps & ~unseen & (sent >= self.moves[0][0])  # before it, the service warms up
        self.p99 = (p99_ms(took[swaps]), p99_ms(took[unseen]), p99_ms(took[peace]))

    def seconds(self, which: Callable[[list[float]], float]) -> list[float]:
        return [which(workers) for _, workers in self.moves]


def during(sent: np.ndarray, moves: list[float]) -> np.ndarray:
    near = np.zeros(len(sent), bool)
    for moved in moves:
        near |= (sent >= moved) & (sent <= moved + DURING)
    return near


def p99_ms(seconds: np.ndarray) -> float:
    return float(np.quantile(seconds, 0.99) * 1000)


def main() -> None:
    if not any(map(shutil.which, NAMES)):
        sys.exit("this benchmark needs Chromium. Install it with: sudo apt-get install chromium")
    home = Path(tempfile.mkdtemp(prefix="perennial-swap-"))
    try:
        at, questions = serving_world.make(home, versions=3)
        server_home = mlflow_server.home(home, at.mlflow / "mlflow.db")
        with server_home.serve() as server:
            os.environ[mlflow_home.VARIABLE] = server.uri
            polled = by_poll(at, server, questions, home)
            woken = by_webhook(at, server, questions, home)
    finally:
        serving_world.remove(home)
    close("swap", figures(polled, woken), {"polled": detail(polled), "webhook": detail(woken)})


def by_poll(at: Paths, server: Server, questions: Questions, home: Path) -> Round:
    """The last move is made in the page, which is open and waiting by then."""
    settings(at, POLL)
    found = Round()
    with browser(home / "browser") as new_tab:
        tab = new_tab()
        mlflow_page.open_versions(tab, server.uri, at.registered_name)
        with (
            serving(at, task=at.task) as service,
            loaded(service, questions, home / "poll") as load,
        ):
            for version in versions(questions, MOVES):
                found.moves.append(moved(service, load, version, by_rest(server, at)))
            # The page was read before the first move: a version that it shows without the alias.
            found.moves.append(moved(service, load, "2", by_page(tab)))
            found.unseen = unseen(server, at)
            found.add(load)
    return found


def by_webhook(at: Paths, server: Server, questions: Questions, home: Path) -> Round:
    import mlflow

    settings(at, SELDOM)
    server.name(at.registered_name, "champion", "1")
    found = Round()
    with serving(at, task=at.task, PERENNIAL_WEBHOOK_SECRET=SECRET) as service:
        mlflow.MlflowClient(server.uri).create_webhook(
            name="perennial",
            url=f"{service.url}/hooks/mlflow",
            secret=SECRET,
            events=["model_version_alias.created"],
        )
        with loaded(service, questions, home / "webhook") as load:
            time.sleep(2)  # the server reads its list of webhooks once a second
            for version in versions(questions, MOVES_WITH_WEBHOOK):
                found.moves.append(moved(service, load, version, by_rest(server, at)))
            found.unseen = unseen(server, at)
            found.add(load)
    return found


def unseen(server: Server, at: Paths) -> list[float]:
    moves = []
    for i in range(MOVES_UNSEEN):
        moves.append(time.time())
        server.name(at.registered_name, "nobody", str(1 + i % 2))
        pause(moves[-1])
    return moves


def pause(moved: float) -> None:
    time.sleep(float(np.random.default_rng(int(moved * 1e6)).uniform(*EVERY)))


def settings(at: Paths, poll_seconds: float) -> None:
    params = yaml.safe_load(at.params.read_text())
    params["tasks"][at.task]["serve"] = {"workers": WORKERS, "poll_seconds": poll_seconds}
    at.params.write_text(yaml.safe_dump(params))


@contextlib.contextmanager
def loaded(service: Running, questions: Questions, home: Path) -> Iterator[Asking]:
    with asking(service.url, questions, home, clients=CLIENTS, per_second=PER_SECOND) as load:
        service.until(lambda: len(load.arrivals("1", 0)) == WORKERS, "version 1 from each worker")
        time.sleep(2)
        yield load


def versions(questions: Questions, moves: int) -> list[str]:
    """Each differs from the one before; 1 answers at the start."""
    names = sorted(questions.right)
    return [names[(i + 1) % len(names)] for i in range(moves)]


def by_rest(server: Server, at: Paths) -> Callable[[str], float]:
    def move(version: str) -> float:
        began = time.time()
        server.name(at.registered_name, "champion", version)
        return began

    return move


def by_page(tab: Tab) -> Callable[[str], float]:
    return lambda version: mlflow_page.name_champion(tab, version, RESULTS)


def moved(
    service: Running, load: Asking, version: str, move: Callable[[str], float]
) -> tuple[float, list[float]]:
    """Seconds are counted from before the call: what the registry itself takes is in them."""
    began = move(version)
    service.until(
        lambda: len(load.arrivals(version, began)) == WORKERS, f"version {version} from each worker"
    )
    pause(began)
    return began, sorted(at - began for at in load.arrivals(version, began).values())


def figures(polled: Round, woken: Round) -> list[Figure]:
    def about(name: str, found: Round, median: float, worst: float) -> list[Figure]:
        first, last = found.seconds(min), found.seconds(max)
        mixed = [b - a for a, b in zip(first, last, strict=True)]
        swaps, registry, peace = found.p99
        return [
            Figure(f"{name}: seconds to a new answer, median", statistics.median(first), median, "at most"),
            Figure(f"{name}: to the last worker's, median", statistics.median(last), median, "at most"),
            Figure(f"{name}: to the last worker's, worst", max(last), worst, "at most"),
            Figure(f"{name}: seconds of mixed versions, worst", max(mixed), 0.1, "at most"),
            Figure(f"{name}: p99 during swaps over p99 in peace", swaps / peace, 1.2, "at most"),
            Figure(f"{name}: the same over moves that no service follows", swaps / registry, 1.2, "at most"),
        ]  # fmt: skip

    both = (polled, woken)
    return [
        Figure("requests", sum(r.requests for r in both), 100_000, "at least"),
        Figure("alias moves", sum(len(r.moves) for r in both), MOVES + 1, "at least"),
        Figure("failed requests", sum(r.failed for r in both), 0, "at most"),
        Figure("answers that are not their version's", sum(r.wrong for r in both), 0, "at most"),
        *about(f"poll {POLL} s", polled, 0.6, 2.0),
        *about("webhook", woken, 0.6, 2.0),
    ]


def detail(found: Round) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "p99_ms": dict(zip(("swaps", "moves unseen", "peace"), found.p99, strict=True)),
        "seconds_by_move": [workers for _, workers in found.moves],
        "by page": "the last move of the round that polls",
    }


if __name__ == "__main__":
    main()
