"""The files of one day: which of them count, and how many become one.

Killed while it folds, a reader that is not `served.answers` may see a row in two files, until the next
run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import store
from pipelines.errors import PipelineError

CHUNK_ROWS = 8192
"""Rows that are in memory as columns at once, where they are small."""
MANY = 32
SMALL_BYTES = 8_000_000
"""Of a day that is not over: files below SMALL_BYTES are folded when there are as many. A reader
takes about a millisecond for a file, however few rows it has."""
GROUP_ROWS = 65_536
GROUP_BYTES = 64 * 2**20
"""Rows of a folded file that are in memory at once: so many, or as many as are so large."""
BATCH_BYTES = GROUP_BYTES // 8
"""Of rows that are read at once, by what the footer says of their size."""
FOLDED = "folded-"
PARTS = b"parts"
"""In a folded file's metadata: the names of the files that it replaces."""


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!._]*.parquet"))


def current(folder: Path) -> list[Path]:
    """The files of a day, but those that a folded one replaces: they go one after the other, for as
    long as the disk takes. Raises FileNotFoundError where one went meanwhile; then there is another.
    """
    there = parts(folder)
    folded = (path for path in there if path.stem.startswith(FOLDED))
    replaced = {name for path in folded for name in _folded_from(path)}
    return [path for path in there if path.name not in replaced]


@contextlib.contextmanager
def writing(path: Path, schema: Any) -> Iterator[Any]:
    import pyarrow.parquet as parquet

    with (
        store.atomic(path) as temporary,
        parquet.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=coded(schema)
        ) as writer,
    ):
        yield writer


def coded(schema: Any) -> list[str]:
    """Columns that are written as dictionaries. No pictures: of one that many rows have, the footer
    would tell the size once, and whoever reads the rows has it many times."""
    import pyarrow as pa

    return [field.name for field in schema if not pa.types.is_binary(field.type)]


def fold(folder: Path, over: bool) -> None:
    """over: nothing comes to the day any more, so all of it becomes one file."""
    if over:
        _fold(folder, parts(folder), fewest=2)
    else:
        small = [path for path in parts(folder) if path.stat().st_size < SMALL_BYTES]
        _fold(folder, small, fewest=MANY)


def _fold(folder: Path, some: list[Path], fewest: int) -> None:
    """One file for those that have the same schema; what a killed run left is cleared first."""
    import pyarrow.parquet as parquet

    if len(some) < fewest:
        return
    store.sweep(folder)
    for path in parts(folder):
        if path.exists():
            _clear(folder, _folded_from(path))
    alike: dict[Any, list[Path]] = {}
    for path in some:
        if path.exists():
            alike.setdefault(parquet.read_schema(path).remove_metadata(), []).append(path)
    for schema, same in alike.items():
        if len(same) > 1:
            _fold_alike(folder, same, schema)


def _fold_alike(folder: Path, some: list[Path], schema: Any) -> None:
    import pyarrow as pa

    names = [path.name for path in some]
    target = folder / f"{FOLDED}{store.digest_of(names)[:8]}.parquet"
    # What a part replaced is replaced by this one too: a killed run may have left it.
    replaced = [*names, *(name for path in some for name in _folded_from(path))]
    with writing(target, schema.with_metadata({PARTS: json.dumps(replaced)})) as writer:
        waiting: list[Any] = []
        rows = size = 0
        for batch in _batches(some):
            waiting.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting, rows, size = [], 0, 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    _clear(folder, names)


def _batches(some: list[Path]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    for path in some:
        with pa.OSFile(str(path)) as file, parquet.ParquetFile(file) as opened:
            rows = _at_once(opened.metadata)
            groups = list(range(opened.num_row_groups))
            # Of all groups together Arrow lets go of none before the last is read. One by one it keeps
            # more in the end, 14 MB against 2: so that is for large rows only.
            for some_groups in [groups] if rows == CHUNK_ROWS else [[group] for group in groups]:
                for batch in opened.iter_batches(rows, some_groups, use_threads=False):
                    yield batch.replace_schema_metadata(None)


def _at_once(footer: Any) -> int:
    """Rows: with pictures in them, 8192 can be a gigabyte."""
    size = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    a_row = max(1, size // max(1, footer.num_rows))
    return int(min(CHUNK_ROWS, max(1, BATCH_BYTES // a_row)))


def _folded_from(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        metadata = parquet.read_schema(path).metadata or {}
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    return list(json.loads(metadata.get(PARTS, b"[]")))


def unreadable(path: Path, error: Exception) -> PipelineError:
    return PipelineError(f"{path} cannot be read: {error}. Set it aside with: mv {path} {path}.bad")


def _clear(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
