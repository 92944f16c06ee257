"""FastAPI with pydantic and torch, as a team would write it: the same network, the same weights.

The weights are those of the exported graph, where they keep the names that torch gave them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from fastapi import FastAPI

from benchmarks.serving_rivals import model
from benchmarks.serving_rivals.typed import Answer, Request, Row, as_answer, seconds
from pipelines.encoder import Encoder, hour_of_day, weekday
from pipelines.models.network import Network

PREFIX = "model/network."


def app() -> FastAPI:
    torch.set_num_threads(1)
    artifact, api = model.opened(), FastAPI()
    encoder = Encoder.model_validate_json(Path(os.environ[model.ENCODER]).read_text())
    encode = encoding(encoder)
    network = restored(artifact.folder / "model.onnx", encoder)

    @api.post("/predict")
    async def predict(request: Request) -> Answer:
        with torch.inference_mode():
            probability = torch.sigmoid(network(*encode(request.rows))).numpy()
        return as_answer(probability, artifact.about.threshold)

    return api


def restored(graph: Path, encoder: Encoder) -> Network:
    made = onnx.load(graph).graph
    tensors = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in made.initializer}
    weights = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    # The first layer is two products in the graph, (H, F) of a Gemm and (P * Q, H) of a MatMul.
    (rest,) = (n.input[1] for n in made.node if f"{PREFIX}trunk.0.bias" in n.input)
    (ramps,) = (n.input[1] for n in made.node if n.op_type == "MatMul" and n.input[1] in tensors)
    weights["trunk.0.weight"] = torch.cat([tensors[ramps].T, tensors[rest]], dim=1)
    numbers, bins = weights["left_PQ"].shape
    layers = [name for name in weights if name.startswith("trunk.") and name.endswith(".weight")]
    network = Network(
        torch.zeros(numbers, bins + 1),
        encoder.cardinalities,
        embedding=max(w.shape[1] for n, w in weights.items() if n.startswith("embeddings.")),
        width=weights["head.weight"].shape[1],
        depth=len(layers),
        dropout=0.0,
    )
    network.load_state_dict(weights)
    network.eval()
    return network


def encoding(encoder: Encoder) -> Callable[[list[Row]], tuple[torch.Tensor, torch.Tensor]]:
    """The encoder without pandas, which takes a millisecond and more for one row."""
    mean = np.array([n.mean for n in encoder.numbers], dtype=np.float32)
    scale = np.array([n.scale for n in encoder.numbers], dtype=np.float32)
    codes = {c.name: {v: i for i, v in enumerate(c.levels, 1)} for c in encoder.categories}

    def encode(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        time = seconds(rows)
        raw = [
            hour_of_day(time) if n.name == "hour_of_day" else [getattr(r, n.name) for r in rows]
            for n in encoder.numbers
        ]
        numbers = (np.array(raw, dtype=np.float32).T - mean) / scale
        coded = [[known.get(getattr(r, n), 0) for r in rows] for n, known in codes.items()]
        coded += [(weekday(time) + 1).tolist()] if "weekday" in encoder.calendar else []
        return torch.from_numpy(numbers), torch.from_numpy(np.array(coded, dtype=np.int64).T)

    return encode
