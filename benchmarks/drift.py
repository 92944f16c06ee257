"""How often does the monitor cry wolf, and what does it see? `make bench-drift`

On the real flights. "Days in random order" is the null: the days of January to March are dealt to
new dates, the first 60 are the training rows, the last 30 the batch, so nothing moved and yet each
day keeps its own weather. Evidently's default rules see the same rows.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

# Before NumPy: two workers with a pool of threads each are slower than two without.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from benchmarks.figures import Figure, close
from pipelines import contract, params, periods
from pipelines.drift import blocks, performance, profile, shift
from pipelines.paths import Paths, project_root
from pipelines.sources.flights import Flights
from pipelines.tasks import tabular

AT = Paths(project_root(), "flights")
CONTRACT = contract.load(AT.contract)
SETTINGS = params.task(AT.root / "params.yaml", "flights").monitor
TIME = CONTRACT.time
STEADY = ("scheduled_arrival", "distance", "aircraft_year", "aircraft_seats")
"""Numbers whose days are alike; the weather's are not."""
WEATHER = ("temperature", "wind_speed", "pressure")
SIZES = {STEADY: (0.1, 0.25), WEATHER: (0.25, 0.5, 1.0)}
"""Standard deviations of the training rows."""
NULLS, POWERS, JUDGED = 160, 40, 60
"""Draws of the null, of injected shifts, and of champions."""


@functools.cache
def quarter() -> pd.DataFrame:
    months = [Flights().read(f"2013-{m:02d}") for m in (1, 2, 3)]
    return pd.concat(months, ignore_index=True)


