"""retrain_<task>: on drift, a training in a worktree of its own, ending as a commit and a verdict."""

from __future__ import annotations

import json

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, Param
from airflow.sdk.exceptions import AirflowSkipException
from of_tasks import (
    ROOT,
    TASKS,
    asset,
    command,
    settings,
    tell_asset,
    telling,
)

from pipelines import notify
from pipelines.stage_graph import stages_before

DOC = """Retrains **{task}** in a git worktree, stage by stage as `dvc.yaml` has them.

It ends as a commit of `params.yaml` and `dvc.lock` on the branch that is checked out, with the data
pushed before, a challenger in the registry and a verdict on it. Whatever fails before the
fast-forward in `publish` has changed nothing, and the drift that asked for it is told again.
"""
GPU = {"pool": "gpu"}
"""One slot: one training at a time on this machine, whatever the task."""
REASON = (
    "{% if dag_run.run_type == 'asset_triggered' %}{% elif params.reason %}{{ params.reason }}"
    "{% elif dag_run.run_type == 'scheduled' %}its time by the schedule"
    "{% else %}asked for by hand{% endif %}"
)
"""Empty for a run that drift started: the ledger has the reasons, and may have more by now."""


def or_skip(said: str) -> dict:
    due = json.loads(said)
    if due is None:
        raise AirflowSkipException("nothing is due")
    return due


for name, task in TASKS.items():
    schedule, drift = task.schedule, asset(name, "drift")
    when = [drift]
    if schedule.retrain:
        clock = CronTriggerTimetable(schedule.retrain, timezone="UTC")
        when = AssetOrTimeSchedule(timetable=clock, assets=[drift])
    with DAG(
        f"retrain_{name}",
        schedule=when,
        catchup=False,
        params={"reason": Param(None, type=["null", "string"], description="Why, for the record.")},
        **settings(schedule, name, DOC.format(task=name)),
    ) as dag:
        retrain = f"perennial retrain {name} --step"
        begin = telling(
            "open", f'{retrain} open ${{REASON:+--reason "$REASON"}}', {"REASON": REASON}, or_skip
        )
        # A run's state is that of its last steps but this one, so this one tells of itself. (Counted
        # among them, `on_failure_fail_dagrun`, it would be the only one: a failed training was green.)
        close = command("close", f"{retrain} close", on_failure_callback=notify.step_failed)
        close.as_teardown(setups=begin)
        graph = stages_before(ROOT / "dvc.yaml", name)
        stages = {
            stage: command(stage, f"{retrain} {stage}", **(GPU if stage == "train" else {}))
            for stage in graph
        }
        for stage, before in graph.items():
            for earlier in [stages[other] for other in sorted(before)] or [begin]:
                earlier >> stages[stage]
        publish = command("publish", f"{retrain} publish")
        challenger = asset(name, "challenger")
        judge = telling(
            "judge", f"{retrain} judge", outlets=[challenger], post_execute=tell_asset(challenger)
        )
        for stage in graph:
            if not any(stage in before for before in graph.values()):
                stages[stage] >> publish
        publish >> judge >> close
    globals()[dag.dag_id] = dag
