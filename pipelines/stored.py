"""How a batch's columns are stored, and which of the contract's types that is."""

from __future__ import annotations

import re

import pandas as pd
from pandas.api import types as kinds

from pipelines.contract import Column, Type

TEXT = ("string", "empty")


def type_of(values: pd.Series) -> Type | None:
    """The contract's type of a column as it is stored; None where there is none for it.

    Integers of any width; times of any resolution, but without a zone; text as objects, as strings
    or as categories, never codes; pictures as bytes. A column of gaps only counts as text, unless
    stored as numbers.
    """
    if kinds.is_datetime64_dtype(values):
        return "timestamp"
    if kinds.is_bool_dtype(values):
        return "boolean"
    if kinds.is_integer_dtype(values):
        return "integer"
    if kinds.is_float_dtype(values):
        return "number"
    categories = isinstance(values.dtype, pd.CategoricalDtype)
    inferred = kinds.infer_dtype(values.cat.categories if categories else values, skipna=True)
    if inferred in TEXT:
        return "category"
    if inferred == "bytes" and not categories:
        return "image"
    return "boolean" if inferred == "boolean" and not categories else None


def fits(values: pd.Series, column: Column) -> bool:
    """Is the column stored as its type may be?

    A number may be stored as integer: a CSV file says 3, not 3.0. An integer may be stored as float
    where gaps are allowed and all that is there is whole: a column with gaps is read as float.
    """
    stored = type_of(values)
    if stored == "boolean" and kinds.is_object_dtype(values):
        return column.type == "boolean" and column.nulls > 0
    if column.type == "number":
        return stored in ("number", "integer")
    if column.type == "integer" and stored == "number" and column.nulls > 0:
        present = values.dropna()
        return bool((present == present.round()).all())
    return stored == column.type


def texts_as_levels(table: pd.DataFrame) -> pd.DataFrame:
    """The same values with text as pandas categories: a check looks at levels and not at rows."""
    table = table.copy(deep=False)
    for name in table.columns:
        if type_of(table[name]) == "category":
            table[name] = table[name].astype("category")
    return table


def times_from_text(values: pd.Series) -> pd.Series:
    """ISO 8601 text as times to the second; anything else as it is.

    A CSV file has no times of its own; a source reads the contract's timestamps the same way.
    """
    if type_of(values) != "category" or values.isna().all():
        return values
    if not re.match(r"\d{4}-\d\d-\d\d", str(values.dropna().iloc[0])):
        return values  # before the slow look at all: 2013 and 150 would read as years
    try:
        times = pd.to_datetime(values, format="ISO8601")
    except (ValueError, TypeError):
        return values  # text that is no time: its type says so to whoever asks
    return values if times.dt.tz is not None else times.astype("datetime64[s]")
