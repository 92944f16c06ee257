"""Fit one model on the prepared window and keep it as an artifact, with its run in MLflow."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines import artifact, metrics, store
from pipelines.contract import Contract
from pipelines.drift import profile
from pipelines.graph import raw_inputs
from pipelines.models.progress import OnStep, Progress
from pipelines.models.world import world
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.prepared import Prepared, load_prepared
from pipelines.provenance import here
from pipelines.tasks.base import KINDS, Encoded, Report, load_encoder, load_rows
from pipelines.variants import ORIGINAL

log = logging.getLogger(__name__)

EXAMPLES = 50
"""Raw rows kept with the model, with the answers expected of them."""
TRAINED_BY = {"source", "period", "calendar", "min_category", "window", "train"}
"""The settings that a training depends on; the rest may change without making another model."""
MEASURED = {"rows_per_second"}
"""Differs from run to run, so it goes to MLflow and not into the files."""


def run(
    name: str, task: Task, contract: Contract, at: Paths, reason: str = "dvc repro"
) -> artifact.About | None:
    """None in a process that only helps another one to train (`torchrun`).

    Raises ArtifactError, and keeps the model of before, when what was exported answers otherwise.
    """
    from pipelines.adapters import onnx, onnx_variants, tracking

    kind, prepared = KINDS[task.kind], load_prepared(at, name)
    kind.check(task, contract)
    encoder = load_encoder(at, task)
    train, validation = (load_rows(at, part, task) for part in ("train", "validation"))
    if not world().first:
        kind.fit(name, task, train, validation, encoder, lambda *_: None, at.training)
        return None
    test = store.frame(at.prepared / "test.parquet")

    provenance = here(at.root)
    with tracking.training_run(at, name, task, prepared, provenance, reason) as logged:
        history: list[dict[str, float]] = []
        with _progress(name, task, logged.epoch, history) as (report, on_step):
            model = kind.fit(name, task, train, validation, encoder, report, at.training, on_step)
        graph = kind.graph(model, contract, encoder)
        expected = kind.answers(model, kind.encode(test, contract, encoder))
        feeds = raw_inputs(test, contract, contract.inputs)
        worst = onnx.check_parity(graph, feeds, expected)
        chosen = onnx_variants.choose(
            graph, kind.calibration(at, train, contract), feeds,
            contract.codes(test[contract.label]), task.train.variants,
        )  # fmt: skip
        if chosen.answers is not None:
            graph, expected = chosen.graph, chosen.answers
        # Threshold and measures are of what serves, and a variant reads raw columns only.
        if chosen.name == ORIGINAL:
            answers = kind.answers(model, validation)
        else:
            held = store.read_table(at.prepared / "validation.parquet", f"dvc repro prepare@{name}")
            raw = raw_inputs(held, contract, contract.inputs)
            answers = onnx.answers(graph, raw, "probability")
        about = _about(name, task, prepared, validation, answers).model_copy(
            update={"variant": chosen.name, "variants": chosen.table}
        )
        examples = test.head(EXAMPLES)[list(dict.fromkeys((*contract.key, *contract.inputs)))]
        examples = examples.assign(expected_probability=expected[:EXAMPLES].tolist())

        with TemporaryDirectory() as made, store.atomic_folder(at.model) as folder:
            seen = kind.reference(train, contract, graph, task.train.seed)
            if seen is not None:
                profile.write(seen, Path(made))
            home = at.prepared if seen is None else Path(made)
            reference = {n: home / n for n in ("reference.json", "reference.parquet")}
            artifact.write(folder, graph, contract, about, reference, examples)
            artifact.self_test(artifact.load(folder))
            # Nothing in an export says which model it is of: they come and go in one folder.
            kind.export(model, folder, name, task, train)
        store.write_text(at.curves, _as_csv(history))
        logged.model(at.model, about.metrics | {"parity": worst})
        logged.file(at.curves)
    kind.forget(model)
    log.info(
        "train %s: %s on %d rows, %s, validation AUC %.4f, parity %.1e",
        name, task.train.family, len(train), f"{prepared.first}..{prepared.last}",
        about.metrics["validation_auc"], worst,
    )  # fmt: skip
    return about


def _about(
    name: str, task: Task, prepared: Prepared, validation: Encoded, probability: np.ndarray
) -> artifact.About:
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
) -> Iterator[tuple[Report, OnStep]]:
    """What is told of each epoch, and in the middle of one. A bar on a terminal, plain lines in a log."""
    from tqdm import tqdm

    total = task.train.epochs
    bar = tqdm(total=total, desc=f"train {name}", unit="epoch", disable=not sys.stderr.isatty())

    def report(epoch: int, values: dict[str, float]) -> None:
        history.append({"epoch": epoch} | {k: v for k, v in values.items() if k not in MEASURED})
        log_epoch(epoch, values)
        bar.n = epoch + 1
        bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()})
        if bar.disable:
            shown = " ".join(f"{k}={v:.4g}" for k, v in values.items())
            log.info("train %s: epoch %d of %d %s", name, epoch + 1, total, shown)

    def on_step(now: Progress) -> None:
        if not bar.disable:
            bar.n = round(now.epoch + now.batch / now.batches, 2)
            loss = "" if math.isnan(now.loss) else f"loss={now.loss:.4g} "
            bar.set_postfix_str(
                f"{loss}{now.rows_per_second:,.0f} rows/s {now.seconds_left:.0f} s left"
            )

    with bar:
        yield report, on_step


def _as_csv(history: list[dict[str, float]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()
