"""The encoder as ONNX nodes, put in front of a model's graph: raw columns in, probability out."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from pipelines import images
from pipelines.artifact import PARITY
from pipelines.encoder import DAY, WEEKDAYS, Encoder
from pipelines.errors import ArtifactError
from pipelines.graph import open_graph

ML = "ai.onnx.ml"


def raw_to_probability(encoder: Encoder, model: onnx.ModelProto) -> bytes:
    """One graph: inputs are the raw columns, each (N,); output `probability` (N,) float32.

    model: inputs numbers (N, P) float32 and codes (N, C) int64 (one it never reads may be absent);
    output probability (N, 1) float32.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opsets.setdefault(ML, 3)
    front = _encoder_graph(encoder, opsets, model.ir_version)
    named = compose.add_prefix(model, "model/")
    del named.opset_import[:]
    named.opset_import.extend(helper.make_opsetid(d, v) for d, v in opsets.items())
    taken = {i.name.removeprefix("model/") for i in named.graph.input}
    merged = compose.merge_models(
        front,
        named,
        io_map=[(name, f"model/{name}") for name in ("numbers", "codes") if name in taken],
        outputs=["model/probability"],
    )
    merged.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "answer_axis"))
    merged.graph.node.append(
        helper.make_node("Squeeze", ["model/probability", "answer_axis"], ["probability"])
    )
    del merged.graph.output[:]
    merged.graph.output.append(
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows"])
    )
    del merged.metadata_props[:]
    del merged.graph.value_info[:]
    onnx.checker.check_model(merged)
    return bytes(merged.SerializeToString(deterministic=True))


def _encoder_graph(encoder: Encoder, opsets: dict[str, int], ir_version: int) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {"axis": np.array([1], np.int64)}

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(name: str, value: object, dtype: type) -> str:
        constants[name] = np.array(value, dtype)
        return name

    numbers = []
    for number in encoder.numbers:
        raw = number.name
        if raw == "hour_of_day":
            second = node("Mod", [encoder.time, constant("day", DAY, np.int64)], "second_of_day")
            cast = node("Cast", [second], "second_float", to=TensorProto.FLOAT)
            raw = node("Div", [cast, constant("hour_seconds", 3600, np.float32)], "hour_of_day")
        numbers.append(node("Unsqueeze", [raw, "axis"], f"{raw}/column"))
    if numbers:
        stacked = node("Concat", numbers, "numbers/raw", axis=1)
        mean = constant("numbers/mean", [n.mean for n in encoder.numbers], np.float32)
        scale = constant("numbers/scale", [n.scale for n in encoder.numbers], np.float32)
        node("Div", [node("Sub", [stacked, mean], "numbers/centred"), scale], "numbers")

    codes = []
    for category in encoder.categories:
        code = node(
            "LabelEncoder",
            [category.name],
            f"{category.name}/code",
            domain=ML,
            keys_strings=list(category.levels) or [""],
            values_int64s=list(range(1, len(category.levels) + 1)) or [0],
            default_int64=0,
        )
        codes.append(node("Unsqueeze", [code, "axis"], f"{category.name}/column"))
    if "weekday" in encoder.calendar:
        # ONNX divides towards 0, and before 1970 that is the next day: so from midnight on.
        day = constant("day", DAY, np.int64)
        since = node("Mod", [encoder.time, day], "since_midnight")
        days = node("Div", [node("Sub", [encoder.time, since], "midnight"), day], "days")
        shifted = node("Add", [days, constant("thursday", 3, np.int64)], "days_shifted")
        week = node("Mod", [shifted, constant("week", WEEKDAYS, np.int64)], "weekday")
        code = node("Add", [week, constant("one", 1, np.int64)], "weekday/code")
        codes.append(node("Unsqueeze", [code, "axis"], "weekday/column"))
    if codes:
        node("Concat", codes, "codes", axis=1)

    types = {encoder.time: TensorProto.INT64} | {
        c.name: TensorProto.STRING for c in encoder.categories
    }
    graph = helper.make_graph(
        nodes,
        "perennial",
        [
            helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), ["rows"])
            for name in encoder.raw_columns
        ],
        [
            helper.make_tensor_value_info(name, kind, ["rows", width])
            for name, kind, width in (
                ("numbers", TensorProto.FLOAT, len(numbers)),
                ("codes", TensorProto.INT64, len(codes)),
            )
            if width
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def pixels_to_probability(
    model: onnx.ModelProto, column: str, centre: np.ndarray, directions: np.ndarray
) -> bytes:
    """One graph: the input is the picture's column, (N, H, W, C) uint8; outputs `probability` (N, K)
    and `embedding` (N, D), both float32.

    model: input pixels, outputs probability and embedding (N, E). centre (E,), directions (E, D): of
    the train pictures' embeddings.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    for node in graph.node:
        node.input[:] = [column if name == "pixels" else name for name in node.input]
        node.output[:] = ["whole" if name == "embedding" else name for name in node.output]
        node.input[:] = ["whole" if name == "embedding" else name for name in node.input]
    graph.input[0].name = column
    for name, value in {"centre": centre, "directions": directions}.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    graph.node.append(helper.make_node("Sub", ["whole", "centre"], ["centred"]))
    graph.node.append(helper.make_node("MatMul", ["centred", "directions"], ["embedding"]))
    kept = next(output for output in graph.output if output.name == "probability")
    told = helper.make_tensor_value_info(
        "embedding", TensorProto.FLOAT, ["rows", directions.shape[1]]
    )
    outputs = [onnx.ValueInfoProto.FromString(kept.SerializeToString()), told]
    del graph.output[:]
    graph.output.extend(outputs)
    del graph.value_info[:]
    del made.metadata_props[:]
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


def answers(graph: bytes, feeds: dict[str, np.ndarray], output: str) -> np.ndarray:
    """One output of a graph to many rows, in parts, which bounds memory. feeds: what the graph does
    not read is left out."""
    session = open_graph(graph)
    wanted = {i.name: feeds[i.name] for i in session.get_inputs()}
    rows = len(next(iter(wanted.values())))
    some = min(images.together(v.shape[1:3]) for v in wanted.values())
    parts = [
        session.run([output], {n: v[at : at + some] for n, v in wanted.items()})[0]
        for at in range(0, rows, some)
    ]
    return np.concatenate(parts)


def check_parity(graph: bytes, feeds: dict[str, np.ndarray], expected: np.ndarray) -> float:
    """Largest difference between the graph's answers and the in-memory model's; refuses above PARITY."""
    worst = float(np.max(np.abs(answers(graph, feeds, "probability") - expected)))
    if not worst <= PARITY:
        raise ArtifactError(
            f"the exported model answers {worst:.2g} away from the trained one "
            f"(allowed: {PARITY:g}); it was not saved. Try another train.family in params.yaml "
            "and run: dvc repro"
        )
    return worst
