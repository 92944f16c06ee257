"""Requests by contract, on made-up contracts: pytest tests/test_wire.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from pipelines import contract as contracts
from pipelines import slices
from pipelines.contract import Contract
from pipelines.graph import raw_inputs
from pipelines.served import bodies, hidden
from pipelines.served.bodies import Asked
from pipelines.wire import explain, made_up
from pipelines.wire.problem import Refused
from pipelines.wire.read import Wire
from tests import wire_world as world

FLIGHTS, DIGITS = (
    contracts.load(Path(__file__).parent.parent / "contracts" / f"{name}.yaml")
    for name in ("flights", "digits")
)
drawing = [HealthCheck.too_slow, HealthCheck.filter_too_much]
many = settings(suppress_health_check=drawing, max_examples=200)
few = settings(suppress_health_check=drawing, max_examples=60)


@st.composite
def asked(draw: st.DrawFn) -> tuple[Contract, list[Any]]:
    contract = draw(world.contracts())
    return contract, draw(st.one_of(world.rows_of(contract), world.mutated(contract)))


@st.composite
def tabular(draw: st.DrawFn) -> tuple[Contract, list[dict[str, Any]]]:
    contract = draw(world.contracts())
    return contract, draw(world.rows_of(contract))


@st.composite
def right(draw: st.DrawFn) -> tuple[Contract, list[dict[str, Any]]]:
    contract = draw(world.contracts())
    return contract, draw(world.rows_of(contract, right=True))


def taken(wire: Wire, body: bytes, media: Any = None) -> Any:
    """What the wire reads, None where it refuses for the rows."""
    try:
        return wire.table(body, media) if media else wire.rows(body)
    except Refused as refused:
        problem = refused.problem
    assert problem.kind == "invalid-rows"
    assert problem.errors
    return None


@many
@given(asked())
def test_a_row_is_taken_exactly_when_the_contract_may_have_it(made):
    contract, rows = made
    assert (taken(Wire(contract, 10), world.as_json(rows)) is not None) == world.may_be(
        contract, rows
    )


@many
@given(asked())
def test_what_is_refused_is_explained_and_what_is_taken_has_no_mistakes(made):
    contract, rows = made
    wire, body = Wire(contract, 10), world.as_json(rows)
    mistakes = list(explain.mistakes_in(wire.shape, explain._untyped(body)))
    assert (taken(wire, body) is None) == bool(mistakes)
    for mistake in mistakes:
        assert mistake.field in mistake.message
        assert mistake.allowed in mistake.message


def logged_json(contract: Contract, rows: list[Any]) -> Any:
    asked = Asked("json", world.as_json(rows), len(rows))
    return bodies.read([asked], contract, hashed=False)


@many
@given(tabular(), st.sampled_from(["arrow", "parquet"]))
def test_a_table_is_taken_exactly_when_its_rows_are_and_gives_the_same_inputs(made, media):
    contract, rows = made
    table = world.as_table(contract, rows)
    assume(table is not None)
    wire = Wire(contract, 10)
    body = world.arrow_bytes(table) if media == "arrow" else world.parquet_bytes(table)
    read, asked = taken(wire, body, media), taken(wire, world.as_json(rows))
    assert (read is None) == (asked is None)
    if read is None:
        event("refused")
        return
    assert_same(wire.table_feeds(read), wire.feeds(asked))
    logged = bodies.read([Asked(media, body, len(rows))], contract, hashed=False)
    assert logged.equals(logged_json(contract, rows))


@few
@given(right())
def test_the_inputs_are_those_that_the_artifact_makes_of_the_same_rows(made):
    contract, rows = made
    wire = Wire(contract, 10)
    asked = wire.rows(world.as_json(rows))
    frame = world.as_frame(contract, rows)
    assert_same(wire.feeds(asked), raw_inputs(frame, contract, contract.inputs))


@st.composite
def of_persons(draw: st.DrawFn) -> tuple[Contract, list[dict[str, Any]]]:
    contract, rows = draw(right())
    columns = {
        name: column.model_copy(update={"personal": True, "at_most": None})
        for name, column in contract.columns.items()
    }
    return contract.model_copy(update={"columns": columns}), rows


@many
@given(of_persons())
def test_an_example_of_nobodys_values_is_taken_under_any_contract(made):
    contract, rows = made
    example = Wire(contract, 10).example(world.as_frame(contract, rows))
    assert set(example) == set(contract.inputs)


def test_nobodys_picture_is_one_of_the_right_size():
    for field in Wire(DIGITS, 1).shape.fields:
        assert field.allows(made_up.value(field)), field.name


def assert_same(feeds: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    """To the bit, and in the same order."""
    assert list(feeds) == list(others)
    for name in feeds:
        assert feeds[name].dtype == others[name].dtype, name
        assert feeds[name].flags.c_contiguous
        assert feeds[name].tolist() == others[name].tolist() or (
            feeds[name].tobytes() == others[name].tobytes()
        ), name


@few
@given(right())
def test_rows_of_many_requests_give_the_inputs_of_each(made):
    contract, rows = made
    wire = Wire(contract, 10)
    asked = wire.rows(world.as_json(rows))
    alone = [wire.feeds([row]) for row in asked]
    together = {n: np.concatenate([feeds[n] for feeds in alone]) for n in contract.inputs}
    assert_same(wire.feeds(asked), together)


@few
@given(right())
def test_a_row_key_is_that_of_the_landed_row(made):
    contract, rows = made
    # pandas reads texts as C strings when it hashes them: "\0" is "" where both are in a column.
    assume(not any("\x00" in str(row.get(name)) for row in rows for name in contract.key))
    keys = hidden.row_names(logged_json(contract, rows), contract)
    for key, row in zip(keys, rows, strict=True):
        whole = all(row.get(name) is not None for name in contract.key)
        landed = slices.row_keys(world.as_frame(contract, [row]), contract) if whole else ()
        assert key == (f"{landed[0]:016x}" if whole else "")


@few
@given(right())
def test_rows_outside_limits_that_were_taken_are_counted_by_column(made):
    contract, rows = made
    wire = Wire(contract, 10)
    feeds = wire.feeds(wire.rows(world.as_json(rows)))
    expected = {n: sum(world.is_outside(contract, n, r) for r in rows) for n in contract.inputs}
    assert wire.out_of_contract(feeds) == {n: count for n, count in expected.items() if count}
