"""MNIST, Fashion-MNIST and their kin as distributed: a file of pictures and a file of labels.

`train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, as they are or with gzip. The format (LeCun,
Cortes, Burges): two zero bytes, the type of a number (8: unsigned byte), how many dimensions, the size
of each as four bytes, big end first, and then the numbers.

Such files tell no time. Rows are dealt into batches of `rows` in the order of the file, the first
being `first`; the periods and the times within them are made up. Label 3 is the fourth of the
contract's classes, so that `values` may name them.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines import images
from pipelines.contract import Contract
from pipelines.errors import SourceError
from pipelines.periods import shift, start_and_end
from pipelines.sources.dealing import spread
from pipelines.sources.pictures import Columns

PICTURES, LABELS = "images-idx3", "labels-idx1"
GZIP = b"\x1f\x8b"
MOST_PACKED = 1032
"""Bytes that one byte of deflate can stand for at most: a header that claims more lies."""


class Idx:
    """Batches of `rows` pictures, the last of what is left. Nothing is read before it is asked for."""

    def __init__(self, path: Path, contract: Contract, period: str, first: str, rows: int) -> None:
        start_and_end(first, period)
        self._path = path
        self._columns = Columns(contract, "idx")
        self._classes = contract.classes
        self._task = contract.task
        self._period = period
        self._first = first
        self._rows = rows
        self._content: tuple[np.ndarray, np.ndarray] | None = None

    def periods(self) -> tuple[str, ...]:
        names = [self._first] if len(self._pair()[1]) else []
        while len(names) * self._rows < len(self._pair()[1]):
            names.append(shift(names[-1], self._period, 1))
        return tuple(names)

    def read(self, period: str) -> pd.DataFrame:
        pixels_NHW, labels = self._pair()
        start = self.periods().index(period) * self._rows
        rows = range(start, min(start + self._rows, len(labels)))
        prefix = self._path.name.partition(f"-{PICTURES}")[0]
        return self._columns.table(
            spread(len(rows), period, self._period),
            [f"{prefix}-{row:05d}" for row in rows],
            [images.png(pixels_NHW[row]) for row in rows],
            [_name(labels[row], self._classes) for row in rows],
        )

    def _pair(self) -> tuple[np.ndarray, np.ndarray]:
        if self._content is None:
            if PICTURES not in self._path.name:
                raise SourceError(
                    f"source idx: {self._path} does not say {PICTURES} in its name, so its labels "
                    "cannot be found; allowed: e.g. train-images-idx3-ubyte.gz. Mend "
                    "tasks.<name>.source.path with: edit params.yaml"
                )
            beside = self._path.with_name(self._path.name.replace(PICTURES, LABELS))
            pictures, labels = _read(self._path, 3), _read(beside, 1)
            if len(pictures) != len(labels):
                raise SourceError(
                    f"source idx: {self._path} holds {len(pictures):,} pictures and {beside} "
                    f"{len(labels):,} labels; allowed: as many. Fetch both again, then run: "
                    f"perennial ingest {self._task}"
                )
            self._content = pictures, labels
        return self._content


def _name(label: int, classes: Sequence[str]) -> str:
    """A label beyond the contract's classes is none of them, whatever they are called: validation names
    it. (Letters that are labelled 1 to 26 and called "1" to "26" are one beyond.)"""
    return classes[label] if label < len(classes) else f"label {label}"


def _read(path: Path, dimensions: int) -> np.ndarray:
    """Unsigned bytes in `dimensions` dimensions. Raises SourceError naming the file and what is wrong."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
            file.seek(0)
            most = path.stat().st_size * (MOST_PACKED if packed else 1)
            with gzip.open(file) if packed else file as content:
                header = content.read(4 + 4 * dimensions)
                shape = _shape(path, header, dimensions)
                expected = int(np.prod(shape, dtype=object))
                if expected > most:
                    raise _wrong(
                        path, f"its header promises {expected:,} bytes, more than it holds"
                    )
                numbers = content.read(expected)
                surplus = content.read(1)
    except FileNotFoundError:
        raise _wrong(path, "there is no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise _wrong(path, f"it cannot be read: {error}") from error
    if len(numbers) < expected or surplus:
        has = f"only {len(numbers):,}" if len(numbers) < expected else "more"
        raise _wrong(path, f"its header promises {expected:,} bytes and it has {has}")
    return np.frombuffer(numbers, np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes([0, 0, 8, dimensions])
    if header[:4] != magic:
        raise _wrong(
            path, f"it begins with {header[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise _wrong(path, "it ends within its header")
    return struct.unpack(f">{dimensions}I", header[4:])


def _wrong(path: Path, why: str) -> SourceError:
    return SourceError(
        f"source idx: {path}: {why}; allowed: an IDX file of unsigned bytes, as distributed or with "
        "gzip. Fetch it again, or mend tasks.<name>.source.path with: edit params.yaml"
    )
