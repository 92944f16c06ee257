"""Bulk requests: an Arrow stream or a Parquet file -> one table of the contract's types.

The bytes are foreign. What they would unfold to is bounded before it is unfolded (of a Parquet file
only by what its footer says), and each batch is checked in full before it is looked at, since Arrow
trusts offsets and indices that it has read.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

from pipelines.wire import problem
from pipelines.wire.problem import Refused
from pipelines.wire.schema import UNFOLDED, Shape

if TYPE_CHECKING:
    import pyarrow as pa

Media = Literal["arrow", "parquet"]
CONTENT_TYPES: dict[Media, str] = {
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
_NAMES = {"arrow": "an Arrow IPC stream", "parquet": "a Parquet file"}


def read(body: bytes, media: Media, shape: Shape) -> pa.RecordBatch:
    """All rows, as they were sent: columns of any order, each with a name of its own.

    Raises Refused for bytes that are not `media`, too many rows, none, or other columns.
    """
    import pyarrow as pa

    try:
        table = _arrow(body, shape) if media == "arrow" else _parquet(body, shape)
        table.validate(full=True)
    except (Refused, MemoryError):  # neither is the bytes' fault, as far as they can tell
        raise
    except Exception as error:  # foreign bytes: pyarrow's readers raise of every kind
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        detail = f"The body cannot be read as {_NAMES[media]}: {first}"
        raise problem.refused("unreadable", detail) from None
    _count(table.num_rows, shape)
    if not table.num_rows:
        raise problem.refused_rows([problem.wrong("rows", 0, f"1 to {shape.max_rows:,} rows")])
    columns = [
        c.chunk(0) if c.num_chunks == 1 else _one(c.unify_dictionaries()) for c in table.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=table.schema.names)


def _one(column: pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _arrow(body: bytes, shape: Shape) -> pa.Table:
    import pyarrow as pa

    reader = pa.ipc.open_stream(pa.py_buffer(body))
    _columns(reader.schema, shape)
    _bounded(pa.ipc.MessageReader.open_stream(pa.py_buffer(body)), shape)
    return reader.read_all()


def _parquet(body: bytes, shape: Shape) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    buffer = pa.py_buffer(body)
    footer = parquet.read_metadata(buffer)
    schema = footer.schema.to_arrow_schema()
    _columns(schema, shape)
    _count(footer.num_rows, shape)
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    _unfolds_to(sum(group.total_byte_size for group in groups))
    # As dictionaries: one long text or file that each row names is then held once.
    once = [n for n in schema.names if shape.by_name[n].column.type in ("category", "image")]
    file = parquet.ParquetFile(buffer, metadata=footer, read_dictionary=once)
    table = file.read(use_threads=False)
    _unfolds_to(sum(_bytes(table.column(f.name)) for f in shape.pictures))
    return table


def _bytes(files: pa.ChunkedArray) -> int:
    """Of all rows, each with a file of its own: the graph's inputs are made of these."""
    import pyarrow as pa
    import pyarrow.compute as compute

    if not pa.types.is_dictionary(files.type):
        return 0  # a column of nothing
    some = [compute.binary_length(c.dictionary).take(c.indices) for c in files.chunks]
    return sum(compute.sum(lengths).as_py() or 0 for lengths in some)


def _columns(schema: pa.Schema, shape: Shape) -> None:
    """Names before content: a column that nobody asked for is not unfolded."""
    names = list(schema.names)
    mistakes = [
        problem.missing(field.name, f"a column: {field.allowed}")
        for field in shape.fields
        if field.required and field.name not in names
    ]
    for name in dict.fromkeys(names):
        if name not in shape.by_name:
            mistakes.append(problem.wrong("columns", name, f"{', '.join(shape.by_name)}"))
        elif names.count(name) > 1:
            mistakes.append(problem.wrong("columns", name, "each column once"))
        elif not _readable(schema.field(name).type, shape.by_name[name].column.type):
            mistakes.append(_mistyped(name, schema.field(name).type, shape))
    if mistakes:
        raise problem.refused_rows(mistakes)


