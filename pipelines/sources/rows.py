"""A file of rows that want an answer -> its columns as the wire takes them.

A CSV says nothing of types: each column is read as text, then as what the contract calls it, so that
a value that cannot be read is told as any other mistake is: row, column, value, what is allowed.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import store
from pipelines.sources.files import FLOATED
from pipelines.wire import problem
from pipelines.wire.field import Field
from pipelines.wire.schema import Shape

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet")


def files(folder: Path) -> list[Path]:
    """Its CSV and Parquet files by name; hidden ones, as an unfinished upload is, are left out."""
    found = (
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    return sorted(path for path in found if not path.name.startswith("."))


def read(suffix: str, content: bytes, shape: Shape) -> pa.Table:
    """All rows in the file's order; columns that the contract does not know are left to the wire.

    Raises what pyarrow raises for bytes that are no such file, and problem.Refused naming rows and
    values.
    """
    return _csv(content, shape) if suffix.lower() == ".csv" else _parquet(content)


def _parquet(content: bytes) -> pa.Table:
    import pyarrow.parquet as parquet

    return parquet.ParquetFile(store.owned(content)).read()


def _csv(content: bytes, shape: Shape) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    as_text = csv.ConvertOptions(
        column_types=dict.fromkeys(shape.by_name, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    table = csv.read_csv(
        store.owned(content),
        # A row must fit into a block, and one with a photograph is larger than Arrow's megabyte.
        read_options=csv.ReadOptions(block_size=min(2**31 - 1, max(1 << 20, len(content)))),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=as_text,
    )
    mistakes: list[problem.Mistake] = []
    columns = []
    for name, text in zip(table.column_names, table.columns, strict=True):
        field = shape.by_name.get(name)
        columns.append(text if field is None else _typed(text, field, mistakes))
    if mistakes:
        raise problem.refused_rows(sorted(mistakes, key=_row))
    return pa.Table.from_arrays(columns, names=table.column_names)


def _typed(text: pa.ChunkedArray, field: Field, mistakes: list[problem.Mistake]) -> pa.ChunkedArray:
    """What cannot be read is added to `mistakes`, and missing in what is returned."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if field.column.type == "category":
        floated = pc.match_substring_regex(text, f"^{FLOATED}$")
        # As when a batch is read: whole numbers with gaps are written as floats by many.
        return pc.replace_substring(text, ".0", "") if pc.all(floated).as_py() else text
    if field.column.type == "image":
        return _pictures(text, field, mistakes)
    bare = pc.utf8_trim_whitespace(text)
    kinds = {
        "timestamp": (pa.timestamp("us"),),
        # A column of whole numbers with gaps is written as floats by many.
        "integer": (pa.int64(), pa.float64()),
        "number": (pa.float64(),),
        "boolean": (pa.bool_(),),
    }[field.column.type]
    for kind in kinds:
        try:
            return bare.cast(kind)
        except pa.ArrowInvalid:
            continue
    strange = {value for value in bare.unique().to_pylist() if not _reads(value, kinds[-1])}
    for row, value in enumerate(bare.to_pylist()):
        if value in strange:
            mistakes.append(problem.wrong(f"rows[{row}].{field.name}", value, field.allowed))
    return pa.chunked_array([pa.nulls(len(text), kinds[-1])])


def _pictures(
    text: pa.ChunkedArray, field: Field, mistakes: list[problem.Mistake]
) -> pa.ChunkedArray:
    """In base64, as JSON has them."""
    import pyarrow as pa

    found: list[bytes | None] = []
    for row, value in enumerate(text.to_pylist()):
        try:
            found.append(None if value is None else base64.b64decode(value, validate=True))
        except ValueError:
            mistakes.append(problem.wrong(f"rows[{row}].{field.name}", value, field.allowed))
            found.append(None)
    return pa.chunked_array([pa.array(found, pa.binary())])


def _reads(value: str | None, kind: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        pa.scalar(value, pa.string()).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _row(mistake: problem.Mistake) -> int:
    return int(mistake.field[len("rows[") : mistake.field.index("]")])
