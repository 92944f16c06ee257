"""Request bodies -> the rows as they were asked, in Arrow columns of the contract's types.

Reading is lenient where the service was strict: what is in the journal was answered, and no answer
is left out because its body reads differently under today's contract. Such a value is null.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import astuple

from pipelines import store
from pipelines.contract import Contract
from pipelines.journal import Asked

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

JSON = "json"
OWN = (
    "id",
    "version",
    "route",
    "at",
    "latency_ms",
    "threshold",
    "probability",
    "prediction",
    "row",
)
"""The answer's own columns, in the log's order."""


Cells = tuple[Any, ...]


@functools.lru_cache(maxsize=8)
def _reader(names: tuple[str, ...]) -> Callable[[bytes], list[Cells]]:
    """Body -> each row's values under these names, None where there is none.

    A type of its own reads in half the time of a dict; one cannot be made of names that JSON must
    escape.
    """
    fields = [(f"f{i}", Any, None) for i in range(len(names))]
    try:
        row = msgspec.defstruct(
            "Row", fields, rename=dict(zip((f[0] for f in fields), names, strict=True)), gc=False
        )
    except ValueError:
        by_name: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct("Body", [("rows", list[dict[str, Any]])])
        )
        return lambda body: [
            tuple(one.get(name) for name in names) for one in by_name.decode(body).rows
        ]
    body: Any = msgspec.defstruct("Body", [("rows", list[row])])  # type: ignore[valid-type]
    typed: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)
    return lambda body: [astuple(one) for one in typed.decode(body).rows]


def asked_columns(contract: Contract) -> tuple[str, ...]:
    """The inputs, and the keys that are none."""
    return tuple(dict.fromkeys((*contract.inputs, *contract.key)))


def stored(name: str) -> str:
    """A contract's column in the log: it gives way where an answer's own column has its name.

    >>> stored("at"), stored("carrier")
    ('asked_at', 'carrier')
    """
    return f"asked_{name}" if name in OWN else name


def schema(contract: Contract, *, hashed: bool) -> pa.Schema:
    """hashed: personal columns as hashes, else as their values."""
    import pyarrow as pa

    kinds = {
        "timestamp": pa.timestamp("us"),
        "integer": pa.int64(),
        "number": pa.float64(),
        "category": pa.string(),
        "boolean": pa.bool_(),
        "image": pa.binary(),
    }
    return pa.schema(
        [
            (stored(name), pa.uint64() if hashed and column.personal else kinds[column.type])
            for name in asked_columns(contract)
            for column in (contract.columns[name],)
        ]
    )


def read(bodies: Iterable[Asked], contract: Contract, *, hashed: bool) -> pa.Table:
    """The rows of all bodies in their order; hashed: the bodies went through `hider`."""
    import pyarrow as pa

    wanted = schema(contract, hashed=hashed)
    names = asked_columns(contract)
    pieces = [wanted.empty_table()]
    for same, some in itertools.groupby(bodies, lambda body: body.media == JSON):
        if same:
            rows = [row for body in some for row in _json_rows(body, names)]
            turned = zip(zip(*rows, strict=True), wanted.types, strict=True)
            columns = [_column(values, kind) for values, kind in turned]
            pieces.append(pa.Table.from_arrays(columns, schema=wanted))
        else:
            pieces += [_bulk(body, names, wanted) for body in some]
    return pa.concat_tables(pieces)


def _json_rows(asked: Asked, names: tuple[str, ...]) -> list[Cells]:
    nothing = [(None,) * len(names)] * asked.rows
    try:
        found = _reader(names)(asked.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("the rows of %d answers cannot be read and stay empty: %s", asked.rows, error)
        return nothing
    if len(found) != asked.rows:
        log.warning("a body has %d rows for %d answers; they stay empty", len(found), asked.rows)
        return nothing
    return found


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """All at once; one by one only where that fails."""
    import pyarrow as pa

    if pa.types.is_uint64(kind):  # a hash never comes as JSON: this would be the value itself
        return pa.nulls(len(values), kind)
    try:
        if pa.types.is_binary(kind):
            return pa.array([_value(value, kind) for value in values], kind)
        if pa.types.is_timestamp(kind):
            texts = ["NaT" if value is None else value for value in values]
            return pa.array(np.array(texts, dtype="datetime64[us]"), kind)
        return pa.array(values, kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([_value(value, kind) for value in values], kind)


def _value(value: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa

    if value is None:
        return None
    try:
        if pa.types.is_timestamp(kind):
            value = dt.datetime.fromisoformat(value)
        elif pa.types.is_binary(kind):
            value = base64.b64decode(value)
        elif pa.types.is_integer(kind):
            value = int(value)
        elif pa.types.is_floating(kind):
            value = float(value)
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None


def _bulk(asked: Asked, names: tuple[str, ...], wanted: pa.Schema) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        if asked.media == "parquet":
            table = parquet.read_table(store.owned(asked.body))
        else:
            table = pa.ipc.open_stream(asked.body).read_all()
        if table.num_rows != asked.rows:
            raise ValueError(f"{table.num_rows} rows for {asked.rows} answers")
    except (pa.ArrowException, ValueError, OSError) as error:
        log.warning("the rows of %d answers cannot be read and stay empty: %s", asked.rows, error)
        table = pa.table({"": pa.nulls(asked.rows)})
    return conform(table, dict(zip(wanted.names, names, strict=True)), wanted)


def conform(table: pa.Table, names: dict[str, str], wanted: pa.Schema) -> pa.Table:
    """With exactly the columns `wanted`; what is not there or cannot be cast is null.

    names: column of `wanted` -> what `table` calls it.
    """
    import pyarrow as pa

    columns = []
    for field in wanted:
        there = table.schema.get_field_index(names.get(field.name, field.name))
        columns.append(_cast(table.column(there) if there >= 0 else None, field, table.num_rows))
    return pa.Table.from_arrays(columns, schema=wanted)


def _cast(values: pa.ChunkedArray | None, field: pa.Field, rows: int) -> pa.ChunkedArray:
    import pyarrow as pa

    # A column that is personal now and was not then must not come through as its own "hash".
    bare = values is not None and pa.types.is_uint64(field.type) and values.type != field.type
    if values is None or bare:
        return pa.chunked_array([pa.nulls(rows, field.type)])
    try:
        return values.cast(field.type, safe=False)
    except pa.ArrowException:
        return pa.chunked_array([pa.nulls(rows, field.type)])
