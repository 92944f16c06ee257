"""Land batches: the rows of one period from the source, as one immutable Parquet file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import store
from pipelines.contract import Contract
from pipelines.errors import BatchConflict, UnknownId
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.sources.base import open_source

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def run(name: str, task: Task, contract: Contract, at: Paths, periods: Sequence[str]) -> list[str]:
    """Land each period that is not there yet; returns those that were landed now.

    Raises UnknownId for a period that the source does not have, BatchConflict where a landed batch
    holds other rows than the source now gives.
    """
    source = open_source(task, contract, at.root)
    offered = source.periods()
    for period in periods:
        if period not in offered:
            shown = f"{offered[0]} to {offered[-1]}" if offered else "none"
            raise UnknownId(
                f"ingest {name}: the source has no batch {period}; it has: {shown}. A window takes "
                f"every {task.period} from its first to its last, so each needs rows: take a longer "
                "period with: edit params.yaml; or choose another batch with: "
                f"perennial ingest {name} --batch <period>"
            )
    landed = []
    for period in periods:
        rows = source.read(period)
        path = at.batch(period)
        if path.exists():
            _refuse_change(name, period, path, rows)
            continue
        store.write_table(path, rows)
        landed.append(period)
        log.info("ingest %s %s: %d rows", name, period, len(rows))
    return landed


def _refuse_change(name: str, period: str, path: Path, rows: pd.DataFrame) -> None:
    """Compares rows and not files: a newer Parquet writer spells the same rows in other bytes."""
    mend = (
        f"A landed batch never changes. To replace it on purpose: rm {path} && "
        f"perennial ingest {name} --batch {period}"
    )
    try:
        landed = store.frame(path)
    except (OSError, ValueError) as error:
        raise BatchConflict(f"ingest {name}: {path} cannot be read: {error}. {mend}") from error
    rows = _as_landed(rows)
    if not landed.equals(rows):
        raise BatchConflict(
            f"ingest {name}: {path} holds other rows than the source now gives for {period}: "
            f"{_difference(landed, rows)}. {mend}"
        )


def _as_landed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as Parquet gives them back: seconds become milliseconds, NaN text becomes None."""
    return store.frame(rows.to_parquet(index=False))


def _difference(landed: pd.DataFrame, rows: pd.DataFrame) -> str:
    if list(landed.columns) != list(rows.columns):
        return f"columns {list(landed.columns)} against {list(rows.columns)}"
    if len(landed) != len(rows):
        return f"{len(landed)} rows against {len(rows)}"
    changed = [c for c in rows.columns if not landed[c].equals(rows[c])]
    return f"same row count, different values in {', '.join(changed)}"
