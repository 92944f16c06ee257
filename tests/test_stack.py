"""What the stack starts, with which words, and how its health is asked: pytest tests/test_stack.py

Nothing of MLflow, Airflow or PostgreSQL runs here.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from click.testing import CliRunner

from pipelines.__main__ import cli
from pipelines.errors import MissingInput, ParamsError, ServiceError
from pipelines.stack import airflow, ask, choices, ports, postgres, secrets
from pipelines.stack.choices import Choices
from pipelines.stack.part import Part
from pipelines.stack.places import Places
from tests.stack_world import planned, program, project


@pytest.fixture
def places(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    yield from project(project_folder, monkeypatch)


# what is chosen


def test_without_a_choice_everything_is_embedded_on_the_usual_ports(places):
    assert choices.read({}, places) == Choices("embedded", "local", 5000, 8080, 3000, 5544)


def test_a_choice_holds_until_another_is_made(places):
    choices.keep(
        choices.read({"STORE": "postgres", "PERENNIAL_PORT_AIRFLOW": "81"}, places), places
    )
    assert choices.read({"STORE": ""}, places) == Choices(store="postgres", airflow=81)
    assert choices.read({"STORE": "embedded"}, places) == Choices(airflow=81)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("STORE", "mysql", "STORE is 'mysql'; it is one of: embedded, postgres"),
        ("PERENNIAL_PORT_MLFLOW", "0", "PERENNIAL_PORT_MLFLOW is '0'; a port is a number from 1"),
        ("PERENNIAL_PORT_AIRFLOW", "65536", "'65536'"),
        ("PERENNIAL_PORT_SERVICE", "http", "unset PERENNIAL_PORT_SERVICE"),
        ("PERENNIAL_PORT_POSTGRES", "²", "a port is a number"),
    ],
)
def test_a_wrong_choice_names_the_variable_the_value_and_what_is_allowed(
    places, variable, value, said
):
    with pytest.raises(ParamsError) as wrong:
        choices.read({variable: value}, places)
    assert said in str(wrong.value)


def test_choices_that_were_spoiled_name_their_file(places):
    places.choices.parent.mkdir(parents=True)
    places.choices.write_text('{"store": "emb')
    with pytest.raises(ParamsError, match=r"choices\.json .* rm "):
        choices.read({}, places)


# what is planned


def test_the_embedded_stack_starts_the_registry_first_and_the_services_last(places):
    assert list(planned(places)) == [
        "mlflow", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor",
        "airflow-triggerer", "service-flights", "service-digits",
    ]  # fmt: skip


def test_with_postgres_the_database_comes_before_what_keeps_its_state_there(places):
    parts = planned(places, store="postgres", postgres=5599)
    assert next(iter(parts)) == "postgres"
    assert parts["mlflow"].needs == parts["airflow-scheduler"].needs == ("postgres",)
    assert parts["mlflow"].environment["MLFLOW_BACKEND_STORE_URI"] == (
        "postgresql+psycopg2://perennial@127.0.0.1:5599/mlflow"
    )
    database = parts["airflow-scheduler"].environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert database == "postgresql+psycopg2://perennial@127.0.0.1:5599/airflow"


def test_each_task_has_a_service_on_the_next_port_that_follows_the_stacks_registry(places):
    settings = places.root / "params.yaml"
    flights = yaml.safe_load(settings.read_text())["tasks"]["flights"]
    settings.write_text(yaml.safe_dump({"tasks": {"flights": flights, "trains": flights}}))
    parts = planned(places, service=3100, mlflow=5100)
    assert parts["service-flights"].port == 3100
    assert parts["service-trains"].command[-2:] == ("--port", "3101")
    assert parts["service-trains"].environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5100"
    assert parts["service-trains"].needs == ("mlflow",)


def test_everything_listens_on_this_machine_only(places):
    for part in planned(places, store="postgres").values():
        assert "0.0.0.0" not in " ".join(part.command)
        assert part.url is None or "127.0.0.1" in part.url
    assert "listen_addresses=127.0.0.1" in planned(places, store="postgres")["postgres"].command
    assert planned(places)["airflow-api-server"].environment["AIRFLOW__API__HOST"] == "127.0.0.1"


def test_no_secret_is_on_a_command_line_or_in_an_environment(places):
    parts = planned(places, store="postgres").values()
    hidden = [file.read_text().strip() for file in places.secrets.iterdir()]
    made = secrets.Secrets(places.secrets)
    hidden += [made.admin_password(), made.database_password()]
    for part in parts:
        told = " ".join([*part.command, *part.environment.values()])
        assert not [secret for secret in hidden if secret in told]


def test_local_artifacts_lie_where_the_commands_without_a_server_put_them(places):
    command = planned(places)["mlflow"].command
    assert command[-2:] == ("--default-artifact-root", str(places.root / ".mlflow" / "artifacts"))
    command = planned(places, artifacts="s3://shelf/models")["mlflow"].command
    assert command[-3:] == ("--serve-artifacts", "--artifacts-destination", "s3://shelf/models")


def test_airflows_tasks_find_the_project_its_commands_and_its_registry(places):
    environment = planned(places)["airflow-scheduler"].environment
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(places.root)
    assert environment["PERENNIAL_ROOT"] == str(places.root)
    assert environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert environment["AIRFLOW__CORE__DAGS_FOLDER"] == str(places.root / "dags")


def test_airflows_own_variables_win_over_defaults_and_not_over_what_holds_the_stack_together(
    places,
):
    told = airflow.environment(
        places.root, home=places.airflow, database="sqlite:///x.db", port=8080,
        secrets=secrets.ensure(places), tracking="http://127.0.0.1:5000",
        given={"AIRFLOW__CORE__PARALLELISM": "9", "AIRFLOW__API__PORT": "1", "HOME": "/root"},
    )  # fmt: skip
    assert told["AIRFLOW__CORE__PARALLELISM"] == "9"
    assert told["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert told["AIRFLOW__API__PORT"] == "8080"
    assert "HOME" not in told


def test_the_newest_postgresql_is_taken_and_a_missing_one_is_told(tmp_path, monkeypatch):
    for version in ("9", "15", "common"):
        (tmp_path / version / "bin").mkdir(parents=True)
    assert postgres.programs(tmp_path) == tmp_path / "15" / "bin"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingInput, match="apt-get install postgresql"):
        postgres.programs(tmp_path / "empty")


# Airflow's database


def table(part: Part, name: str) -> None:
    """What a migration does, as far as files are concerned."""
    database = (
        part.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        .removeprefix("sqlite:///")
        .partition("?")[0]
    )
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"CREATE TABLE {name} (version INTEGER)")


def tables(places: Places) -> list[str]:
    with contextlib.closing(sqlite3.connect(places.airflow_database)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]


def test_airflows_tables_are_made_once_for_a_version(places):
    given = planned(places)["airflow-scheduler"].environment
    airflow.migrate(places, given, lambda part: table(part, "made"))
    airflow.migrate(places, given, lambda part: table(part, "made_again"))
    assert tables(places) == ["made"]
    (places.airflow / "airflow-migrated").write_text("an older version")
    airflow.migrate(places, given, lambda part: table(part, "changed"))
    assert tables(places) == ["made", "changed"]


def test_a_migration_that_ends_half_way_leaves_the_database_as_it_was(places):
    given = planned(places)["airflow-scheduler"].environment
    airflow.migrate(places, given, lambda part: table(part, "made"))
    (places.airflow / "airflow-migrated").unlink()

    def half(part: Part) -> None:
        table(part, "half")
        raise ServiceError("killed")

    with pytest.raises(ServiceError):
        airflow.migrate(places, given, half)
    assert tables(places) == ["made"]
    airflow.migrate(places, given, lambda part: table(part, "whole"))
    assert tables(places) == ["made", "whole"]


# secrets


def test_secrets_are_made_once_and_only_their_owner_reads_them(places):
    first = secrets.ensure(places)
    before = {file.name: file.read_bytes() for file in places.secrets.iterdir()}
    first.jwt.chmod(0o644)
    secrets.ensure(places)
    assert {file.name: file.read_bytes() for file in places.secrets.iterdir()} == before
    assert {oct(file.stat().st_mode & 0o777) for file in places.secrets.iterdir()} == {"0o600"}
    assert oct(places.secrets.stat().st_mode & 0o777) == "0o700"
    assert len(first.jwt.read_text()) >= 64


# ports


def test_a_taken_port_names_who_has_it_and_what_chooses_another():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        part = program("", port=port, port_setting="PERENNIAL_PORT_MLFLOW")
        with pytest.raises(ParamsError) as taken:
            ports.must_be_free(part)
    assert f"port {port}, wanted for program, is taken by process {os.getpid()}" in str(taken.value)
    assert f"PERENNIAL_PORT_MLFLOW={port + 1} make up" in str(taken.value)
    ports.must_be_free(part)


def test_up_with_a_taken_port_starts_nothing(places, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("PERENNIAL_PORT_SERVICE", str(other.getsockname()[1]))
        done = CliRunner().invoke(cli, ["stack", "up"])
    assert isinstance(done.exception, ParamsError)
    assert not places.records.exists()
    assert not places.choices.exists()


# health


class Told(BaseHTTPRequestHandler):
    """Airflow's health page with the heartbeats that the test wrote."""

    beat = "2026-01-01T00:00:10+00:00"

    def do_GET(self) -> None:
        body = {"scheduler": {"status": "healthy", "latest_scheduler_heartbeat": self.beat}}
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()
        self.wfile.write(json.dumps(body | {"triggerer": {"status": "unhealthy"}}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def health() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Told) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_part_is_healthy_when_it_answers_with_200(health):
    assert ask.answers(f"{health}/health")(0) is None
    assert "answers 503" in ask.answers(f"{health}/other")(0)
    assert "does not answer" in ask.answers("http://127.0.0.1:9/health")(0)


def test_a_heartbeat_counts_only_when_it_is_of_the_process_that_runs(health):
    beats = ask.beats(f"{health}/health", "scheduler")
    assert beats(1_767_225_605.0) is None  # started five seconds before the beat
    assert beats(1_767_225_615.0) == "no heartbeat yet"
    assert ask.beats(f"{health}/health", "triggerer")(0) == "no heartbeat yet"


def test_status_tells_each_part_and_leaves_with_1_when_one_does_not_run(places):
    done = CliRunner().invoke(cli, ["stack", "status", "--json"], standalone_mode=False)
    assert done.return_value == 1 or done.exit_code == 1
    found = json.loads(done.stdout)
    assert {standing["state"] for standing in found} == {"stopped"}
    assert not places.home.exists()  # looking makes nothing
    assert [s["part"] for s in found] == list(planned(places))
