"""What was answered over HTTP, read back: the Parquet files, and the journals not yet among them.

Journals are read first. Whatever is compacted meanwhile is then in the Parquet files, so no answer
is missed, and one that is seen in both is told by its id.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from bisect import bisect_left
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines import periods, store
from pipelines.contract import Contract
from pipelines.journal.frames import SHADOW, SUFFIX, Frame, parse_id
from pipelines.paths import Paths
from pipelines.served import Tear, bodies, chunks, days, sound, table
from pipelines.served.day_files import CHUNK_ROWS, FOLDED, current, unreadable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Read = TypeVar("Read")
ATTEMPTS = 5
"""Readings that are begun anew when a file was folded or removed under them."""


@dataclass(frozen=True)
class Wanted:
    """Which answers; None is all."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    """Event time, `contract.time`: from `since` to before `until`. Both or neither."""
    versions: tuple[str, ...] | None = None
    ids: Collection[str] | None = None
    columns: tuple[str, ...] | None = None
    shadow: bool = False
    """Also what a challenger predicted beside the answer, and nobody was given."""


def read(at: Paths, contract: Contract, wanted: Wanted) -> pd.DataFrame:
    """The answers in the order of time, with `table.schema(contract)` or `columns` of it.

    Empty in a replay, which looks back on batches and on nothing that was served. Raises
    PipelineError naming a file that cannot be read.
    """
    import pyarrow as pa

    journals = _of_journals(at, contract, wanted)
    found = pa.concat_tables([*journals, *_of_files(at, contract, wanted)])
    rows: pd.DataFrame = found.to_pandas().drop_duplicates("id")
    rows = rows.sort_values(["at", "id"], ignore_index=True)
    return rows[list(wanted.columns)] if wanted.columns else rows


def given(at: Paths, contract: Contract, period: str, length: str) -> pd.DataFrame | None:
    """All answers to rows of the period, of the batch and over HTTP; None when there are none.

    The batch's answers as they were logged, with `row` as the others have it. In order of time. Without
    their pictures, which are as large as the batch.
    """
    import pandas as pd
    import pyarrow.parquet as parquet

    pictures = {bodies.stored(name) for name in contract.images}
    since, until = periods.start_and_end(period, length)
    found = []
    if at.predictions(period).is_file():
        there = parquet.read_schema(at.predictions(period)).names
        batch = store.read_table(
            at.predictions(period), "", [name for name in there if name not in pictures]
        )
        found.append(batch.assign(row=batch["id"].str.rsplit("-", n=1).str[-1]))
    columns = tuple(n for n in table.schema(contract).names if n not in pictures)
    served = read(at, contract, Wanted(since=since, until=until, columns=columns))
    if len(served):
        found.append(served)
    if not found:
        return None
    together = pd.concat(found, ignore_index=True) if len(found) > 1 else found[0]
    return together.sort_values("at", kind="stable", ignore_index=True)


def latest(answers: pd.DataFrame, by: tuple[str, ...] = ("version", "row")) -> pd.DataFrame:
    """Without the earlier of two answers to one row; a row whose key is not known is like no other."""
    again = answers.duplicated(list(by), keep="last") & (answers["row"] != "")
    return answers[~again]


def known(at: Paths, contract: Contract, ids: Collection[str]) -> set[str]:
    """Those of the ids that were given to somebody."""
    import pyarrow as pa

    left, found = set(ids), set()
    # A label comes late, so its answer is most likely in a file; journals are larger to read.
    for look in (_of_files, _of_journals, _of_files):
        if left:
            tables = look(at, contract, Wanted(ids=left, columns=("id",)))
            found |= {name for some in tables for name in some["id"].to_pylist()}
            left -= found
    # Arrow keeps what it has let go of for the next look, 30 MB in each worker.
    pa.default_memory_pool().release_unused()
    return found


def find(at: Paths, contract: Contract, prediction: str) -> dict[str, Any] | None:
    """One answer with the row as it was asked."""
    rows = read(at, contract, Wanted(ids=(prediction,), shadow=True)).to_dict("records")
    return {str(name): value for name, value in rows[0].items()} if rows else None


def count(at: Paths) -> int:
    """Answers on record, shadows among them: from the files' footers, and the journals' frames."""
    held = 0
    for path in at.journals.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # it is a Parquet file by now
            held += sum(frame.rows for frame in sound(path, Tear()))
    return held + _steady(
        lambda: sum(store.rows_in(path) for folder in days(at) for path in current(folder))
    )


def _of_files(at: Paths, contract: Contract, wanted: Wanted) -> list[pa.Table]:
    if at.replay is not None:
        return []
    schema, keep = _schema(contract, wanted), _filter(contract, wanted)
    return _steady(lambda: [_file(path, schema, keep) for path in _files(at, wanted)])


def _steady(read: Callable[[], Read]) -> Read:
    """What `read` returns, begun anew when a file was folded or removed under it."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            return read()
    return read()


