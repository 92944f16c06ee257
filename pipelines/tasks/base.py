"""What the stages ask of a kind of task, and the list of kinds. A new kind is one file here and one
line below; nothing outside this folder asks which kind a task is of.

N rows, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipelines import store
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.drift.profile import Profile, Watched
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.records import Record
from pipelines.tasks import image, tabular

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.models.progress import OnStep

Report = Callable[[int, dict[str, float]], None]
"""Told of each epoch: its number from 0, and what was measured."""


class Encoded(Protocol):
    """Rows as a model is fitted on them, in time order; a frozen dataclass of arrays (N, ...)."""

    @property
    def label(self) -> np.ndarray:
        """(N,) int: 0 or 1, or a class's place among the contract's classes."""

    @property
    def time(self) -> np.ndarray:
        """(N,) int64, epoch seconds of the task's own clock."""

    def __len__(self) -> int: ...

    def take(self, part: slice | np.ndarray) -> Encoded:
        """Some of the rows: a slice, or (N,) bool."""


class Kind(Protocol):
    def check(self, task: Task, contract: Contract) -> None:
        """Raises ParamsError where settings or contract are not of this kind."""

    def fit_encoder(self, train: pd.DataFrame, contract: Contract, task: Task) -> Record:
        """Statistics of these rows only: pass train rows."""

    def read_encoder(self, content: Mapping[str, Any]) -> Record:
        """The encoder of its JSON."""

    def encode(self, table: pd.DataFrame, contract: Contract, encoder: Any) -> Encoded: ...

    def known_by(self, rows: Any) -> np.ndarray | None:
        """(N,) str that tell whether two rows are one and the same, which may then stand in one part of
        the split only; None: rows may be alike and not be the same."""

    def read_rows(self, arrays: Mapping[str, np.ndarray]) -> Encoded:
        """The rows of the arrays that they were kept as."""

    def fit(
        self,
        name: str,
        task: Task,
        train: Any,
        validation: Any,
        encoder: Any,
        report: Report,
        folder: Path | None = None,
        on_step: OnStep | None = None,
    ) -> Any:
        """What was fitted, for `answers` and `graph`.

        folder: of this task's trainings, where a killed one is gone on from until `forget`. on_step:
        told of the middle of an epoch, at most ten times a second. Raises ArtifactError where the
        training broke down.
        """

    def forget(self, fitted: Any) -> None:
        """The model is kept: what its training could be gone on from may go."""

    def answers(self, fitted: Any, rows: Any) -> np.ndarray:
        """(N,) float32 probability of 1, or (N, K) of each class."""

    def graph(self, fitted: Any, contract: Contract, encoder: Any) -> bytes:
        """ONNX from raw columns to `probability`, as `artifact.py` runs it."""

    def calibration(self, at: Paths, train: Any, contract: Contract) -> dict[str, np.ndarray]:
        """Train rows as the graph reads them: the ranges of an int8 variant come from these."""

    def export(self, fitted: Any, folder: Path, name: str, task: Task, train: Any) -> None:
        """Write what `train.export` asks for into the model's folder."""

    def reference(self, train: Any, contract: Contract, graph: bytes, seed: int) -> Profile | None:
        """What the monitor holds batches against, where the model itself has a say in it; None: the
        profile that prepare made of the raw rows."""

    def watched(self, table: pd.DataFrame, contract: Contract, model: Artifact | None) -> Watched:
        """What can move of these rows; model: what the champion itself makes of them may tell too."""


KINDS: dict[str, Kind] = {"tabular": tabular, "image": image}


def load_rows(at: Paths, part: str, task: Task) -> Any:
    """part: train, validation or test of what prepare left."""
    arrays = store.read_arrays(at.prepared / f"{part}.npz", f"dvc repro prepare@{at.task}")
    return KINDS[task.kind].read_rows(arrays)


def load_encoder(at: Paths, task: Task) -> Any:
    content = store.read_json(at.prepared / "encoder.json", f"dvc repro prepare@{at.task}")
    return KINDS[task.kind].read_encoder(content)
