"""Contracts: read, proposed, compared: pytest tests/test_contract.py"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import contract as contracts
from pipelines import stored
from pipelines.adapters import expectations
from pipelines.contract import Column, Contract
from pipelines.errors import MissingInput, ParamsError
from pipelines.images import png
from pipelines.proposal import propose
from pipelines.sources.digits import Digits
from pipelines.sources.flights import Flights
from tests.conftest import REPOSITORY, shop

TABLE = shop(days=20)
FLIGHTS = REPOSITORY / "contracts" / "flights.yaml"
SMALL = """
task: orders
time: at
key: [id]
label: late
columns:
  at: {type: timestamp}
  id: {type: integer, feature: false}
  price: {type: number, min: 0, max: 10}
  late: {type: integer}
"""


def edited(**edits: object) -> str:
    """SMALL with keys replaced: `price__min=3` sets columns.price.min."""
    content = yaml.safe_load(SMALL)
    for path, value in edits.items():
        *parts, last = path.split("__")
        place = content["columns"] if parts else content
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return yaml.safe_dump(content)


# Reading.


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"colour": 1}, "colour is not a known key"),
        ({"price__minimum": 1}, "columns.price.minimum is not a known key"),
        (
            {"price__type": "money"},
            "'timestamp', 'integer', 'number', 'category', 'boolean' or 'image'",
        ),
        ({"price__nulls": 1.5}, "less than or equal to 1"),
        ({"price__min": 11}, "min 11.0 is above max 10.0"),
        ({"price__hours": [5, 23]}, "hours does not apply to a column of type number"),
        ({"price__values": ["a"]}, "values does not apply to a column of type number"),
        ({"at__mean": [1, 2]}, "mean does not apply to a column of type timestamp"),
        ({"at__at_most": "price"}, "at_most does not apply to a column of type timestamp"),
        ({"price__at_most": "at"}, "at_most of price names 'at', which is no number column"),
        ({"price__at_most": "cost"}, "at_most of price names 'cost', which is no number column"),
        ({"id__outside": 0.1}, "outside needs min, max or hours"),
        ({"time": "when"}, "time names the column 'when'"),
        ({"time": "price"}, "time column price must have type timestamp"),
        ({"key": ["id", "nr"]}, "key names the column 'nr'"),
        ({"key": []}, "at least 1"),
        ({"label": "price"}, "label column price must have type integer or boolean"),
        *(
            (
                {f"late__{key}": value},
                "columns.late: the label column has nulls, new_values, outside",
            )
            for key, value in {"nulls": 0.1, "new_values": 0.1, "severity": "warning"}.items()
        ),
        ({"late__outside": 0.1, "late__min": 0}, "columns.late: the label column has"),
        ({"price__feature": False}, "no column is a feature"),
        ({"price__distinct": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_contract_names_file_key_and_what_is_allowed(tmp_path, edits, said):
    path = tmp_path / "contracts" / "orders.yaml"
    path.parent.mkdir()
    path.write_text(edited(**edits))
    with pytest.raises(ParamsError) as wrong:
        contracts.load(path)
    assert said in str(wrong.value)
    assert "contracts/orders.yaml" in str(wrong.value)


def test_no_contract_says_how_to_make_one(tmp_path):
    with pytest.raises(MissingInput, match="perennial contract propose orders"):
        contracts.load(tmp_path / "orders.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ParamsError, match="not valid YAML"):
        contracts.load(tmp_path / "bad.yaml")


def test_the_digest_is_of_the_content_and_not_of_the_layout():
    one = contracts.parse(SMALL)
    assert one.digest == contracts.parse("# a comment\n" + edited()).digest
    assert one.digest != contracts.parse(edited(price__max=11)).digest
    assert one.digest != contracts.parse(edited(price__unit="€")).digest


def test_what_a_model_sees_is_the_features_without_time_key_and_label():
    flights = contracts.load(FLIGHTS)
    assert flights.inputs[0] == flights.time
    assert {"late", "flight"}.isdisjoint(flights.inputs)
    assert len(flights.inputs) == 1 + len(flights.numbers) + len(flights.categories) == 19


def test_the_flights_contract_tells_a_reader_what_each_column_is():
    contract = contracts.load(FLIGHTS)
    assert all(c.description for c in contract.columns.values())
    assert all(c.unit for n, c in contract.columns.items() if n in contract.numbers)


# The twelve real months and the reviewed contract.


@pytest.fixture(scope="module")
def year() -> dict[str, pd.DataFrame]:
    return {period: Flights().read(period) for period in Flights().periods()}


def test_every_month_of_the_year_passes_without_a_warning(year):
    contract, history = contracts.load(FLIGHTS), []
    for period, rows in year.items():
        findings = expectations.check(rows, contract, period, "month", history)
        assert [f.message for f in findings if not f.passed] == [], period
        history.append(len(rows))


@pytest.mark.parametrize(
    ("column", "convert"),
    [
        ("temperature", lambda f: (f - 32) / 1.8),
        ("dew_point", lambda f: (f - 32) / 1.8),
        ("distance", lambda miles: miles * 1.609),
        ("wind_speed", lambda mph: mph * 1.609),
        ("wind_speed", lambda mph: mph * 0.447),
        ("precipitation", lambda inches: inches * 25.4),
        ("pressure", lambda millibars: millibars / 33.86),
        ("visibility", lambda miles: miles * 1.609),
        ("late", lambda late: 1 - late),
    ],
    ids=["°C", "°C dew", "km", "km/h", "m/s", "mm", "inHg", "km seen", "flipped"],
)
def test_a_wrong_unit_is_out_of_the_contract_in_every_month(year, column, convert):
    contract = contracts.load(FLIGHTS)
    wrong = {p: rows.assign(**{column: convert(rows[column])}) for p, rows in year.items()}
    told = {line.split(":")[0] for line in propose.differences(contract, wrong) if column in line}
    assert told == set(year)


def test_the_reviewed_contract_and_the_year_do_not_differ(year):
    assert propose.differences(contracts.load(FLIGHTS), year) == []


# Proposing.


def proposed(batches: dict[str, pd.DataFrame], **named: Any) -> Contract:
    return contracts.parse(propose.propose("orders", batches, **named))


def holds(contract: Contract, batches: dict[str, pd.DataFrame], length: str = "month") -> list[str]:
    """What the real door says of each batch after the ones before it."""
    said, history = [], []
    for period, rows in sorted(batches.items()):
        findings = expectations.check(rows, contract, period, length, history)
        said += [f"{period}: {f.message}" for f in findings if not f.passed]
        history.append(len(rows))
    return said


def made_up(seed: int, batches: int, rows: int) -> dict[str, pd.DataFrame]:
    """Months of a table of every type: empty, constant, rare, huge, tiny and gappy columns."""
    random = np.random.default_rng(seed)
    scale = 10.0 ** random.integers(-6, 9)
    made = {}
    for month in range(1, batches + 1):
        n = int(random.integers(1, rows + 1))
        start = pd.Timestamp(2024, month, 1)
        seconds = np.sort(random.integers(0, 28 * 86_400, n))
        numbers = random.normal(random.normal(), 1, n) * scale
        texts = random.choice(["NO", "on", "1e3", "a b", "", "0x1F", "née", "~"], n).astype(object)
        made[f"2024-{month:02d}"] = pd.DataFrame(
            {
                "at": (start + pd.to_timedelta(seconds, unit="s")).astype("datetime64[s]"),
                "id": np.arange(n) + 1000 * month,
                "number": np.where(random.random(n) < random.random(), np.nan, numbers),
                "whole": random.integers(-3, 400, n),
                "constant": -2.5,
                "skewed": random.lognormal(0, 3, n),
                "text": np.where(random.random(n) < 0.2, None, texts),
                "names": [f"{month}-{row}" for row in range(n)],
                "flag": random.random(n) < 0.5,
                "empty": np.nan,
                "void": pd.Series([None] * n, dtype=object),
                "late": (random.random(n) < random.random()).astype("int64"),
            }
        )
    return made


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 80))
def test_a_proposed_contract_allows_the_batches_it_was_made_from(seed, batches, rows):
    made = made_up(seed, batches, rows)
    contract = proposed(made, key=["id"], label="late")
    assert propose.differences(contract, made) == []
    assert [c.type for c in contract.columns.values()] == [
        "timestamp", "integer", "number", "integer", "number", "number", "category", "category",
        "boolean", "number", "category", "integer",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_a_proposed_contract_lets_the_batches_in_at_the_real_door(seed):
    made = made_up(seed, batches=4, rows=60)
    warnings = [line for line in holds(proposed(made, key=["id"], label="late"), made)]
    assert all("late breaks classes" in line for line in warnings), warnings


def test_the_flights_can_be_proposed_and_held(year):
    months = {p: year[p] for p in ("2013-01", "2013-02", "2013-03", "2013-04")}
    reviewed = contracts.load(FLIGHTS)
    contract = proposed(months, key=list(reviewed.key), label="late")
    assert list(contract.columns) == list(reviewed.columns)
    assert {n: c.type for n, c in contract.columns.items()} == {
        n: c.type for n, c in reviewed.columns.items()
    }
    assert (contract.numbers, contract.categories) == (reviewed.numbers, reviewed.categories)
    assert holds(contract, months) == []


def test_files_of_any_span_are_cut_by_time():
    """Times as text, as CSV files have them; a file holds a month, a batch will be a week."""
    table = shop(days=77, rows_a_day=30)
    texts = table.assign(ordered_at=table["ordered_at"].astype(str))
    files = [rows for _, rows in texts.groupby(texts["ordered_at"].str[:7])]
    weeks = propose.by_period(files[::-1], None, "week")
    assert list(weeks) == [f"2024-W{number:02d}" for number in range(1, 12)]
    pd.testing.assert_frame_equal(pd.concat(list(weeks.values()), ignore_index=True), table)

    contract = proposed(weeks, key=["order"], label="returned")
    assert holds(contract, weeks, "week") == []
    later = weeks["2024-W11"].assign(order=lambda t: t["order"] + 10**6)
    assert propose.differences(contract, {"2024-W11": later}) == [], "running numbers run on"


@pytest.mark.parametrize(
    ("tables", "time", "said"),
    [
        ([], None, "no rows in no file"),
        ([TABLE, TABLE.head(0)], None, "no rows in file 2"),
        ([TABLE, TABLE.drop(columns="price")], None, "file 2 has the columns ordered_at, order"),
        ([TABLE.drop(columns="ordered_at")], None, "which column is the time?"),
        ([TABLE], "when", "which column is the time?"),
        ([TABLE], "price", "column price must hold a time in every row"),
        ([TABLE.assign(ordered_at=pd.NaT)], None, "column ordered_at must hold a time"),
    ],
)
def test_files_that_cannot_be_cut_are_told_apart(tables, time, said):
    with pytest.raises(ParamsError, match=said.replace("?", r"\?")):
        propose.by_period(tables, time, "week")


def test_a_column_that_tells_the_label_is_set_aside_for_a_person():
    table = shop(days=30).assign(refund=lambda t: t["returned"] * t["price"])
    contract = proposed({"2024-01": table}, key=["order"], label="returned")
    assert not contract.columns["refund"].feature
    assert "tells the label" in contract.columns["refund"].description
    assert "price" in contract.numbers


@pytest.mark.parametrize(
    ("change", "named", "said"),
    [
        (lambda t: t, {"key": ["order"]}, "Those that hold 0 and 1 only are: returned"),
        (lambda t: t, {"label": "returned"}, "Candidates are: order"),
        (lambda t: pd.concat([t.head(9), t.head(9).assign(country="IT", order=0)]),
         {"label": "returned"}, "Candidates are: ordered_at + country"),
        (lambda t: t.drop(columns="ordered_at"), {"key": ["order"], "label": "returned"},
         "which column is the time?"),
        (lambda t: t, {"key": ["nr"], "label": "returned"}, "key names the column 'nr'"),
        (lambda t: t, {"key": ["country"], "label": "returned"}, "share their key country"),
        (lambda t: t, {"key": ["order"], "label": "country"}, "country must be 0 or 1"),
        (lambda t: t, {"key": ["order"], "label": "returned", "time": "price"},
         "the time price holds no times"),
        (lambda t: t.assign(price=np.inf), {"key": ["order"], "label": "returned"},
         "price holds infinite numbers"),
        (lambda t: t.assign(price=[[1]] * len(t)), {"key": ["order"], "label": "returned"},
         "column price holds"),
        (lambda t: t.head(0), {"key": ["order"], "label": "returned"}, "no rows in batch 2024-01"),
        (lambda t: t[["ordered_at", "order", "returned"]], {"key": ["order"], "label": "returned"},
         "no column is a feature"),
    ],
)  # fmt: skip
def test_what_cannot_be_proposed_is_said_with_the_way_on(
    change: Callable[[pd.DataFrame], pd.DataFrame], named, said
):
    with pytest.raises(ParamsError) as wrong:
        propose.propose("orders", {"2024-01": change(TABLE)}, **named)
    assert said in str(wrong.value)
    assert "contract propose orders" in str(wrong.value)


def test_batches_of_different_columns_are_named():
    with pytest.raises(ParamsError, match="batch 2024-02 has the columns ordered_at, order"):
        propose.propose("orders", {"2024-01": TABLE, "2024-02": TABLE.drop(columns="price")})


# Comparing.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="price"), "column price is missing"),
        (lambda t: t.assign(tax=1), "column tax is not described"),
        (lambda t: t[sorted(t.columns)], "columns are in another order"),
        (lambda t: t.assign(price="3"), "price holds category, the contract says number"),
        (lambda t: t.assign(price=np.nan), "price has no value in 100.00% of the rows"),
        (lambda t: t.assign(price=-99.0), "price goes down to -99"),
        (lambda t: t.assign(price=1e6), "price goes up to 1e+06"),
        (lambda t: t.assign(price=1e6), "price has the mean 1e+06"),
        (
            lambda t: t.assign(country="XX"),
            "country has 1 values that the contract does not know: XX",
        ),
        (lambda t: t.assign(country="DE"), "country has 1 different values, the contract wants 2"),
        (lambda t: pd.concat([t, t]), "share their key order"),
    ],
)
def test_a_difference_names_the_batch_the_column_and_both_sides(change, said):
    contract = proposed({"2024-01": TABLE}, key=["order"], label="returned")
    assert propose.differences(contract, {"2024-01": TABLE}) == []
    found = propose.differences(contract, {"2024-01": TABLE, "2024-02": change(TABLE)})
    assert any(said in line for line in found), found
    assert all(line.startswith("2024-02: ") for line in found)


@pytest.mark.parametrize(
    ("column", "rules", "said"),
    [
        (
            "image",
            {"size": (32, 32)},
            "no picture of 32 x 32 pixels and mode L: 130 of 8 x 8 pixels",
        ),
        ("image", {"mode": "RGB"}, "no picture of 8 x 8 pixels and mode RGB: 130 of L"),
        ("digit", {"balance": (0.11, 0.9)}, "of the rows, the contract allows 11.00% to 90.00%"),
    ],
)
def test_pictures_and_shares_of_classes_are_compared_too(column, rules, said):
    digits = contracts.load(REPOSITORY / "contracts/digits.yaml")
    week = {"2024-W01": Digits("week").read("2024-W01").iloc[:130]}
    assert propose.differences(digits, week) == []
    changed = digits.columns[column].model_copy(update=rules)
    other = digits.model_copy(update={"columns": digits.columns | {column: changed}})
    assert any(said in line for line in propose.differences(other, week))


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (lambda images: [b"x", *images[1:]], "1 of no picture of a known format"),
        (lambda images: [png(np.zeros((8, 8), np.uint8)), *images[1:]], "1 pictures of one colour"),
        (lambda images: [images[1], *images[1:]], "1 pictures that repeat another"),
    ],
)
def test_pictures_that_no_contract_allows_are_counted(spoiled, said):
    digits = contracts.load(REPOSITORY / "contracts/digits.yaml")
    week = Digits("week").read("2024-W01")
    found = propose.differences(digits, {"w": week.assign(image=spoiled(list(week["image"])))})
    assert any(said in line for line in found), found


def test_text_that_reads_as_times_is_no_difference():
    contract = proposed({"2024-01": TABLE}, key=["order"], label="returned")
    text = TABLE.assign(ordered_at=TABLE["ordered_at"].astype(str))
    assert propose.differences(contract, {"2024-01": text}) == []


# How types are stored.


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series([1, 2], dtype="int8"), "integer"),
        (pd.Series([1, None], dtype="Int64"), "integer"),
        (pd.Series([1.0, None]), "number"),
        (pd.Series([1.0, 2.0], dtype="float32"), "number"),
        (pd.Series([True, False]), "boolean"),
        (pd.Series([True, None], dtype=object), "boolean"),
        (pd.Series(["a", None]), "category"),
        (pd.Series(["a"], dtype="string"), "category"),
        (pd.Series(["a"], dtype="category"), "category"),
        (pd.Series([None, None], dtype=object), "category"),
        (pd.Series([], dtype=object), "category"),
        (pd.Series([1, 2], dtype="category"), None),
        (pd.Series(pd.to_datetime(["2024-01-01"])), "timestamp"),
        (pd.Series(pd.to_datetime(["2024-01-01"])).astype("datetime64[s]"), "timestamp"),
        (pd.Series(pd.to_datetime(["2024-01-01"], utc=True)), None),
        (pd.Series([b"a"]), "image"),
        (pd.Series(["a", 1]), None),
        (pd.Series([[1]]), None),
    ],
)
def test_the_type_of_a_stored_column(values, expected):
    assert stored.type_of(values) == expected


def test_years_and_model_numbers_are_not_taken_for_times():
    for texts in (["2013", "1999"], ["150", "717-200"], ["2013-13-01"], ["2024-01-01T00:00+02:00"]):
        values = pd.Series(texts)
        assert stored.times_from_text(values) is values
    assert stored.type_of(stored.times_from_text(pd.Series(["2024-01-01", None]))) == "timestamp"


def test_a_column_of_gaps_fits_what_may_be_missing():
    assert stored.fits(pd.Series([np.nan]), Column(type="integer", nulls=0.5))
    assert not stored.fits(pd.Series([1.0]), Column(type="integer"))
    assert stored.fits(pd.Series([1]), Column(type="number"))
    assert not stored.fits(pd.Series([1]), Column(type="category"))
