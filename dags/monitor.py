"""monitor_<task>: answers what has landed, joins labels, and tells when the world has moved."""

from __future__ import annotations

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, Metadata, task
from airflow.sdk.exceptions import AirflowSkipException
from of_tasks import TASKS, asset, settings, telling

DOC = """Watches **{task}**: every batch that has landed and was not watched yet is answered by the
champion, gets its labels, and is judged; the report is in `data/6_live/{task}/drift/`.

When the policy says that a retraining is due, the asset `{task}_drift` gets an event with every
reason, and again at each look for as long as it is due. What is due is read from the ledger, so a
look too many or too few changes nothing.
"""


def make(name: str) -> DAG:
    schedule = TASKS[name].schedule
    drift = asset(name, "drift")
    with DAG(
        f"monitor_{name}",
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable(schedule.monitor, timezone="UTC"),
            assets=(asset(name, "batch") | asset(name, "champion")),
        ),
        catchup=False,
        **settings(schedule, name, DOC.format(task=name)),
    ) as dag:
        watch = telling("watch", f"perennial watch {name} --wait")

        @task(task_id="drift", outlets=[drift])
        def tell(told: dict) -> object:
            if told["due"] is None:
                raise AirflowSkipException("nothing is due")
            yield Metadata(drift, extra=told["due"])

        tell(watch.output)
    return dag


for name in TASKS:
    globals()[f"monitor_{name}"] = make(name)
