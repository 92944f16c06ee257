"""A good month, broken in every way we could think of: pytest tests/test_validate_mutations.py

Each row is stopped by the rule and the column it names; or, under SEEN_LATER, is let in, with the
reason why the door cannot tell and who can. Files that are no Parquet: tests/test_validate.py.

To be quick, a stopped table is cut to its key, its label and what the mutation touched; the slow
run, pytest -m slow tests/test_validate_mutations.py, holds the whole tables to the whole contract.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines import contract as contracts
from pipelines.adapters import expectations
from pipelines.contract import Contract
from pipelines.records import Finding
from pipelines.sources.flights import Flights

PERIOD = "2013-04"
CONTRACT = contracts.load(Path(__file__).parent.parent / "contracts" / "flights.yaml")
TIME = "scheduled_departure"
KEY = ", ".join(CONTRACT.key)

Mutation = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """No collection looks through the million objects of Great Expectations: a third quicker."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def april() -> pd.DataFrame:
    return Flights().read(PERIOD)


@pytest.fixture(scope="module")
def history() -> list[int]:
    """Rows of the months before."""
    return [len(Flights().read(period)) for period in ("2013-01", "2013-02", "2013-03")]


@pytest.fixture(scope="module")
def hold(history):
    """Hold a table against the contract, as the stage does."""

    def check(table: pd.DataFrame, contract: Contract = CONTRACT) -> tuple[Finding, ...]:
        return expectations.check(table, contract, PERIOD, "month", history)

    return check


# What can be done to a table. Each gives a new one and leaves the good month as it was.


def put(name: str, change: Callable[[pd.DataFrame], object]) -> Mutation:
    """One column replaced by what `change` makes of the table."""
    return lambda table: table.assign(**{name: change(table)})


def some(name: str, value: object, rows: int | slice = 1) -> Mutation:
    """Rows of one column set to a value: the first few, or a slice."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.copy()
        place = slice(0, rows) if isinstance(rows, int) else rows
        if not pd.api.types.is_dtype_equal(table[name].dtype, np.asarray(value).dtype):
            table[name] = table[name].astype(object if isinstance(value, str) else float)
        table.iloc[place, table.columns.get_loc(name)] = value
        return table

    return change


def swapped(one: str, other: str) -> Mutation:
    return lambda table: table.assign(**{one: table[other], other: table[one]})


def later(hours: int) -> Mutation:
    """Another clock, turned round within the month, so that only the hours of the day tell."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        first, month = pd.Timestamp("2013-04-01"), pd.Timedelta(days=30)
        moved = (table[TIME] - first + pd.Timedelta(hours=hours)) % month + first
        return table.assign(**{TIME: moved}).sort_values(TIME, ignore_index=True)

    return change


def repeated(rows: int, **other: object) -> Mutation:
    """The first rows once more, with some values changed."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        again = table.head(rows).assign(**other)
        return pd.concat([table, again]).sort_values(TIME, ignore_index=True)

    return change


def noise(table: pd.DataFrame) -> np.ndarray:
    return np.random.default_rng(0).normal(size=len(table))


def shuffled(values: pd.Series) -> np.ndarray:
    return np.random.default_rng(0).permutation(values.to_numpy())


def without_row(share: float) -> Mutation:
    return lambda table: table.sample(frac=1 - share, random_state=0).sort_index(ignore_index=True)


def month(period: str) -> Mutation:
    return lambda table: Flights().read(period)


def celsius(name: str) -> Mutation:
    return put(name, lambda t: (t[name] - 32) / 1.8)


def as_clock(table: pd.DataFrame) -> pd.Series:
    """18:30 as 1830, as the source itself writes it."""
    return table["scheduled_arrival"] // 60 * 100 + table["scheduled_arrival"] % 60


def gaps_where_late(table: pd.DataFrame) -> pd.Series:
    """400 late flights lose their temperature: 1.4 % of the rows, well within the allowed gaps."""
    late = table.index[table["late"] == 1][:400]
    return table["temperature"].mask(table.index.isin(late))


def one_late_carrier(table: pd.DataFrame) -> pd.Series:
    """AirTran's code on 1,000 late flights, and on no other."""
    late = table.index[table["late"] == 1][:1000]
    return table["carrier"].replace("FL", "DL").mask(table.index.isin(late), "FL")


def destinations_by_label(table: pd.DataFrame) -> np.ndarray:
    """105 codes, none of which has 2 % of the rows, dealt out by the label: no single one tells."""
    codes = np.array(sorted(table["destination"].unique()))
    dealt = np.random.default_rng(0).integers(0, 45, len(table))
    return codes[dealt + 45 * table["late"].to_numpy()]


