"""Pictures as people keep them: a folder a class, under a folder a period where there are those.

`<path>/<period>/<class>/<file>`, the period named as batches are (2024-W01), says which batch a
picture belongs to; its time within it is made up (`pipelines/sources/dealing.py`). Without period
folders, `<path>/<class>/<file>`, a picture's time is when its file was changed, in UTC. Prefer period
folders: copying, cloning and unpacking give files a new time.

A file is landed as its bytes, whatever is in it, so that a batch is what the folder holds: the
contract says how many of them may be no picture (`unreadable`), and validation names each.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.contract import Contract
from pipelines.errors import SourceError
from pipelines.periods import SHAPES, period_names, start_and_end
from pipelines.sources.dealing import dealt, spread
from pipelines.sources.pictures import Columns

log = logging.getLogger(__name__)

LARGEST = 64 << 20
"""Bytes of a file; a batch's pictures are in memory at once, and a film is no picture."""


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    """Its path within the source's folder: what people see, and the row's key."""
    cls: str
    period: str


class ImageFolder:
    """One batch a period that has a picture. Hidden files and folders are left alone."""

    def __init__(self, folder: Path, contract: Contract, period: str) -> None:
        self._folder = folder
        self._columns = Columns(contract, "images")
        self._task = contract.task
        self._period = period
        self._by_period: dict[str, list[_File]] = {}

    def periods(self) -> tuple[str, ...]:
        return tuple(sorted(self._files()))

    def read(self, period: str) -> pd.DataFrame:
        files = self._files()[period]
        classes = [file.cls for file in files]
        with self._looking():
            times = self._times(files, period)
        contents = [self._content(file.path) for file in files]
        return self._columns.table(times, [file.name for file in files], contents, classes)

    def _times(self, files: list[_File], period: str) -> np.ndarray:
        """(N,) datetime64[s]"""
        if not self._in_period_folders():
            return _changed([file.path for file in files])
        times = np.empty(len(files), "datetime64[s]")
        order = dealt([file.name for file in files], [file.cls for file in files])
        times[order] = spread(len(files), period, self._period)
        return times

    def _files(self) -> dict[str, list[_File]]:
        if not self._by_period:
            with self._looking():
                found = list(self._found())
            for file in found:
                self._by_period.setdefault(file.period, []).append(file)
            if not self._by_period:
                raise SourceError(
                    f"source images: {self._folder} holds no picture; allowed: <class>/<file>, or "
                    "<period>/<class>/<file>. Mend tasks.<name>.source.path with: edit params.yaml"
                )
        return self._by_period

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SourceError(
                f"source images: {error.filename} cannot be looked at: {error.strerror}; allowed: "
                "folders that may be read, and that nobody changes meanwhile. Then run: "
                f"perennial ingest {self._task}"
            ) from error

    def _found(self) -> Iterator[_File]:
        if self._in_period_folders():
            for folder in _folders(self._folder):
                for path in self._pictures(folder):
                    yield self._file(path, folder.name)
        else:
            paths = list(self._pictures(self._folder))
            times = pd.Series(_changed(paths))
            for path, period in zip(paths, period_names(times, self._period), strict=True):
                yield self._file(path, period)

    def _in_period_folders(self) -> bool:
        names = [folder.name for folder in _folders(self._folder)]
        periods = [name for name in names if re.fullmatch(SHAPES[self._period], name)]
        if periods and len(periods) < len(names):
            other = sorted(set(names) - set(periods))
            raise SourceError(
                f"source images: {self._folder} holds folders named as a {self._period} is "
                f"({periods[0]}) and others ({', '.join(other[:3])}); allowed: all or none. Move the "
                f"others away, then run: perennial ingest {self._task}"
            )
        for name in periods:
            start_and_end(name, self._period)  # the 13th month has the shape of one
        return bool(periods)

    def _pictures(self, folder: Path) -> Iterator[Path]:
        """Every file of every class folder, by name."""
        for cls in _folders(folder):
            for path in sorted(cls.iterdir()):
                if path.name.startswith("."):
                    continue
                if not path.is_file():
                    raise SourceError(
                        f"source images: {path} is no file; allowed in the folder of a class: files. "
                        f"Move it away, then run: perennial ingest {self._task}"
                    )
                yield path

    def _file(self, path: Path, period: str) -> _File:
        name = _readable(path.relative_to(self._folder).as_posix())
        return _File(path, name, _readable(path.parent.name), period)

    def _content(self, path: Path) -> bytes:
        mend = f"Mend or remove it, then run: perennial ingest {self._task}"
        try:
            size = path.stat().st_size
            if size <= LARGEST:
                return path.read_bytes()
        except OSError as error:
            raise SourceError(f"source images: {path} cannot be read: {error}. {mend}") from error
        raise SourceError(
            f"source images: {path} has {size:,} bytes; allowed: at most {LARGEST:,}. {mend}"
        )


def _readable(name: str) -> str:
    """A name in another encoding than UTF-8, escaped: Parquet takes UTF-8 only."""
    return name.encode("utf-8", "backslashreplace").decode()


def _folders(folder: Path) -> list[Path]:
    """Those within it, by name."""
    if not folder.is_dir():
        raise SourceError(
            f"source images: {folder} is no folder. Mend tasks.<name>.source.path with: "
            "edit params.yaml"
        )
    inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    beside = [path.name for path in inside if not path.is_dir()]
    if beside:
        log.warning("source images: %s holds files in no class: %s", folder, ", ".join(beside[:3]))
    return [path for path in inside if path.is_dir()]


def _changed(paths: list[Path]) -> np.ndarray:
    """(N,) when each file was changed, to the second, UTC."""
    seconds = [int(path.stat().st_mtime) for path in paths]
    return np.array(seconds, dtype="int64").astype("datetime64[s]")
