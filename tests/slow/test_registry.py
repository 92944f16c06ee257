"""Run: pytest tests/slow/test_registry.py -m slow

The real MLflow: runs, models, aliases; two promoters at once; kill -9; a server that dies.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import artifact, ledger, rivals, store
from pipelines.adapters import mlflow_home, tracking
from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.errors import ArtifactError, RegistryError
from pipelines.paths import Paths
from pipelines.prepared import Prepared
from pipelines.provenance import Provenance
from pipelines.records import DataHash
from pipelines.stages import promote as stage
from tests.fakes import BETTER, PUMPS, WORSE, pump_graph, pump_model, pumps
from tests.test_gate_mutations import PERIOD, TASK

pytestmark = pytest.mark.slow

PREPARED = Prepared(
    first="2024-01",
    last="2024-02",
    data=(DataHash(period="2024-02", md5="a" * 32, rows=10, validation="b" * 32),),
    contract=PUMPS.digest,
    trained_until=5,
    rows={"train": 3},
    baseline_rate=0.2,
    baseline={},
)
MADE_BY = Provenance(git_commit="c" * 40, git_dirty=True, requirements="d" * 32)
FORK = multiprocessing.get_context("fork")


def train(at: Paths, graph: bytes, folder: Path) -> str:
    """A training that takes no time; returns the artifact's digest."""
    with tracking.training_run(at, "pumps", TASK, PREPARED, MADE_BY, "an alarm") as run:
        for epoch in range(3):
            run.epoch(epoch, {"loss": 1 / (epoch + 1)})
        made = pump_model(folder, graph)
        run.model(folder, made.about.metrics)
    return made.digest


def challenge(at: Paths, registry: Any = None) -> Any:
    return stage.challenge("pumps", TASK, PUMPS, at, registry or Registry(at), PERIOD)


def every_alias_loads(at: Paths) -> dict[str, str]:
    registry = Registry(at)
    for version in registry.aliases().values():
        artifact.self_test(artifact.load(registry.fetch(version)))
    return registry.aliases()


