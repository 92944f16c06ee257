"""Names of periods and their arithmetic: pytest tests/test_periods.py"""

from __future__ import annotations

import datetime as dt

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import periods
from pipelines.errors import ParamsError

LENGTHS = st.sampled_from(["hour", "day", "week", "month"])
MOMENTS = st.datetimes(dt.datetime(2001, 1, 1), dt.datetime(2060, 1, 1))


@given(MOMENTS, LENGTHS)
def test_every_moment_lies_in_the_period_that_names_it(moment, length):
    name = moment.strftime(periods.FORMATS[length])
    start, end = periods.start_and_end(name, length)
    assert start <= moment < end


@given(MOMENTS, LENGTHS, st.integers(0, 30))
def test_shifting_there_and_back_comes_home(moment, length, by):
    name = moment.strftime(periods.FORMATS[length])
    there = periods.shift(name, length, by)
    assert periods.shift(there, length, -by) == name
    assert len(periods.between(name, there, length)) == by + 1


@given(MOMENTS, LENGTHS)
def test_names_sort_as_time_does(moment, length):
    name = moment.strftime(periods.FORMATS[length])
    assert name < periods.shift(name, length, 1)


@given(st.lists(MOMENTS, min_size=1, max_size=20), LENGTHS)
def test_rows_get_the_name_of_their_own_period(moments, length):
    times = pd.Series(pd.to_datetime(moments).astype("datetime64[s]"))
    names = periods.period_names(times, length)
    assert list(names) == [t.strftime(periods.FORMATS[length]) for t in times]


@pytest.mark.parametrize(
    ("name", "length"),
    [("2013-4", "month"), ("2013-13", "month"), ("2013-04-31", "day"), ("", "week")],
)
def test_a_name_of_another_shape_is_refused_with_an_example(name, length):
    with pytest.raises(ParamsError, match="is written like 2013"):
        periods.start_and_end(name, length)