def _mistyped(name: str, stored: pa.DataType, shape: Shape) -> problem.Mistake:
    return problem.wrong(name, str(stored), STORED[shape.by_name[name].column.type])


STORED = {
    "timestamp": "a column of timestamps without a zone",
    "integer": "a column of integers, or of floats that are whole",
    "number": "a column of floats or integers",
    "category": "a column of text, plain or as a dictionary",
    "boolean": "a column of booleans",
    "image": "a column of binary",
}
"""Type of the contract -> how Arrow may hold it."""


def _readable(stored: pa.DataType, wanted: str) -> bool:
    """A column of the type null holds gaps only: whether they are allowed is asked of its rows."""
    from pyarrow import types

    if types.is_null(stored):
        return True
    match wanted:
        case "timestamp":
            return bool(types.is_timestamp(stored) and stored.tz is None)
        case "integer" | "number":
            return bool(types.is_integer(stored) or types.is_floating(stored))
        case "boolean":
            return bool(types.is_boolean(stored))
        case "image":
            return bool(types.is_binary(stored) or types.is_large_binary(stored))
    text = stored.value_type if types.is_dictionary(stored) else stored
    return _text(text) or bool(types.is_null(text))


def _text(stored: pa.DataType) -> bool:
    from pyarrow import types

    kinds = (types.is_string, types.is_large_string, types.is_string_view)
    return any(bool(kind(stored)) for kind in kinds)


def _count(rows: int, shape: Shape) -> None:
    if rows > shape.max_rows:
        allowed = f"1 to {shape.max_rows:,} rows"
        raise problem.refused_rows([problem.wrong("rows", rows, allowed)])
    shape.fit(rows)


def _unfolds_to(size: int) -> None:
    if not 0 <= size <= UNFOLDED:
        detail = f"The body unfolds to {size:,} bytes; allowed: {UNFOLDED:,}. Send it in parts."
        raise problem.refused("too-large", detail)


def _bounded(messages: pa.ipc.MessageReader, shape: Shape) -> None:
    """Rows and unfolded bytes of a stream, from its headers alone.

    pyarrow unfolds a compressed batch when it reads it, and shows neither size nor compression
    before; so the header, a flatbuffer that pyarrow has verified, is read here
    (https://arrow.apache.org/docs/format/Columnar.html#compression, Message.fbs).
    """
    rows = size = 0
    for message in messages:
        if message.type not in ("record batch", "dictionary"):
            continue
        header = message.metadata.to_pybytes()
        batch = _follow(header, _member(header, _follow(header, 0), 2))
        if message.type == "dictionary":
            batch = _follow(header, _member(header, batch, 1))
        elif length := _member(header, batch, 0):
            rows += _int64(header, length)
        if _member(header, batch, 3):
            size += _declared(header, _member(header, batch, 2), message.body)
    _count(rows, shape)
    _unfolds_to(size)


def _declared(header: bytes, at: int, body: pa.Buffer) -> int:
    """Sum of the sizes that stand before each compressed buffer; -1 there says it is plain."""
    start = _follow(header, at)
    total = 0
    for place in range(start + 4, start + 4 + 16 * _uint32(header, start), 16):
        offset, length = _int64(header, place), _int64(header, place + 8)
        if length:
            declared = _int64(body.slice(offset, 8).to_pybytes(), 0)
            if declared != -1:
                _unfolds_to(declared)
            total += length if declared == -1 else declared
    return total


def _member(header: bytes, table: int, number: int) -> int:
    """Where a member of a flatbuffer table stands; 0 where it is left at its default."""
    entries = table - struct.unpack_from("<i", header, table)[0]
    entry = 4 + 2 * number
    if entry >= struct.unpack_from("<H", header, entries)[0]:
        return 0
    offset: int = struct.unpack_from("<H", header, entries + entry)[0]
    return table + offset if offset else 0


def _follow(header: bytes, at: int) -> int:
    return at + _uint32(header, at)


def _uint32(header: bytes, at: int) -> int:
    number: int = struct.unpack_from("<I", header, at)[0]
    return number


def _int64(header: bytes, at: int) -> int:
    number: int = struct.unpack_from("<q", header, at)[0]
    return number
