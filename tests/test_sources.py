"""Batches as their sources give them: pytest tests/test_sources.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines import contract
from pipelines.errors import SourceError
from pipelines.sources.files import Files
from pipelines.sources.flights import Flights, assigned_aircraft, late
from tests.conftest import shop

REPOSITORY = Path(__file__).parent.parent
LEAKS = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "time_hour"}


@pytest.fixture(scope="module")
def year() -> pd.DataFrame:
    source = Flights()
    return pd.concat([source.read(p) for p in source.periods()], ignore_index=True)


def test_the_year_is_whole_and_in_order(year):
    assert len(year) == 336_776
    assert year["scheduled_departure"].is_monotonic_increasing
    assert not year.duplicated(["scheduled_departure", "carrier", "flight", "origin"]).any()


def test_batches_have_the_contracts_columns_in_order(year):
    known = contract.load(REPOSITORY / "contracts" / "flights.yaml")
    assert list(year.columns) == list(known.columns)


def test_nothing_known_only_after_departure_enters_a_batch(year):
    assert not LEAKS & set(year.columns)


def test_the_late_rate_is_that_of_the_published_table(year):
    monthly = year.groupby(year["scheduled_departure"].dt.month)["late"].mean()
    assert monthly.round(2).loc[[9, 12]].tolist() == [0.15, 0.36]


def test_no_gap_in_a_column_tells_the_label(year):
    """Tail numbers are missing only for cancelled flights; left so, the gap would be the label."""
    for column in year.columns.drop("late"):
        gaps = year[year[column].isna()].groupby("carrier")["late"].agg(["mean", "size"])
        assert gaps[gaps["size"] > 30]["mean"].max() < 0.75 or gaps.empty, column


def test_a_missing_aircraft_is_the_last_one_seen_on_that_flight():
    flights = pd.DataFrame(
        {
            "year": 2013, "month": 1, "day": [1, 2, 3, 4], "sched_dep_time": 900,
            "carrier": "UA", "flight": [1, 1, 2, 1], "origin": "EWR", "dest": "IAH",
            "tailnum": ["N1", None, "N2", None],
        }
    )  # fmt: skip
    assert assigned_aircraft(flights).tolist() == ["N1", "N1", "N2", "N1"]


def test_the_first_flight_of_a_carrier_without_aircraft_stays_unknown():
    flights = pd.DataFrame(
        {
            "year": 2013, "month": 1, "day": [1, 2], "sched_dep_time": 900, "carrier": "UA",
            "flight": 1, "origin": "EWR", "dest": "IAH", "tailnum": [None, "N1"],
        }
    )  # fmt: skip
    assert assigned_aircraft(flights).tolist() == [None, "N1"]


def test_late_means_fifteen_minutes_or_never_arrived():
    assert late(pd.Series([14.0, 15.0, -3.0, np.nan])).tolist() == [0, 1, 0, 1]


SHOP = """
task: shop
time: ordered_at
key: [order]
label: returned
columns:
  ordered_at: {type: timestamp}
  order: {type: integer, feature: false}
  country: {type: category}
  price: {type: number}
  weight: {type: number, nulls: 0.2}
  returned: {type: integer}
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV", ".Parquet"])
def test_files_are_cut_into_periods_whatever_file_they_lie_in(tmp_path, suffix):
    table = shop(days=40)
    parts = [table.iloc[::2], table.iloc[1::2]]
    for number, part in enumerate(parts):
        path = tmp_path / f"part{number}{suffix}"
        text = suffix.lower() == ".csv"
        part.to_csv(path, index=False) if text else part.to_parquet(path, index=False)
    source = Files(tmp_path.parent, tmp_path.name, contract.parse(SHOP), "week")
    assert source.periods()[:2] == ("2024-W01", "2024-W02")
    rows = pd.concat([source.read(p) for p in source.periods()], ignore_index=True)
    pd.testing.assert_frame_equal(rows, table, check_dtype=False)


def test_an_empty_folder_says_which_setting_names_it(tmp_path):
    with pytest.raises(SourceError, match=r"no \.csv or \.parquet.*source\.path"):
        Files(tmp_path, "inbox", contract.parse(SHOP), "week").periods()


