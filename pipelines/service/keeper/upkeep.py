"""What the keeper does for the prediction log: closed journals become Parquet, old days go.

In a thread of its own, and whatever it raises is counted: the aliases are watched all the same.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pipelines import store
from pipelines.contract import Contract
from pipelines.paths import Paths
from pipelines.serve_params import Log
from pipelines.service import wanted

log = logging.getLogger(__name__)

BEHIND = 10
"""Niceness of the upkeep, of 19."""


class Upkeep:
    def __init__(self, at: Paths, contract: Contract, settings: Log) -> None:
        self.at, self.contract, self.settings = at, contract, settings
        self.state: dict[str, Any] = {"runs": 0, "rows": 0, "torn_journals": 0, "failures": 0}
        self._retained: dt.date | None = None

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Not at once: at the start the models have the processor."""
        # Of this thread alone (Linux): answers, and the next version of the model, come first. Refused
        # where the whole service stands behind already (systemd's Nice=19), which serves as well.
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND)
        while not stop.wait(self.settings.rotate_seconds):
            self.once(dt.datetime.now(dt.UTC).date())

    def once(self, today: dt.date) -> None:
        began = time.monotonic()
        done = self._do("compact", self._compact)
        if today != self._retained and self._do("retain", lambda: self._retain(today)):
            self._retained = today
        self.state["runs"] += 1
        self.state["failing"] = not done or today != self._retained
        self.state |= {"at": time.time(), "seconds": round(time.monotonic() - began, 3)}
        if done:
            self.state["compacted_at"] = self.state["at"]
        self._do("state", lambda: store.write_json(wanted.upkeep(self.at), self.state))

    def _compact(self) -> None:
        from pipelines import served

        done = served.compact(self.at, self.contract)
        self.state["rows"] += done.rows
        self.state["torn_journals"] += done.bad
        if done.failed:
            raise OSError(
                f"{done.failed} journals or days could not be read or written, see the log"
            )

    def _retain(self, today: dt.date) -> None:
        from pipelines import served

        served.retain(self.at, self.settings.retention_days, today)

    def _do(self, what: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:
            told = f"{what}: {type(error).__name__}: {error}"[:500]
            self.state["failures"] += 1
            self.state |= {"error": told, "failed_at": time.time()}
            log.exception("upkeep failed", extra={"task": self.at.task, "step": what})
            return False
        return True