@pytest.fixture(autouse=True)
def local_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mlflow_home.VARIABLE, raising=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion, and a better challenger that was just trained and is not registered yet."""
    root = tmp_path_factory.mktemp("template")
    at = Paths(root, "pumps")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(mlflow_home.VARIABLE, raising=False)
        train(at, WORSE, root / "first" / "model")
        version = Registry(at).register(artifact.load(root / "first" / "model"))
        Registry(at).promote(version, None, lambda _: None)
        train(at, BETTER, at.model)
    store.write_table(at.prepared / "test.parquet", pumps())
    return root


@pytest.fixture
def at(template: Path, tmp_path: Path) -> Paths:
    shutil.copytree(template, tmp_path / "project")
    return Paths(tmp_path / "project", "pumps")


# Runs and models -------------------------------------------------------------------------------


def test_a_run_says_what_it_was_given_and_how_it_went(at: Paths, tmp_path: Path):
    import mlflow

    mlflow_home.configure(at)
    client = mlflow.MlflowClient()
    digest = artifact.load(at.model).digest
    report = tmp_path / "report"
    report.mkdir()
    (report / "metrics.json").write_text("{}")
    for _ in range(2):
        tracking.log_evaluation(at, "pumps", digest, {"test_auc": 0.77}, report)
    run = client.get_run(Registry(at).run_of(Registry(at).register(artifact.load(at.model))))
    assert run.info.status == "FINISHED"
    assert run.data.params["train.seed"] == str(TASK.train.seed)
    assert run.data.params["window.last"] == TASK.window.last
    assert run.data.tags["git.commit"] == "c" * 40
    assert run.data.tags["git.dirty"] == "true"
    assert run.data.tags["reason"] == "an alarm"
    assert run.inputs.dataset_inputs[0].dataset.digest == "a" * 32
    assert run.data.metrics["validation_auc"] == 0.78
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [m.value for m in losses] == pytest.approx([1, 1 / 2, 1 / 3])
    assert len(client.get_metric_history(run.info.run_id, "test_auc")) == 1
    assert [f.path for f in client.list_artifacts(run.info.run_id, "report")] == [
        "report/metrics.json"
    ]
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert {m.key: m.value for m in model.metrics} == {"validation_auc": 0.78, "test_auc": 0.77}


def test_a_training_that_fails_is_marked_and_one_that_died_is_buried(at: Paths):
    import mlflow

    mlflow_home.configure(at)
    client = mlflow.MlflowClient()

    def newest() -> Any:
        where = mlflow_home.experiment(at, "pumps")
        return client.search_runs([where], order_by=["attributes.start_time DESC"])[0].info

    with (
        pytest.raises(ZeroDivisionError),
        tracking.training_run(at, "pumps", TASK, PREPARED, MADE_BY, "") as run,
    ):
        run.epoch(0, {"loss": 1 / 0})
    assert newest().status == "FAILED"

    def die() -> None:
        with tracking.training_run(at, "pumps", TASK, PREPARED, MADE_BY, ""):
            os.kill(os.getpid(), signal.SIGKILL)

    killed = FORK.Process(target=die)
    killed.start()
    killed.join()
    left = newest()
    assert left.status == "RUNNING"
    with tracking.training_run(at, "pumps", TASK, PREPARED, MADE_BY, "") as run:
        assert client.get_run(left.run_id).info.status == "KILLED"
        assert client.get_run(run.id).info.status == "RUNNING"


def test_an_upload_that_was_killed_is_never_registered(at: Paths, tmp_path: Path):
    import mlflow

    mlflow_home.configure(at)
    client = mlflow.MlflowClient()
    made = pump_model(tmp_path / "new" / "model", pump_graph({"heat": 3.0}))
    where = mlflow_home.experiment(at, "pumps")
    half = client.create_logged_model(where, name="model", tags={"artifact": made.digest})
    registry = Registry(at)
    version = registry.register(made)
    assert client.get_model_version(registry.name, version).source != f"models:/{half.model_id}"
    assert artifact.load(registry.fetch(version)).digest == made.digest


def test_mlflow_itself_answers_with_the_model_as_the_artifact_does(at: Paths):
    import mlflow

    registry = Registry(at)
    version = registry.register(artifact.load(at.model))
    loaded = mlflow.pyfunc.load_model(f"models:/{registry.name}/{version}")
    rows = pumps(50)
    asked = rows[[*PUMPS.numbers, "site"]]
    answers = loaded.predict(asked)["probability"].to_numpy()
    assert np.abs(answers - artifact.load(at.model).predict(rows)).max() < 1e-6
    example = loaded.input_example
    assert isinstance(example, pd.DataFrame)
    assert len(loaded.predict(example)) == len(example)


def test_plain_mlflow_models_serve_answers_too(at: Paths, tmp_path: Path):
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


def test_files_altered_in_the_store_are_not_taken_for_the_model(at: Paths):
    registry = Registry(at)
    version = registry.register(artifact.load(at.model))
    import mlflow

    where = mlflow.MlflowClient().get_model_version_download_uri(registry.name, version)
    stored = mlflow.artifacts.download_artifacts(where)  # a local store: the files themselves
    model = Path(stored) / "model.onnx"
    model.write_bytes(model.read_bytes()[:-9])
    try:
        with pytest.raises(ArtifactError):
            registry.fetch(version)
        assert challenge(at).decision == "hold"
        assert registry.alias(CHAMPION) == "1"
        model.unlink()
        with pytest.raises((ArtifactError, RegistryError)):
            registry.fetch(version)
    finally:
        shutil.copy(at.model / "model.onnx", model)
    assert challenge(at).decision == "promote"


# Several processes -----------------------------------------------------------------------------


def test_two_processes_make_a_fresh_store_at_once(template: Path, tmp_path: Path):
    at = Paths(tmp_path, "pumps")
    shutil.copytree(template / ".perennial", tmp_path / ".perennial")
    for kept in (tmp_path / ".perennial").glob("*.db"):
        kept.unlink()
    gate, told = FORK.Barrier(3, timeout=60), FORK.Queue()

    def use() -> None:
        gate.wait()
        train(at, WORSE, tmp_path / str(os.getpid()) / "model")
        told.put(mlflow_home.experiment(at, "pumps"))

    both = [FORK.Process(target=use, daemon=True) for _ in range(2)]
    for process in both:
        process.start()
    gate.wait()
    assert told.get(timeout=120) == told.get(timeout=120)
    for process in both:
        process.join()
        assert process.exitcode == 0


def test_of_two_promoters_one_wins_and_the_other_is_told(at: Paths):
    rounds = 10
    registry = Registry(at)
    for number in range(3):
        registry.register(pump_model(at.root / f"n{number}" / "m", pump_graph({"heat": 2.0 + number})))
    start, done = (FORK.Barrier(3, timeout=60) for _ in range(2))
    told = FORK.Queue()

    def promote(versions: str) -> None:
        for turn in range(rounds):
            start.wait()
            expect = Registry(at).alias(CHAMPION)
            mine = next(v for v in versions if v != expect)
            start.wait()
            try:
                Registry(at).promote(mine, expect, lambda _: None)
                told.put((turn, mine, True))
            except RegistryError as error:
                told.put((turn, mine, "meanwhile" in str(error)))
                told.put((turn, None, None))
            done.wait()

    both = [FORK.Process(target=promote, args=(v,), daemon=True) for v in ("12", "34")]
    for process in both:
        process.start()
    for turn in range(rounds):
        start.wait()
        start.wait()
        said = [told.get(timeout=20) for _ in range(3)]
        won = [v for t, v, fine in said if v and fine and v == registry.alias(CHAMPION)]
        assert len(won) == 1, said
        lost = [fine for t, v, fine in said if v and v not in won]
        assert lost == [True], said
        assert {t for t, _, _ in said} == {turn}
        done.wait()
    for process in both:
        process.join()
        assert process.exitcode == 0


def test_kill_9_at_any_moment_leaves_aliases_that_load_and_a_step_that_can_be_repeated(
    template: Path, tmp_path: Path
):
    began = time.monotonic()
    shutil.copytree(template, tmp_path / "timed")
    assert challenge(Paths(tmp_path / "timed", "pumps")).decision == "promote"
    took = time.monotonic() - began
    moments = random.Random(7)
    for turn in range(12):
        shutil.copytree(template, tmp_path / str(turn))
        at = Paths(tmp_path / str(turn), "pumps")
        victim = FORK.Process(target=challenge, args=(at,))
        victim.start()
        time.sleep(moments.uniform(0, took))
        victim.kill()
        victim.join()
        champion = every_alias_loads(at)[CHAMPION]
        assert champion in ("1", "2")
        if champion == "2":
            assert Registry(at).tags("2")["verdict"] == "promote"
        assert challenge(at).decision == "promote"
        assert every_alias_loads(at) == {"champion": "2", "previous": "1"}
        moves = [e for e in ledger.read(at.ledger) if e["kind"] == "promotion"]
        assert [(e["version"], e["from"]) for e in moves] == [("2", "1")]


# A server --------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(command: list[str], log: Path, health: str) -> Iterator[Callable[[], None]]:
    """A server and, as value, the way to kill -9 it with its children."""
    environment = os.environ | mlflow_home.ENVIRONMENT
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop(mlflow_home.VARIABLE, None)
    if "models" in command:
        environment[mlflow_home.VARIABLE] = os.environ[mlflow_home.VARIABLE]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, start_new_session=True
        )

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

        try:
            until = time.monotonic() + 180
            while time.monotonic() < until and process.poll() is None:
                try:
                    urllib.request.urlopen(health, timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.3)
            else:
                raise AssertionError(f"no answer from {health}: {log.read_text()[-3000:]}")
            yield kill
        finally:
            kill()


class DiesAt:
    """A registry whose server is killed just before the call of this name."""

    def __init__(self, registry: Registry, name: str, kill: Callable[[], None]) -> None:
        self.inner, self.name, self.kill = registry, name, kill

    def __getattr__(self, name: str) -> Any:
        if name == self.name:
            self.kill()
        return getattr(self.inner, name)


def test_a_server_that_dies_in_the_middle_promotes_nothing_and_is_picked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    database = tmp_path / "server.db"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{database}", "--workers", "1",
        "--artifacts-destination", str(tmp_path / "served"),
    ]  # fmt: skip
    server = (command, tmp_path / "server.log", f"{uri}/health")
    shutil.copy(next(Path(mlflow_home._template(tmp_path)).parent.glob("*.db")), database)
    monkeypatch.setenv(mlflow_home.VARIABLE, uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    at = Paths(tmp_path / "project", "pumps")
    store.write_table(at.prepared / "test.parquet", pumps())
    registry = Registry(at)

    with started(*server) as kill:
        train(at, WORSE, at.root / "first" / "model")
        first = registry.register(artifact.load(at.root / "first" / "model"))
        registry.promote(first, None, lambda _: None)
        train(at, BETTER, at.model)
        # While the answers are judged.
        verdict = challenge(at, DiesAt(registry, "set_tags", kill))
        assert verdict.decision == "hold"
        assert "RegistryError" in verdict.reason
        assert f"MLflow at {uri}" in verdict.reason
        with pytest.raises(RegistryError, match=f"curl {uri}/health"):
            registry.alias(CHAMPION)
    assert not (at.mlflow / "mlflow.db").exists()

    with started(*server) as kill:
        assert every_alias_loads(at)[CHAMPION] == first
        # Judged, and dead before the alias moves.
        with pytest.raises(RegistryError):
            challenge(at, DiesAt(registry, "promote", kill))

    with started(*server):
        assert every_alias_loads(at)[CHAMPION] == first
        assert challenge(at).decision == "promote"
        assert every_alias_loads(at)[CHAMPION] == "2"
        tags = registry.tags("2")
        assert tags["git.commit"] == "c" * 40
        # A replay beside it keeps to a store of its own.
        replayed = Paths(at.root, "pumps", replay="always")
        assert Registry(replayed).aliases() == {}
        assert Registry(at).alias(CHAMPION) == "2"


def test_rivals_are_scored_by_the_files_that_the_registry_gives_back(at: Paths):
    registry = Registry(at)
    version = registry.register(artifact.load(at.model))
    fetched = artifact.load(registry.fetch(version))
    table = rivals.scores(version, fetched, pumps(), PUMPS, TASK)
    assert table.artifact == registry.tags(version)["artifact"]
