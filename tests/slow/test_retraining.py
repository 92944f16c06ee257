"""A retraining by commit, with real git, DVC and MLflow: pytest -m slow tests/slow/test_retraining.py"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines import artifact, ledger, store
from pipelines.adapters.mlflow_home import configure
from pipelines.adapters.registry import CHALLENGER, CHAMPION, Registry
from pipelines.paths import Paths
from pipelines.project import open_project
from pipelines.stages import ingest, validate
from tests.slow.test_never_lost import PARAMS, REPOSITORY, project, start

pytestmark = pytest.mark.slow
IGNORED = "data/\ninbox/\n.perennial/\n.mlflow/\n__pycache__/\n"
KILLS = 2
REASON = "a person asked for it"
RETRAIN = ("retrain", "orders", "--reason", REASON)


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=tester", "-c", "user.email=tester@example.com"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def dvc(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("dvc"), *words], cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def perennial(folder: Path, *words: str) -> str:
    status, said = left_with(start(folder, *words))
    assert status == 0, said
    return said


def left_with(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop whose first window has landed, committed, with a remote beside it."""
    folder = project(tmp_path_factory.mktemp("retraining") / "world" / "shop")
    before = PARAMS | {"window": PARAMS["window"] | {"last": "2024-W07"}}
    tasks = {"orders": before, "returns": before}
    # By way of JSON: shared objects would become anchors, and no window can move alone then.
    settings = json.loads(json.dumps({"tasks": tasks}))
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    shutil.copytree(
        REPOSITORY / "pipelines", folder / "pipelines", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    (folder / ".gitignore").write_text(IGNORED)
    (folder / "notes.txt").write_text("as committed\n")
    (folder.parent / "remote").mkdir()
    git(folder, "init", "-q", "-b", "main")
    dvc(folder, "init", "-q")
    dvc(folder, "remote", "add", "-q", "--default", "beside", "../remote")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "start")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shop = open_project("orders")
    weeks = ("2024-W08", "2024-W09")
    ingest.run(shop.name, shop.task, shop.contract, shop.at, weeks)
    validate.run(shop.name, shop.task, shop.contract, shop.at, weeks)
    return folder


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder.parent, to / "world", symlinks=True)
    return to / "world" / "shop"


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop after one retraining, with a file of a person's changed and not committed."""
    folder = copied(base, tmp_path_factory.mktemp("done"))
    (folder / "notes.txt").write_text("not committed\n")
    perennial(folder, *RETRAIN)
    return folder


@pytest.fixture
def quick(base: Path, done: Path, tmp_path: Path) -> Path:
    """The shop before its retraining, whose stages DVC's run cache already has."""
    folder = copied(base, tmp_path)
    shutil.copytree(done / ".dvc" / "cache", folder / ".dvc" / "cache")
    return folder


def nothing_happened(folder: Path, head: str) -> None:
    at = Paths(folder, "orders")
    assert git(folder, "rev-parse", "main") == head
    assert ledger.read(at.ledger) == []
    assert not at.mlflow.exists() or Registry(at).versions() == ()
    nothing_left(folder)


def nothing_left(folder: Path) -> None:
    at = Paths(folder, "orders")
    assert not at.worktree.exists()
    assert not at.workspace.exists()
    assert git(folder, "branch", "--format=%(refname:short)").split() == ["main"]
    assert len(git(folder, "worktree", "list").splitlines()) == 1


def running_in(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "cwd").startswith(str(folder)):
                found.append(int(process.name))
    return found


def until(what: str, process: subprocess.Popen[str], there: object) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# What it leaves -------------------------------------------------------------------------------


def test_it_ends_as_two_commits_on_the_branch_the_settings_first(base: Path, done: Path):
    settings, made = git(done, "log", "--reverse", "--format=%H", "HEAD~2..HEAD").split()
    assert git(done, "rev-parse", f"{settings}~1") == git(base, "rev-parse", "HEAD")
    assert git(done, "show", "--name-only", "--format=", settings) == "params.yaml"
    assert git(done, "show", "--name-only", "--format=", made) == "dvc.lock"
    now = yaml.safe_load((done / "params.yaml").read_text())["tasks"]
    assert (now["orders"]["window"]["last"], now["returns"]["window"]["last"]) == (
        "2024-W08",
        "2024-W07",
    )
    assert set(yaml.safe_load((done / "dvc.lock").read_text())["stages"]) == {
        f"{stage}@orders" for stage in ("ingest", "validate", "prepare", "train", "evaluate")
    }
    nothing_left(done)


def test_the_reason_is_on_the_commit_the_run_the_version_and_the_ledger(done: Path):
    import mlflow

    at = Paths(done, "orders")
    head = git(done, "rev-parse", "HEAD")
    assert REASON in git(done, "log", "-1", "--format=%B")
    registry = Registry(at)
    version = registry.alias(CHALLENGER)
    assert version is not None
    tags = registry.tags(version)
    assert (tags["asked_by"], tags["commit"], tags["verdict"]) == (REASON, head, "promote")
    (told,) = ledger.of_kind(at.ledger, "retraining")
    assert (told["reasons"], told["commit"], told["last"]) == ([REASON], head, "2024-W08")
    configure(at)
    run = mlflow.MlflowClient().get_run(registry.run_of(version))
    assert REASON in run.data.tags.values()
    assert registry.alias(CHAMPION) is None, "only promote moves it"


