"""What is known of each picture of a batch without its pixels: what validation holds to the contract."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines import images, store
from pipelines.contract import Column, Contract
from pipelines.errors import MissingInput
from pipelines.images import Fault, ImageError

Seen = dict[str, dict[str, str]]
"""Column -> digest of a picture's pixels -> the picture's name."""


def columns(contract: Contract) -> dict[str, Column]:
    """Those of pictures, whether a model sees them or not."""
    return {name: c for name, c in contract.columns.items() if c.type == "image"}


def look(values: pd.Series, column: Column) -> pd.DataFrame:
    """One row a picture, None where a look is not to be had: of a missing picture none, of one of
    another size the size.

    readable: bool. size: as `8 x 8`. mode: as Pillow names it. plain: bool, of one colour only.
    digest: of the pixels. wrong: in words, what is wrong with a picture that cannot be learned from.
    """
    assert column.size is not None
    assert column.mode is not None
    rows = [_look(data, column.size, column.mode) for data in values]
    names = ["readable", "size", "mode", "plain", "digest", "wrong"]
    table = pd.DataFrame(rows, columns=names, index=values.index, dtype=object)
    return table.where(table.notna(), None)


def _look(data: Any, size: tuple[int, int], mode: str) -> dict[str, object]:
    if not isinstance(data, bytes):
        return {}
    right: dict[str, object] = {"readable": True, "size": f"{size[0]} x {size[1]} pixels"}
    try:
        pixels = images.decode(data, size, mode)
    except ImageError as error:
        known: dict[Fault, dict[str, object]] = {
            "readable": {"readable": False},
            "size": {"readable": True, "size": error.found},
            "mode": {**right, "mode": error.found},
        }
        return {**known[error.fault], "wrong": error.found}
    plain = bool((pixels == pixels[:1, :1]).all())
    return {**right, "mode": mode, "plain": plain, "digest": images.digest(pixels)}


def names(table: pd.DataFrame, contract: Contract) -> np.ndarray:
    """(N,) what each row is called: its key, or its place where the batch has no such columns."""
    known = [name for name in contract.key if name in table]
    if not known:
        return np.array([f"row {row}" for row in range(len(table))], dtype=object)
    return table[known].astype(str).agg(" ".join, axis=1).to_numpy(dtype=object)


def seen(table: pd.DataFrame, contract: Contract) -> Seen:
    """Every picture of a batch, as `look` would know it again."""
    called = names(table, contract)
    found: Seen = {}
    for name, column in columns(contract).items():
        digests = look(table[name], column)["digest"]
        kept = digests.notna().to_numpy()
        found[name] = dict(zip(digests[kept], called[kept], strict=True))
    return found


def before(batches: Iterable[Path], contract: Contract) -> Seen:
    """Every picture of earlier, accepted batches, with the name of the first that has its pixels.

    A batch that is no longer here has no row in a window either, and is left out. Raises MissingInput
    for one that cannot be read any more.
    """
    pictures = columns(contract)
    found: Seen = {name: {} for name in pictures}
    for path in (path for path in batches if pictures and path.is_file()):
        for name, digests in _kept(path, path.stat().st_mtime_ns, _Asked(contract)).items():
            for digest, called in digests.items():
                found[name].setdefault(digest, f"{called} of {path.stem}")
    return found


class _Asked:
    """A contract as a key of the cache."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._digest = contract.digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and other._digest == self._digest


@functools.lru_cache(maxsize=128)
def _kept(path: Path, changed: int, asked: _Asked) -> Seen:
    """Read once for all batches that come after it. changed: when the file was."""
    contract = asked.contract
    try:
        table = store.frame(path, columns=[*contract.key, *columns(contract)])
    except (OSError, ValueError) as error:
        raise MissingInput(
            f"{path} was accepted and cannot be read any more: {error}. Land it again with: "
            f"rm {path} && perennial ingest {contract.task} --batch {path.stem}"
        ) from error
    return seen(table, contract)


def repeated(digests: pd.Series, called: np.ndarray, earlier: Mapping[str, str]) -> np.ndarray:
    """(N,) the name of the picture that each one repeats; None for the first of its pixels."""
    known = dict(earlier)
    found: list[str | None] = []
    for digest, name in zip(digests, called, strict=True):
        found.append(None if digest is None else known.setdefault(digest, name))
    return np.array(
        [None if first is name else first for first, name in zip(found, called, strict=True)],
        dtype=object,
    )
