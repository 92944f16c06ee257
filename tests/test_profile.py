"""The picture of the training rows, and what counts as moved. Run: pytest tests/test_profile.py"""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from pipelines import contract, images
from pipelines.drift import blocks, profile, shift
from pipelines.params import Monitor
from pipelines.sources import dealing
from pipelines.sources.flights import Flights
from pipelines.tasks import image, tabular
from tests.conftest import REPOSITORY

SHOP = contract.parse(
    """
task: shop
time: ordered_at
key: [order]
label: returned
columns:
  ordered_at: {type: timestamp}
  order: {type: integer, feature: false}
  country: {type: category}
  price: {type: number}
  weight: {type: number, nulls: 1}
  discount: {type: number}
  returned: {type: integer, min: 0, max: 1}
"""
)
SETTINGS = Monitor()
WINDOW, BATCH = 60, 20
"""Days of training rows and of a batch."""
CLOCK = "ordered_at (time of day)"
NUMBERS = ["price", "weight", "discount"]


def orders(
    days: int, start: str = "2024-01-01", seed: int = 0, day_sd: float = 0.0
) -> pd.DataFrame:
    """60 orders a day; `day_sd` gives each day a price level of its own."""
    random = np.random.default_rng(seed)
    n = days * 60
    day = np.arange(n) // 60
    price = random.normal(50, 10, n) + random.normal(0, 10 * day_sd, days)[day]
    return pd.DataFrame(
        {
            "ordered_at": pd.date_range(start, periods=n, freq="24min").astype("datetime64[s]"),
            "order": np.arange(n),
            "country": random.choice(["DE", "FR", "NL"], n, p=[0.5, 0.3, 0.2]),
            "price": price,
            "weight": np.where(random.random(n) < 0.05, np.nan, random.normal(2, 0.5, n)),
            "discount": random.normal(size=n),
            "returned": random.integers(0, 2, n),
        }
    )


def batch(seed: int = 1, **changed: object) -> pd.DataFrame:
    return orders(BATCH, "2024-03-01", seed).assign(**changed)


@pytest.fixture(scope="module")
def known() -> profile.Profile:
    return profile.make(tabular.watched(orders(WINDOW), SHOP, None), seed=7)


def in_working_hours(times: pd.Series) -> pd.Series:
    day = times.dt.floor("D")
    return day + pd.Timedelta("10h") + (times - day) / 3


def moved(known: profile.Profile, table: pd.DataFrame) -> set[str]:
    return {c.column for c in shift.columns(known, table, SETTINGS, 7) if c.drifted}


