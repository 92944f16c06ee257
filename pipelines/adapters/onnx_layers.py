"""Where a graph keeps its weights: what every variant of it starts from.

Only the model's own nodes are looked at. Those in front of it turn raw columns into numbers (dates
in epoch seconds, strings) and stay as they are: half precision ends at 65,504.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

MODEL = "model/"
"""What the nodes of a model carry in front of their names when an encoder goes before it
(`adapters/onnx.py`); a graph without any is all model."""
LAYERS = ("Conv", "Gemm", "MatMul")


def read(graph: bytes) -> onnx.ModelProto:
    """A copy to change, each node with a name, each operator set named once."""
    model = onnx.load_from_string(graph)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(d, v) for d, v in versions.items())
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{place}"
    return model


def write(model: onnx.ModelProto) -> bytes:
    """Without the weights that no node reads any more, and without a tool's notes."""
    _sweep(model)
    del model.metadata_props[:]
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _sweep(model: onnx.ModelProto) -> None:
    wanted = {name for node in model.graph.node for name in node.input}
    kept = [i for i in model.graph.initializer if i.name in wanted]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {i.name: i for i in model.graph.initializer}


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions and products with a constant float matrix, in graph order."""
    known = weights(model)
    return [
        node
        for node in own(model)
        if node.op_type in LAYERS
        and node.input[1] in known
        and known[node.input[1]].data_type == onnx.TensorProto.FLOAT
        and len(known[node.input[1]].dims) >= 2
        and _plain(node)
    ]


def _plain(node: onnx.NodeProto) -> bool:
    """A Gemm as torch and skl2onnx write it: x @ w (+ b), w transposed or not."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    scaled = given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0
    return node.op_type != "Gemm" or not (given.get("transA") or scaled)


def own(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    named = [node for node in model.graph.node if node.name.startswith(MODEL)]
    return named or list(model.graph.node)


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def replace(model: onnx.ModelProto, made: dict[str, list[onnx.NodeProto]]) -> None:
    """Put the nodes of `made` in the places of those that it names."""
    nodes = [new for node in model.graph.node for new in made.get(node.name, [node])]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def fold_batch_norm(model: onnx.ModelProto) -> None:
    """Each BatchNormalization into the convolution before it, as a runtime does when it loads: a
    convolution in integers needs its final weights."""
    known = weights(model)
    reads = Counter(name for node in model.graph.node for name in node.input)
    reads.update(output.name for output in model.graph.output)
    convolutions = {n.output[0]: n for n in layers(model) if n.op_type == "Conv"}
    gone: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        conv = convolutions.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or reads[conv.output[0]] > 1 or not set(node.input[1:]) <= set(known):
            continue
        scale, shift, mean, variance = (numpy_helper.to_array(known[n]) for n in node.input[1:])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        weight = numpy_helper.to_array(known[conv.input[1]])
        bias = numpy_helper.to_array(known[conv.input[2]]) if len(conv.input) > 2 else 0.0
        folded = [f"{node.name}/weight", f"{node.name}/bias"]
        by_channel = factor.reshape(-1, *[1] * (weight.ndim - 1))
        for name, value in zip(
            folded, (weight * by_channel, (bias - mean) * factor + shift), strict=True
        ):
            tensor = numpy_helper.from_array(value.astype(np.float32), name)
            model.graph.initializer.append(tensor)
        conv.input[:] = [conv.input[0], *folded]
        conv.output[0] = node.output[0]
        gone[node.name] = []
    replace(model, gone)
    _sweep(model)  # onnxruntime warns of each weight that is left over
