"""score_<task>: files of rows in, files of answers out."""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable
from of_tasks import TASKS, command, settings

DOC = """Answers every new CSV or Parquet file in `{rows}` with the champion of **{task}**:
predictions, version and ids in `data/6_scored/{task}/`, and the same in the prediction log.
"""

for name, task in TASKS.items():
    schedule = task.schedule
    with DAG(
        f"score_{name}",
        schedule=(CronTriggerTimetable(schedule.score, timezone="UTC") if schedule.score else None),
        catchup=False,
        **settings(schedule, name, DOC.format(task=name, rows=schedule.rows)),
    ) as dag:
        command("score", f'perennial score {name} --files "$ROWS"', {"ROWS": schedule.rows})
    globals()[dag.dag_id] = dag
