"""Rows become arrays and the same arrays inside the graph: pytest tests/test_encoder.py"""

from __future__ import annotations

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy.special import expit

from pipelines import contract
from pipelines.adapters.onnx import check_parity, raw_to_probability
from pipelines.encoder import Encoder, fit_encoder, hour_of_day, weekday
from pipelines.errors import ArtifactError, ParamsError
from pipelines.graph import open_graph, raw_inputs
from pipelines.images import TOGETHER
from pipelines.params import Window
from pipelines.tasks.split import split
from tests.conftest import shop
from tests.test_sources import SHOP

KNOWN = contract.parse(SHOP)
CALENDAR = ("hour", "weekday")
TABLE = shop(days=30)
ENCODER = fit_encoder(TABLE, KNOWN, CALENDAR, min_category=50)


def any_model(numbers: int, codes: int) -> onnx.ModelProto:
    """A graph that reads every encoded value once: sigmoid of their weighted sum."""
    random = np.random.default_rng(0)
    weights = {"wn": random.normal(size=(numbers, 1)), "wc": random.normal(size=(codes, 1))}
    nodes = [
        helper.make_node("IsNaN", ["numbers"], ["gap"]),
        helper.make_node("Where", ["gap", "zero", "numbers"], ["clean"]),
        helper.make_node("MatMul", ["clean", "wn"], ["a"]),
        helper.make_node("Cast", ["codes"], ["float_codes"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float_codes", "wc"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "any",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", numbers]),
            helper.make_tensor_value_info("codes", TensorProto.INT64, ["n", codes]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(np.float32(0), "zero"),
            *(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def by_hand(model: onnx.ModelProto, encoder: Encoder, table: pd.DataFrame) -> np.ndarray:
    numbers, codes = encoder.encode(table, KNOWN)
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    total = np.nan_to_num(numbers) @ weights["wn"] + codes.astype(np.float32) @ weights["wc"]
    return expit(total)[:, 0]


MODEL = any_model(len(ENCODER.numbers), len(ENCODER.cardinalities))
GRAPH = raw_to_probability(ENCODER, MODEL)

ROWS = st.lists(
    st.tuples(
        st.datetimes(pd.Timestamp("1900-01-01"), pd.Timestamp("2100-01-01")),
        st.sampled_from(["DE", "FR", "NL", "XX", "", None]),
        st.floats(-1e4, 1e4, width=32) | st.just(float("nan")),
        st.floats(-1e4, 1e4, width=32) | st.just(float("nan")),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_the_graph_encodes_as_the_arrays_were(rows):
    """Unknown and missing categories, missing numbers and any moment included."""
    table = pd.DataFrame(rows, columns=["ordered_at", "country", "price", "weight"])
    table["ordered_at"] = table["ordered_at"].astype("datetime64[s]")
    feeds = raw_inputs(table, KNOWN, KNOWN.inputs)
    assert check_parity(GRAPH, feeds, by_hand(MODEL, ENCODER, table)) <= 1e-5


def test_a_graph_that_answers_otherwise_is_refused():
    feeds = raw_inputs(TABLE, KNOWN, KNOWN.inputs)
    expected = by_hand(MODEL, ENCODER, TABLE)
    with pytest.raises(ArtifactError, match="allowed: 1e-05"):
        check_parity(GRAPH, feeds, expected + 1e-3)
    with pytest.raises(ArtifactError, match="allowed: 1e-05"):
        check_parity(GRAPH, feeds, np.where(np.arange(len(TABLE)) == 3, np.nan, expected))


def test_parity_is_looked_at_in_parts_that_bound_memory(monkeypatch):
    """As many test pictures as there are, and no more than some of them in the graph at once."""
    ran: list[int] = []

    class Counted:
        def __init__(self, graph: bytes) -> None:
            self.session = open_graph(graph)
            self.get_inputs = self.session.get_inputs

        def run(self, output: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            ran.append(len(next(iter(feeds.values()))))
            return self.session.run(output, feeds)

    monkeypatch.setattr("pipelines.adapters.onnx.open_graph", Counted)
    many = pd.concat([TABLE] * (2 * TOGETHER // len(TABLE) + 1))
    feeds = raw_inputs(many, KNOWN, KNOWN.inputs) | {"read by none": np.zeros(len(many))}
    expected = by_hand(MODEL, ENCODER, many)
    assert check_parity(GRAPH, feeds, expected) <= 1e-5
    assert max(ran) == TOGETHER
    assert sum(ran) == len(many) > 2 * TOGETHER
    with pytest.raises(ArtifactError, match="allowed: 1e-05"):
        check_parity(GRAPH, feeds, np.where(np.arange(len(many)) == len(many) - 1, 2, expected))


def test_statistics_come_from_the_rows_given_and_no_others():
    early = TABLE.iloc[:300]
    later = TABLE.assign(price=TABLE["price"] * 100).iloc[300:]
    alone = fit_encoder(early, KNOWN, CALENDAR, 50)
    assert alone == fit_encoder(early.copy(), KNOWN, CALENDAR, 50)
    assert alone != fit_encoder(pd.concat([early, later]), KNOWN, CALENDAR, 50)


def test_numbers_are_standardised_and_gaps_stay_gaps():
    numbers, _ = ENCODER.encode(TABLE, KNOWN)
    assert numbers.dtype == np.float32
    np.testing.assert_allclose(np.nanmean(numbers, axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.nanstd(numbers, axis=0), 1, atol=1e-3)
    assert np.isnan(numbers).sum() == TABLE["weight"].isna().sum()


def test_rare_and_unseen_categories_share_code_zero():
    rare = TABLE.assign(country=np.where(np.arange(len(TABLE)) < 9, "IS", TABLE["country"]))
    encoder = fit_encoder(rare, KNOWN, (), min_category=50)
    assert encoder.categories[0].levels == ("DE", "FR", "NL")
    _, codes = encoder.encode(rare, KNOWN)
    assert (codes[:9, 0] == 0).all()
    assert set(np.unique(codes[9:, 0])) == {1, 2, 3}


def test_the_encoder_survives_its_file():
    assert Encoder.model_validate_json(ENCODER.model_dump_json()) == ENCODER


@given(st.datetimes(pd.Timestamp("1960-01-01"), pd.Timestamp("2100-01-01")))
def test_hour_and_weekday_are_the_calendars(moment):
    seconds = np.array([moment.replace(microsecond=0)], dtype="datetime64[s]").astype(np.int64)
    assert weekday(seconds)[0] == moment.weekday()
    expected = moment.hour + moment.minute / 60 + moment.second / 3600
    assert abs(hour_of_day(seconds)[0] - expected) < 1e-4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=20, max_size=200), st.integers(10, 200), st.data())
def test_the_split_keeps_every_row_once_in_time_and_tears_no_moment(gaps, last, data):
    time = np.cumsum(gaps)
    last = min(last, len(time))
    window = Window(first="a", last="b", validation=0.2, test=0.3)
    try:
        parts = split(time, last, window)
    except ParamsError:
        assume(False)
    train, validation, test = (time[p] for p in (parts.train, parts.validation, parts.test))
    assert np.array_equal(np.concatenate([train, validation, test]), time)
    assert train.max() < validation.min()
    assert validation.max() < test.min()


def test_a_window_too_small_to_cut_is_refused():
    with pytest.raises(ParamsError, match="edit params"):
        split(np.zeros(50, np.int64), 50, Window(first="a", last="b"))