def _files(at: Paths, wanted: Wanted) -> list[Path]:
    """Those that may hold what is wanted: an id tells its day, and its worker, whose name is theirs."""
    if wanted.ids is None:
        return [path for folder in days(at) for path in current(folder)]
    asked = {(i.day, i.worker) for i in map(parse_id, wanted.ids) if i is not None}
    those = {day for day, _ in asked}
    return [
        path
        for folder in days(at)
        if folder.name in those
        for path in current(folder)
        if path.stem.startswith(FOLDED) or (folder.name, path.stem.split("-")[0]) in asked
    ]


def _file(path: Path, schema: pa.Schema, keep: Any) -> pa.Table:
    """Some rows after the other, and no row group whose statistics say that it has nothing: a folded
    day is millions of rows, and a worker that looks for fifty labels must not grow by them."""
    import pyarrow as pa
    from pyarrow import dataset, fs, parquet

    try:
        whole = dataset.ParquetFileFormat().make_fragment(str(path), fs.LocalFileSystem())
        there = whole.physical_schema
        # Only a file of another contract lacks a column; then nothing can be left out before.
        first = keep if set(schema.names) <= set(there.names) else None
        groups = [group.row_groups[0].id for group in whole.split_by_row_group(first)]
        names = [name for name in schema.names if name in there.names]
        found = [there.empty_table().select(names)]
        # In this thread: what others read, Arrow holds on to (80 MB of a day, in each worker).
        with pa.OSFile(str(path)) as file, parquet.ParquetFile(file) as opened:
            for some in opened.iter_batches(CHUNK_ROWS, groups, names, use_threads=False):
                rows = pa.Table.from_batches([some])
                found.append(rows if first is None else rows.filter(first))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    return bodies.conform(pa.concat_tables(found), {}, schema).filter(keep)


def _of_journals(at: Paths, contract: Contract, wanted: Wanted) -> list[pa.Table]:
    schema, keep = _schema(contract, wanted), _filter(contract, wanted)
    found = [schema.empty_table()]
    if at.replay is not None:
        return found
    asked = _counters(wanted.ids)
    for path in sorted(at.journals.glob(f"*{SUFFIX}")):
        worker = path.stem.split("-")[0]
        if asked is not None and worker not in asked:
            continue
        of_worker = None if asked is None else asked[worker]
        # An open journal may end in a frame that is being written.
        frames = (f for f in sound(path, Tear()) if _wanted(of_worker, f))
        with contextlib.suppress(FileNotFoundError):  # it is a Parquet file by now
            found += [
                table.some_columns(chunk, worker, contract, schema).filter(keep)
                for _, chunk in chunks(frames)
            ]
    return found


def _counters(ids: Collection[str] | None) -> dict[str, list[int]] | None:
    """Worker -> counters in order."""
    if ids is None:
        return None
    found: dict[str, list[int]] = {}
    for name in ids:
        if parsed := parse_id(name):
            found.setdefault(parsed.worker, []).append(parsed.counter)
    return {worker: sorted(counters) for worker, counters in found.items()}


def _wanted(counters: list[int] | None, frame: Frame) -> bool:
    return counters is None or _holds(frame, counters)


def _holds(frame: Frame, counters: list[int]) -> bool:
    return bisect_left(counters, frame.first) < bisect_left(counters, frame.first + frame.rows)


def _schema(contract: Contract, wanted: Wanted) -> pa.Schema:
    """What is asked for, and what choosing and ordering need."""
    import pyarrow as pa

    every = table.schema(contract)
    if wanted.columns is None:
        return every
    needed = {"id", "at", "route", "version", *wanted.columns}
    if wanted.since is not None:
        needed.add(bodies.stored(contract.time))
    return pa.schema([field for field in every if field.name in needed])


def _filter(contract: Contract, wanted: Wanted) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    keep = pc.scalar(True) if wanted.shadow else pc.field("route") != SHADOW
    if wanted.since is not None:
        if contract.columns[contract.time].personal:
            return pc.scalar(False)  # a hash has no place in time
        time = pc.field(bodies.stored(contract.time))
        since, until = (pa.scalar(t, pa.timestamp("us")) for t in (wanted.since, wanted.until))
        keep = keep & (time >= since) & (time < until)
    if wanted.versions is not None:
        keep = keep & pc.field("version").isin(list(wanted.versions))
    if wanted.ids is not None:
        keep = keep & pc.field("id").isin(list(wanted.ids))
    return keep