def test_a_file_without_the_time_column_is_named_with_its_columns(tmp_path):
    shop(days=2).drop(columns="ordered_at").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(SourceError, match=r"a\.csv has no column 'ordered_at'.*price"):
        Files(tmp_path, "*.csv", contract.parse(SHOP), "week").periods()


def test_a_time_that_is_none_is_named_with_file_and_column(tmp_path):
    shop(days=2).astype({"ordered_at": object}).assign(ordered_at="soon").to_csv(tmp_path / "a.csv")
    with pytest.raises(SourceError, match=r"a\.csv, column 'ordered_at'.*ISO 8601"):
        Files(tmp_path, "*.csv", contract.parse(SHOP), "week").periods()


def test_a_row_without_a_time_is_told_and_not_dropped(tmp_path):
    table = shop(days=2)
    table.loc[[5, 9], "ordered_at"] = pd.NaT
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(
        SourceError, match=r"a\.csv has 2 rows without ordered_at.* row 5, .*ingest"
    ):
        Files(tmp_path, "*.csv", contract.parse(SHOP), "week").periods()


def test_a_column_that_the_newest_file_lacks_is_missed_and_not_filled(tmp_path):
    table = shop(days=14)
    table.iloc[: len(table) // 2].to_csv(tmp_path / "a.csv", index=False)
    table.iloc[len(table) // 2 :].drop(columns="weight").to_csv(tmp_path / "b.csv", index=False)
    source = Files(tmp_path, "*.csv", contract.parse(SHOP), "month")
    assert "weight" in source.read("2024-01").columns
    weekly = Files(tmp_path, "b.csv", contract.parse(SHOP), "week")
    assert "weight" not in weekly.read("2024-W02").columns
    both = Files(tmp_path, "*.csv", contract.parse(SHOP), "day")
    assert "weight" in both.read("2024-01-02").columns
    assert "weight" not in both.read("2024-01-13").columns


def test_a_category_that_a_csv_spells_in_numbers_is_text(tmp_path):
    shop(days=2).assign(country=[None, *[49] * 119]).to_csv(tmp_path / "a.csv", index=False)
    rows = Files(tmp_path, "*.csv", contract.parse(SHOP), "week").read("2024-W01")
    assert rows["country"].tolist() == [None, *["49"] * 119]


def test_a_category_of_a_csv_is_what_the_service_takes_and_no_guess_of_its_file(tmp_path):
    """A leading zero, a country called NA and the word True would be lost, in some files only."""
    spelled = ["02134", "NA", "True", "1.50", "null", None]
    one = shop(days=2).head(6).assign(country=spelled)
    one.to_csv(tmp_path / "a.csv", index=False)
    for row in range(5):
        one.iloc[[row]].to_csv(tmp_path / f"b{row}.csv", index=False)
    agreed = contract.parse(SHOP)
    assert Files(tmp_path, "a.csv", agreed, "week").read("2024-W01")["country"].tolist() == spelled
    alone = [
        Files(tmp_path, f"b{row}.csv", agreed, "week").read("2024-W01")["country"].tolist()
        for row in range(5)
    ]
    assert alone == [[text] for text in spelled[:5]]


def test_a_key_and_a_slice_that_no_model_sees_stay_what_the_csv_says(tmp_path):
    """Answers are given under the key that the service was sent, and labels are joined by it."""
    agreed = contract.parse(
        SHOP.replace("order: {type: integer", "order: {type: category").replace(
            "country: {type: category}", "country: {type: category, feature: false}"
        )
    )
    spelled = ["00017", "00018", "NA"]
    table = shop(days=2).head(3).assign(order=spelled, country=["049", "True", None])
    table.to_csv(tmp_path / "a.csv", index=False)
    rows = Files(tmp_path, "a.csv", agreed, "week").read("2024-W01")
    assert rows["order"].tolist() == spelled
    assert rows["country"].tolist() == ["049", "True", None]


def test_classes_that_a_csv_spells_in_numbers_are_text_as_before(tmp_path):
    agreed = contract.parse(
        SHOP.replace("returned: {type: integer}", "returned: {type: category, values: ['0', '1']}")
    )
    shop(days=2).assign(returned=[1.0, 0.0] * 60).to_csv(tmp_path / "a.csv", index=False)
    rows = Files(tmp_path, "a.csv", agreed, "week").read("2024-W01")
    assert set(rows["returned"]) == {"0", "1"}
