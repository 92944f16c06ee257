"""Rows with a time, numbers, categories and a 0/1 label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import encoder as encoders
from pipelines import store
from pipelines.adapters import onnx
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.drift.profile import Watched, clock
from pipelines.encoder import Encoder
from pipelines.errors import ArtifactError, ParamsError
from pipelines.graph import raw_inputs
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.records import Rows

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.models.progress import OnStep

ROWS = 64
"""Train rows that an exported file is held to."""
FAMILIES = ("network", "logistic", "boosting", "forest")


def check(task: Task, contract: Contract) -> None:
    if contract.images:
        raise ParamsError(
            f"contracts/{contract.task}.yaml has pictures ({', '.join(contract.images)}), which "
            f"kind tabular does not read; kind image does. Mend it with: edit params.yaml"
        )
    if contract.classes:
        raise ParamsError(
            f"contracts/{contract.task}.yaml: label {contract.label} is a category; kind tabular "
            "learns a label of 0 and 1 (type integer or boolean). "
            f"Mend it with: edit contracts/{contract.task}.yaml"
        )
    if task.train.family not in FAMILIES:
        raise ParamsError(
            f"params.yaml: tasks.{contract.task}.train.family is {task.train.family!r}; for kind "
            f"tabular it must be one of {', '.join(FAMILIES)}. Mend it with: edit params.yaml"
        )


def fit_encoder(train: pd.DataFrame, contract: Contract, task: Task) -> Encoder:
    return encoders.fit_encoder(train, contract, task.calendar, task.min_category)


def read_encoder(content: Mapping[str, Any]) -> Encoder:
    return Encoder.model_validate(content)


def encode(table: pd.DataFrame, contract: Contract, encoder: Encoder) -> Rows:
    numbers, codes = encoder.encode(table, contract)
    return Rows(
        numbers=numbers,
        codes=codes,
        label=contract.codes(table[contract.label]).astype(np.int8),
        time=raw_inputs(table, contract, [contract.time])[contract.time],
    )


def known_by(rows: Rows) -> None:
    """None: two customers may well buy the same at the same price."""


def read_rows(arrays: Mapping[str, np.ndarray]) -> Rows:
    return Rows(**arrays)


def fit(
    name: str,
    task: Task,
    train: Rows,
    validation: Rows,
    encoder: Encoder,
    report: Callable[[int, dict[str, float]], None],
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> Any:
    settings, cardinalities = task.train, encoder.cardinalities
    if settings.family == "network":
        import torch

        from pipelines.models import fit

        # Threads are set on purpose: two busy processes with a pool each run many times slower.
        torch.set_num_threads(settings.threads)
        try:
            return fit.fit(
                train, validation, cardinalities, settings.network, settings.seed, report,
                machine=settings if folder else settings.unwatched, folder=folder, on_step=on_step,
            )  # fmt: skip
        except (FloatingPointError, MemoryError) as error:
            raise ArtifactError(f"train {name}: {error}. Then run: dvc repro") from error
    import threadpoolctl

    from pipelines.models import estimators

    with threadpoolctl.threadpool_limits(settings.threads):
        return estimators.fit(
            settings.family, train, validation, cardinalities, settings, settings.seed, report
        )


def forget(fitted: Any) -> None:
    fitted.forget()


def answers(fitted: Any, rows: Rows) -> np.ndarray:
    return np.asarray(fitted.predict(rows.numbers, rows.codes))


def graph(fitted: Any, contract: Contract, encoder: Encoder) -> bytes:
    return onnx.raw_to_probability(encoder, fitted.to_onnx())


def calibration(at: Paths, train: Rows, contract: Contract) -> dict[str, np.ndarray]:
    # The monitor's sample of the train rows: the arrays are encoded already.
    return raw_inputs(store.frame(at.prepared / "reference.parquet"), contract, contract.inputs)


def export(fitted: Any, folder: Path, name: str, task: Task, train: Rows) -> None:
    if not task.train.export:
        return
    import torch

    from pipelines.models import exported
    from pipelines.models.network import Probability

    rows = [torch.tensor(train.numbers[:ROWS]), torch.tensor(train.codes[:ROWS])]
    exported.write(Probability(fitted.network), rows, folder, name, task.train.export)


def reference(train: Rows, contract: Contract, graph: bytes, seed: int) -> None:
    """None: the profile that prepare made of the raw rows."""


def watched(table: pd.DataFrame, contract: Contract, model: Artifact | None) -> Watched:
    numbers = (clock(contract.time), *contract.numbers)
    return Watched(table, contract.time, numbers, contract.categories)
