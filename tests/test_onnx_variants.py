"""Each variant as a graph, held against the one it was made of: `pytest tests/test_onnx_variants.py`."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines import images
from pipelines.adapters import onnx_int8, onnx_layers, onnx_variants
from pipelines.artifact import PARITY
from pipelines.graph import open_graph, raw_inputs
from tests.variant_world import CASES, KNOWN, LOOSE, NAMES, Case, case_of, made, run


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_smaller_and_still_the_same_model(case, name):
    graph, (_, feeds, _) = made(case, name), case.half
    onnx.checker.check_model(onnx.load_from_string(graph))
    (found,), (expected,) = (run(g, feeds, "probability") for g in (graph, case.graph))
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    away = np.abs(found - expected)
    # int8 is .001 away; .006 when onnxruntime fuses the two scales of a layer, and answers wrongly.
    assert away.mean() < {"fp16": 1e-4, "pruned": 0.05}.get(name, 0.003)
    assert away.max() > 0
    assert graph == made(case, name)
    before, after = (onnx.load_from_string(g).graph for g in (case.graph, graph))
    assert [o.name for o in after.output] == [o.name for o in before.output]
    assert [i.name for i in after.input] == [i.name for i in before.input]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_answered_the_same_whatever_rows_come_with_it(case, name):
    """Not so with one dynamic scale for all rows of a request."""
    graph, feeds = made(case, name), case.half[1]
    (together,) = run(graph, feeds, "probability")
    for row in range(0, 60, 7):
        (alone,) = run(graph, {n: v[row : row + 1] for n, v in feeds.items()}, "probability")
        assert np.abs(alone[0] - together[row]).max() <= PARITY


@pytest.mark.parametrize("name", ["int8_dynamic", "int8_static"])
def test_int8_really_has_its_weights_in_int8(case, name):
    before = onnx_layers.layers(onnx_layers.read(case.graph))
    after = onnx.load_from_string(made(case, name))
    assert not [n for n in onnx_layers.layers(after) if n.op_type in onnx_layers.LAYERS]
    integers = [numpy_helper.to_array(i) for i in after.graph.initializer
                if i.data_type == TensorProto.INT8 and len(i.dims) >= 2]  # fmt: skip
    assert len(integers) == len(before) > 0
    # 7 bits: with 8, products overflow on a CPU without VNNI.
    assert max(np.abs(i.astype(int)).max() for i in integers) == 64
    if name == "int8_static":
        assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in after.graph.node}


def test_static_scales_come_from_the_rows_that_calibrate():
    feeds = case_of("pictures").half[0]
    dark = {"pixels": feeds["pixels"] // 16}
    graph = case_of("pictures").graph
    assert onnx_int8.static(graph, feeds) != onnx_int8.static(graph, dark)


def test_large_pictures_go_through_a_graph_a_few_at_a_time(monkeypatch):
    """256 of a megapixel each are 32 GB in the first layer of the usual cnn."""
    pixels = case_of("pictures").feeds["pixels"]
    calibration, test = {"pixels": pixels[:40]}, {"pixels": pixels[40:80]}
    monkeypatch.setattr(images, "PIXELS", 7 * pixels[0].size)
    asked, run_session = [], onnxruntime.InferenceSession.run

    def counted(session, outputs, feeds, *options):
        asked.append(len(feeds["pixels"]))
        return run_session(session, outputs, feeds, *options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", counted)
    chosen = onnx_variants.choose(
        case_of("pictures").graph, calibration, test, case_of("pictures").label[40:80],
        LOOSE.model_copy(update={"make": ("int8_static",)}),
    )  # fmt: skip
    assert max(asked) == 7
    assert len(chosen.answers) == 40


def test_fp16_keeps_every_weight_in_half_precision_and_half_the_bytes(case):
    before, after = onnx_layers.read(case.graph), onnx.load_from_string(made(case, "fp16"))
    kinds = {i.name: i.data_type for i in after.graph.initializer}
    for layer in onnx_layers.layers(before):
        assert kinds[layer.input[1]] == TensorProto.FLOAT16
    assert len(made(case, "fp16")) < 0.75 * len(case.graph)


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.01, 0.95))
def test_pruning_zeroes_the_smallest_weights_and_no_more(share):
    graph = case_of("pictures").graph
    pruned = onnx_variants.make("pruned", graph, {}, LOOSE.model_copy(update={"prune": share}))
    known = [onnx_layers.weights(onnx.load_from_string(g)) for g in (graph, pruned)]
    for layer in onnx_layers.layers(onnx_layers.read(graph)):
        before, after = (numpy_helper.to_array(w[layer.input[1]]) for w in known)
        gone = after == 0
        assert gone.sum() == int(before.size * share) + np.sum(before[~gone] == 0)
        np.testing.assert_array_equal(after[~gone], before[~gone])
        if gone.any() and not gone.all():
            assert np.abs(before[gone]).max() <= np.abs(before[~gone]).min()


def test_the_parts_before_the_model_are_byte_for_byte_the_same():
    before = onnx_layers.read(case_of("table").graph)
    own = {node.name for node in onnx_layers.own(before)}
    front = [n for n in before.graph.node if n.name not in own]
    constants = {name for node in front for name in node.input}
    assert {"LabelEncoder", "Mod"} <= {n.op_type for n in front}
    for name in NAMES:
        after = onnx.load_from_string(made(case_of("table"), name))
        there = {tuple(n.output): n.SerializeToString() for n in after.graph.node}
        assert all(there[tuple(n.output)] == n.SerializeToString() for n in front)
        for model in (before, after):
            weights = onnx_layers.weights(model)
            assert all(n in weights for n in constants & set(onnx_layers.weights(before)))
        for constant in constants & set(onnx_layers.weights(before)):
            one, other = (onnx_layers.weights(m)[constant] for m in (before, after))
            np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))


ROWS = st.lists(
    st.tuples(
        st.datetimes(pd.Timestamp("1960-01-01"), pd.Timestamp("2199-12-31")),
        st.sampled_from(["DE", "FR", "XX", "", None]),
        st.floats(-1e6, 1e6, width=32) | st.just(float("nan")),
        st.floats(-1e6, 1e6, width=32) | st.just(float("nan")),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def opened():
    """Sessions of original and variants that also tell what the encoder hands to the model."""
    found = {}
    for name in ("fp32", *NAMES):
        case = case_of("table")
        model = onnx.load_from_string(case.graph if name == "fp32" else made(case, name))
        for tensor, kind in (("numbers", TensorProto.FLOAT), ("codes", TensorProto.INT64)):
            model.graph.output.append(helper.make_tensor_value_info(tensor, kind, None))
        found[name] = open_graph(model.SerializeToString())
    return found


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_the_encoder_computes_as_before_to_the_bit(opened, rows):
    """Dates of the next century, categories never seen and gaps included."""
    table = pd.DataFrame(rows, columns=["ordered_at", "country", "price", "weight"])
    table["ordered_at"] = table["ordered_at"].astype("datetime64[s]")
    feeds = raw_inputs(table, KNOWN, KNOWN.inputs)
    expected = opened["fp32"].run(["numbers", "codes"], feeds)
    for name in NAMES:
        found = opened[name].run(["numbers", "codes", "probability"], feeds)
        for one, other in zip(expected, found[:2], strict=True):
            np.testing.assert_array_equal(one, other)
        assert np.isfinite(found[2]).all()
