"""The OpenAPI document against what is really taken: pytest tests/test_openapi.py"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import contract as contracts
from pipelines.contract import Contract
from pipelines.serve_params import Serve
from pipelines.service.answers import arrow_answer
from pipelines.service.asked import Answered
from pipelines.service.pages import openapi
from pipelines.wire import explain
from pipelines.wire.problem import KINDS, Refused
from pipelines.wire.read import Wire
from tests import wire_world as world
from tests.conftest import REPOSITORY

FLIGHTS = contracts.load(Path(__file__).parent.parent / "contracts" / "flights.yaml")
ROW: dict[str, Any] = {
    "scheduled_departure": "2013-07-22T20:01:00", "scheduled_arrival": 1374, "distance": 944.0,
    "aircraft_year": None, "aircraft_seats": 200, "temperature": 75.92, "dew_point": 73.4,
    "humidity": 94.14, "wind_direction": 130.0, "wind_speed": 8.05, "wind_gust": None,
    "precipitation": 0.0, "pressure": None, "visibility": 10.0, "carrier": "B6", "origin": "JFK",
    "destination": "MCO", "aircraft_maker": "AIRBUS", "aircraft_model": "A320-232",
}  # fmt: skip


def document(contract: Contract = FLIGHTS, max_rows: int = 10) -> dict[str, Any]:
    example = ROW if contract is FLIGHTS else None
    return openapi.document(contract, None, example, Serve(max_rows=max_rows))


def validator(made: dict[str, Any], name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}"} | made)


def everything_in(made: Any) -> Iterator[Any]:
    yield made
    inner = made.values() if isinstance(made, dict) else made if isinstance(made, list) else ()
    for part in inner:
        yield from everything_in(part)


@st.composite
def asked(draw: st.DrawFn) -> tuple[Contract, list[Any]]:
    contract = draw(world.contracts())
    return contract, draw(st.one_of(world.rows_of(contract), world.mutated(contract)))


@settings(suppress_health_check=list(HealthCheck), max_examples=200)
@given(asked())
def test_the_schema_allows_exactly_what_is_taken(made):
    contract, rows = made
    wire = Wire(contract, 10)
    body = world.as_json(rows)
    allowed = validator(document(contract), "Request").is_valid(explain._untyped(body))
    try:
        taken = bool(wire.rows(body))
        exceeding = False
    except Refused as refused:
        taken = False
        # The one rule that JSON Schema has no words for.
        exceeding = all("of the same row" in m.allowed for m in refused.problem.errors)
    assert allowed == (taken or exceeding)


@settings(max_examples=300)
@given(st.data())
def test_a_time_is_allowed_exactly_when_it_is_taken(data):
    digits = st.from_regex(
        r"(1699|1700|1900|2000|2013|2016|2100|2199|2200)-(0[0-9]|1[0-3])-(0[01]|2[89]|3[0-2])[T t_]"
        r"(0[0-59]|2[0-4]):(00|59|60):(00|59|60)(\.|\.[0-9]{1,9}|Z|\+01:00|\n)?",
        fullmatch=True,
    )
    row = ROW | {"scheduled_departure": data.draw(digits)}
    allowed = validator(document(), "Row").is_valid(row)
    assert allowed == (not list(explain.mistakes_in(Wire(FLIGHTS, 10).shape, {"rows": [row]})))


def test_a_time_with_a_line_end_is_neither_allowed_nor_taken():
    """`$` lets one follow in Python, and generators of test cases try it."""
    row = ROW | {"scheduled_departure": "2013-07-22T20:01:00\n"}
    assert not validator(document(), "Row").is_valid(row)
    with pytest.raises(Refused):
        Wire(FLIGHTS, 10).rows(json.dumps({"rows": [row]}).encode())


@pytest.mark.parametrize(
    "request_",
    [{}, {"rows": []}, {"rows": [ROW] * 11}, {"rows": [ROW], "more": 1}, [], None, {"rows": ROW}],
)
def test_what_is_no_list_of_rows_is_neither_allowed_nor_taken(request_):
    assert not validator(document(), "Request").is_valid(request_)
    with pytest.raises(Refused):
        Wire(FLIGHTS, 10).rows(json.dumps(request_).encode())


def test_the_example_works_as_pasted():
    made = document()
    example = made["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"][
        "example"
    ]
    validator(made, "Request").validate(example)
    assert Wire(FLIGHTS, 10).rows(json.dumps(example).encode())


def test_every_reference_leads_to_a_schema_and_every_schema_is_one():
    made = document()
    schemas = made["components"]["schemas"]
    references = {p["$ref"] for p in everything_in(made) if isinstance(p, dict) and "$ref" in p}
    assert references == {f"#/components/schemas/{name}" for name in schemas}
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_address_says_each_status_that_it_answers():
    said = {
        path: set(operation["responses"])
        for path, item in document()["paths"].items()
        for operation in item.values()
    }
    faults = {"400", "401", "413", "415", "422", "500"}
    assert said == {
        "/predict": {"200", "408", "429", "503"} | faults,
        "/labels": {"200", "408", "429", "503"} | faults,
        "/model": {"200", "401", "500"},
        "/livez": {"200", "503"},
        "/readyz": {"200", "503"},
        "/metrics": {"200", "401"},
    }


def test_fields_carry_the_contracts_words_units_and_limits():
    fields = document()["components"]["schemas"]["Row"]["properties"]
    assert list(fields)[:-1] == list(FLIGHTS.inputs)
    assert list(fields)[-1] == "flight"
    for name, field in fields.items():
        column = FLIGHTS.columns[name]
        assert column.description in field["description"]
        assert column.unit in field["description"]
        assert ("null" in field["type"]) == (column.nulls > 0)
    assert fields["origin"]["enum"] == ["EWR", "JFK", "LGA"]
    assert (fields["humidity"]["minimum"], fields["humidity"]["maximum"]) == (0, 100)
    assert "Never above `temperature`" in fields["dew_point"]["description"]
    assert "enum" not in fields["carrier"], "new carriers are let in"


def test_a_problem_is_as_the_document_says():
    made = document()
    with pytest.raises(Refused) as refused:
        Wire(FLIGHTS, 10).rows(json.dumps({"rows": [ROW | {"origin": "XXX"}] * 9}).encode())
    problem = json.loads(refused.value.problem.body())
    validator(made, "Problem").validate(problem)
    told = made["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert told == [f"/problems/{kind}" for kind in KINDS]


def test_the_document_is_json_and_names_the_model_only_when_there_is_one():
    assert json.loads(json.dumps(document(), allow_nan=False)) == document()
    post = openapi.document(FLIGHTS, None, None, Serve())["paths"]["/predict"]["post"]
    assert "example" not in post["requestBody"]["content"]["application/json"]


@pytest.mark.parametrize("name", ["flights", "digits"])
def test_the_columns_of_an_arrow_answer_are_those_that_it_has(name):
    contract = contracts.load(REPOSITORY / "contracts" / f"{name}.yaml")
    probability = np.full((1, len(contract.classes)) if contract.classes else (1,), 0.5, np.float32)
    called = contract.classes[:1] or (True,)
    made = arrow_answer(Answered("1", "champion", "x-", 0, probability, called, contract.classes))
    columns = pa.ipc.open_stream(made).read_all().column_names
    told = document(contract)["paths"]["/predict"]["post"]["description"]
    assert f"Arrow stream: {', '.join(columns)}." in told


def test_labels_may_be_refused_for_now_and_that_says_when_to_come_again():
    told = document()["paths"]["/labels"]["post"]["responses"]["503"]
    assert KINDS["labels-not-taken"][1] in told["description"]
    assert "retry-after" in told["headers"]
