"""Numbers that are right and too large to compute with: pytest tests/test_beyond.py"""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines import contract
from pipelines.adapters.onnx import raw_to_probability
from pipelines.encoder import fit_encoder
from pipelines.graph import open_graph
from pipelines.models import estimators, fit
from pipelines.records import Rows
from pipelines.wire.problem import MOST, Refused
from pipelines.wire.read import Wire
from tests.conftest import shop
from tests.test_models import NETWORK, TRAIN
from tests.test_sources import SHOP

KNOWN = contract.parse(SHOP)
WIRE = Wire(KNOWN, 100)
# Of small spread, so that the largest numbers are infinite once they are scaled; with many alike, so
# that the network has bins that hold nothing.
TABLE = shop(days=30).eval("price = price / 1000").round({"price": 2, "weight": 1})
ROW = {"ordered_at": "2024-01-15T10:00:00", "country": "DE", "price": 0.02, "weight": 2.0}


def body(*rows: dict[str, object]) -> bytes:
    return json.dumps({"rows": [ROW | row for row in rows]}).encode()


def answered(family: str, *rows: dict[str, object]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The graph's inputs of the rows, and a trained model's answers to them."""
    encoder = fit_encoder(TABLE, KNOWN, ("hour", "weekday"), min_category=50)
    numbers, codes = encoder.encode(TABLE, KNOWN)
    # The dearer the likelier, the heavier the less likely: infinity less infinity in a weighted sum.
    label = (TABLE["price"] * 100 > TABLE["weight"].fillna(2)).to_numpy(np.int8)
    train = Rows(numbers, codes, label, np.arange(len(TABLE)) * 600)
    if family == "network":
        model = fit.fit(train, train, encoder.cardinalities, NETWORK, 7, lambda *_: None)
    else:
        model = estimators.fit(
            family, train, train, encoder.cardinalities, TRAIN, 7, lambda *_: None
        )
    session = open_graph(raw_to_probability(encoder, model.to_onnx()))
    feeds = WIRE.feeds(WIRE.rows(body(*rows)))
    wanted = {one.name: feeds[one.name] for one in session.get_inputs()}
    return feeds, session.run(["probability"], wanted)[0]


@pytest.mark.parametrize("family", ["logistic", "network"])
def test_what_a_trained_model_gives_no_number_to_is_told_by_row_column_and_value(family):
    feeds, probability = answered(family, {}, {"price": 3e38, "weight": 3e38}, {"price": 1})
    assert np.isnan(probability).tolist() == [False, True, False]
    refused = WIRE.beyond(feeds, probability)
    assert isinstance(refused, Refused)
    told = refused.problem
    assert (told.kind, told.status) == ("unanswerable-rows", 422)
    assert [(m.field, m.value) for m in told.errors] == [
        ("rows[1].price", 3e38), ("rows[1].weight", 3e38),
    ]  # fmt: skip
    assert "within ±1e+20" in told.errors[0].allowed


def feeds(*prices: float) -> dict[str, np.ndarray]:
    return WIRE.feeds(WIRE.rows(body(*({"price": price} for price in prices))))


@pytest.mark.parametrize(
    ("prices", "probability"),
    [
        ([3e38], [0.5]),  # an answer
        ([1.0], [np.nan]),
        ([3e38, 1.0], [np.nan, np.nan]),
        ([3e38], [1.5]),
        ([3e38, 1.0], [np.nan, 1.5]),
        ([3e38], [np.inf]),
    ],
)
def test_whatever_else_is_no_probability_is_the_models_fault(prices, probability):
    assert WIRE.beyond(feeds(*prices), np.float32(probability)) is None


def test_of_classes_a_row_is_wrong_whichever_probability_is():
    refused = WIRE.beyond(feeds(1.0, 3e38), np.float32([[0.5, 0.5], [0.5, np.nan]]))
    assert refused is not None
    assert [m.field for m in refused.problem.errors] == ["rows[1].price"]


def test_many_are_counted_and_the_first_are_told():
    refused = WIRE.beyond(feeds(*[3e38] * 50), np.full(50, np.nan, np.float32))
    assert refused is not None
    assert (len(refused.problem.errors), refused.problem.more) == (MOST, 50 - MOST)
