"""Files, atomically: a killed writer leaves the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import MissingInput

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name, synced, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a whole folder: `path` is replaced by what the block wrote, or untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path, of: str = "") -> None:
    """Remove what killed writers left in `folder` (call it holding the lock of those who write).

    of: only what was to become the file or folder of this name.
    """
    for left in sorted(folder.rglob(f".{of}*")) if folder.exists() else ():
        if left.suffix not in (".tmp", ".old"):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, mend: str) -> Any:
    if not path.is_file():
        raise MissingInput(f"{path} does not exist. Make it with: {mend}")
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: Path, mend: str, columns: list[str] | None = None) -> pd.DataFrame:
    if not path.is_file():
        raise MissingInput(f"{path} does not exist. Make it with: {mend}")
    return frame(path, columns)


def frame(content: Path | bytes, columns: list[str] | None = None) -> pd.DataFrame:
    """A Parquet file, or its bytes, as pandas reads it. Raises OSError and what Arrow raises.

    Not by `pandas.read_parquet`: it hands Arrow memory that belongs to Python, and a thread of
    Arrow's that lets go of it while Python ends takes the whole process down with SIGABRT, after
    its work is done (apache/arrow#34314; 4 of 493 runs of `perennial ingest` with both cores busy).
    """
    import pyarrow.parquet as parquet

    source = owned(content) if isinstance(content, bytes) else content
    table = parquet.read_table(source, columns=columns, partitioning=None, use_pandas_metadata=True)
    rows: pd.DataFrame = table.to_pandas()
    return rows


def owned(content: bytes) -> pa.BufferReader:
    """The bytes in memory that is Arrow's own, for a reader with threads; see `frame`."""
    import pyarrow as pa

    copy = pa.BufferOutputStream()
    copy.write(content)
    return pa.BufferReader(copy.getvalue())


def rows_in(path: Path) -> int:
    """Row count from the file's footer; nothing else is read."""
    import pyarrow.parquet as parquet

    return int(parquet.read_metadata(path).num_rows)


def write_arrays(path: Path, **arrays: Any) -> None:
    """Uncompressed: training reads them at disk speed."""
    import numpy as np

    with atomic(path) as temporary, temporary.open("wb") as out:
        np.savez(out, **arrays)


def read_arrays(path: Path, mend: str) -> dict[str, Any]:
    import numpy as np

    if not path.is_file():
        raise MissingInput(f"{path} does not exist. Make it with: {mend}")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def append_line(path: Path, line: str) -> None:
    """One line, in one write, synced: readers see it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        # A line torn by a crash is closed first, so that it spoils only itself.
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, (("\n" if torn else "") + line + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def md5(path: Path) -> str:
    """DVC's hash of a file."""
    return _digest(path, hashlib.md5)


def _digest(path: Path, algorithm: Callable[[], Any]) -> str:
    digest = algorithm()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest())


def digest_of(value: Any) -> str:
    """md5 of a JSON value: the same for the same content, however it was written."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.md5(text.encode()).hexdigest()
