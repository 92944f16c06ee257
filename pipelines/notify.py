"""Tell people that a scheduled run failed or is late: one JSON message to an address of theirs.

The address is PERENNIAL_NOTIFY_URL (a chat's incoming webhook, which reads `text`, or anything that
takes JSON); without it the message is in the scheduler's log only. Airflow calls these functions in
processes of its own, so they must be importable there and import nothing heavy.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

ADDRESS = "PERENNIAL_NOTIFY_URL"
SECONDS = 10.0


def failed(context: Mapping[str, Any]) -> None:
    """`on_failure_callback` of a DAG."""
    run = context["dag_run"]
    tell(
        {
            "text": f"{run.dag_id} failed: {context.get('reason') or 'a task failed'} ({run.run_id})",
            "kind": "failed",
            "dag": run.dag_id,
            "run": run.run_id,
        }
    )


def step_failed(context: Mapping[str, Any]) -> None:
    """`on_failure_callback` of a task whose run is not failed by it."""
    run, step = context["dag_run"], context["task"].task_id
    tell(
        {
            "text": f"{run.dag_id}: {step} failed ({run.run_id})",
            "kind": "failed",
            "dag": run.dag_id,
            "run": run.run_id,
        }
    )


async def late(context: Mapping[str, Any], **_: Any) -> None:
    """Callback of a DAG's deadline."""
    run = context["dag_run"]
    name, run_id = run["dag_id"], run["dag_run_id"]
    message = {"text": f"{name} is late ({run_id})", "kind": "late", "dag": name, "run": run_id}
    await asyncio.to_thread(tell, message)


def tell(message: Mapping[str, str]) -> bool:
    """False when nobody could be told; that is in the log, and the run is left as it is."""
    log.error("%s", message["text"])
    address = os.environ.get(ADDRESS)
    if not address:
        return False
    body, kind = json.dumps(message).encode(), {"content-type": "application/json"}
    try:
        asked = urllib.request.Request(address, body, kind)
        with urllib.request.urlopen(asked, timeout=SECONDS):
            return True
    except (OSError, http.client.HTTPException, ValueError) as error:
        log.error("%s names an address that did not take the message: %s", ADDRESS, error)
        return False
