"""Every part of this project's stack, in the order that they start."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from pipelines import params
from pipelines.adapters import mlflow_home
from pipelines.paths import PARAMS, Paths
from pipelines.stack import airflow, mlflow_server, postgres
from pipelines.stack.ask import answers
from pipelines.stack.choices import Choices
from pipelines.stack.part import Part, Run
from pipelines.stack.places import Places
from pipelines.stack.ports import HOST
from pipelines.stack.secrets import Secrets


def parts(
    places: Places, choices: Choices, secrets: Secrets, given: Mapping[str, str], run: Run
) -> list[Part]:
    """given: the shell's environment."""
    real = choices.store == "postgres"
    tracking = mlflow_server.url(choices)
    environment = for_airflow(places, choices, secrets, given)
    project = Paths(places.root, "")

    def databases() -> None:
        if real:
            postgres.make_databases(choices, secrets)
        else:
            mlflow_home.local_store(project)

    needs = (postgres.NAME,) if real else ()
    server = mlflow_server.part(
        project,
        choices,
        secrets,
        postgres.url(choices, "mlflow") if real else None,
        needs,
        databases,
    )

    def tables() -> None:
        databases()
        airflow.migrate(places, environment, run)

    return [
        *([postgres.part(places, choices, secrets, run)] if real else []),
        server,
        *airflow.parts(environment, tables, choices.airflow, needs),
        *services(places, choices, tracking),
    ]


def for_airflow(
    places: Places, choices: Choices, secrets: Secrets, given: Mapping[str, str]
) -> dict[str, str]:
    """With this a shell's `airflow` and `mlflow` mean this stack; secrets by file, never by value."""
    real = choices.store == "postgres"
    return airflow.environment(
        places.root,
        home=places.airflow,
        database=postgres.url(choices, "airflow")
        if real
        else airflow.sqlite_url(places.airflow_database),
        port=choices.airflow,
        secrets=secrets,
        tracking=mlflow_server.url(choices),
        given=given,
    )


def services(places: Places, choices: Choices, tracking: str) -> list[Part]:
    """One for each task, on the ports from the first one up, in the order of params.yaml."""
    made = []
    for port, task in enumerate(params.load(places.root / PARAMS).tasks, start=choices.service):
        url = f"http://{HOST}:{port}"
        made.append(
            Part(
                name=f"service-{task}",
                command=(sys.executable, "-m", "pipelines", "serve", task, "--port", str(port)),
                environment={"MLFLOW_TRACKING_URI": tracking, "PERENNIAL_ROOT": str(places.root)},
                # It answers before there is a champion, and says so itself.
                ask=answers(f"{url}/livez"),
                url=url,
                port=port,
                port_setting="PERENNIAL_PORT_SERVICE",
                needs=(mlflow_server.NAME,),
            )
        )
    return made
