"""Fit one model on the prepared window and keep it as an artifact, with its run in MLflow."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import artifact, metrics, store
from pipelines.contract import Contract
from pipelines.errors import ArtifactError
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.prepared import Prepared, load_encoder, load_prepared, load_rows
from pipelines.provenance import here
from pipelines.records import Rows

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

EXAMPLES = 50
"""Raw rows kept with the model, with the answers expected of them."""
TRAINED_BY = {"source", "period", "calendar", "min_category", "window", "train"}
"""The settings that a training depends on; the rest may change without making another model."""
MEASURED = {"rows_per_second"}
"""Differs from run to run, so it goes to MLflow and not into the files."""


def run(
    name: str, task: Task, contract: Contract, at: Paths, reason: str = "dvc repro"
) -> artifact.About:
    """Raises ArtifactError, and keeps the model of before, when the exported graph answers otherwise."""
    import pandas as pd

    from pipelines.adapters import onnx, tracking

    prepared = load_prepared(at, name)
    encoder = load_encoder(at, name)
    train, validation = (load_rows(at, part, name) for part in ("train", "validation"))
    test = pd.read_parquet(at.prepared / "test.parquet")

    provenance = here(at.root)
    with tracking.training_run(at, name, task, prepared, provenance, reason) as logged:
        history: list[dict[str, float]] = []
        with _progress(name, task, logged.epoch, history) as report:
            model = _fit(name, task, train, validation, encoder.cardinalities, report)
        graph = onnx.raw_to_probability(encoder, model.to_onnx())
        expected = _answers(model, test, encoder, contract)
        feeds = artifact.raw_inputs(test, contract, contract.inputs)
        worst = onnx.check_parity(graph, feeds, expected)
        about = _about(name, task, prepared, validation, model)
        examples = test.head(EXAMPLES)[list(dict.fromkeys((*contract.key, *contract.inputs)))]
        examples = examples.assign(expected_probability=expected[:EXAMPLES])

        with store.atomic_folder(at.model) as folder:
            reference = {n: at.prepared / n for n in ("reference.json", "reference.parquet")}
            artifact.write(folder, graph, contract, about, reference, examples)
            artifact.self_test(artifact.load(folder))
        store.write_text(at.curves, _as_csv(history))
        logged.model(at.model, about.metrics | {"parity": worst})
        logged.file(at.curves)
    log.info(
        "train %s: %s on %d rows, %s, validation AUC %.4f, parity %.1e",
        name, task.train.family, len(train), f"{prepared.first}..{prepared.last}",
        about.metrics["validation_auc"], worst,
    )  # fmt: skip
    return about


def _fit(
    name: str,
    task: Task,
    train: Rows,
    validation: Rows,
    cardinalities: tuple[int, ...],
    report: Callable[[int, dict[str, float]], None],
) -> Any:
    settings = task.train
    if settings.family == "network":
        import torch

        from pipelines.models import fit

        # Threads are set on purpose: two busy processes with a pool each run many times slower.
        torch.set_num_threads(settings.threads)
        try:
            return fit.fit(
                train, validation, cardinalities, settings.network, settings.seed, report
            )
        except FloatingPointError as error:
            raise ArtifactError(f"train {name}: {error}. Then run: dvc repro") from error
    import threadpoolctl

    from pipelines.models import estimators

    with threadpoolctl.threadpool_limits(settings.threads):
        return estimators.fit(
            settings.family, train, validation, cardinalities, settings, settings.seed, report
        )


def _answers(model: Any, table: pd.DataFrame, encoder: Any, contract: Contract) -> np.ndarray:
    numbers, codes = encoder.encode(table, contract)
    return np.asarray(model.predict(numbers, codes))


def _about(
    name: str, task: Task, prepared: Prepared, validation: Rows, model: Any
) -> artifact.About:
    probability = model.predict(validation.numbers, validation.codes)
    return artifact.About(
        task=name,
        kind=task.kind,
        family=task.train.family,
        seed=task.train.seed,
        threshold=metrics.best_threshold(validation.label, probability),
        trained_until=prepared.trained_until,
        window={"first": prepared.first, "last": prepared.last},
        data=prepared.data,
        params=task.model_dump(mode="json", include=TRAINED_BY),
        contract=prepared.contract,
        baseline_rate=prepared.baseline_rate,
        baseline=prepared.baseline,
        rows=prepared.rows,
        metrics={
            "validation_auc": metrics.auc(validation.label, probability),
            "validation_log_loss": metrics.log_loss(validation.label, probability),
        },
    )


@contextlib.contextmanager
def _progress(
    name: str,
    task: Task,
    log_epoch: Callable[[int, dict[str, float]], None],
    history: list[dict[str, float]],
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A bar on a terminal, plain lines in a log."""
    from tqdm import tqdm

    total = task.train.network.epochs if task.train.family == "network" else 1
    bar = tqdm(total=total, desc=f"train {name}", unit="epoch", disable=not sys.stderr.isatty())

    def report(epoch: int, values: dict[str, float]) -> None:
        history.append({"epoch": epoch} | {k: v for k, v in values.items() if k not in MEASURED})
        log_epoch(epoch, values)
        bar.update()
        bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()})
        if bar.disable:
            shown = " ".join(f"{k}={v:.4g}" for k, v in values.items())
            log.info("train %s: epoch %d of %d %s", name, epoch + 1, total, shown)

    with bar:
        yield report


def _as_csv(history: list[dict[str, float]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()
