"""Run: pytest tests/slow/test_tune.py -m slow

`perennial tune` as a person has it: real processes, real MLflow, killed at any moment.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines import contract, params, store
from pipelines.adapters import tune_store
from pipelines.adapters.mlflow_home import configure
from pipelines.paths import Paths
from pipelines.stack import postgres
from pipelines.stages import tune as stage
from tests.conftest import REPOSITORY
from tests.slow.serving import free_port
from tests.test_tuning import PARAMS, prepare

pytestmark = pytest.mark.slow

SLOW = PARAMS.replace("choices: [3, 40]", "choices: [3, 150, 151]").replace(
    "trials: 6", "trials: 4"
)
"""A trial of it takes seconds, so that there is time to kill it."""
SLOW = SLOW.replace("seed: 7", "seed: 7\n      threads: 1").replace(
    "space:", "pruner: none\n      space:"
)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    for name in ("PERENNIAL_ROOT", "MLFLOW_TRACKING_URI", tune_store.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return prepare(tmp_path / "project")


def started(at: Paths, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "tune", "orders", "--json", *words]
    return subprocess.Popen(
        command, cwd=at.root, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Whoever started the tests may have had Ctrl+C ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> dict:
    out, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return json.loads(out)


def states(at: Paths) -> list[str]:
    """Of the trials, as the database has them."""
    if not at.tune.is_file():
        return []
    with closing(sqlite3.connect(f"file:{at.tune}?mode=ro", uri=True, timeout=30)) as database:
        try:
            return [row[0] for row in database.execute("SELECT state FROM trials ORDER BY number")]
        except sqlite3.OperationalError:  # no tables yet
            return []


def wait(true: Callable[[], object], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    below = psutil.Process(process.pid).children()
    return [p for p in below if "spawn_main" in " ".join(p.cmdline())]


def runs(at: Paths) -> tuple[list, list]:
    """Parents and children in MLflow."""
    configure(at)
    import mlflow

    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("orders").experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in found if run not in parents]


def test_a_planted_better_setting_is_found_and_written_back_and_nothing_else_changes(at: Paths):
    found = ended(started(at, "--write"))
    assert found["better"]
    assert found["present"]["values"] == {
        "boosting.iterations": 3, "boosting.learning_rate": 0.001,
    }  # fmt: skip
    assert found["best"]["score"] > found["present"]["score"] + 0.003
    best = found["best"]["values"]
    text = at.params.read_text()
    assert text == PARAMS.replace(
        "iterations: 3,", f"iterations: {best['boosting.iterations']},"
    ).replace("learning_rate: 0.001, m", f"learning_rate: {best['boosting.learning_rate']}, m")
    trained = params.task(at.params, "orders").train.boosting
    assert trained.iterations == best["boosting.iterations"]
    assert trained.learning_rate == best["boosting.learning_rate"]

    (parent,), children = runs(at)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_auc"] == pytest.approx(found["best"]["score"])
    assert len(children) == found["trials"] == 6
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}
    of_best = next(r for r in children if r.data.tags["trial"] == str(found["best"]["index"]))
    assert of_best.data.metrics["auc"] == pytest.approx(found["best"]["score"])
    assert float(of_best.data.params["boosting.learning_rate"]) == best["boosting.learning_rate"]


@pytest.mark.long
def test_when_nothing_is_better_it_says_so_and_writes_nothing(at: Paths):
    text = PARAMS.replace("choices: [3, 40]", "choices: [1, 3]").replace(
        "high: 0.3", "high: 0.0011"
    )
    text = text.replace(
        "{iterations: 3, learning_rate: 0.001,", "{iterations: 40, learning_rate: 0.1,"
    )
    at.params.write_text(text)
    process = started(at, "--write", "--trials", "3")
    found = ended(process)
    assert not found["better"]
    assert found["best"] == found["present"]
    assert at.params.read_text() == text
    words = [sys.executable, "-m", "pipelines", "-q", "tune", "orders", "--trials", "3"]
    said = subprocess.run(
        words, cwd=at.root, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "nothing better than the present settings was found" in said.stdout


@pytest.mark.long
def test_killed_and_run_again_it_goes_on_and_finds_what_it_would_have_found(
    at: Paths, tmp_path: Path
):
    at.params.write_text(SLOW)
    whole = ended(started(prepare(tmp_path / "other", SLOW)))
    process = started(at)
    wait(lambda: states(at).count("COMPLETE") == 2 and "RUNNING" in states(at), process)
    time.sleep(0.5)  # it is handed out
    below = workers(process)
    process.kill()
    process.wait()
    before = states(at)
    _, alive = psutil.wait_procs(below, 20)
    assert not alive, "a worker goes on although nobody hears it"

    again = started(at)
    found = ended(again)
    assert found | {"study": ""} == whole | {"study": ""}
    after = states(at)
    assert after[: before.count("COMPLETE")] == ["COMPLETE"] * before.count("COMPLETE")
    assert after.count("COMPLETE") == 4
    assert after.count("RUNNING") == 0
    assert after.count("FAIL") == before.count("RUNNING")
    (parent,), children = runs(at)
    assert parent.info.status == "FINISHED", "one run, gone on with"
    assert sorted(run.info.status for run in children).count("FINISHED") == 4
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}


def test_a_killed_worker_costs_its_trial_and_the_other_goes_on(at: Paths):
    at.params.write_text(SLOW)
    process = started(at, "--workers", "2")
    wait(lambda: states(at).count("COMPLETE") >= 1 and states(at).count("RUNNING") == 2, process)
    victim, other = workers(process)
    victim.kill()
    found = ended(process)
    assert found["trials"] == 4
    assert states(at).count("FAIL") == 1
    assert states(at).count("COMPLETE") == 4
    assert not other.is_running()
    statuses = [run.info.status for run in runs(at)[1]]
    assert sorted(statuses) == ["FINISHED"] * 4 + ["KILLED"]


def test_ctrl_c_leaves_nothing_running_and_nothing_open(at: Paths):
    at.params.write_text(SLOW)
    process = started(at, "--workers", "2")
    wait(lambda: states(at).count("RUNNING") == 2, process)
    time.sleep(1)  # both are noted and handed out
    below = workers(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not psutil.wait_procs(below, 20)[1]
    assert "RUNNING" not in states(at)
    (parent,), children = runs(at)
    assert parent.info.status == "KILLED"
    assert "RUNNING" not in {run.info.status for run in children}


def test_a_second_command_is_told_who_tunes(at: Paths):
    at.params.write_text(SLOW)
    first = started(at)
    wait(lambda: states(at), first)
    second = started(at)
    said = second.communicate(timeout=60)[1]
    assert second.returncode == 9
    assert f"process {first.pid}" in said
    first.kill()
    first.communicate()


def tuned(at: Paths, nested: bool) -> stage.Outcome:
    task, agreed = params.task(at.params, "orders"), contract.load(at.contract)
    return stage.run("orders", task, agreed, at, workers=1, nested=nested)


@pytest.mark.long
def test_nested_is_judged_on_rows_that_chose_nothing(at: Paths, tmp_path: Path):
    """The rows of the last outer fold get other labels: what is chosen before them stays."""
    text = PARAMS.replace("trials: 6", "trials: 4\n      folds: 2\n      outer_folds: 2")
    at.params.write_text(text)
    plain = tuned(at, nested=True)
    assert len(plain.nested) == 2
    assert plain.earned[0] > 0, "planted far too little"
    assert plain.earned[0] == pytest.approx(np.mean([f.tuned - f.present for f in plain.nested]))

    poisoned = prepare(tmp_path / "poisoned", text)
    path = poisoned.prepared / "train.npz"
    rows = dict(np.load(path))
    rows["label"][-plain.nested[-1].rows :] ^= 1
    store.write_arrays(path, **rows)
    other = tuned(poisoned, nested=True)
    assert other.nested[0] == plain.nested[0]
    assert other.nested[1].values == plain.nested[1].values
    assert other.nested[1].tuned == pytest.approx(1 - plain.nested[1].tuned, abs=1e-6)
    assert other.best != plain.best, "the search over all train rows does read them"

    assert tuned(at, nested=True) == plain, "all kept, so nothing is fitted again"


@pytest.fixture
def database() -> Iterator[str]:
    """A PostgreSQL of its own; gives its URL."""
    programs, user = postgres.programs(), postgres.runs_as()
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    port, cluster = free_port(), folder / "cluster"
    as_user = {"user": user} if os.getuid() == 0 else {}

    def do(*words: str) -> None:
        subprocess.run(words, check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user)

    do(str(programs / "initdb"), "-D", str(cluster), "-U", "tuner", "--auth=trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    control = (str(programs / "pg_ctl"), "-D", str(cluster), "-l", str(folder / "log"), "-w")
    do(*control, "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://tuner:secret@127.0.0.1:{port}/postgres"
    finally:
        do(*control, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.mark.long
def test_a_study_in_postgresql_goes_on_from_there(
    at: Paths, database: str, monkeypatch: pytest.MonkeyPatch
):
    here = ended(started(at, "--trials", "4"))
    monkeypatch.setenv(tune_store.VARIABLE, database)
    at.tune.unlink()
    first = ended(started(at, "--workers", "2", "--trials", "3"))
    assert first["trials"] == 3
    assert not at.tune.exists()
    second = ended(started(at, "--trials", "4"))
    assert second["trials"] == 4
    assert second["study"] == first["study"] == here["study"]
    assert second["present"] == here["present"]
