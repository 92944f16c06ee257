"""What does Airflow add to a retraining? `make bench-orchestration`

The local stack on a clone with quick settings. The same retraining is made twice each way, in
turns: by the bare commands one after the other, as a person would type them, and by the DAG. What
was made is forgotten before each, so every stage is really run. Added is the DAG run from start to
end, less the bare commands of the same round.
"""

from __future__ import annotations

import shutil
import statistics
import time
from datetime import datetime

from benchmarks.figures import Figure, close
from pipelines import flow
from tests.slow import airflow_stack
from tests.slow.airflow_stack import Airflow

ROUNDS = 2
STEPS = ("open", *flow.PURE, "publish", "judge", "close")
MONTHS = ("2013-01", "2013-02", "2013-03")
A_TASK = 1.5
"""Seconds that Airflow may add to one task."""


def forget(airflow: Airflow, base: str) -> None:
    """No stage is up to date, and DVC's run cache knows none."""
    airflow.git("reset", "--quiet", "--hard", base)
    shutil.rmtree(airflow.at.root / ".dvc" / "cache" / "runs", ignore_errors=True)


def bare(airflow: Airflow) -> dict[str, float]:
    """Seconds of each command."""
    took = {}
    for step in STEPS:
        began = time.perf_counter()
        why = ["--reason", "bare"] if step == "open" else []
        airflow.command("retrain", "flights", "--step", step, *why)
        took[step] = time.perf_counter() - began
    return took


def dag(airflow: Airflow) -> tuple[float, dict[str, float]]:
    """Seconds of the run from its start to its end, and of each task."""
    run = airflow.trigger("retrain_flights", reason="by Airflow")
    path = f"/api/v2/dags/retrain_flights/dagRuns/{run}"
    ended = airflow.until(lambda: _ended(airflow.ask("GET", path)), "a retraining")
    assert ended["state"] == "success", airflow.log()
    tasks = airflow.ask("GET", f"{path}/taskInstances")["task_instances"]
    return _seconds(ended), {t["task_id"]: _seconds(t) for t in tasks}


def _ended(run: dict) -> dict | None:
    return run if run["state"] in ("success", "failed") else None


def _seconds(what: dict) -> float:
    began, ended = (datetime.fromisoformat(what[f"{end}_date"]) for end in ("start", "end"))
    return (ended - began).total_seconds()


def main() -> None:
    for airflow in airflow_stack.stack("embedded", {"approval": "human"}):
        for dag_id in ("monitor_flights", "promote_flights"):
            airflow.ask("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": True})
        for month in MONTHS:
            airflow.command("ingest", "flights", "--batch", month)
            airflow.command("validate", "flights", "--batch", month)
        base = airflow.git("rev-parse", "HEAD")
        rounds = []
        for _ in range(ROUNDS):
            forget(airflow, base)
            commands = bare(airflow)
            forget(airflow, base)
            whole, tasks = dag(airflow)
            rounds.append({"bare": commands, "dag": whole, "tasks": tasks})
            added = whole - sum(commands.values())
            print(f"bare {sum(commands.values()):.1f} s, DAG {whole:.1f} s, added {added:.1f} s")
    added = statistics.median(r["dag"] - sum(r["bare"].values()) for r in rounds)
    share = statistics.median(r["dag"] / sum(r["bare"].values()) - 1 for r in rounds)
    figures = [
        Figure("added, seconds a task", added / len(STEPS), A_TASK, "at most"),
        Figure("added, share of the bare commands", share, 0.5, "at most"),
    ]
    close("orchestration", figures, {"rounds": rounds})


if __name__ == "__main__":
    main()