def days_in_random_order(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(60 days, 30 days) of the quarter."""
    table, random = quarter(), np.random.default_rng(seed)
    day = table[TIME].dt.floor("D")
    days = np.sort(day.unique())
    dealt = dict(zip(days, random.permutation(days), strict=True))
    table = table.assign(**{TIME: table[TIME] - day + day.map(dealt)}).sort_values(TIME)
    start = table[TIME].min().floor("D") + pd.Timedelta(days=60)
    return table[table[TIME] < start], table[table[TIME] >= start]


def rows_in_halves(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every row of the quarter on one side or the other, by chance."""
    first = np.random.default_rng(seed).random(len(quarter())) < 0.5
    return quarter()[first], quarter()[~first]


def rules(reference: pd.DataFrame, batch: pd.DataFrame, seed: int) -> dict[str, bool]:
    """Who would raise an alarm."""
    known = profile.make(tabular.watched(reference, CONTRACT, None), seed)
    columns = shift.columns(known, batch, SETTINGS, seed)
    joint = shift.joint(known, batch, SETTINGS, seed)
    current = profile.draw(batch, TIME, SETTINGS.sample, seed)
    by_row = shuffled_rows(known, current, seed)
    moved = sum(c.drifted for c in columns) >= SETTINGS.drifted_columns
    effect = {c.column: c.effect >= SETTINGS.effect for c in columns}
    return {
        "ours: columns": moved,
        "ours: joint": joint.drifted,
        "ours: columns or joint": moved or joint.drifted,
        "blocks shuffled, p only": any(c.p_value <= SETTINGS.p_value for c in columns),
        "rows shuffled, p only": any(p <= SETTINGS.p_value for p in by_row.values()),
        "rows shuffled, p and effect": any(
            p <= SETTINGS.p_value and effect.get(name, False) for name, p in by_row.items()
        ),
        **evidently_defaults(known.sample, current),
    }


def shuffled_rows(known: profile.Profile, current: pd.DataFrame, seed: int) -> dict[str, float]:
    """p-values of the same test when rows, not days, are taken for independent."""
    spread = blocks.of
    try:
        blocks.of = lambda one, other, seed: spread(one * 0, other * 0, seed)
        return shift.p_values(known.sample, current, known.summary, seed)
    finally:
        blocks.of = spread


def evidently_defaults(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, bool]:
    """Its rule for more than 1000 reference rows, by its own code for each column."""
    from evidently.legacy.calculations.stattests import (
        jensenshannon_stat_test,
        wasserstein_stat_test,
    )
    from evidently.legacy.core import ColumnType

    drifted = []
    for names, test, kind in (
        (CONTRACT.numbers, wasserstein_stat_test, ColumnType.Numerical),
        (CONTRACT.categories, jensenshannon_stat_test, ColumnType.Categorical),
    ):
        for name in names:
            before, now = reference[name].dropna(), current[name].dropna()
            drifted.append(test.func(before, now, kind, 0.1)[1])
    return {
        "Evidently: any column": any(drifted),
        "Evidently: half of the columns": float(np.mean(drifted)) >= 0.5,
    }


def null_by_days(seed: int) -> dict[str, bool]:
    return rules(*days_in_random_order(seed), seed)


def null_by_rows(seed: int) -> dict[str, bool]:
    return rules(*rows_in_halves(seed), seed)


def as_it_was(length: str, batches: int, at: int) -> dict[str, bool]:
    """A batch of 2013 against the batches before it: nothing injected, but time has passed."""
    names = ALL_PERIODS[length]
    table, label = year(), year_periods(length)
    before = names[max(0, at - batches) : at]
    return rules(table[label.isin(before)], table[label == names[at]], at)


@functools.cache
def year() -> pd.DataFrame:
    return pd.concat([Flights().read(p) for p in Flights().periods()], ignore_index=True)


@functools.cache
def year_periods(length: str) -> pd.Series:
    return periods.period_names(year()[TIME], length)


ALL_PERIODS = {
    "month": periods.between("2013-01", "2013-12", "month"),
    "week": periods.between("2013-W01", "2013-W52", "week"),
}


def injected(seed: int) -> dict[str, bool]:
    """Was the column that was moved found, and nothing else asked."""
    reference, batch = days_in_random_order(seed)
    known = profile.make(tabular.watched(reference, CONTRACT, None), seed)
    batch = batch.sample(SETTINGS.sample, random_state=seed)
    random = np.random.default_rng(seed)

    def found(column: str, changed: pd.Series | np.ndarray, name: str | None = None) -> bool:
        columns = shift.columns(known, batch.assign(**{column: changed}), SETTINGS, seed)
        return any(c.drifted for c in columns if c.column == (name or column))

    told = {}
    for columns, sizes in SIZES.items():
        for column, size in itertools.product(columns, sizes):
            moved = batch[column] + size * known.summary.numbers[column].sd
            told[f"{column} +{size} sd"] = found(column, moved)
    for share in (0.1, 0.2):
        hit = random.random(len(batch)) < share
        told[f"carrier, {share:.0%}"] = found("carrier", batch["carrier"].where(~hit, "US"))
        told[f"year gone, {share:.0%}"] = found(
            "aircraft_year", batch["aircraft_year"].where(~hit), "aircraft_year (missing)"
        )
    shuffled = batch.assign(dew_point=random.permutation(batch["dew_point"]))
    told["dew_point shuffled: columns"] = found("dew_point", shuffled["dew_point"])
    told["dew_point shuffled: joint"] = shift.joint(known, shuffled, SETTINGS, seed).drifted
    return told


def judged(seed: int) -> dict[str, bool]:
    """A champion of 60 days on 30 others: as they were, and with what it learned made wrong."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    reference, batch = days_in_random_order(seed)
    train = reference.sample(15_000, random_state=seed)
    numbers = (profile.clock(TIME), *CONTRACT.numbers)
    both = profile.encoded(pd.concat([train, batch]), TIME, numbers, CONTRACT.categories)
    model = HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=seed)
    model.fit(both[: len(train)], train["late"])
    answers = batch.assign(probability=model.predict_proba(both[len(train) :])[:, 1])
    label, hour = batch["late"].to_numpy(), batch[TIME].dt.hour.to_numpy()
    random = np.random.default_rng(seed)
    expected = 0.7

    def degraded(labels: np.ndarray) -> bool:
        found = performance.judge(
            "null", answers.assign(label=labels), CONTRACT, expected, SETTINGS, seed
        )
        assert found is not None
        return found.degraded

    return {
        "as they were": degraded(label),
        "a fifth of the labels at random": degraded(
            np.where(random.random(len(label)) < 0.2, random.permutation(label), label)
        ),
        "turned round from 3 to 7 in the afternoon": degraded(
            np.where((hour >= 15) & (hour < 19), 1 - label, label)
        ),
    }


def wilson(hits: int, n: int) -> list[float]:
    """Rate, its 95 % interval (Wilson 1927), and the number of draws."""
    z, p = 1.96, hits / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    middle, whole = p + z * z / (2 * n), 1 + z * z / n
    return [abs(round(v, 4)) for v in (p, (middle - half) / whole, (middle + half) / whole, n)]


EXPERIMENTS: dict[str, tuple[Callable[[int], dict[str, bool]], Iterable[int]]] = {
    "days in random order": (null_by_days, range(NULLS)),
    "rows in random halves": (null_by_rows, range(50)),
    "each month against all before": (functools.partial(as_it_was, "month", 12), range(3, 12)),
    "each week against eight before": (functools.partial(as_it_was, "week", 8), range(8, 52)),
    "one column moved, 5,000 rows": (injected, range(POWERS)),
    "labels of 30 days": (judged, range(JUDGED)),
}


def main() -> None:
    began = time.perf_counter()
    told: dict[str, dict[str, list[float]]] = {}
    with ProcessPoolExecutor(2) as pool:
        for title, (draw, seeds) in EXPERIMENTS.items():
            drawn = list(pool.map(draw, seeds))
            told[title] = {n: wilson(sum(d[n] for d in drawn), len(drawn)) for n in drawn[0]}
            print(f"\n{title} ({len(drawn)} draws, {time.perf_counter() - began:.0f} s)")
            for name, (rate, low, high, _) in told[title].items():
                print(f"  {name:<46}{rate:>7.3f}  ({low:.3f} to {high:.3f})", flush=True)
    print()
    days, halves, power, labels = (
        {name: rate for name, (rate, *_) in told[title].items()}
        for title in EXPERIMENTS
        if not title.startswith("each")
    )
    worst = min(power[f"{column} +0.25 sd"] for column in STEADY)
    both, turned = "ours: columns or joint", "turned round from 3 to 7 in the afternoon"
    close(
        "drift_rates",
        [
            Figure("false alarms by days, columns at 1 %", days["ours: columns"], 0.02, "at most"),
            Figure("false alarms by days, columns or joint", days[both], 0.02, "at most"),
            Figure("false alarms by rows, columns or joint", halves[both], 0.02, "at most"),
            Figure("false alarms of performance", labels["as they were"], 0.05, "at most"),
            Figure("power, .25 sd in a steady column (worst)", worst, 0.95, "at least"),
            Figure("power, 20 % of rows to one carrier", power["carrier, 20%"], 0.95, "at least"),
            Figure("power, 20 % more missing", power["year gone, 20%"], 0.95, "at least"),
            Figure("power, labels turned in four hours", labels[turned], 0.95, "at least"),
        ],
        told,
    )  # fmt: skip


if __name__ == "__main__":
    main()
