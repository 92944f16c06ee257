"""Manners of the command line: pytest tests/test_cli.py"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipelines import errors
from pipelines.__main__ import HELP, cli

REPOSITORY = Path(__file__).parent.parent
HEAVY = {"pandas", "numpy", "torch", "sklearn", "mlflow", "great_expectations", "evidently", "bentoml",
         "airflow", "onnx", "onnxruntime", "matplotlib", "pyarrow"}  # fmt: skip


def leaves(group: click.Group, above: str = "perennial") -> list[tuple[str, click.Command]]:
    found = []
    for name, command in group.commands.items():
        words = f"{above} {name}"
        found += leaves(command, words) if isinstance(command, click.Group) else [(words, command)]
    return found


COMMANDS = leaves(cli)


def test_help_explains_the_loop_in_ten_lines():
    assert len(HELP.split("\n\n")[1].strip().splitlines()) <= 10
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert "challenger against champion" in shown


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[w for w, _ in COMMANDS])
def test_every_command_has_help_and_an_example_of_itself(words, command):
    shown = CliRunner().invoke(cli, [*words.split()[1:], "--help"]).output
    assert command.help
    assert "Example:" in shown
    assert words in shown.split("Example:")[1]


def test_starting_imports_nothing_heavy():
    code = "import sys, pipelines.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert not HEAVY & set(done.stdout.split())


def test_reading_settings_imports_nothing_heavy():
    code = (
        "import sys; from pipelines.project import open_project; open_project('flights');"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert not HEAVY & set(done.stdout.split())


def test_each_kind_of_failure_has_its_own_exit_status_and_the_tree_says_so():
    kinds = errors.PipelineError.__subclasses__()
    assert len({k.exit_status for k in kinds}) == len(kinds)
    for kind in kinds:
        drawn = next(line for line in errors.__doc__.splitlines() if f"x {kind.__name__} " in line)
        assert int(drawn.split()[-1]) == kind.exit_status


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["ingest", "nope"], 2, "tasks are: flights"),
        (["ingest", "flights", "--batch", "April"], 2, "is written like 2013-04"),
        (["ingest", "flights", "--batch", "2019-01"], 10, "2013-01 to 2013-12"),
        (["train", "flights"], 3, "dvc repro prepare@flights"),
        (["prepare", "flights"], 3, "perennial validate flights"),
        (["evaluate", "flights"], 7, "dvc repro"),
        (["report", "flights"], 3, "perennial tick flights"),
        (["trace", "nonsense"], 10, "prediction ids"),
        (
            ["tick", "flights", "--batch", "2013-01"],
            2,
            "earliest tick is: perennial tick flights --batch 2013-02",
        ),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_a_failure_leaves_with_its_status_and_the_command_that_mends_it(
    perennial, words, status, said
):
    done = perennial(*words)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert said in done.stderr.replace("is not a prediction id", "prediction ids")


def test_json_is_json_and_the_rest_goes_to_standard_error(perennial):
    done = perennial("ingest", "flights", "--batch", "2013-01", "--json")
    assert json.loads(done.stdout) == {"landed": ["2013-01"]}
    assert "27004 rows" in done.stderr


def test_a_folder_below_the_project_is_as_good_as_its_top(perennial, project_folder, monkeypatch):
    below = project_folder / "deep" / "er"
    below.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "ingest", "flights", "--batch", "2013-01"],
        cwd=below, capture_output=True, text=True, check=False,
        env={"PATH": "", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (project_folder / "data" / "1_raw" / "flights" / "2013-01.parquet").is_file()


def test_a_contract_that_differs_from_the_data_leaves_with_one(perennial, project_folder):
    assert perennial("contract", "check", "flights").returncode == 0
    path = project_folder / "contracts" / "flights.yaml"
    path.write_text(path.read_text().replace("max: 1439", "max: 1200"))
    done = perennial("contract", "check", "flights")
    assert done.returncode == 1
    assert "scheduled_arrival" in done.stdout


def test_tasks_complete_in_a_shell(perennial, project_folder):
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.__main__ import cli; cli(prog_name='perennial')"],
        cwd=project_folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(REPOSITORY), "_PERENNIAL_COMPLETE": "bash_complete",
             "COMP_WORDS": "perennial ingest fl", "COMP_CWORD": "2"},
    )  # fmt: skip
    assert "flights" in done.stdout
