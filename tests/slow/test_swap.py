"""Run: pytest tests/slow/test_swap.py -m slow

The alias is moved by MLflow's own call while many ask: nobody notices, and every worker follows.
`make bench-swap` measures the same, longer, and through MLflow's page.
"""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from benchmarks.asking import asking
from pipelines.adapters import mlflow_home
from tests.slow import mlflow_server, serving
from tests.slow.questions import graph, questions
from tests.slow.test_service import metric

pytestmark = pytest.mark.slow

WORKERS = 2
MOVES = ("2", "3", "1", "3", "2", "1")
REQUESTS = 20_000


def test_no_request_fails_and_no_answer_is_mixed_while_the_alias_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = {str(number): graph(number) for number in (1, 2, 3)}
    at = serving.project(tmp_path / "project", poll_seconds=0.2, workers=WORKERS)
    with mlflow_server.home(tmp_path).serve() as server:
        monkeypatch.setenv(mlflow_home.VARIABLE, server.uri)
        for version, made in graphs.items():
            assert serving.version(at, made) == version
        server.name("pumps", "champion", "1")
        with (
            serving.serving(at) as service,
            asking(
                service.url, questions(graphs), tmp_path / "load", clients=8, per_second=3000
            ) as asked,
        ):
            service.until(lambda: len(asked.workers()) == WORKERS, "every worker's first answer")
            for version in MOVES:
                moved = time.time()
                server.name("pumps", "champion", version)
                service.until(
                    lambda to=version, since=moved: len(asked.arrivals(to, since)) == WORKERS,
                    f"version {version} from every worker",
                )
            service.until(
                lambda: metric(service, "perennial_rows_total", "") >= REQUESTS,
                f"{REQUESTS} rows answered",
            )
            report = asked.end()
            for _ in range(4):  # a connection each: any worker may answer
                said = httpx.get(f"{service.url}/model", timeout=30).json()
                assert said["champion"]["version"] == MOVES[-1]

    assert asked.failures == []
    assert report.wrong == 0, report.sample
    assert report.requests >= REQUESTS
    assert report.by_version.keys() == graphs.keys()
    for worker in asked.workers():
        heard = [news.version for news in asked.news if news.worker == worker]
        assert heard == ["1", *MOVES], worker
