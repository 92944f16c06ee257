"""Run: pytest tests/slow/test_server.py -m slow

MLflow's own servers: one that dies in the middle of a promotion, one that answers with the model.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import artifact, store
from pipelines.adapters import mlflow_home
from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.errors import RegistryError
from pipelines.paths import Paths
from tests.fakes import BETTER, WORSE, pumps
from tests.slow import mlflow_server
from tests.slow.mlflow_server import started
from tests.slow.serving import free_port
from tests.slow.trained import challenge, every_alias_loads, prepare_world, train

pytestmark = pytest.mark.slow


class DiesAt:
    """A registry whose server is killed just before the call of this name."""

    def __init__(self, registry: Registry, name: str, kill: Callable[[], None]) -> None:
        self.inner, self.name, self.kill = registry, name, kill

    def __getattr__(self, name: str) -> Any:
        if name == self.name:
            self.kill()
        return getattr(self.inner, name)


@pytest.mark.long
def test_a_server_that_dies_in_the_middle_promotes_nothing_and_is_picked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = mlflow_server.home(tmp_path)
    monkeypatch.setenv(mlflow_home.VARIABLE, home.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    at = Paths(tmp_path / "project", "pumps")
    store.write_table(at.prepared / "test.parquet", pumps())
    registry = Registry(at)

    with home.serve() as server:
        train(at, WORSE, at.root / "first" / "model")
        first = registry.register(artifact.load(at.root / "first" / "model"))
        registry.promote(first, None, lambda _: None)
        train(at, BETTER, at.model)
        # While the answers are judged.
        verdict = challenge(at, DiesAt(registry, "set_tags", server.kill))
        assert verdict.decision == "hold"
        assert "RegistryError" in verdict.reason
        assert f"MLflow at {home.uri}" in verdict.reason
        with pytest.raises(RegistryError, match=f"curl {home.uri}/health"):
            registry.alias(CHAMPION)
    assert not (at.mlflow / "mlflow.db").exists()

    with home.serve() as server:
        assert every_alias_loads(at)[CHAMPION] == first
        # Judged, and dead before the alias moves.
        with pytest.raises(RegistryError):
            challenge(at, DiesAt(registry, "promote", server.kill))

    with home.serve():
        assert every_alias_loads(at)[CHAMPION] == first
        assert challenge(at).decision == "promote"
        assert every_alias_loads(at)[CHAMPION] == "2"
        tags = registry.tags("2")
        assert tags["git.commit"] == "c" * 40
        # A replay beside it keeps to a store of its own.
        replayed = Paths(at.root, "pumps", replay="always")
        assert mlflow_home.configure(replayed) == f"sqlite:///{replayed.mlflow / 'mlflow.db'}"
        assert Registry(replayed).aliases() == {}
        assert Registry(at).alias(CHAMPION) == "2"


def test_plain_mlflow_models_serve_answers_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(mlflow_home.VARIABLE, raising=False)
    at = prepare_world(tmp_path / "project")
    registry = Registry(at)
    version = registry.register(artifact.load(at.model))
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local",
        "-m", f"models:/{registry.name}/{version}", "-p", str(port),
    ]  # fmt: skip
    with started(command, tmp_path / "serve.log", f"http://127.0.0.1:{port}/ping"):
        rows = [{"heat": 1.0, "noise": None, "repair_cost": 0.1, "site": None}] * 2
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_records": rows}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            predictions = json.load(answer)["predictions"]
    assert len(predictions) == 2
    assert set(predictions[0]) == {"probability"}
