"""`tasks.<name>.schedule` in params.yaml: when Airflow does what. Times are UTC, cron or @daily."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from pipelines.settings import Settings


class Schedule(Settings):
    """What the DAGs of one task need to know beyond the flow itself."""

    until: str | None = None
    """Last batch that the source will ever have: later ones are skipped. None: it goes on."""
    catchup: bool = False
    """Ingest by itself every batch since the window's first; else only new ones, and older ones by
    `airflow backfill create`."""
    monitor: str = "@daily"
    """Look again this often, besides at each landed batch: a standing alarm is told again."""
    retrain: str | None = None
    """Retrain at these times besides on drift, e.g. "0 3 * * 1"; None: on drift only."""
    score: str | None = None
    """Answer the files in `rows` at these times; None: only when the DAG is triggered by hand."""
    rows: str = "rows"
    """Folder of CSV or Parquet files to answer, from the project's root."""
    approval: Literal["auto", "human"] = "auto"
    """human: a challenger that the gate let through waits for a person, and is rejected when nobody
    answers within `approval_hours`."""
    approval_hours: PositiveFloat = 72.0
    service: str | None = None
    """A running service, e.g. http://127.0.0.1:3000: after a promotion it must answer with the new
    version."""
    retries: PositiveInt = 2
    """Times a step that failed is tried again, each after twice as long, where repeating is safe."""
    hours: PositiveFloat = 6.0
    """Longest time of one step; twice that, and the run as a whole has missed its deadline, to which a
    person's `approval_hours` are added."""
    owner: str = "perennial"
