"""Airflow's part of the stack: its settings as environment, its database, its four components."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from pipelines.stack.ask import answers, beats
from pipelines.stack.part import Part, Run, errand
from pipelines.stack.places import Places
from pipelines.stack.ports import HOST
from pipelines.stack.secrets import ADMIN, Secrets

COMPONENTS = ("scheduler", "dag-processor", "triggerer")
"""Those without a port of their own. The API server is the fourth."""

CHANGEABLE = {
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__PARALLELISM": "4",
    # The default, 300 s, hides a new DAG for five minutes.
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
    # A task that waits for a person's approval may be answered sooner after it has parked.
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}
"""Settings for one machine. The shell's own AIRFLOW__... variables win over these."""


def environment(
    root: Path,
    *,
    home: Path,
    database: str,
    port: int,
    secrets: Secrets,
    tracking: str,
    given: Mapping[str, str],
) -> dict[str, str]:
    """All that Airflow, and what its tasks run, needs to know; secrets by file, never by value.

    home: AIRFLOW_HOME. database: SQLAlchemy URL, without a password. port: of the API server.
    tracking: MLFLOW_TRACKING_URI of the tasks. given: the shell's environment.
    """
    told = {name: value for name, value in given.items() if name.startswith("AIRFLOW__")}
    url = f"http://{HOST}:{port}"
    return {
        **CHANGEABLE,
        **told,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(secrets.logins),
        "AIRFLOW__CORE__FERNET_KEY_CMD": _reading(secrets.fernet),
        "AIRFLOW__API_AUTH__JWT_SECRET_CMD": _reading(secrets.jwt),
        "AIRFLOW__API__SECRET_KEY_CMD": _reading(secrets.session),
        "PGPASSFILE": str(secrets.pgpass),
        "MLFLOW_TRACKING_URI": tracking,
        "PERENNIAL_ROOT": str(root),
        # DAGs import pipelines, and their tasks find perennial and dvc.
        "PYTHONPATH": _first(str(root), given.get("PYTHONPATH")),
        "PATH": _first(str(Path(sys.executable).parent), given.get("PATH")),
    }


def parts(
    given: Mapping[str, str], prepare: Callable[[], None], port: int, needs: tuple[str, ...]
) -> list[Part]:
    """given: of `environment`. prepare: brings the database up to date."""
    health = f"http://{HOST}:{port}/api/v2/monitor/health"
    made = [
        Part(
            name="airflow-api-server",
            command=_airflow("api-server"),
            environment=given,
            ask=answers(health),
            url=f"http://{HOST}:{port}",
            port=port,
            port_setting="PERENNIAL_PORT_AIRFLOW",
            needs=needs,
            prepare=prepare,
        )
    ]
    for component in COMPONENTS:
        # Logs are read as files: everything runs on this machine.
        words = () if component == "dag-processor" else ("--skip-serve-logs",)
        made.append(
            Part(
                name=f"airflow-{component}",
                command=_airflow(component, *words),
                environment=given,
                ask=beats(health, component.replace("-", "_")),
                needs=needs,
            )
        )
    return made


LOCKED_SECONDS = 60
"""Time that a writer waits for another one. SQLite's driver gives up after 5, which a busy machine
takes: then a backfill ends in the middle with "database is locked"."""


def sqlite_url(database: Path) -> str:
    return f"sqlite:///{database}?timeout={LOCKED_SECONDS}"


def migrate(places: Places, given: Mapping[str, str], run: Run) -> None:
    """Tables of the installed version; nothing to do when this version made them.

    SQLite has no transaction around a migration, so a copy is migrated, and takes the name of the
    database when it is done: killed in the middle, the old one is there.
    """
    database = given["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    version = metadata.version("apache-airflow-core")
    done = f"{version} {database}\n"
    places.airflow.mkdir(parents=True, exist_ok=True)
    embedded = database == sqlite_url(places.airflow_database)
    # Beside the database, so that it goes when that is removed.
    mark = (places.airflow if embedded else places.postgres) / "airflow-migrated"
    there = places.airflow_database.is_file() or not embedded
    if there and mark.is_file() and mark.read_text(encoding="utf-8") == done:
        return
    if not embedded:
        run(errand("airflow-migrate", _airflow("db", "migrate"), given))
    else:
        copy = places.airflow / "migrating.db"
        for old in places.airflow.glob("migrating.db*"):
            old.unlink()
        if places.airflow_database.is_file():
            _copy(places.airflow_database, copy)
        other = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": sqlite_url(copy)}
        run(errand("airflow-migrate", _airflow("db", "migrate"), {**given, **other}))
        _flatten(copy)
        # What the old database still had in its log was copied with it.
        for old in places.airflow.glob("airflow.db-*"):
            old.unlink()
        copy.replace(places.airflow_database)
    mark.write_text(done, encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _flatten(database: Path) -> None:
    """One file again: its write-ahead log is written into it and removed."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")


def _airflow(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "airflow", *words)


def _reading(file: Path) -> str:
    return f"cat {shlex.quote(str(file))}"


def _first(folder: str, rest: str | None) -> str:
    return folder if not rest else f"{folder}{os.pathsep}{rest}"