@dataclass(frozen=True)
class Row:
    """`rule` and `column` of a finding that must stop the batch; column None is the whole batch."""

    name: str
    rule: str
    column: str | None
    change: Mutation


STOPPED = [
    # columns
    Row("column dropped", "columns", "humidity", lambda t: t.drop(columns="humidity")),
    Row("label missing", "columns", "late", lambda t: t.drop(columns="late")),
    Row("time missing", "columns", TIME, lambda t: t.drop(columns=TIME)),
    Row("column renamed", "columns", "carrier", lambda t: t.rename(columns={"carrier": "airline"})),
    Row("column renamed, new name", "columns", "airline",
        lambda t: t.rename(columns={"carrier": "airline"})),
    Row("extra column", "columns", "arrival_delay", lambda t: t.assign(arrival_delay=0.0)),
    Row("column there twice", "columns", "carrier",
        lambda t: pd.concat([t, t[["carrier"]]], axis=1)),
    Row("column named by a number", "columns", "7", lambda t: t.rename(columns={"origin": 7})),
    Row("columns reordered", "order", TIME, lambda t: t[sorted(t.columns)]),
    # types
    Row("number as text", "type", "distance", put("distance", lambda t: t["distance"].astype(str))),
    Row("text in numbers", "type", "temperature", some("temperature", "n/a")),
    Row("integer as float", "type", "flight", put("flight", lambda t: t["flight"].astype(float))),
    Row("category as codes", "type", "carrier",
        put("carrier", lambda t: t["carrier"].astype("category").cat.codes)),
    Row("category as coded categories", "type", "carrier",
        put("carrier", lambda t: t["carrier"].astype("category").cat.codes.astype("category"))),
    Row("text as bytes", "type", "origin",
        put("origin", lambda t: t["origin"].str.encode("ascii"))),
    Row("time as text", "type", TIME, put(TIME, lambda t: t[TIME].astype(str))),
    Row("time as dates", "type", TIME, put(TIME, lambda t: t[TIME].dt.date)),
    Row("time with a zone", "type", TIME,
        put(TIME, lambda t: t[TIME].dt.tz_localize("America/New_York"))),
    Row("time as epoch seconds", "type", TIME, put(TIME, lambda t: t[TIME].astype("int64"))),
    Row("label as float", "type", "late", put("late", lambda t: t["late"].astype(float))),
    Row("label as text", "type", "late", put("late", lambda t: t["late"].map({0: "no", 1: "yes"}))),
    # gaps
    Row("nulls where none may be", "nulls", "origin", some("origin", None, 5)),
    Row("more nulls than allowed", "nulls", "temperature", some("temperature", np.nan, 4000)),
    Row("column all null", "nulls", "visibility", put("visibility", lambda t: np.nan)),
    Row("label unknown in places", "nulls", "late", some("late", np.nan, 10)),
    Row("time unknown in places", "nulls", TIME,
        put(TIME, lambda t: t[TIME].mask(t.index < 3))),
    Row("gaps written as NA", "values", "aircraft_maker",
        put("aircraft_maker", lambda t: t["aircraft_maker"].fillna("NA"))),
    Row("gaps written as nothing", "values", "aircraft_model",
        put("aircraft_model", lambda t: t["aircraft_model"].fillna(""))),
    Row("gaps written as -999", "range", "visibility", some("visibility", -999.0, 9)),
    Row("gaps written as 0", "range", "pressure",
        put("pressure", lambda t: t["pressure"].fillna(0))),
    # ranges and units
    Row("out of range, one row", "range", "humidity", some("humidity", 130.0)),
    Row("negative, one row", "range", "distance", some("distance", -200.0)),
    Row("integer overflow, 8 bits", "range", "flight",
        put("flight", lambda t: t["flight"].astype("int8"))),
    Row("integer overflow, one row", "range", "aircraft_seats", some("aircraft_seats", 2.0**40)),
    Row("infinity, one row", "range", "wind_gust", some("wind_gust", np.inf)),
    Row("minus infinity, one row", "range", "dew_point", some("dew_point", -np.inf)),
    Row("temperature in °C", "mean", "temperature", celsius("temperature")),
    Row("dew point in °C", "mean", "dew_point", celsius("dew_point")),
    Row("temperature in kelvin", "range", "temperature",
        put("temperature", lambda t: (t["temperature"] - 32) / 1.8 + 273.15)),
    Row("distance in km", "mean", "distance", put("distance", lambda t: t["distance"] * 1.609)),
    Row("wind in m/s", "mean", "wind_speed", put("wind_speed", lambda t: t["wind_speed"] * 0.447)),
    Row("wind in km/h", "mean", "wind_speed", put("wind_speed", lambda t: t["wind_speed"] * 1.609)),
    Row("rain in mm", "range", "precipitation",
        put("precipitation", lambda t: t["precipitation"] * 25.4)),
    Row("pressure in inHg", "range", "pressure", put("pressure", lambda t: t["pressure"] / 33.86)),
    Row("visibility in km", "range", "visibility",
        put("visibility", lambda t: t["visibility"] * 1.609)),
    Row("humidity as a share", "mean", "humidity", put("humidity", lambda t: t["humidity"] / 100)),
    Row("direction in radians", "mean", "wind_direction",
        put("wind_direction", lambda t: np.radians(t["wind_direction"]))),
    Row("arrival as 1830 for 18:30", "range", "scheduled_arrival",
        put("scheduled_arrival", as_clock)),
    # clocks and periods
    Row("clock in UTC", "hours", TIME, later(4)),
    Row("clock one hour ahead", "hours", TIME, later(1)),
    Row("clock one hour behind", "hours", TIME, later(-1)),
    Row("clock in Los Angeles", "hours", TIME, later(-3)),
    Row("clock in UTC, over the edge of the month", "period", TIME,
        put(TIME, lambda t: t[TIME] + pd.Timedelta(hours=4))),
    Row("time cut to the day", "hours", TIME, put(TIME, lambda t: t[TIME].dt.floor("D"))),
    Row("time cut to the hour", "distinct", TIME, put(TIME, lambda t: t[TIME].dt.floor("h"))),
    Row("next month's rows", "period", TIME, month("2013-05")),
    Row("last month's rows again", "period", TIME, month("2013-03")),
    Row("the same month of another year", "period", TIME,
        put(TIME, lambda t: t[TIME] + pd.DateOffset(years=1))),
    Row("one row of the next month", "period", TIME,
        lambda t: pd.concat([t, Flights().read("2013-05").head(1)])),
    Row("rows out of order", "sorted", TIME, lambda t: t.sample(frac=1, random_state=0)),
    # rows
    Row("rows repeated", "key", KEY, repeated(100)),
    Row("one key repeated, other values", "key", KEY, repeated(1, distance=500.0)),
    Row("every row twice", "history", None, repeated(10**6)),
    Row("half the rows", "history", None, without_row(0.5)),
    Row("last week missing", "history", None, lambda t: t[t[TIME] < "2013-04-24"]),
    Row("empty", "rows", None, lambda t: t.head(0)),
    Row("ten rows", "rows", None, lambda t: t.head(10)),
    # categories
    Row("new category, many rows", "values", "destination", some("destination", "XXX", 1500)),
    Row("new category in a closed set", "values", "origin", some("origin", "SWF")),
    Row("case of a category changed", "values", "carrier",
        put("carrier", lambda t: t["carrier"].str.lower())),
    Row("space after a category", "values", "aircraft_maker",
        put("aircraft_maker", lambda t: t["aircraft_maker"] + " ")),
    Row("one airport missing", "distinct", "origin", lambda t: t[t["origin"] != "LGA"]),
    Row("constant number", "distinct", "humidity", put("humidity", lambda t: 55.0)),
    Row("constant category", "distinct", "carrier", put("carrier", lambda t: "UA")),
    Row("columns swapped, alike", "at_most", "dew_point", swapped("temperature", "dew_point")),
    Row("columns swapped, categories", "values", "origin", swapped("origin", "destination")),
    Row("columns swapped, numbers", "range", "aircraft_year",
        swapped("aircraft_year", "aircraft_seats")),
    # label and leaks
    Row("label -1 for 0", "label", "late", put("late", lambda t: t["late"].replace(0, -1))),
    Row("label counts minutes", "label", "late", some("late", 37, 50)),
    Row("label all 0", "classes", "late", put("late", lambda t: 0)),
    Row("label all 1", "classes", "late", put("late", lambda t: 1)),
    Row("label turned round", "mean", "late", put("late", lambda t: 1 - t["late"])),
    Row("label in a feature", "leak", "visibility",
        put("visibility", lambda t: 10.0 - 3 * t["late"])),
    Row("label in a feature, noisy", "leak", "humidity",
        put("humidity", lambda t: (40 + 40 * t["late"] + 7 * noise(t)).clip(0, 100))),
    Row("label in one value", "leak", "carrier", put("carrier", one_late_carrier)),
    Row("label in many values", "leak", "destination", put("destination", destinations_by_label)),
    Row("label in the gaps", "leak", "temperature", put("temperature", gaps_where_late)),
]  # fmt: skip


