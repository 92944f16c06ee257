"""The journal's format, and the ids of what it holds.

A frame is length (4 bytes), CRC-32 (4 bytes), then a MessagePack array whose last item is the
request's body as it came, so nothing is encoded a second time.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import functools
import os
import secrets
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

SUFFIX = ".journal"
SHADOW = "shadow"
"""The route whose answers only the log sees."""
_HEAD = struct.Struct("<II")
_DAY = 86_400


class Torn(Exception):
    """The bytes from here on are no whole frame."""


class Frame(msgspec.Struct, array_like=True, gc=False):
    """One request and its answers: row i has the id `<...>-<first + i in hex>`."""

    first: int
    rows: int
    version: str
    route: str
    at: float
    """Unix time in seconds: its UTC day is the day in the ids."""
    latency: float
    """Seconds."""
    threshold: float
    media: str
    """json, arrow or parquet: how to read `body`."""
    keys: list[str] | None
    probabilities: list[float] | bytes
    """(rows,), or (rows * classes,) row by row; bytes are float32, little-endian."""
    body: bytes


Fields = tuple[
    int, int, str, str, float, float, float, str, list[str] | None, list[float] | bytes, bytes
]
"""Those of Frame, in its order: making a Frame costs more."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def framed(fields: Fields) -> bytes:
    payload = _encode(fields)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


class PredictionId(NamedTuple):
    task: str
    version: str
    day: str
    """2013-04-01, UTC: when it was answered."""
    worker: str
    counter: int


def id_prefix(task: str, version: str, at: float, worker: str) -> str:
    """All of an id but its counter; at: unix time of the answer."""
    return f"{task}-{version}-{_day(int(at // _DAY)).replace('-', '')}-{worker}-"


def unused_worker(home: Path) -> str:
    """A name that no file below `home` has: ids are made of it, and no two answers may share one."""
    while True:
        worker = secrets.token_hex(4)
        if next(home.rglob(f"{worker}-*"), None) is None:
            return worker


def parse_id(prediction: str) -> PredictionId | None:
    """An id that came back over HTTP, taken apart; None for anything else, a batch's id too.

    >>> parse_id("flights-4-20130401-00c0ffee-1f").counter
    31
    """
    parts = prediction.rsplit("-", 4)
    # From the right: a task's name may hold '-'. A batch's id ends in 16 hex digits, this never does.
    if len(parts) != 5 or len(parts[4]) > 15 or len(parts[3]) != 8 or not parts[0]:
        return None
    task, version, day, worker, counter = parts
    try:
        found = dt.datetime.strptime(day, "%Y%m%d").date().isoformat()
        parsed = PredictionId(task, version, found, f"{int(worker, 16):08x}", int(counter, 16))
    except ValueError:
        return None
    spelled = f"{task}-{version}-{found.replace('-', '')}-{parsed.worker}-{parsed.counter:x}"
    return parsed if spelled == prediction and version.isascii() and version.isdigit() else None


def day_of(at: float) -> str:
    """2013-04-01, UTC; at: unix time."""
    return _day(int(at // _DAY))


@functools.lru_cache(maxsize=256)
def _day(number: int) -> str:
    """Asked three times a frame, for the same day nearly always."""
    return dt.datetime.fromtimestamp(number * _DAY, dt.UTC).date().isoformat()


@contextlib.contextmanager
def closed(path: Path) -> Iterator[bool]:
    """Has its worker closed the file, or died? While the block runs nobody else compacts it."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(fd).st_nlink > 0
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def frames(path: Path) -> Iterator[Frame]:
    """Raises Torn at the first bytes that are no whole frame; all before them were yielded."""
    data = memoryview(path.read_bytes())
    at = 0
    while at < len(data):
        start = at + _HEAD.size
        if start > len(data):
            raise Torn(f"{path}: {len(data) - at} bytes at {at} are no frame")
        length, checksum = _HEAD.unpack_from(data, at)
        payload = data[start : start + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            raise Torn(f"{path}: the frame at byte {at} of {len(data)} is not whole")
        try:
            frame = _decode(payload)
        except msgspec.DecodeError as error:
            raise Torn(f"{path}: the frame at byte {at} is not of this format: {error}") from error
        yield frame
        at = start + length


def probabilities(some: Iterable[Frame]) -> array[float]:
    """(rows of all,) float32, or as many times the classes."""
    found: array[float] = array("f")
    for frame in some:
        if isinstance(frame.probabilities, bytes):
            found.frombytes(frame.probabilities)
        else:
            found.extend(frame.probabilities)
    return found
