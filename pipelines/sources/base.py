"""What a source offers, and the list of them. A new source is one file here and one line below."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipelines.contract import Contract
from pipelines.params import Task
from pipelines.paths import sources_root

if TYPE_CHECKING:
    import pandas as pd


class Source(Protocol):
    def periods(self) -> tuple[str, ...]:
        """Names of the batches that the source has, in time order."""

    def read(self, period: str) -> pd.DataFrame:
        """The rows of one period, label included, sorted by time and key."""


def open_source(task: Task, contract: Contract, root: Path) -> Source:
    told = task.source
    if told.kind == "flights":
        from pipelines.sources.flights import Flights

        return Flights()
    if told.kind == "digits":
        from pipelines.sources.digits import Digits

        return Digits(task.period)

    assert told.path is not None
    root = sources_root(root)
    if told.kind == "images":
        from pipelines.sources.image_folder import ImageFolder

        return ImageFolder(root / told.path, contract, task.period)
    if told.kind == "idx":
        from pipelines.sources.idx import Idx

        assert told.first is not None
        assert told.rows is not None
        return Idx(root / told.path, contract, task.period, told.first, told.rows)
    from pipelines.sources.files import Files

    return Files(root, told.path, contract, task.period)
