"""Structured logs: one JSON object a line, with what the caller gave as `extra`."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "at": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        said |= {k: v for k, v in record.__dict__.items() if k not in _OWN}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def configure() -> None:
    """Ours go to stderr as JSON; uvicorn's access log is left out, the prediction log has it all."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(AsJson())
    ours = logging.getLogger("pipelines")
    ours.handlers[:] = [handler]
    ours.setLevel(logging.INFO)
    ours.propagate = False
    # uvicorn asks once a connection whether anyone would hear it, and formats a line a request if so.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
