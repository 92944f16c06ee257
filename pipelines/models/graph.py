"""ONNX graphs written by hand, and what skl2onnx needs to write one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = {"": 18, "ai.onnx.ml": 3}


class Graph:
    """ONNX nodes in the making; `add` names what it makes and returns the name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def model(self, numbers: int, categories: int) -> onnx.ModelProto:
        inputs = [("numbers", TensorProto.FLOAT, numbers), ("codes", TensorProto.INT64, categories)]
        graph = helper.make_graph(
            self.nodes,
            "estimator",
            [helper.make_tensor_value_info(n, t, ["rows", w]) for n, t, w in inputs if w],
            [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows", 1])],
            self.constants,
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=9)
        onnx.checker.check_model(model)
        return model


@contextmanager
def plain_attributes() -> Iterator[None]:
    """NumPy integers and booleans in node attributes as Python's own, while skl2onnx converts.

    skl2onnx 1.20 passes them on from HistGradientBoosting, onnx 1.19 to 1.23 refuse them
    ("Expected an int, got a boolean").
    """
    from skl2onnx.common._container import ModelComponentContainer as Container

    original = Container.add_node

    def add_node(self: Any, op_type: Any, inputs: Any, outputs: Any, **given: Any) -> Any:
        return original(self, op_type, inputs, outputs, **{k: _plain(v) for k, v in given.items()})

    Container.add_node = add_node
    try:
        yield
    finally:
        Container.add_node = original


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return value.item() if isinstance(value, np.generic) else value
