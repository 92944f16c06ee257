"""`tasks.<name>.serve` in params.yaml: how the champion answers over HTTP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pipelines.settings import Settings


class Log(Settings):
    """The prediction log: `tasks.<name>.serve.log`."""

    mode: Literal["buffered", "durable"] = "buffered"
    """durable: an answer leaves only after its record was handed to the system, so `kill -9` loses
    none. buffered: within `flush_ms` after it, and `kill -9` loses those."""
    flush_ms: PositiveInt = 50
    """Time between two beats of a worker, at which records that wait in memory are written, and
    counts reach `/metrics`. buffered: about the longest time that an answer's record waits."""
    buffer_mb: PositiveFloat = 8.0
    """buffered only: most records that wait in memory, beside as many that are being written; more
    are written at once, in the request's own time, so memory stays bounded and clients are slowed
    instead."""
    rotate_seconds: PositiveFloat = 60.0
    """After this time, or at `rotate_mb`, a journal is closed and turned into a Parquet file."""
    rotate_mb: PositiveFloat = 64.0
    retention_days: PositiveInt = 90
    """Days of answers that are kept."""


class Challenger(Settings):
    """What the alias `challenger` does in the service: `tasks.<name>.serve.challenger`."""

    route: Literal["off", "canary", "shadow"] = "off"
    """canary: the challenger answers its share. shadow: it predicts beside the champion on its
    share, and only the log sees it."""
    share: float = Field(default=0.05, gt=0, le=1)
    """Share of requests, chosen by their key: the same key always goes the same way."""
    max_errors: PositiveInt = 3
    """Failed predictions of one challenger version, of rows that the champion answers, that send all
    traffic back to it."""
    latency_ms: PositiveFloat = 50.0
    """And likewise when the median time of its last 100 predictions is above this."""


class Serve(Settings):
    """How one task is served. Secrets are not here: PERENNIAL_API_KEY, PERENNIAL_WEBHOOK_SECRET."""

    workers: PositiveInt = 1
    """Processes that answer."""
    max_rows: PositiveInt = 10_000
    """Most rows of one request."""
    max_mb: PositiveFloat = 16.0
    """Largest body of one request."""
    concurrency: PositiveInt = 512
    """Requests in one worker at the same time; one more is answered 429."""
    poll_seconds: float = Field(default=0.5, gt=0, le=600)
    """Time between two looks at the registry's aliases."""
    challenger: Challenger = Challenger()
    log: Log = Log()
