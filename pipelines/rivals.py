"""Models answer the same rows: the tables of scores that the gate compares."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from pipelines import graph
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.params import Task
from pipelines.records import Scores
from pipelines.slices import row_keys, slices_of

if TYPE_CHECKING:
    import pandas as pd

TIMED_ANSWERS = 50
"""Single-row answers whose median is the latency; the first ones, slower, do not count in it."""


def named(rows: pd.DataFrame, contract: Contract) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Key, time and label (N,) of each row."""
    time = graph.raw_inputs(rows, contract, [contract.time])[contract.time]
    return row_keys(rows, contract), time, _labels(rows, contract)


def _labels(rows: pd.DataFrame, contract: Contract) -> np.ndarray:
    """As they are where they are numbers: what is no 0 or 1 is the gate's to tell."""
    return (
        contract.codes(rows[contract.label])
        if contract.classes
        else rows[contract.label].to_numpy()
    )


def scores(
    version: str, model: Artifact, rows: pd.DataFrame, contract: Contract, task: Task
) -> Scores:
    key, time, label = named(rows, contract)
    return Scores(
        version=version,
        artifact=model.digest,
        trained_until=model.about.trained_until,
        key=key,
        time=time,
        label=label,
        probability=model.predict(rows),
        threshold=model.about.threshold,
        slices=slices_of(rows, contract, task.evaluate.slices),
        size_bytes=model.size_bytes,
    )


def latency_ms(model: Artifact, rows: pd.DataFrame) -> float:
    """Median time of one single-row answer, on this machine as busy as it is; NaN without rows."""
    taken = []
    for at in range(min(TIMED_ANSWERS, len(rows))):
        one = rows.iloc[[at]]
        began = perf_counter()
        model.predict(one)
        taken.append(perf_counter() - began)
    return float(np.median(taken)) * 1000 if taken else float("nan")


def baseline(model: Artifact, rows: Scores) -> Scores:
    """What anyone could say without a model: the train rows' rate in that hour of the day, or the
    share of each class among them."""
    rates = model.about.baseline
    if model.contract.classes:
        naive = np.tile([rates[name] for name in model.contract.classes], (len(rows.label), 1))
    else:
        hours = (rows.time // 3600 % 24).astype(str)
        naive = np.array([rates.get(h, model.about.baseline_rate) for h in hours.tolist()])
    return Scores(
        version="baseline",
        artifact="",
        trained_until=rows.trained_until,
        key=rows.key,
        time=rows.time,
        label=rows.label,
        probability=naive.astype(np.float64),
        threshold=0.5,
    )
