"""pytest tests/test_answers.py: an answer as bytes says what was predicted."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.service.answers import arrow_answer, as_object, json_answer
from pipelines.service.asked import Answered

PREFIX = "shop-100%x-4-20130401-9f8e7d6c-"
"""A task may be called anything that a file may."""
probabilities = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20)


def answered(probability: list[float], first: int = 250) -> Answered:
    predicted = [p >= 0.3 for p in probability]
    return Answered("4", "champion", PREFIX, first, probability, predicted)


@given(probabilities)
def test_the_bytes_are_json_and_mean_the_object(probability: list[float]) -> None:
    given = answered(probability)
    assert json.loads(json_answer("shop", given)) == as_object("shop", given)


@given(probabilities)
def test_a_probability_survives_to_its_last_bit(probability: list[float]) -> None:
    """float32 needs nine digits; with fewer, what is answered is not what is logged."""
    told = [
        p["probability"]
        for p in json.loads(json_answer("shop", answered(probability)))["predictions"]
    ]
    assert np.array_equal(np.float32(told), np.float32(probability))


@given(probabilities, st.integers(0, 2**60))
def test_a_lone_row_is_told_as_among_others(probability: list[float], first: int) -> None:
    """It is written on a way of its own."""
    together = as_object("shop", answered(probability, first))["predictions"]
    alone = [
        as_object("shop", answered([p], first + i))["predictions"][0]
        for i, p in enumerate(probability)
    ]
    assert alone == together


def test_ids_count_up_in_hex_and_no_two_are_the_same() -> None:
    told = json.loads(json_answer("shop", answered([0.1] * 20, first=250)))["predictions"]
    ids = [p["id"] for p in told]
    assert ids[:7] == [f"{PREFIX}{i}" for i in ("fa", "fb", "fc", "fd", "fe", "ff", "100")]
    assert len(set(ids)) == 20


@given(probabilities)
def test_arrow_tells_the_same_as_json(probability: list[float]) -> None:
    given = answered(probability)
    table = pa.ipc.open_stream(arrow_answer(given)).read_all()
    told = as_object("shop", given)["predictions"]
    assert table.column("id").to_pylist() == [p["id"] for p in told]
    assert table.column("prediction").to_pylist() == [p["prediction"] for p in told]
    assert np.array_equal(table.column("probability").to_numpy(), np.float32(probability))
    assert set(table.column("version").to_pylist()) == {"4"}