@dataclass(frozen=True)
class Later:
    name: str
    why: str
    change: Mutation
    warns: tuple[str, str] | None = None
    """rule and column of a warning that is recorded."""


SEEN_LATER = [
    Later("column shuffled", "each value is honest; the monitor's joint drift and the AUC see it",
          put("humidity", lambda t: shuffled(t["humidity"]))),
    Later("label shuffled", "rate and columns are as ever; the label-joined AUC falls to .5",
          put("late", lambda t: shuffled(t["late"]))),
    Later("wind in knots", "13 % less is within the difference of two months; the monitor's effect "
          "floor of 0.1 standard deviations is passed twice over",
          put("wind_speed", lambda t: t["wind_speed"] * 0.869)),
    Later("sensor 5 °F too warm", "a warmer April is no error; the monitor sees half a deviation",
          put("temperature", lambda t: t["temperature"] + 5)),
    Later("more late flights", "a bad month is what the loop is for: drift and AUC by label",
          put("late", lambda t: t["late"].mask(noise(t) > 1.5, 1))),
    Later("weak leak", "an AUC of .9 alone may be honest; the monitor sees the column move",
          put("humidity", lambda t: (50 + 20 * t["late"] + 11 * noise(t)).clip(0, 100))),
    Later("three days missing", "months differ by as much; the row count is in the result, and "
          "nothing that is there is wrong", lambda t: t[t[TIME] < "2013-04-28"]),
    Later("one row in twenty missing", "months differ by as much; at random it biases nothing",
          without_row(0.05)),
    Later("a new airline", "airlines come; below new_values it is a warning, above it is stopped",
          some("carrier", "ZZ", 100), warns=("new_values", "carrier")),
    Later("digits lost", "no rule of the contract speaks of digits, and the model is not harmed",
          put("humidity", lambda t: t["humidity"].round(1))),
]  # fmt: skip


