"""What a source offers, and the list of them. A new source is one file here and one line below."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipelines.contract import Contract
from pipelines.params import Task

if TYPE_CHECKING:
    import pandas as pd


class Source(Protocol):
    def periods(self) -> tuple[str, ...]:
        """Names of the batches that the source has, in time order."""

    def read(self, period: str) -> pd.DataFrame:
        """The rows of one period, label included, sorted by time and key."""


def open_source(task: Task, contract: Contract, root: Path) -> Source:
    if task.source.kind == "flights":
        from pipelines.sources.flights import Flights

        return Flights()
    from pipelines.sources.files import Files

    assert task.source.path is not None
    # A retraining runs in a worktree, and the source lies beside the project's own checkout.
    root = Path(os.environ.get("PERENNIAL_SOURCES", root))
    return Files(root, task.source.path, contract, task.period)
