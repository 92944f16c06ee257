"""promote_<task>: a new challenger's verdict, a person where the task wants one, the promotion."""

from __future__ import annotations

import json
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException
from of_tasks import TASKS, asset, command, settings, telling

DOC = """Lets the challenger of **{task}** answer, when the gate's verdict says promote{human}.

A challenger that was held stays where it is, and the tasks after `verdict` are skipped; so they are
where there is none, because the retraining made the champion again.
"""
HUMAN = """ and a person
approves (Required Actions; rejected when nobody does in time)"""

WHO = "{{ ti.xcom_pull(task_ids='approve')['responded_by_user']['name'] }}"
FIELD = "{{{{ ti.xcom_pull(task_ids='verdict')['{}'] }}}}"


def promote_or_skip(said: str) -> dict:
    told = json.loads(said)
    if told is None:
        raise AirflowSkipException("no challenger: the retraining made the champion again")
    if told["decision"] != "promote":
        raise AirflowSkipException(f"held: {told['reason']}")
    return told


for name, task in TASKS.items():
    schedule = task.schedule
    human = schedule.approval == "human"
    answers_within = timedelta(hours=schedule.approval_hours if human else 0)
    with DAG(
        f"promote_{name}",
        schedule=[asset(name, "challenger")],
        catchup=False,
        **settings(
            schedule, name, DOC.format(task=name, human=HUMAN if human else ""), answers_within
        ),
    ) as dag:
        verdict = telling("verdict", f"perennial verdict {name}", read=promote_or_skip)
        by = {"BY": WHO} if human else {}
        promote = command(
            "promote",
            f'perennial promote {name} --version "$VERSION"' + (' --by "$BY"' if human else ""),
            {"VERSION": FIELD.format("challenger"), **by},
            outlets=[asset(name, "champion")],
        )  # fmt: skip
        if human:
            approve = ApprovalOperator(
                task_id="approve",
                subject=f"Let version {FIELD.format('challenger')} of {name} answer?",
                body=FIELD.format("markdown"),
                defaults="Reject",
                response_timeout=answers_within,
                execution_timeout=None,
                # Asked again, should the answer be lost with the process that waited.
                retries=1,
            )
            verdict >> approve >> promote
        else:
            verdict >> promote
        if schedule.service:
            address = {"SERVICE": schedule.service}
            promote >> command("smoke", f'perennial smoke {name} --service "$SERVICE"', address)
    globals()[dag.dag_id] = dag
