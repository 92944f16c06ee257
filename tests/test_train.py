"""What a training keeps, with MLflow left out: `pytest tests/test_train.py`"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pipelines import artifact, contract, metrics, store
from pipelines.adapters import tracking
from pipelines.artifact import About
from pipelines.errors import MissingInput, RegistryError
from pipelines.models.learner import Stepper
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.stages import prepare, train
from pipelines.tasks.base import load_rows
from tests.conftest import shop
from tests.test_tuning import CONTRACT, PARAMS

AGREED = contract.parse(CONTRACT)
SMALL = {
    "family": "network", "seed": 7, "device": "cpu",
    "network": {"epochs": 1, "patience": 1, "batch": 256, "width": 16, "embedding": 4, "bins": 4},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def unseen(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(**dict.fromkeys(("epoch", "model", "file"), lambda *_: None))

    monkeypatch.setattr(tracking, "training_run", unseen)


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A window of a shop, prepared."""
    at = Paths(tmp_path_factory.mktemp("orders"), "orders")
    store.write_table(at.batch("2024-01"), shop(days=30))
    prepare.run("orders", settings(), AGREED, at, ["2024-01"], [])
    return at


def settings(**more: Any) -> Task:
    task = yaml.safe_load(PARAMS)["tasks"]["orders"] | {"train": SMALL | more}
    return Task.model_validate_json(store.json.dumps(task))


def trained(at: Paths, **more: Any) -> About:
    about = train.run("orders", settings(**more), AGREED, at)
    assert about is not None
    return about


def test_an_export_comes_and_goes_with_its_model_and_is_no_part_of_it(
    orders: Paths, tmp_path: Path
) -> None:
    """DVC keeps and gives back the model's folder, and a retraining copies it: nothing else."""
    trained(orders)
    plain = artifact.load(orders.model)
    trained(orders, export=["torchscript"])
    exported = orders.model / "orders.torchscript.pt"
    assert exported.stat().st_size > 0
    assert not list(orders.model.parent.glob("*.pt"))
    kept = artifact.load(shutil.copytree(orders.model, tmp_path / "kept"))
    assert kept.size_bytes == artifact.load(orders.model).size_bytes
    exported.unlink()
    assert artifact.load(orders.model).digest == kept.digest
    trained(orders)
    assert artifact.load(orders.model).digest == plain.digest
    assert not list(orders.model.parent.rglob("*.pt"))


def test_a_registry_that_is_away_at_the_end_costs_no_training(
    orders: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise RegistryError("away")

    @contextlib.contextmanager
    def ended(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(epoch=lambda *_: None, model=away, file=lambda *_: None)

    with monkeypatch.context() as broken:
        broken.setattr(tracking, "training_run", ended)
        with pytest.raises(RegistryError):
            trained(orders, seed=8)
    assert list(orders.training.glob("checkpoint-*.pt"))
    monkeypatch.setattr(Stepper, "step", lambda _: pytest.fail("trained again"))
    trained(orders, seed=8)
    assert not list(orders.training.glob("checkpoint-*.pt"))


def test_threshold_and_measures_are_of_the_variant_that_serves(orders: Paths) -> None:
    """Half of the weights gone, it answers otherwise, and another threshold is the best for it."""
    whole = trained(orders)
    loose = {"max_auc_loss": 1, "max_log_loss_rise": 99, "max_parity": 1, "max_slowdown": 99}
    about = trained(orders, variants={"make": ["pruned"], "prune": 0.6, "min_gain": 1, **loose})
    assert (whole.variant, about.variant) == ("fp32", "pruned")
    label = load_rows(orders, "validation", settings()).label
    begin = about.rows["train"]
    rows = store.frame(orders.batch("2024-01")).iloc[begin : begin + len(label)]
    answers = artifact.load(orders.model).predict(rows)
    assert about.threshold == pytest.approx(metrics.best_threshold(label, answers))
    assert about.metrics["validation_auc"] == pytest.approx(metrics.auc(label, answers))
    assert about.threshold != pytest.approx(whole.threshold)


def test_rows_that_were_prepared_without_what_a_variant_is_judged_by_are_to_be_prepared_again(
    orders: Paths,
) -> None:
    (orders.prepared / "validation.parquet").unlink()
    make = {"make": ["pruned"], "prune": 0.6, "min_gain": 1, "max_auc_loss": 1, "max_parity": 1}
    limits = {"max_log_loss_rise": 99, "max_slowdown": 99}
    with pytest.raises(MissingInput, match="dvc repro prepare@orders"):
        trained(orders, variants=make | limits)
