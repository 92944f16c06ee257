"""One trained model as files: ONNX from raw columns to probability, contract, facts. No pickle.

This is the only code that predicts, in train's parity check, evaluate, gate, score and service
alike, so serving cannot skew from training.

A folder holds: model.onnx, contract.json, about.json, reference.json and reference.parquet (the
monitor's picture of the training rows), examples.parquet (raw rows with the answer expected of
them) and manifest.json (md5 of each of these; its own md5 is the artifact's digest). What a training
was asked to export lies there too: it is no part of the artifact, and the registry does not take it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from pipelines import images, store
from pipelines.contract import Contract
from pipelines.errors import ArtifactError
from pipelines.graph import open_graph, raw_inputs
from pipelines.records import DataHash, Record
from pipelines.variants import ORIGINAL, Measured

if TYPE_CHECKING:
    import onnxruntime
    import pandas as pd

PARITY = 1e-5
"""Largest difference allowed between the artifact's answer and the one expected of it."""

FILES = (
    "about.json",
    "contract.json",
    "examples.parquet",
    "model.onnx",
    "reference.json",
    "reference.parquet",
)
BATCH = 65_536
"""Rows without pictures answered at once; bounds memory."""
_OUTPUT = ["probability"]


class About(Record):
    """Where a model comes from and what it was seen to do.

    No wall clock and no commit in it: the same inputs give the same bytes. The commit is on the
    MLflow run and on the registered version.
    """

    task: str
    kind: str
    family: str
    seed: int
    threshold: float
    """Probability from which the answer is called 1; chosen on what model.onnx, a variant or not,
    answers to the validation rows. 0 where there are classes: the likeliest is called."""
    trained_until: int
    """Newest row seen by fitting, early stopping or threshold: epoch seconds of the task's clock."""
    window: dict[str, str]
    """first and last period."""
    data: tuple[DataHash, ...]
    params: dict[str, Any]
    """The settings of params.yaml that the training depended on, window included."""
    contract: str
    baseline_rate: float
    """Share of label 1, or of the commonest class, among the training rows."""
    baseline: dict[str, float]
    """The naive prediction that a model must beat: share of label 1 by hour of day, or of each
    class."""
    rows: dict[str, int]
    """Rows of train, validation and test."""
    metrics: dict[str, float]
    """Of model.onnx, on the validation rows."""
    variant: str = ORIGINAL
    """Which making of the trained model model.onnx is."""
    variants: tuple[Measured, ...] = ()
    """The model as trained, and each variant that was asked for: what was measured, and the checks.
    Empty where none was. Holds times, so it differs from run to run; model.onnx does not."""


