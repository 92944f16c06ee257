"""Run: pytest tests/slow/test_compose.py -m slow

The command of compose.yaml that makes Airflow's database, as the container runs it, on SQLite.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.stack.airflow import sqlite_url
from pipelines.stack.pool import POOL
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.long]

SERVICES = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]


def migrate(home: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": sqlite_url(home / "airflow.db"),
    }
    done = subprocess.run(
        SERVICES["airflow-migrate"]["command"], cwd=home, env=environment,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def in_database(home: Path, statement: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(home / "airflow.db")) as connection, connection:
        return connection.execute(statement).fetchall()


def test_the_pool_of_the_gpu_is_made_once_and_keeps_the_slots_that_a_person_gives_it(tmp_path):
    slots = f"SELECT slots FROM slot_pool WHERE pool = '{POOL}'"
    migrate(tmp_path)
    assert in_database(tmp_path, slots) == [(1,)]
    in_database(tmp_path, f"UPDATE slot_pool SET slots = 3 WHERE pool = '{POOL}'")
    migrate(tmp_path)
    assert in_database(tmp_path, slots) == [(3,)]
