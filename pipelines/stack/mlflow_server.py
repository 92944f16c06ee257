"""MLflow's server as a part: over the project's own store, or over PostgreSQL."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pipelines.adapters import mlflow_home
from pipelines.paths import Paths
from pipelines.stack.ask import answers
from pipelines.stack.choices import Choices
from pipelines.stack.part import Part
from pipelines.stack.ports import HOST
from pipelines.stack.secrets import Secrets

NAME = "mlflow"


def url(choices: Choices) -> str:
    return f"http://{HOST}:{choices.mlflow}"


def part(
    at: Paths,
    choices: Choices,
    secrets: Secrets,
    database: str | None,
    needs: tuple[str, ...],
    prepare: Callable[[], None] | None,
) -> Part:
    """database: SQLAlchemy URL; None: the file that the commands use without a server.

    Local artifacts are written by the commands themselves, where they would be without a server,
    so both ways see the same versions. In a store elsewhere only the server writes them.
    """
    if choices.artifacts == "local":
        folder = str(at.mlflow / "artifacts")
        artifacts = ("--no-serve-artifacts", "--default-artifact-root", folder)
    else:
        artifacts = ("--serve-artifacts", "--artifacts-destination", choices.artifacts)
    return Part(
        name=NAME,
        command=(
            sys.executable, "-m", "mlflow", "server", "--host", HOST,
            "--port", str(choices.mlflow), "--workers", "1", *artifacts,
        ),
        environment=mlflow_home.ENVIRONMENT | {
            "MLFLOW_BACKEND_STORE_URI": database or f"sqlite:///{at.mlflow / 'mlflow.db'}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PGPASSFILE": str(secrets.pgpass),
        },
        ask=answers(f"{url(choices)}/health"),
        url=url(choices),
        port=choices.mlflow,
        port_setting="PERENNIAL_PORT_MLFLOW",
        needs=needs,
        prepare=prepare,
    )  # fmt: skip
