"""The rows of a table against the contract, a column at a time: the same rules as for JSON rows.

Canonical types: timestamp[us], int64, float64, bool, dictionary<int32, string>, binary.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import images
from pipelines.wire import problem
from pipelines.wire.field import FIRST, LAST, TEXT, Field
from pipelines.wire.schema import Shape

if TYPE_CHECKING:
    import pyarrow as pa

Wrong = tuple[Field, np.ndarray, str]
"""Field, (N,) whether its row is wrong, what would be allowed."""


def conform(batch: pa.RecordBatch, shape: Shape) -> pa.Table:
    """The rows in canonical types, columns in the order of `shape.fields`; a key column that was
    not given stays out. Raises Refused naming the rows that the contract does not allow."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {}
    bad: list[Wrong] = []
    given = {name: column for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    for field in shape.fields:
        if field.name not in given:
            continue
        stored = given[field.name]
        columns[field.name], good = _READ[field.column.type](stored, field)
        if stored.null_count:
            good = good | _nulls(stored) if field.nullable else good & ~_nulls(stored)
        if not good.all():
            bad.append((field, ~good, field.allowed))
    for field, other, _ in shape.pairs if not bad else ():
        if field.name in columns and other.name in columns:
            wrong = _exceeding(columns[field.name], columns[other.name])
            if wrong.any():
                bad.append((field, wrong, f"at most {other.name} of the same row"))
    if bad:
        raise _refusal(bad, batch)
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


def feed(column: pa.ChunkedArray, field: Field) -> np.ndarray:
    """(N,) as the graph reads it, of one canonical column; pictures (N, H, W, C)."""
    values = column.chunk(0)
    match field.column.type:
        case "timestamp":
            return _seconds(values)
        case "image":
            assert field.column.size is not None
            assert field.column.mode is not None
            return images.stack(values.to_pylist(), field.column.size, field.column.mode)
        case "category":
            levels = np.array([*values.dictionary.to_pylist(), ""], dtype=object)
            texts: np.ndarray = levels[_indices(values)]
            return texts
    # Through numpy: an Arrow cast takes four times as long. A gap is NaN, as object also None.
    numbers: np.ndarray = values.to_numpy(zero_copy_only=False).astype(np.float32)
    return numbers


# Each reader: a column as it was sent -> the canonical column, and which rows are good; where a
# value is missing it may say either.


def _times(stored: pa.Array, field: Field) -> tuple[pa.Array, np.ndarray]:
    import pyarrow as pa

    if pa.types.is_null(stored.type):
        return pa.nulls(len(stored), pa.timestamp("us")), _none(stored)
    times = stored.to_numpy(zero_copy_only=False)
    # In the unit they came in: seconds of the far future do not fit microseconds.
    good = (times >= np.datetime64(FIRST).astype(times.dtype)) & (
        times <= np.datetime64(LAST).astype(times.dtype)
    )
    if field.hours:
        hour = times.astype("datetime64[h]").astype(np.int64) % 24
        good &= (hour >= field.hours[0]) & (hour <= field.hours[1])
    return pa.array(times.astype("datetime64[us]")), good


def _numbers(stored: pa.Array, field: Field) -> tuple[pa.Array, np.ndarray]:
    read = stored if stored.type == "double" else stored.cast("float64", safe=False)
    values = read.to_numpy(zero_copy_only=False)
    return read, (values >= field.low) & (values <= field.high)


def _integers(stored: pa.Array, field: Field) -> tuple[pa.Array, np.ndarray]:
    import pyarrow as pa

    if pa.types.is_null(stored.type):
        return stored.cast("int64"), _none(stored)
    if pa.types.is_integer(stored.type):
        values = (stored.fill_null(0) if stored.null_count else stored).to_numpy()
        return (
            stored.cast("int64", safe=False),
            (values >= int(field.low)) & (values <= int(field.high)),
        )
    floats = stored.cast("float64").to_numpy(zero_copy_only=False)
    low, high = field.as_floats
    good = (floats >= low) & (floats <= high) & (np.floor(floats) == floats)
    return pa.array(np.where(good, floats, 0).astype(np.int64), mask=_nulls(stored)), good


def _texts(stored: pa.Array, field: Field) -> tuple[pa.Array, np.ndarray]:
    """The levels are looked at, not the rows: few texts, each in many rows."""
    import pyarrow as pa

    coded = stored if pa.types.is_dictionary(stored.type) else stored.dictionary_encode()
    levels = coded.dictionary.to_pylist()
    at = _indices(coded)
    known = field.values and frozenset(field.values)
    good = np.array(
        [
            field.nullable
            if text is None
            else len(text) <= TEXT
            if known is None
            else text in known
            for text in (*levels, None)
        ]
    )[at]
    if coded.type != _coded() or None in levels:
        # A gap may also be written as a level of its own.
        gaps = np.array([text is None for text in (*levels, None)])[at]
        coded = pa.DictionaryArray.from_arrays(
            pa.array(at.astype(np.int32), mask=gaps),
            pa.array([text or "" for text in levels], pa.string()),
        )
    return coded, good


def _booleans(stored: pa.Array, field: Field) -> tuple[pa.Array, np.ndarray]:
    return stored.cast("bool"), ~_nulls(stored)


def _pictures(stored: pa.Array, field: Field) -> tuple[pa.Array, np.ndarray]:
    files = stored.cast("binary")
    good = [file is not None and field.picture(file) is not None for file in files.to_pylist()]
    return files, np.array(good, dtype=bool)


_READ: dict[str, Any] = {
    "timestamp": _times,
    "integer": _integers,
    "number": _numbers,
    "category": _texts,
    "boolean": _booleans,
    "image": _pictures,
}


@cache
def _coded() -> pa.DataType:
    import pyarrow as pa

    return pa.dictionary(pa.int32(), pa.string())


def _indices(coded: pa.DictionaryArray) -> np.ndarray:
    """(N,) position of each row's level, -1 where it is missing."""
    import pyarrow as pa

    at = coded.indices
    if at.null_count:
        at = (at if pa.types.is_int32(at.type) else at.cast("int64", safe=False)).fill_null(-1)
    numbers: np.ndarray = at.to_numpy()
    return numbers


def _nulls(stored: pa.Array) -> np.ndarray:
    missing: np.ndarray = stored.is_null().to_numpy(zero_copy_only=False)
    return missing


def _none(stored: pa.Array) -> np.ndarray:
    return np.zeros(len(stored), dtype=bool)


def _seconds(times: pa.Array) -> np.ndarray:
    seconds: np.ndarray = times.to_numpy(zero_copy_only=False).astype("datetime64[s]")
    return seconds.astype(np.int64)


def _exceeding(values: pa.Array, limits: pa.Array) -> np.ndarray:
    import pyarrow.compute as compute

    wrong: np.ndarray = (
        compute.greater(values, limits).fill_null(False).to_numpy(zero_copy_only=False)
    )
    return wrong


def _refusal(bad: list[Wrong], batch: pa.RecordBatch) -> problem.Refused:
    """The first wrong rows, each with all that is wrong with it."""
    cells = sorted(
        (row, place)
        for place, (_, wrong, _) in enumerate(bad)
        for row in np.flatnonzero(wrong)[: problem.MOST].tolist()
    )
    told = []
    for row, place in cells[: problem.MOST]:
        field, _, allowed = bad[place]
        value = _value(batch.column(field.name)[row])
        told.append(problem.wrong(f"rows[{row}].{field.name}", value, allowed))
    total = sum(int(wrong.sum()) for _, wrong, _ in bad)
    return problem.refused_rows(told, total - len(told))


def _value(cell: pa.Scalar) -> object:
    try:
        value = cell.as_py()
    except (ValueError, OverflowError):  # a time that Python's own clock does not reach
        return "a time out of reach"
    return value.isoformat() if hasattr(value, "isoformat") else value
