"""Closed journals -> Parquet files by day, which any Arrow reader can read; and their retention.

A file's name is made of its journal's, and the journal goes only after its files are there: killed
at any moment, the next run writes the same files again. The files of a day that is over are folded
into one, and today's small ones when there are many: `served.day_files`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import labelled
from pipelines.contract import Contract
from pipelines.journal.frames import SUFFIX, Frame, Torn, closed, day_of, frames
from pipelines.paths import Paths
from pipelines.served import day_files, table
from pipelines.served.day_files import CHUNK_ROWS

log = logging.getLogger(__name__)

CHUNK_BYTES = 16_000_000
"""Of bodies that are in memory as columns at once, where their rows are fewer than CHUNK_ROWS."""
BAD = ".bad"


@dataclass
class Compacted:
    journals: int = 0
    rows: int = 0
    bad: int = 0
    """Journals with a frame that is not whole: what stood before it was kept, the file set aside."""
    failed: int = 0
    """Journals, and days to be folded, that are tried again next time."""


def compact(at: Paths, contract: Contract) -> Compacted:
    """Every journal that its worker has closed, or died over, and every day; what fails is left as
    it is for next time, and keeps nothing else waiting."""
    import pyarrow as pa

    done = Compacted()
    for path in sorted(at.journals.glob(f"*{SUFFIX}")):
        with closed(path) as free:
            if not free:
                continue
            try:
                _compact(path, at, contract, done)
            except Exception:  # a full disk as well as a defect: the others must not wait for it
                log.exception("%s could not be turned into Parquet and stays", path)
                done.failed += 1
    today = day_of(time.time())
    for folder in days(at):
        try:
            day_files.fold(folder, over=folder.name < today)
        except Exception:  # one file that cannot be read must not end the folding of all days
            log.exception("the files of %s could not be folded and stay", folder)
            done.failed += 1
    # Arrow keeps what it has let go of for the next time, 40 MB of a day's folding.
    pa.default_memory_pool().release_unused()
    return done


def days(at: Paths) -> list[Path]:
    """Folders of the days that have answers, oldest first."""
    home = at.served_day("x").parent
    return sorted(p for p in home.glob("????-??-??") if p.is_dir())


def retain(at: Paths, keep: int, today: dt.date) -> int:
    """Remove answers and labels more than `keep` days old; returns how many days' folders went."""
    first = (today - dt.timedelta(days=keep)).isoformat()
    old = [folder for folder in days(at) if folder.name < first]
    for folder in old:
        shutil.rmtree(folder)
    for path in at.journals.glob(f"*{BAD}"):
        if day_of(path.stat().st_mtime) < first:
            path.unlink()
    labelled.forget(at.served_labels, first)
    return len(old)


def _compact(path: Path, at: Paths, contract: Contract, done: Compacted) -> None:
    worker = path.stem.split("-")[0]
    rows, torn = 0, Tear()
    with contextlib.ExitStack() as files:
        writers: dict[str, Any] = {}
        for day, chunk in chunks(sound(path, torn)):
            rows += sum(f.rows for f in chunk)
            if day not in writers:
                target = at.served_day(day) / f"{path.stem}.parquet"
                writers[day] = files.enter_context(
                    day_files.writing(target, table.schema(contract))
                )
            writers[day].write_table(table.answers(chunk, worker, contract))
    if torn.told:
        aside = path.with_name(path.name + BAD)
        path.rename(aside)
        log.error(
            "%s. The %d answers before it are kept; the file is now %s", torn.told, rows, aside
        )
        done.bad += 1
    else:
        path.unlink()
    done.journals += 1
    done.rows += rows


@dataclass
class Tear:
    told: str = ""
    """What is wrong with the first frame that is not whole; empty while all are."""


def sound(path: Path, torn: Tear) -> Iterator[Frame]:
    """The frames up to the first that is not whole, which `torn` then tells of.

    One by one: the bodies of a journal, all held at once, can be 100 MB.
    """
    try:
        yield from frames(path)
    except Torn as error:
        torn.told = str(error)


def chunks(found: Iterable[Frame]) -> Iterator[tuple[str, list[Frame]]]:
    """The frames in their order, cut where the day changes or memory would grow."""
    chunk: list[Frame] = []
    rows = size = 0
    for frame in found:
        full = rows >= CHUNK_ROWS or size >= CHUNK_BYTES
        if chunk and (full or day_of(frame.at) != day_of(chunk[0].at)):
            yield day_of(chunk[0].at), chunk
            chunk, rows, size = [], 0, 0
        chunk.append(frame)
        rows, size = rows + frame.rows, size + len(frame.body)
    if chunk:
        yield day_of(chunk[0].at), chunk
