"""Layers in 8-bit integers.

onnxruntime's own `quantize_dynamic` takes one scale for all rows of a request, so a row's answer
moves with the rows that come with it (by .003 on the flights): batch scoring and service would
disagree, and the gate would judge answers that nobody gets. So dynamic scales are taken by the row
here, as the large language models' servers do (Yao et al. 2022, arXiv:2206.01861, "token-wise").

Weights are of 7 bits, one scale for each output: on a CPU without VNNI two products of 8 bits
overflow the 16 bits that they are added in, and another machine would answer otherwise.
"""

# B rows, I inputs, O outputs or channels, W weights

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipelines import images
from pipelines.adapters import onnx_layers

LEVELS = 64
CALIBRATED_TOGETHER = 256
"""Most rows that go through the graph at once, and fewer of large pictures; bounds memory."""
NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax")
MOVES = ("AveragePool", "Dropout", "Flatten", "GlobalAveragePool", "Identity", "MaxPool", "Reshape")
"""What leaves values as they are, or between those that they were."""
SIGN_STAYS = ("ReduceMax", "ReduceMean", *MOVES)
TAKEN_ALONG = ("Add", "Concat", "Relu", *MOVES)
"""Between two layers in integers these need no way back to floats."""


def dynamic(graph: bytes) -> bytes:
    """Integer layers whose input is scaled row by row as it comes."""
    model = onnx_layers.read(graph)
    onnx_layers.fold_batch_norm(model)
    made: dict[str, list[onnx.NodeProto]] = {}
    for layer in onnx_layers.layers(model):
        made[layer.name] = _Layer(model, layer).nodes
    onnx_layers.replace(model, made)
    return onnx_layers.write(model)


class _Layer:
    """One layer as integer nodes: (integers_BI @ weight_IO + shift_B1 * sums_O) * scale_B1 * scale_O
    + bias_O."""

    def __init__(self, model: onnx.ModelProto, layer: onnx.NodeProto) -> None:
        self.model, self.layer, self.nodes = model, layer, list[onnx.NodeProto]()
        self.conv = layer.op_type == "Conv"
        known = onnx_layers.weights(model)
        weight = numpy_helper.to_array(known[layer.input[1]])
        if onnx_layers.attribute(layer, "transB", 0):
            weight = weight.T
        over = tuple(range(1, weight.ndim)) if self.conv else (weight.ndim - 2,)
        largest = np.abs(weight).max(axis=over, keepdims=True)
        scale = np.where(largest > 0, largest, 1.0) / LEVELS
        integers = np.round(weight / scale).astype(np.int8)
        if self.conv:
            scale = scale.reshape(1, -1, *[1] * (weight.ndim - 2))
        self.weight = self._constant("weight", np.ascontiguousarray(integers))
        self.scale = self._constant("weight/scale", scale.astype(np.float32))
        # What a step of a shifted zero point adds to each output.
        self.sums = integers.astype(np.float32).sum(axis=over, keepdims=True)
        self._write(weight.ndim)

    def _write(self, dimensions: int) -> None:
        over = list(range(1, dimensions)) if self.conv else [-1]
        axes = self._constant("axes", np.array(over, np.int64))
        x, shift = self.layer.input[0], ""
        if _never_negative(self.model, x):
            largest = self._add("ReduceMax", x, axes, keepdims=1)
            levels, zero = 255, np.uint8(0)
        elif self.conv:
            # Padding is the one zero point of all rows, so the rows must share it.
            largest = self._add("ReduceMax", self._add("Abs", x), axes, keepdims=1)
            levels, zero = 127, np.uint8(128)
        else:
            lowest = self._add("ReduceMin", x, axes, keepdims=1)
            lowest = self._add("Min", lowest, self._constant("nothing", np.float32(0)))
            highest = self._add("ReduceMax", x, axes, keepdims=1)
            largest = self._add("Sub", highest, lowest)
            levels, zero, shift = 255, np.uint8(0), lowest
        # A row of zeros only has no scale of its own.
        largest = self._add("Max", largest, self._constant("tiny", np.float32(1e-30)))
        scale = self._add("Mul", largest, self._constant("step", np.float32(1 / levels)))
        scaled = self._add("Div", x, scale)
        if shift:
            shift = self._add("Round", self._add("Div", shift, scale))
            scaled = self._add("Sub", scaled, shift)
        middle = self._constant("middle", zero)
        unit = self._constant("unit", np.float32(1))
        # QuantizeLinear rounds, clips and casts in one pass; Round and Cast took twice as long.
        integers = self._add("QuantizeLinear", scaled, unit, middle)
        kind = "ConvInteger" if self.conv else "MatMulInteger"
        kept = [a for a in self.layer.attribute if self.conv]
        total = self._add(kind, integers, self.weight, middle)
        self.nodes[-1].attribute.extend(kept)
        total = self._add("Cast", total, to=TensorProto.FLOAT)
        if shift:
            sums = self._constant("weight/sums", self.sums)
            total = self._add("Add", total, self._add("Mul", shift, sums))
        # One after the other: onnxruntime 1.31 fuses a product of both scales into a kernel that
        # answers otherwise than these nodes do (by .019 instead of .0014 on the flights).
        last = self._add("Mul", self._add("Mul", total, scale), self.scale)
        if len(self.layer.input) > 2:
            last = self._add("Add", last, self._bias(dimensions))
        self.nodes[-1].output[0] = self.layer.output[0]

    def _bias(self, dimensions: int) -> str:
        """A convolution's bias stands along the second axis."""
        name = self.layer.input[2]
        known = onnx_layers.weights(self.model)
        if not self.conv:
            return str(name)
        bias = numpy_helper.to_array(known[name])
        return self._constant("bias", bias.reshape(1, -1, *[1] * (dimensions - 2)))

    def _constant(self, what: str, value: np.ndarray | np.generic) -> str:
        name = f"{self.layer.name}/int8/{what}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{self.layer.name}/int8/{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name