def touched(table: pd.DataFrame, april: pd.DataFrame) -> tuple[pd.DataFrame, Contract]:
    """Table and contract without the columns that are as they were in the good month."""
    if len(table) == len(april) and table.columns.is_unique:
        same = {n for n in april if n in table and table[n].equals(april[n])}
    else:
        same = set(april) & set(table)
    left = {*CONTRACT.key, CONTRACT.label, "distance"} | set(CONTRACT.columns) - same
    left |= {c.at_most for n, c in CONTRACT.columns.items() if n in left and c.at_most}
    columns = {n: c for n, c in CONTRACT.columns.items() if n in left}
    seen = [n in left or n not in CONTRACT.columns for n in table.columns]
    return table.loc[:, seen], CONTRACT.model_copy(update={"columns": columns})


def test_the_good_month_passes_without_a_warning(hold, april):
    findings = hold(april)
    assert [f.message for f in findings if not f.passed] == []
    assert {"columns", "type", "nulls", "range", "mean", "key", "history", "period", "leak"} <= {
        f.rule for f in findings
    }


@pytest.mark.parametrize("row", STOPPED, ids=lambda row: row.name)
def test_stopped(row, hold, april):
    assert_stopped(row, hold(*touched(row.change(april), april)))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("row", STOPPED, ids=lambda row: row.name)
def test_stopped_by_the_whole_contract(row, hold, april):
    assert_stopped(row, hold(row.change(april)))


def assert_stopped(row: Row, findings: tuple[Finding, ...]) -> None:
    stopping = [f for f in findings if f.stops]
    assert (row.rule, row.column) in {(f.rule, f.column) for f in stopping}, stopping
    told = next(f for f in stopping if (f.rule, f.column) == (row.rule, row.column))
    assert not told.crashed
    for said in (row.column or "the batch", row.rule, told.observed, told.allowed):
        assert said in told.message


@pytest.mark.parametrize("row", SEEN_LATER, ids=lambda row: row.name)
def test_let_in_for_the_monitor_to_see(row, hold, april):
    findings = hold(row.change(april))
    assert [f.message for f in findings if f.stops] == []
    warned = {(f.rule, f.column) for f in findings if not f.passed}
    assert warned == ({row.warns} if row.warns else set())


def test_no_check_of_any_mutation_is_lost_in_a_crash(hold, april):
    """A check that raises stops the batch too, but then its message is GX's and not ours."""
    unhashable = april.assign(flight=[[n] for n in april["flight"]])
    crashed = [f for f in hold(unhashable) if f.crashed]
    assert [(f.rule, f.stops) for f in crashed] == [("key", True)]


def test_the_table_has_no_row_twice():
    names = [row.name for row in (*STOPPED, *SEEN_LATER)]
    assert len(set(names)) == len(names)
    assert len(STOPPED) >= 25
