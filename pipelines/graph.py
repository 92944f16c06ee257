"""A model's ONNX graph: opened as every part of the pipeline opens it, and fed from raw columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines import images
from pipelines.contract import Contract
from pipelines.errors import ArtifactError

if TYPE_CHECKING:
    import onnxruntime
    import pandas as pd


def open_graph(graph: Path | bytes, fuse: bool = True) -> onnxruntime.InferenceSession:
    """One thread: several workers share the cores, and a spinning pool costs more than it gives.

    fuse: make one of neighbouring nodes, and lay tensors out for convolutions. A table's graph as it
    was trained answers no sooner for it, and opens in half the time without, in which a service that
    swaps answers nobody (`make bench-swap`).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise ArtifactError(
            f"model.onnx does not load: {error}. Make it again with: dvc repro"
        ) from error


def raw_inputs(
    table: pd.DataFrame, contract: Contract, wanted: list[str] | tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Time as int64 epoch seconds, numbers as float32 (missing = NaN), categories as str (missing =
    ""), pictures as uint8 (N, H, W, C)."""
    feeds = {}
    for name in wanted:
        if name not in table.columns:
            raise ArtifactError(
                f"prediction needs the column {name!r}, which the rows lack; they have: "
                f"{', '.join(map(str, table.columns))}. See what is allowed with: "
                f"perennial contract check {contract.task}"
            )
        values = table[name]
        try:
            if name == contract.time:
                feeds[name] = values.to_numpy().astype("datetime64[s]").astype(np.int64)
            elif name in contract.images:
                column = contract.columns[name]
                assert column.size is not None
                assert column.mode is not None
                feeds[name] = images.stack(values.tolist(), column.size, column.mode)
            elif contract.columns[name].type == "category":
                texts = values.to_numpy(dtype=object, copy=True)
                texts[values.isna().to_numpy()] = ""
                feeds[name] = texts
            else:
                feeds[name] = values.to_numpy(dtype=np.float32, na_value=np.nan)
        except (ValueError, TypeError) as error:
            raise ArtifactError(
                f"column {name!r} cannot be read as {contract.columns[name].type}: {error}. "
                f"See what is allowed with: perennial contract check {contract.task}"
            ) from error
    return feeds


def readable(table: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """The rows that a model can learn from and answer: a contract may let in a few pictures that are
    none."""
    for name in contract.images:
        column = contract.columns[name]
        assert column.size is not None
        assert column.mode is not None
        kept = images.readable(table[name], column.size, column.mode)
        table = table if kept.all() else table[kept].reset_index(drop=True)
    return table