@dataclass(frozen=True)
class Artifact:
    folder: Path
    about: About
    contract: Contract
    digest: str
    _session: onnxruntime.InferenceSession = field(repr=False, compare=False)

    @property
    def size_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in FILES)

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """(N,) float32 probability of label 1, or (N, K) of each class, from raw contract columns;
        extra columns are ignored.

        Raises ArtifactError naming a column that is missing or cannot be read as its type.
        """
        if not len(table):
            return np.empty(self.shape(0), dtype=np.float32)
        return self._in_parts(table, _OUTPUT)

    def embed(self, table: pd.DataFrame) -> np.ndarray | None:
        """(N, E) float32: what the model makes of the rows before it answers; None where its graph
        does not say."""
        if not any(output.name == "embedding" for output in self._session.get_outputs()):
            return None
        return self._in_parts(table, ["embedding"])

    def _in_parts(self, table: pd.DataFrame, output: list[str]) -> np.ndarray:
        rows = self._at_once
        parts = [
            self._session.run(output, self.feeds(table.iloc[at : at + rows]))[0]
            for at in range(0, len(table), rows)
        ]
        return np.concatenate(parts)

    @cached_property
    def _at_once(self) -> int:
        sizes = [self.contract.columns[name].size or () for name in self.contract.images]
        return min(map(images.together, sizes), default=BATCH)

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """As `predict`, from raw inputs: at least those that `graph_inputs` names."""
        if len(feeds) != len(self.graph_inputs):
            feeds = {name: feeds[name] for name in self.graph_inputs}
        rows, at_once = len(feeds[self.graph_inputs[0]]), self._at_once
        if rows <= at_once:
            answers: np.ndarray = self._session.run(_OUTPUT, feeds)[0]
            return answers
        parts = [
            self._session.run(_OUTPUT, {n: v[at : at + at_once] for n, v in feeds.items()})[0]
            for at in range(0, rows, at_once)
        ]
        return np.concatenate(parts)

    def shape(self, rows: int) -> tuple[int, ...]:
        """Of the answers to as many rows."""
        classes = self.contract.classes
        return (rows, len(classes)) if classes else (rows,)

    @cached_property
    def graph_inputs(self) -> tuple[str, ...]:
        """Raw columns that the graph reads; what it never reads is no input of it."""
        return tuple(i.name for i in self._session.get_inputs())

    def feeds(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Raw columns as the graph's inputs, each of shape (N,), pictures (N, H, W, C)."""
        return raw_inputs(table, self.contract, self.graph_inputs)


def write(
    folder: Path,
    graph: bytes,
    contract: Contract,
    about: About,
    reference: Mapping[str, Path],
    examples: pd.DataFrame,
) -> None:
    """Fill an empty folder. `reference` maps reference.json and reference.parquet to their files."""
    (folder / "model.onnx").write_bytes(graph)
    (folder / "contract.json").write_text(contract.model_dump_json(indent=1))
    (folder / "about.json").write_text(about.model_dump_json(indent=1))
    for name, path in reference.items():
        shutil.copyfile(path, folder / name)
    examples.to_parquet(folder / "examples.parquet", index=False)
    manifest = {name: _md5(folder / name) for name in FILES}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))


def load(folder: Path) -> Artifact:
    """Raises ArtifactError when a file is missing, altered, unreadable or answers its examples wrongly."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise ArtifactError(f"{folder} holds no model (no manifest.json). Make one with: dvc repro")
    try:
        expected = json.loads(manifest.read_text())
        for name in FILES:
            if not (folder / name).is_file() or _md5(folder / name) != expected.get(name):
                raise ArtifactError(
                    f"{folder / name} is not the file that the model was saved with. "
                    "Get it again with: dvc checkout, or perennial rollback"
                )
        contract = Contract.model_validate_json((folder / "contract.json").read_text())
        about = About.model_validate_json((folder / "about.json").read_text())
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{folder} cannot be read: {error}. Make it again with: dvc repro"
        ) from error
    fuse = bool(contract.images) or about.variant != ORIGINAL
    session = open_graph(folder / "model.onnx", fuse=fuse)
    return Artifact(folder, about, contract, _md5(manifest), session)


@dataclass(frozen=True)
class Examples:
    """Raw inputs of M rows as the graph takes them, and the answers expected of it, (M,) or (M, K)."""

    feeds: dict[str, np.ndarray]
    expected: np.ndarray


def examples(artifact: Artifact) -> Examples:
    """Those that were stored with the model."""
    rows = store.frame(artifact.folder / "examples.parquet")
    expected = np.array(rows["expected_probability"].tolist())
    return Examples(artifact.feeds(rows), expected.reshape(artifact.shape(len(rows))))


def self_test(artifact: Artifact, known: Examples | None = None) -> float:
    """Largest difference from the stored examples; raises ArtifactError above PARITY or on NaN.

    known: the examples, where they were read already."""
    known = known or examples(artifact)
    rows = len(known.expected)
    difference = np.abs(artifact.run(known.feeds) - known.expected) if rows else np.zeros(0)
    worst = float(difference.max()) if rows else 0.0
    if not worst <= PARITY:
        raise ArtifactError(
            f"{artifact.folder} answers its own examples {worst:.2g} away from what was expected "
            f"(allowed: {PARITY:g}). Make it again with: dvc repro"
        )
    return worst


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