def test_the_same_rows_and_seed_give_the_same_bytes_and_come_back(tmp_path, known):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        profile.write(
            profile.make(tabular.watched(orders(WINDOW), SHOP, None), seed=7), tmp_path / name
        )
    for file in ("reference.json", "reference.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    back = profile.read(tmp_path / "one")
    assert back.summary == known.summary
    # Parquet keeps milliseconds where there were seconds.
    pd.testing.assert_frame_equal(back.sample, known.sample, check_dtype=False)


def test_the_label_and_the_key_are_no_part_of_the_picture(known):
    assert "returned" not in known.sample
    assert "order" not in known.sample
    assert set(known.summary.numbers) == {CLOCK, "price", "weight", "discount"}


def test_what_was_read_back_finds_what_the_first_found(tmp_path, known):
    profile.write(known, tmp_path)
    table = batch(price=batch()["price"] + 5)
    again = profile.read(tmp_path)
    assert shift.columns(known, table, SETTINGS, 7) == shift.columns(again, table, SETTINGS, 7)
    assert shift.joint(known, table, SETTINGS, 7) == shift.joint(again, table, SETTINGS, 7)


BREAKS = {
    "a third of a deviation up": ({"price": lambda t: t["price"] + 3.5}, {"price"}),
    "another unit": ({"price": lambda t: t["price"] * 100}, {"price"}),
    "twice as spread": ({"discount": lambda t: t["discount"] * 2}, {"discount"}),
    "stuck at one value": ({"discount": 0.1}, {"discount"}),
    "a fifth from elsewhere": (
        {"country": lambda t: t["country"].where(t["order"] % 5 > 0, "PL")},
        {"country"},
    ),
    "one country takes another's": ({"country": lambda t: t["country"].replace("FR", "NL")}, {"country"}),
    "one country only": ({"country": "DE"}, {"country"}),
    "a third more missing": (
        {"weight": lambda t: t["weight"].where(t["order"] % 3 > 0)},
        {"weight (missing)"},
    ),
    "all missing": ({"weight": np.nan}, {"weight (missing)"}),
    "countries missing": (
        {"country": lambda t: t["country"].where(t["order"] % 4 > 0)},
        {"country (missing)"},
    ),
    "ten to six only": ({"ordered_at": lambda t: in_working_hours(t["ordered_at"])}, {CLOCK}),
    "two columns swapped": (
        {"price": lambda t: t["discount"], "discount": lambda t: t["price"]},
        {"price", "discount"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_what_was_broken_is_found_and_nothing_else(known, name):
    changes, expected = BREAKS[name]
    table = batch()
    assert moved(known, table) == set()
    made = {c: change(table) if callable(change) else change for c, change in changes.items()}
    assert moved(known, table.assign(**made)) == expected


def test_batches_that_did_not_move_raise_nothing(known):
    found = [moved(known, batch(seed)) for seed in range(20, 40)]
    assert sum(map(bool, found)) <= 1


def test_days_with_a_level_of_their_own_are_not_taken_for_drift():
    """The same draws of days: a test that shuffles rows alarms, one that shuffles days does not."""
    by_day, by_row = 0, 0
    for seed in range(10):
        known = profile.make(
            tabular.watched(orders(WINDOW, seed=seed, day_sd=1), SHOP, None), seed=7
        )
        table = orders(BATCH, "2024-03-01", 100 + seed, day_sd=1)
        assert moved(known, table) == set()
        days = shift.p_values(known.sample, table, known.summary, 7)["price"]
        at_once = table.assign(ordered_at=table["ordered_at"].iloc[0])
        rows = shift.p_values(known.sample, at_once, known.summary, 7)["price"]
        by_day += days <= 0.01
        by_row += rows <= 0.01
    assert by_day <= 1
    assert by_row >= 5


def test_a_distance_that_chance_explains_is_no_drift_even_without_history():
    """A window hardly longer than the batch has no stretches: only the p-value is left."""
    far = 0
    for seed in range(10):
        known = profile.make(tabular.watched(orders(25, seed=seed, day_sd=2), SHOP, None), seed=7)
        table = orders(BATCH, "2024-03-01", 100 + seed, day_sd=2)
        far += any(c.effect >= c.floor for c in shift.columns(known, table, SETTINGS, 7))
        assert moved(known, table) == set()
    assert far >= 5


def test_a_season_that_the_window_has_seen_is_no_news():
    window = orders(WINDOW)
    season = np.where(np.arange(len(window)) % (40 * 60) < 20 * 60, 0, 15)
    known = profile.make(
        tabular.watched(window.assign(price=window["price"] + season), SHOP, None), seed=7
    )
    table = batch()
    for level in (0, 15):
        assert moved(known, table.assign(price=table["price"] + level)) == set()
    assert moved(known, table.assign(price=table["price"] + 40)) == {"price"}


def test_columns_that_only_move_together_are_seen_by_the_classifier(known):
    table = batch()
    tied = table.assign(discount=(table["price"] - 50) / 10)
    assert moved(known, tied) == set()
    assert shift.joint(known, tied, SETTINGS, 7).drifted
    alike = shift.joint(known, table, SETTINGS, 7)
    assert not alike.drifted
    assert alike.auc < 0.6


def test_a_short_batch_with_many_rows_a_day_is_still_judged(known):
    """Seven blocks of 700 rows against sixty of 60: no single block may outweigh the others."""
    n = 7 * 700
    dense = orders(82, "2024-03-01", seed=5).head(n)
    dense = dense.assign(ordered_at=pd.date_range("2024-03-01", "2024-03-08", periods=n + 1)[:n])
    assert moved(known, dense) == set()
    assert moved(known, dense.assign(weight=np.nan)) == {"weight (missing)"}
    assert moved(known, dense.assign(price=dense["price"] + 3.5)) == {"price"}


def test_the_classifier_is_not_asked_about_days_that_it_knows():
    """Days that each have a level of their own are recognised, unless whole days are held out."""
    window = orders(WINDOW).assign(price=lambda t: fingerprint(t, 1))
    table = batch().assign(price=lambda t: fingerprint(t, 2))
    known = profile.make(tabular.watched(window, SHOP, None), seed=7)
    assert shift.joint(known, table, SETTINGS, 7).auc < 0.65


def fingerprint(table: pd.DataFrame, seed: int) -> np.ndarray:
    level = np.random.default_rng(seed).normal(50, 10, len(table) // 60)
    return np.repeat(level, 60) + np.random.default_rng(seed + 9).normal(0, 0.1, len(table))


ODD = {
    "three rows": lambda t: t.head(3),
    "all at one moment": lambda t: t.assign(ordered_at=t["ordered_at"].iloc[0]),
    "one column empty": lambda t: t.assign(price=np.nan),
    "all columns empty": lambda t: t.assign(**dict.fromkeys(NUMBERS, np.nan), country=None),
    "infinities": lambda t: t.assign(price=np.where(t["order"] % 7 > 0, t["price"], np.inf)),
    "nullable types": lambda t: t.convert_dtypes(),
    "arrow types": lambda t: t.astype({n: "double[pyarrow]" for n in NUMBERS}),
    "categorical": lambda t: t.assign(country=t["country"].astype("category")),
    "a thousand countries": lambda t: t.assign(country=[f"C{i % 1000}" for i in range(len(t))]),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_batches_are_answered_in_finite_numbers(known, name):
    table = ODD[name](batch())
    found = shift.columns(known, table, SETTINGS, 7)
    told = [c.model_dump() for c in found]
    json.dumps(told, allow_nan=False)
    assert all(0 < c.p_value <= 1 and c.effect >= 0 for c in found)
    assert 0 <= shift.joint(known, table, SETTINGS, 7).auc <= 1


def test_a_constant_and_an_empty_training_column_do_not_divide_by_zero():
    window = orders(WINDOW).assign(price=5.0, weight=np.nan)
    known = profile.make(tabular.watched(window, SHOP, None), seed=7)
    same = batch(price=5.0, weight=np.nan)
    assert moved(known, same) == set()
    assert moved(known, same.assign(price=5.1)) == {"price"}
    assert moved(known, same.assign(weight=1.0)) == {"weight (missing)"}


@pytest.mark.parametrize("rows", [35, 42])
def test_times_of_day_that_a_source_made_up_are_no_news(rows):
    """A week of 35 pictures has five times of day; the weeks before had hundreds."""
    digits = contract.load(REPOSITORY / "contracts/digits.yaml")

    def week(number: int, rows: int) -> pd.DataFrame:
        pixels = np.random.default_rng(number).integers(0, 256, (rows, 8, 8, 1), dtype=np.uint8)
        times = dealing.spread(rows, f"2024-W{number:02}", "week")
        return pd.DataFrame({"image": [images.png(p) for p in pixels], digits.time: times})

    before = pd.concat([week(1, 120), week(2, 118), week(3, 125)], ignore_index=True)
    known = profile.make(image.watched(before, digits, None), seed=7)
    batch = image.watched(week(4, rows), digits, None).table
    assert moved(known, batch) == set()
    assert not shift.joint(known, batch, SETTINGS, 7).drifted


@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
@effort(max_examples=15, deadline=None)
def test_distances_do_not_depend_on_the_unit(scale, offset):
    one, other = orders(4), orders(4, seed=3)

    def apart(change):
        names = ("price",), ("country",)
        tables = (t.assign(price=change(t["price"])) for t in (one, other))
        return shift.distances(*(profile.summarise(t, "ordered_at", *names) for t in tables))

    plain, turned = apart(lambda v: v), apart(lambda v: v * scale + offset * scale)
    assert turned["price"] == pytest.approx(plain["price"], rel=1e-6)


@given(st.integers(0, 10_000))
@effort(max_examples=25, deadline=None)
def test_a_block_of_time_is_never_on_both_sides_of_a_fold(seed):
    random = np.random.default_rng(seed)
    block, group = random.integers(0, 30, 400), random.integers(0, 2, 400)
    fold = blocks.folds(block, group, seed)
    assert all(len(set(fold[block == b])) == 1 for b in np.unique(block))
    assert set(fold) <= set(range(blocks.FOLDS))


def test_blocks_are_as_long_as_the_batch_allows():
    month, day, hour = (
        np.arange(0, n, step) for n, step in ((30 * 86400, 600), (86400, 60), (3600, 7))
    )
    for times, blocks_expected in ((month, 30), (day, 24), (hour, 60)):
        assert len(np.unique(blocks.of(times, times, 7)[1])) == blocks_expected


def test_p_values_keep_their_promise_over_all_columns():
    """Of 200 draws where nothing moved, about one in ten has a column with p <= .1."""
    hits = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        block = np.arange(2000) // 50
        counts = {
            str(i): blocks.count_numbers(random.normal(size=2000), block, 40, 7) for i in range(5)
        }
        found = blocks.p_values(counts, np.arange(40) >= 30, seed)
        hits += min(found.values()) <= 0.1
    assert 10 <= hits <= 32  # 20 expected; 99.5 % of such draws lie in here


def test_a_window_with_many_more_rows_a_day_keeps_the_promise_too():
    """Its days are less noisy than the batch's, which must not make the batch's stand out."""
    hits = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        tables = []
        for start, days, rows in (("2024-01-01", 60, 250), ("2024-03-01", 20, 25)):
            seconds = np.sort(random.integers(0, days * 86_400, days * rows))
            times = pd.Timestamp(start) + pd.to_timedelta(seconds, unit="s")
            values = random.normal(size=(2, days * rows))
            tables.append(
                pd.DataFrame({"ordered_at": times, "price": values[0], "discount": values[1]})
            )
        summary = profile.summarise(tables[0], "ordered_at", ("price", "discount"), ())
        found = shift.p_values(tables[0], tables[1], summary, seed)
        hits += min(found.values()) <= 0.1
    assert hits <= 13  # 6 expected; 99.5 % of such draws lie below


def test_the_halves_of_one_real_month_are_alike_and_a_moved_column_is_found():
    flights = contract.load(REPOSITORY / "contracts/flights.yaml")
    month = Flights().read("2013-04")
    half = np.random.default_rng(7).random(len(month)) < 0.5
    known = profile.make(tabular.watched(month[half], flights, None), seed=7)
    rest = month[~half]
    assert moved(known, rest) == set()
    assert not shift.joint(known, rest, SETTINGS, 7).drifted
    further = rest.assign(distance=rest["distance"] + 0.25 * known.summary.numbers["distance"].sd)
    assert moved(known, further) == {"distance"}