def test_the_model_names_a_clean_commit_that_is_in_the_history(done: Path):
    import mlflow

    at = Paths(done, "orders")
    registry = Registry(at)
    configure(at)
    run = mlflow.MlflowClient().get_run(registry.run_of(str(registry.alias(CHALLENGER))))
    assert run.data.tags["git.dirty"] == "false"
    git(done, "merge-base", "--is-ancestor", run.data.tags["git.commit"], "main")


def test_another_clone_pulls_the_same_model(done: Path, tmp_path: Path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(done), str(clone))
    dvc(clone, "remote", "modify", "--local", "beside", "url", str(done.parent / "remote"))
    dvc(clone, "pull", "-q", "train@orders")
    at = Paths(done, "orders")
    version = Registry(at).alias(CHALLENGER)
    pulled = artifact.load(Paths(clone, "orders").model)
    assert pulled.digest == Registry(at).tags(str(version))["artifact"]


def test_what_lies_in_the_checkout_stays_as_it_was(base: Path, done: Path):
    assert git(done, "status", "--porcelain") == "M notes.txt"
    assert (done / "notes.txt").read_text() == "not committed\n"
    before, after = Paths(base, "orders"), Paths(done, "orders")
    names = sorted(path.name for path in after.raw.iterdir())
    assert names == ["2024-W08.parquet", "2024-W09.parquet"]
    for week in ("2024-W08", "2024-W09"):
        assert store.md5(before.batch(week)) == store.md5(after.batch(week))
    assert not after.prepared.exists()


# What goes wrong ------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[bool]:
    """A disk of 64 KiB at `folder`, where that is allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
def test_a_push_that_fails_changes_nothing_and_the_next_retraining_succeeds(quick: Path):
    remote, head = quick.parent / "remote", git(quick, "rev-parse", "HEAD")
    remote.rmdir()
    remote.write_text("not a folder")
    status, said = left_with(start(quick, *RETRAIN))
    assert status == 12, said
    assert f'not pushed to remote "beside" at {remote}' in said
    nothing_happened(quick, head)

    remote.unlink()
    remote.mkdir()
    with full_disk(remote) as full:
        if full:
            status, said = left_with(start(quick, *RETRAIN))
            assert status == 12, said
            assert "No space left" in said
            nothing_happened(quick, head)

    perennial(quick, *RETRAIN)
    assert Registry(Paths(quick, "orders")).versions() == ("1",)
    nothing_left(quick)


@pytest.mark.long
def test_a_base_that_moves_is_started_from_again_and_a_second_retraining_waits(
    base: Path, tmp_path: Path
):
    import mlflow

    folder = copied(base, tmp_path)
    at = Paths(folder, "orders")
    process = start(folder, *RETRAIN)
    until("the data", process, lambda: Paths(at.worktree, "orders").prepared.is_dir())
    status, said = left_with(start(folder, *RETRAIN))
    assert status == 9, said
    assert f"kill {process.pid}" in said

    params = folder / "params.yaml"
    before, other = params.read_text().split("  returns:")
    params.write_text(before + "  returns:" + other.replace("seed: 7", "seed: 8"))
    git(folder, "commit", "-qam", "another seed for returns")
    moved = git(folder, "rev-parse", "HEAD")
    status, said = left_with(process)
    assert status == 0, said
    assert "main has moved on" in said

    git(folder, "merge-base", "--is-ancestor", moved, "main")
    tasks = yaml.safe_load(params.read_text())["tasks"]
    assert (tasks["returns"]["train"]["seed"], tasks["orders"]["train"]["seed"]) == (8, 7)
    configure(at)
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name("orders")
    (run,) = client.search_runs([found.experiment_id])  # DVC's run cache gave back the model
    git(folder, "merge-base", "--is-ancestor", run.data.tags["git.commit"], "main")
    nothing_left(folder)


@pytest.mark.long
def test_a_base_that_never_rests_is_given_up(quick: Path):
    process = start(quick, *RETRAIN)
    ended = threading.Event()

    def commit() -> None:
        while not ended.wait(0.5):
            words = ["commit", "-q", "--allow-empty", "-m", "faster"]
            who = ["-c", "user.name=tester", "-c", "user.email=tester@example.com"]
            subprocess.run(["git", *who, *words], cwd=quick, capture_output=True, check=False)

    faster = threading.Thread(target=commit)
    faster.start()
    try:
        status, said = left_with(process)
    finally:
        ended.set()
        faster.join()
    assert status == 12, said
    assert "moved on 3 times" in said
    nothing_happened(quick, git(quick, "rev-parse", "HEAD"))


@pytest.mark.long
def test_what_a_killed_retraining_left_is_cleared_away_by_the_next(base: Path, tmp_path: Path):
    folder = copied(base, tmp_path)
    head = git(folder, "rev-parse", "HEAD")
    worktree = Paths(folder, "orders").worktree
    chance = random.Random(20130401)
    for _ in range(KILLS):
        process = start(folder, *RETRAIN)
        prepared = Paths(worktree, "orders").prepared
        until("the data", process, lambda at=prepared: at.is_dir())
        time.sleep(chance.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert worktree.is_dir()
        assert git(folder, "rev-parse", "main") == head
    perennial(folder, *RETRAIN)
    assert running_in(worktree) == []
    assert git(folder, "rev-list", "--count", f"{head}..main") == "2"
    assert Registry(Paths(folder, "orders")).versions() == ("1",)
    nothing_left(folder)
