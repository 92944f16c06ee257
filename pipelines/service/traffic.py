"""Which requests the challenger sees, and when it loses them: too many failures, or too slow."""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections import deque

from pipelines.serve_params import Challenger
from pipelines.service.live import Live
from pipelines.service.state import Model

log = logging.getLogger(__name__)

POINTS = 10_000
"""Finest share: one request in ten thousand."""
WEIGHED = 100
"""Predictions whose median time is judged."""
BLOCK = 64
"""Rows that count as one prediction: that clients send thousands at a time is no fault of the model's."""


class Traffic:
    def __init__(self, task: str, live: Live, limits: Challenger) -> None:
        self.live, self.limits = live, limits
        self._salt = f"perennial:{task}".encode()[: hashlib.blake2b.MAX_KEY_SIZE]
        self._weighed = ""
        self._failures = 0
        self._seconds: deque[float] = deque(maxlen=WEIGHED)

    @property
    def canary(self) -> Model | None:
        """The challenger, when it answers its share."""
        return self.live.challenger if self.limits.route == "canary" else None

    @property
    def shadow(self) -> Model | None:
        """The challenger, when it predicts beside the champion on its share."""
        return self.live.challenger if self.limits.route == "shadow" else None

    def chosen(self, key: bytes) -> bool:
        """Is the key in the challenger's share? A larger share holds the smaller one's keys too."""
        digest = hashlib.blake2b(key, digest_size=4, key=self._salt).digest()
        return int.from_bytes(digest, "big") % POINTS < self.limits.share * POINTS

    def weigh(self, model: Model, failed: bool, seconds: float = 0.0, rows: int = 1) -> None:
        """One prediction of the challenger; takes it off when its limits are passed.

        seconds: of the call of the model, with so many rows. Another version starts with a clean
        slate.
        """
        if model.version != self._weighed:
            self._weighed, self._failures = model.version, 0
            self._seconds.clear()
        reason = self._failed() if failed else self._slow(seconds / -(-rows // BLOCK))
        if reason:
            log.error("challenger taken off", extra={"version": model.version, "reason": reason})
            self._weighed = ""  # named again, it starts with a clean slate too
            self.live.trip(model, reason)

    def _failed(self) -> str:
        self._failures += 1
        if self._failures < self.limits.max_errors:
            return ""
        return f"{self._failures} failed predictions ({self.limits.max_errors} are too many)"

    def _slow(self, seconds: float) -> str:
        self._seconds.append(seconds)
        # Judged a full window at a time: a median at each request would cost more than the request.
        if len(self._seconds) < WEIGHED:
            return ""
        median_ms = statistics.median(self._seconds) * 1000
        self._seconds.clear()
        if median_ms <= self.limits.latency_ms:
            return ""
        return f"median {median_ms:.1f} ms a prediction ({self.limits.latency_ms:g} allowed)"