def _never_negative(model: onnx.ModelProto, name: str) -> bool:
    producers = {output: node for node in model.graph.node for output in node.output}
    while name in producers and producers[name].op_type in SIGN_STAYS:
        name = producers[name].input[0]
    return name in producers and producers[name].op_type in NEVER_NEGATIVE


def static(graph: bytes, feeds: dict[str, np.ndarray]) -> bytes:
    """Integer layers whose input is scaled as these rows' was at most: raw inputs, each (N, ...)."""
    from onnxruntime import quantization
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx_layers.read(graph)
    onnx_layers.fold_batch_norm(model)
    integer = _in_integers(model)
    add_pre_process_metadata(model)  # BatchNorm is folded: without this it warns
    with TemporaryDirectory() as folder, _quiet():
        made = Path(folder) / "model.onnx"
        quantization.quantize_static(
            model,
            made,
            _Calibration(feeds, [i.name for i in model.graph.input]),
            op_types_to_quantize=sorted({node.op_type for node in integer}),
            nodes_to_quantize=[node.name for node in integer],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # The last layer's output is the answer's logit: 256 of them would be a coarse answer.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        return onnx_layers.write(onnx.load(made))


def _in_integers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The layers, and what lies behind and between them that integers can pass through."""
    chosen = {node.name for node in onnx_layers.layers(model)}
    constants = set(onnx_layers.weights(model))
    behind: set[str] = set()
    found = []
    for node in model.graph.node:
        data = [name for name in node.input if name and name not in constants]
        if node.op_type in MOVES:
            data = data[:1]  # a Reshape's second input is where to, not what
        along = node.op_type in TAKEN_ALONG and data and set(data) <= behind
        if node.name in chosen or along:
            found.append(node)
            behind.update(node.output)
    return found


class _Calibration:
    """onnxruntime's CalibrationDataReader: some rows at a time, None at the end."""

    def __init__(self, feeds: dict[str, np.ndarray], wanted: list[str]) -> None:
        self.feeds = {name: feeds[name] for name in wanted}
        self.rows = len(next(iter(self.feeds.values())))
        of_pictures = min(images.together(v.shape[1:3]) for v in self.feeds.values())
        self.together = min(CALIBRATED_TOGETHER, of_pictures)
        self.at = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        if self.at >= self.rows:
            return None
        part = slice(self.at, self.at + self.together)
        self.at += self.together
        return {name: values[part] for name, values in self.feeds.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer tells of its every step on the root logger."""
    was = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(was)
