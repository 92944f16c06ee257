"""A project of flights with several versions to answer with, made for one run of a benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import helper, numpy_helper

from benchmarks.asking import Questions
from benchmarks.serving import make_world
from benchmarks.serving_rivals.bodies import Rows
from pipelines import artifact
from pipelines.adapters.registry import Registry
from pipelines.artifact import Artifact
from pipelines.lock import task_lock
from pipelines.paths import Paths

LANDED = "2013-04"
ASKED = 256
"""Different rows that are asked."""
LIKELY = 0.1
"""Rows that are this likely, at least, are told apart between versions."""
STEP = 0.1


def make(home: Path, versions: int) -> tuple[Paths, Questions]:
    """Version 1 is trained and champion; the others are as large, and each answers lower."""
    world = make_world(home)
    at = _at(home)
    trained = artifact.load(world.model)
    made = {"1": trained}
    for number in range(2, versions + 1):
        paler = _paler(trained, home / f"paler-{number}", 1 - STEP * (number - 1))
        made[Registry(at).register(paler)] = paler
    table = _rows(at, trained)
    bodies = [Rows(table.slice(i, 1), trained).plain().body for i in range(len(table))]
    rows = table.to_pandas()
    return at, Questions(bodies, {v: m.predict(rows).tolist() for v, m in made.items()})


def remove(home: Path) -> None:
    """The keeper outlives its service for a moment, and writes; its lock says when it has gone."""
    at = _at(home)
    if at.service.is_dir():
        with task_lock(at.service / "keeper.lock", "the end of the benchmark", wait=True):
            pass
    shutil.rmtree(home)


def _at(home: Path) -> Paths:
    return Paths(home / "project", "flights")


def _rows(at: Paths, made: Artifact) -> pa.Table:
    wanted = list(dict.fromkeys((*made.contract.key, *made.contract.inputs)))
    landed = pq.read_table(at.batch(LANDED), columns=wanted).replace_schema_metadata(None)
    likely = np.flatnonzero(made.predict(landed.to_pandas()) > LIKELY)
    return landed.take(likely[:: len(likely) // ASKED][:ASKED])


def _paler(made: Artifact, folder: Path, factor: float) -> Artifact:
    """The same model with its probability times `factor`."""
    model = onnx.load(made.folder / "model.onnx")
    (output,) = model.graph.output
    whole = f"{output.name}/whole"
    for node in model.graph.node:
        node.output[:] = [whole if name == output.name else name for name in node.output]
    constant = numpy_helper.from_array(np.array(factor, np.float32), "factor")
    model.graph.initializer.append(constant)
    model.graph.node.append(helper.make_node("Mul", [whole, "factor"], [output.name]))
    examples = pd.read_parquet(made.folder / "examples.parquet")
    examples["expected_probability"] *= factor
    references = {name: made.folder / name for name in ("reference.json", "reference.parquet")}
    folder.mkdir()
    artifact.write(
        folder, model.SerializeToString(), made.contract, made.about, references, examples
    )
    return artifact.load(folder)
