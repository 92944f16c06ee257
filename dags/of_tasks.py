"""What the five DAGs of a task share: its settings, its assets, and how a command is run.

Parsed every few seconds, so it imports airflow.sdk, the flow and the settings, and no more.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Asset, AsyncCallback, DeadlineAlert, DeadlineReference

from pipelines import notify, params, paths
from pipelines.schedule_params import Schedule

ROOT = Path(os.environ.get("PERENNIAL_ROOT") or Path(__file__).resolve().parents[1])
TASKS = params.load(ROOT / paths.PARAMS).tasks

ENVIRONMENT = {
    "PERENNIAL_ROOT": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
}


def asset(task: str, what: str) -> Asset:
    """what: batch, drift, challenger or champion."""
    return Asset(name=f"{task}_{what}", uri=f"perennial://{task}/{what}")


def settings(
    schedule: Schedule, task: str, doc: str, person: timedelta = timedelta()
) -> dict[str, Any]:
    """The arguments that every DAG of a task has. person: time that one has to answer in it."""
    step = timedelta(hours=schedule.hours)
    return {
        "tags": ["perennial", task],
        "doc_md": doc,
        "max_active_runs": 1,
        "on_failure_callback": notify.failed,
        "deadline": DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=2 * step + person,
            callback=AsyncCallback("pipelines.notify.late"),
        ),
        "default_args": {
            "owner": schedule.owner,
            "retries": schedule.retries,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=10),
            "execution_timeout": step,
        },
    }


def command(
    task_id: str, words: str, env: dict[str, str] | None = None, **more: Any
) -> BashOperator:
    """The command that a person would type, in the project's folder.

    env: values that come from a person or an event; they never become part of the shell's text.
    """
    return BashOperator(
        task_id=task_id,
        bash_command=f"set -euo pipefail\n{words}",
        cwd=str(ROOT),
        env=ENVIRONMENT | (env or {}),
        append_env=True,
        **more,
    )


def telling(
    task_id: str,
    words: str,
    env: dict[str, str] | None = None,
    read: Callable[[str], Any] = json.loads,
    **more: Any,
) -> BashOperator:
    """The same, for a command whose JSON the next task reads.

    On one line, because Airflow takes the last line that was printed. read: may raise
    AirflowSkipException, and what comes after is skipped.
    """
    return command(task_id, f"{words} --json | tr -d '\\n'", env, output_processor=read, **more)


def tell_asset(what: Asset) -> Any:
    """A `post_execute` that puts what a command told onto the event of its asset."""

    def put(context: Any, result: Any) -> None:
        if result:
            context["outlet_events"][what].extra = result

    return put
