"""Where MLflow keeps its things, and how its failures become ours.

By default a SQLite file of this project; by MLFLOW_TRACKING_URI any server. A replay never uses
that server: history played again must not move the aliases that answer today.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipelines import store
from pipelines.errors import RegistryError
from pipelines.lock import task_lock
from pipelines.paths import Paths

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    # A uv.lock in the working folder would start `uv export` at every logged model.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
    # Models are ONNX; nothing that is fetched may run code by being loaded.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Waits of 0, 4 and 8 s before a server counts as out of reach; the default, 7, hangs 4 minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # A pooled connection would go on writing to a database file that was removed and made anew.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
"""Defaults for MLflow; what the environment already says wins."""

VARIABLE = "MLFLOW_TRACKING_URI"
_set_here: set[str] = set()
_named: list[str | None] = [None]


def configure(at: Paths) -> str:
    """Point MLflow at this task's store, making it when it is not there; returns the URI.

    Call it before every use: two tasks, or a task and its replay, may live in one process.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    named = _named_by_user()
    uri = named if named and at.replay is None else local_store(at)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    if mlflow.get_tracking_uri() != uri or os.environ.get(VARIABLE) != uri:
        mlflow.set_tracking_uri(uri)
        # MLflow resolves models:/ addresses by this variable only.
        os.environ[VARIABLE] = uri
    return uri


def _named_by_user() -> str | None:
    """MLflow writes the URI in use into the user's own variable, so what we set is told apart."""
    uri = os.environ.get(VARIABLE)
    if uri not in _set_here:
        _named[0] = uri
    return _named[0]


def local_store(at: Paths) -> str:
    """A fresh database costs seconds of migrations, and two makers spoil it: made once, copied."""
    database = at.mlflow / "mlflow.db"
    if not database.is_file():
        lock = at.root / ".perennial" / "locks" / "mlflow.lock"
        with task_lock(lock, "making the MLflow database", wait=True):
            if not database.is_file():
                template = _template(at.root)
                with store.atomic(database) as temporary:
                    shutil.copyfile(template, temporary)
                    _move_default_experiment(temporary, at.mlflow / "artifacts")
    uri = f"sqlite:///{database}"
    _set_here.add(uri)
    return uri


def _template(root: Path) -> Path:
    path = root / ".perennial" / f"mlflow-{metadata.version('mlflow')}.db"
    if not path.is_file():
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with store.atomic(path) as temporary:
            made = SqlAlchemyStore(f"sqlite:///{temporary}", str(root / ".perennial"))
            made.engine.dispose()
    return path


def _move_default_experiment(database: Path, artifacts: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0",
            (str(artifacts / "0"),),
        )


@contextlib.contextmanager
def reaching(uri: str) -> Iterator[None]:
    """MLflow's failures as RegistryError, which names the store and how to mend it."""
    import requests
    import sqlalchemy
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError) as error:
        said = " ".join((str(error).strip() or type(error).__name__).split())
        mend = (
            f"See whether it answers with: curl {uri}/health, or use the local one with: "
            f"unset {VARIABLE}"
            if uri.startswith("http")
            else "See what it holds with: perennial status"
        )
        raise RegistryError(f"MLflow at {uri}: {said[:300]}. {mend}") from error


def experiment(at: Paths, name: str) -> str:
    """Id of the task's experiment; made on first use."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        local = os.environ[VARIABLE].startswith("sqlite")
        folder = str(at.mlflow / "artifacts" / name) if local else None
        try:
            return str(client.create_experiment(name, artifact_location=folder))
        except MlflowException as error:
            # Another process made it between the two calls.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)
