"""ingest_<task>: one run a batch. Lands it and holds it to its contract."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, CronDataIntervalTimetable, Param
from of_tasks import TASKS, asset, command, settings

from pipelines.params import Task
from pipelines.periods import FORMATS, start_and_end

CRON = {"month": "0 0 1 * *", "week": "0 0 * * 1", "day": "0 0 * * *", "hour": "0 * * * *"}

DOC = """Lands batch after batch of **{task}** and holds each to `contracts/{task}.yaml`.

A batch that fails is put in quarantine, the run fails, and the champion stays as it is. A landed
batch never changes, so any run may be repeated. Older batches:
`airflow backfill create --dag-id ingest_{task} --from-date {first} --to-date ...`, or trigger this
DAG with one in `batch`.
"""


def ends(task: Task) -> str:
    """Skip what is later than the source's last batch. Not by the DAG's end_date: with that, Airflow
    gives a run that a person starts today no tasks at all, and calls it a success."""
    last = task.schedule.until
    if last is None:
        return ""
    return f'if [[ "$BATCH" > "{last}" ]]; then echo "the source ends with {last}"; exit 99; fi\n'


def began(period: str, length: str) -> datetime:
    return start_and_end(period, length)[0].replace(tzinfo=UTC)


for name, task in TASKS.items():
    schedule, length = task.schedule, task.period
    with DAG(
        f"ingest_{name}",
        schedule=CronDataIntervalTimetable(CRON[length], timezone="UTC"),
        start_date=began(task.window.first, length),
        catchup=schedule.catchup,
        params={"batch": Param(None, type=["null", "string"], description="One batch by name.")},
        **settings(schedule, name, DOC.format(task=name, first=task.window.first)),
    ) as dag:
        batch = {
            "BATCH": f"{{{{ params.batch or data_interval_start.strftime('{FORMATS[length]}') }}}}"
        }
        land = command("ingest", f'{ends(task)}perennial ingest {name} --batch "$BATCH"', batch)
        # Not tried again: a batch that broke its contract is in quarantine and stays there.
        check = command(
            "validate", f'perennial validate {name} --batch "$BATCH"', batch,
            retries=0, outlets=[asset(name, "batch")],
        )  # fmt: skip
        land >> check
    globals()[dag.dag_id] = dag
