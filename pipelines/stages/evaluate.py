"""How good the trained model is on its window's newest rows, which training never saw."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import artifact, metrics, store
from pipelines.contract import Contract
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.slices import slices_of

log = logging.getLogger(__name__)

CURVE_POINTS = 200


def run(name: str, task: Task, contract: Contract, at: Paths) -> dict[str, float]:
    from pipelines.adapters import tracking

    model = artifact.load(at.model)
    test = store.frame(at.prepared / "test.parquet")
    label = contract.codes(test[contract.label])
    probability = model.predict(test)

    summary = summarise(label, probability, model.about.threshold, task)
    slices = by_slice(label, probability, slices_of(test, contract, task.evaluate.slices), task)
    curves = curves_of(label, probability, model.about.threshold, contract.classes)
    curves["slices"] = slices

    with store.atomic_folder(at.report) as folder:
        write(folder, name, summary, curves)
    tracking.log_evaluation(at, name, model.digest, summary, at.report)
    log.info(
        "evaluate %s: test AUC %.4f (%.4f to %.4f) on %d rows",
        name, summary["test_auc"], summary["test_auc_low"], summary["test_auc_high"], len(label),
    )  # fmt: skip
    return summary


def curves_of(
    label: np.ndarray, probability: np.ndarray, threshold: float, classes: tuple[str, ...]
) -> dict[str, list[dict[str, Any]]]:
    """What `dvc plots` draws, by name: a row a point. ROC and precision of several classes are of
    all their questions "is it this one?" together."""
    asked = metrics.one_hot(label, len(classes)).ravel() if classes else label
    names = classes or (0, 1)
    return {
        "roc": roc(asked, probability.ravel()),
        "precision_recall": precision_recall(asked, probability.ravel()),
        "calibration": [
            {"predicted": p, "observed": o, "rows": n}
            for p, o, n in metrics.calibration(label, probability)
        ],
        "confusion": [
            {"actual": names[a], "predicted": names[p]}
            for a, p in zip(label, metrics.called(probability, threshold), strict=True)
        ],
    }


def write(
    folder: Path, name: str, summary: dict[str, float], curves: dict[str, list[dict[str, Any]]]
) -> None:
    """metrics.json, a CSV a curve, and report.png."""
    store.write_json(folder / "metrics.json", summary)
    for curve, rows in curves.items():
        store.write_text(folder / f"{curve}.csv", _as_csv(rows))
    _picture(folder / "report.png", name, summary, curves)


def summarise(
    label: np.ndarray, probability: np.ndarray, threshold: float, task: Task
) -> dict[str, float]:
    """Flat numbers; `dvc metrics diff` compares these."""
    interval = metrics.auc_interval(label, probability, task.evaluate.bootstrap, task.train.seed)
    called = metrics.called(probability, threshold)
    precision, recall = _precision_recall(label, called, probability.ndim == 2)
    return {
        "test_auc": interval.value,
        "test_auc_low": interval.low,
        "test_auc_high": interval.high,
        "test_log_loss": metrics.log_loss(label, probability),
        "test_brier": metrics.brier(label, probability),
        "test_calibration_error": metrics.calibration_error(label, probability),
        "test_accuracy": metrics.accuracy(label, probability, threshold),
        "test_precision": precision,
        "test_recall": recall,
        "test_rate": metrics.rate(label, probability.ndim == 2),
        "test_rows": float(len(label)),
        "threshold": threshold,
    }


def _precision_recall(label: np.ndarray, called: np.ndarray, several: bool) -> tuple[float, float]:
    """Of label 1; of several classes their mean."""
    from sklearn.metrics import precision_recall_fscore_support

    average = "macro" if several else "binary"
    precision, recall, _, _ = precision_recall_fscore_support(
        label, called, average=average, zero_division=0
    )
    return float(precision), float(recall)


def by_slice(
    label: np.ndarray, probability: np.ndarray, slices: dict[str, np.ndarray], task: Task
) -> list[dict[str, Any]]:
    """AUC of each value of each slice column that has enough rows of both labels."""
    found: list[dict[str, Any]] = []
    for column, values in slices.items():
        for value in np.unique(values):
            here = values == value
            if here.sum() < task.evaluate.slice_rows:
                continue
            auc = metrics.auc(label[here], probability[here])
            if np.isfinite(auc):
                rate = metrics.rate(label[here], probability.ndim == 2)
                found.append(
                    {
                        "column": column,
                        "value": value,
                        "rows": int(here.sum()),
                        "rate": rate,
                        "auc": auc,
                    }
                )
    return found


def roc(label: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    order = np.argsort(-probability, kind="stable")
    hits = np.r_[0, np.cumsum(label[order] == 1)]
    misses = np.r_[0, np.cumsum(label[order] == 0)]
    at = np.unique(np.linspace(0, len(label), CURVE_POINTS).astype(int))
    return [
        {
            "false_positive_rate": float(misses[i] / max(misses[-1], 1)),
            "true_positive_rate": float(hits[i] / max(hits[-1], 1)),
        }
        for i in at
    ]


def precision_recall(label: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(label[order] == 1)
    at = np.unique(np.linspace(1, len(label), CURVE_POINTS).astype(int))
    return [
        {"recall": float(hits[i - 1] / max(hits[-1], 1)), "precision": float(hits[i - 1] / i)}
        for i in at
    ]


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else ["empty"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _picture(path: Path, name: str, summary: dict[str, float], curves: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    figure.suptitle(
        f"{name}: test AUC {summary['test_auc']:.3f} on {int(summary['test_rows'])} rows"
    )
    for axis, (curve, x, y) in zip(
        axes,
        (
            ("roc", "false_positive_rate", "true_positive_rate"),
            ("precision_recall", "recall", "precision"),
            ("calibration", "predicted", "observed"),
        ),
        strict=True,
    ):
        axis.plot([r[x] for r in curves[curve]], [r[y] for r in curves[curve]], marker=".", ms=3)
        axis.set(
            xlabel=x.replace("_", " "), ylabel=y.replace("_", " "), title=curve.replace("_", " ")
        )
        if curve != "precision_recall":
            limit = 1.0 if curve == "roc" else max(r["predicted"] for r in curves[curve])
            axis.plot([0, limit], [0, limit], color="grey", lw=1, ls=":")
    figure.savefig(path, dpi=110, metadata={"Software": ""})
    plt.close(figure)
