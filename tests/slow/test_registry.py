"""Run: pytest tests/slow/test_registry.py -m slow

The real MLflow on SQLite: runs, models, aliases; two promoters at once; kill -9.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import artifact, ledger, rivals
from pipelines.adapters import mlflow_home, tracking
from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.errors import ArtifactError, RegistryError
from pipelines.paths import Paths
from tests.fakes import PUMPS, WORSE, pump_graph, pump_model, pumps
from tests.gate_world import TASK
from tests.slow.trained import (
    MADE_BY,
    PREPARED,
    challenge,
    every_alias_loads,
    prepare_world,
    train,
)

pytestmark = pytest.mark.slow

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def local_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mlflow_home.VARIABLE, raising=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(mlflow_home.VARIABLE, raising=False)
        return prepare_world(tmp_path_factory.mktemp("template")).root


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


@pytest.mark.parametrize(
    ("code", "kind"),
    [("RESOURCE_DOES_NOT_EXIST", ArtifactError), ("INTERNAL_ERROR", RegistryError)],
)
def test_files_that_are_gone_for_good_are_told_from_a_server_that_is_ill(
    at: Paths, code: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
):
    import mlflow
    from mlflow.protos.databricks_pb2 import ErrorCode

    def fail(*_: object, **__: object) -> None:
        raise mlflow.exceptions.MlflowException("no such model", ErrorCode.Value(code))

    registry = Registry(at)
    version = registry.register(artifact.load(at.model))
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    with pytest.raises(kind, match="no such model"):
        registry.fetch(version)


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
        # Whole, sound, and another model.
        shutil.copytree(at.root / "first" / "model", stored, dirs_exist_ok=True)
        with pytest.raises(ArtifactError, match="was registered as artifact"):
            registry.fetch(version)
    finally:
        shutil.copytree(at.model, stored, dirs_exist_ok=True)
    assert challenge(at).decision == "promote"


def test_a_kept_copy_that_is_torn_or_of_another_store_is_fetched_again(at: Paths):
    registry = Registry(at)
    version = registry.register(artifact.load(at.model))
    shutil.copytree(at.root / "first" / "model", at.models_cache / version)
    digest = artifact.load(at.model).digest
    assert artifact.load(registry.fetch(version)).digest == digest
    (at.models_cache / version / "model.onnx").write_bytes(b"torn")
    assert artifact.load(registry.fetch(version)).digest == digest


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

    def runs() -> int:
        import mlflow

        mlflow_home.configure(at)
        where = mlflow_home.experiment(at, "pumps")
        return len(mlflow.MlflowClient().search_runs([where], "attributes.status = 'FINISHED'"))

    both = [FORK.Process(target=use, daemon=True) for _ in range(2)]
    for process in both:
        process.start()
    gate.wait()
    assert told.get(timeout=120) == told.get(timeout=120)
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert runs() == 2


def test_of_two_promoters_one_wins_and_the_other_is_told(at: Paths):
    rounds = 10
    registry = Registry(at)
    for number in range(3):
        registry.register(
            pump_model(at.root / f"n{number}" / "m", pump_graph({"heat": 2.0 + number}))
        )
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


def test_what_a_kill_between_two_moves_left_is_cleared_by_the_same_promotion(
    template: Path, tmp_path: Path
):
    shutil.copytree(template, tmp_path / "left")
    at = Paths(tmp_path / "left", "pumps")
    assert challenge(at).decision == "promote"
    registry = Registry(at)
    with registry._client() as client:
        client.set_registered_model_alias(registry.name, "challenger", "2")
    assert registry.promote("2", "1", lambda _: None) is False
    assert every_alias_loads(at) == {"champion": "2", "previous": "1"}


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


def test_rivals_are_scored_by_the_files_that_the_registry_gives_back(at: Paths):
    registry = Registry(at)
    version = registry.register(artifact.load(at.model))
    fetched = artifact.load(registry.fetch(version))
    table = rivals.scores(version, fetched, pumps(), PUMPS, TASK)
    assert table.artifact == registry.tags(version)["artifact"]
