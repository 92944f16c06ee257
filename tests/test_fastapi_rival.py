"""The rival of `make bench-serving` in FastAPI answers by the very weights of the graph that ships."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnx.compose
import pytest
import torch

from benchmarks.serving_rivals.fastapi_torch import restored
from pipelines.models.network import Network
from pipelines.models.tables import Probability


@pytest.mark.filterwarnings("ignore")  # of torch's own export
def test_the_network_is_restored_from_its_graph(tmp_path: Path):
    bins = torch.linspace(-2, 2, 5).repeat(3, 1)
    network = Network(bins, [7, 4], embedding=8, width=16, depth=2, dropout=0.1).eval()
    rows = torch.randn(5, 3), torch.ones(5, 2, dtype=torch.int64)
    out = io.BytesIO()
    names = ["numbers", "codes"]
    torch.onnx.export(Probability(network).eval(), rows, out, input_names=names, dynamo=False)
    graph = onnx.compose.add_prefix(onnx.load_from_string(out.getvalue()), "model/")
    onnx.save(graph, tmp_path / "model.onnx")
    encoder: Any = SimpleNamespace(cardinalities=[7, 4])
    torch.testing.assert_close(
        restored(tmp_path / "model.onnx", encoder)(*rows), network(*rows), rtol=0, atol=1e-6
    )
