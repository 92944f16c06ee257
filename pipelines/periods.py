"""Names of periods, and the arithmetic of them: `2013-04`, `2013-W14`, `2013-04-01`, `2013-04-01T09`."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

from pipelines.errors import ParamsError

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}
SHAPES = {
    "hour": r"\d{4}-\d\d-\d\dT\d\d",
    "day": r"\d{4}-\d\d-\d\d",
    "week": r"\d{4}-W\d\d",
    "month": r"\d{4}-\d\d",
}


def start_and_end(period: str, length: str) -> tuple[dt.datetime, dt.datetime]:
    """First moment of the period, and first moment of the next."""
    try:
        if not re.fullmatch(SHAPES[length], period):
            raise ValueError(period)
        if length == "week":
            start = dt.datetime.strptime(f"{period}-1", "%G-W%V-%u")
        else:
            start = dt.datetime.strptime(period, FORMATS[length])
    except ValueError:
        example = dt.datetime(2013, 4, 1, 9).strftime(FORMATS[length])
        raise ParamsError(
            f"{period!r} is not a {length}; a {length} is written like {example}. "
            "List the batches with: perennial status"
        ) from None
    if length == "month":
        return start, (start.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
    days = {
        "hour": dt.timedelta(hours=1),
        "day": dt.timedelta(days=1),
        "week": dt.timedelta(days=7),
    }
    return start, start + days[length]


def goes_on(period: str, length: str) -> bool:
    """Is it neither over nor to come, if its names are read as UTC?"""
    start, end = start_and_end(period, length)
    return start <= utc() < end


def utc() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def shift(period: str, length: str, by: int) -> str:
    """The period `by` steps later (earlier when negative).

    >>> shift("2013-01", "month", -1)
    '2012-12'
    """
    for _ in range(abs(by)):
        start, end = start_and_end(period, length)
        moment = end if by > 0 else start - dt.timedelta(seconds=1)
        period = moment.strftime(FORMATS[length])
    return period


def between(first: str, last: str, length: str) -> tuple[str, ...]:
    """Every period from first to last, both included."""
    names = [first]
    start_and_end(last, length)
    while names[-1] < last:
        names.append(shift(names[-1], length, 1))
    return tuple(names)


def period_names(times: pd.Series, length: str) -> pd.Series:
    """The period each time lies in; computed once a distinct day or hour, not once a row."""
    unit = "h" if length == "hour" else "D"
    floors = times.dt.floor(unit)
    names = {moment: moment.strftime(FORMATS[length]) for moment in floors.dropna().unique()}
    found: pd.Series = floors.map(names)
    return found
