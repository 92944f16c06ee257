"""A retraining's place in git, with real git and no DVC run: pytest tests/test_retraining.py"""

from __future__ import annotations

import configparser
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines import retraining, store, workspace
from pipelines.adapters import dvc as dvcs
from pipelines.adapters import git as gits
from pipelines.errors import Busy, MissingInput, WorkspaceError
from pipelines.paths import Paths
from pipelines.project import Project
from pipelines.records import Due
from tests.fakes import PUMPS
from tests.gate_world import TASK

DUE = Due(task="pumps", period="2024-05", last="2024-04", reasons=("heat moved", "noise moved"))
PARAMS = """# hand-written
tasks:
  pumps:
    window: {first: "2024-01", last: "2024-03", batches: 12}  # the end moves
  valves:
    window: {first: "2024-01", last: "2024-03"}
"""


# The window moves, and nothing else -----------------------------------------------------------

NAMES = st.sampled_from(("pumps", "valves", "last", "window", "tasks"))
LASTS = st.sampled_from(("2024-03", "2024-W09", "2024-03-01", "2024-03-01T09"))
COMMENTS = st.sampled_from(("", "  # last: 2024-03", "  # ünï 🕰 {last}", "  # 'quoted' \"twice\""))
QUOTES = st.sampled_from(('"{}"', "'{}'", "{}"))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, str]:
    """params.yaml as people write it, and a task of it."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    lines = ["# Every number.", *draw(st.sampled_from(([], ["other: {last: 2024-03}"]))), "tasks:"]
    for name in names:
        last = draw(QUOTES).format(draw(LASTS))
        lines.append(f"  {name}:{draw(COMMENTS)}")
        keys = [("first", "2024-01"), ("last", last), ("batches", "12")]
        keys = draw(st.permutations(keys))
        if draw(st.booleans()):
            flow = ", ".join(f"{key}: {value}" for key, value in keys)
            lines.append(f"    window: {{ {flow} }}{draw(COMMENTS)}")
        else:
            lines.append("    window:")
            lines += [f"      {key}: {value}{draw(COMMENTS)}" for key, value in keys]
        lines += draw(st.sampled_from(([], ["    train: {last: 1}"], ["", "    # last"])))
    end = draw(st.sampled_from(("\n", "\r\n")))
    return end.join(lines) + end, draw(st.sampled_from(names))


def alike(one: str, other: str) -> int:
    """Characters that both begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@given(layout=layouts(), last=LASTS)
def test_the_window_moves_and_every_other_character_stays(layout: tuple[str, str], last: str):
    text, task = layout
    moved = workspace.move_window(text, task, last)
    before, after = yaml.safe_load(text), yaml.safe_load(moved)
    assert str(after["tasks"][task]["window"].pop("last")) == last
    was = before["tasks"][task]["window"].pop("last")
    assert after == before
    if str(was) == last:
        assert moved == text
        return
    begin = alike(text, moved)
    end = alike(text[begin:][::-1], moved[begin:][::-1])
    assert len(text) - begin - end <= len('"2024-03-01T09"')
    assert workspace.move_window(moved, task, last) == moved


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PARAMS.replace("pumps:", "other:"), "no tasks.pumps.window.last"),
        ("tasks: [pumps]\n", "no tasks.pumps.window.last"),
        (
            "w: &w {first: a, last: b}\ntasks: {pumps: {window: *w}, valves: {window: *w}}\n",
            "shared by an anchor",
        ),
        ("tasks: {pumps: &t {window: {last: b}}, valves: *t}\n", "shared by an anchor"),
        ("tasks: {pumps: {window: {last: &l b}}, valves: {window: {last: *l}}}\n", "an anchor"),
        ("w: &w {last: b}\ntasks: {pumps: {window: {<<: *w}}}\n", "no tasks.pumps.window.last"),
    ],
)
def test_a_window_that_cannot_move_alone_is_refused(text: str, said: str):
    with pytest.raises(WorkspaceError, match=said) as refused:
        workspace.move_window(text, "pumps", "2024-04")
    assert "edit params.yaml" in str(refused.value)


# DVC's settings in the worktree ---------------------------------------------------------------


def dvc_settings(folder: Path, shared: str, local: str = "") -> Path:
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    (folder / ".dvc" / "config").write_text(shared)
    if local:
        (folder / ".dvc" / "config.local").write_text(local)
    return folder


def shared(tmp_path: Path, config: str, local: str = "") -> configparser.ConfigParser:
    root = dvc_settings(tmp_path / "shop", config, local)
    worktree = dvc_settings(root / ".perennial" / "worktrees" / "pumps", config)
    dvcs.share(root, worktree)
    found = configparser.ConfigParser(interpolation=None)
    found.read(worktree / ".dvc" / "config.local")
    return found


def test_relative_remotes_and_the_cache_become_absolute(tmp_path: Path):
    found = shared(
        tmp_path,
        "[core]\n    remote = near\n['remote \"near\"']\n    url = ../../store\n"
        "['remote \"far\"']\n    url = s3://bucket/a%20b\n",
        "['remote \"mine\"']\n    url = ../mine\n    password = 100%\n",
    )
    assert found["'remote \"near\"'"]["url"] == str(tmp_path / "store")
    assert found["'remote \"far\"'"]["url"] == "s3://bucket/a%20b"
    assert found["'remote \"mine\"'"]["url"] == str(tmp_path / "shop" / "mine")
    assert found["'remote \"mine\"'"]["password"] == "100%"
    assert found["cache"]["dir"] == str(tmp_path / "shop" / ".dvc" / "cache")
    assert found["cache"]["type"] == "reflink,copy"


@pytest.mark.parametrize("where", ["shared", "local"])
def test_a_cache_elsewhere_is_shared_from_there(tmp_path: Path, where: str):
    text = "[cache]\n    dir = ../../elsewhere\n    type = symlink\n"
    found = shared(tmp_path, text) if where == "shared" else shared(tmp_path, "", text)
    assert found["cache"]["dir"] == str(tmp_path / "elsewhere")
    assert found["cache"]["type"] == "reflink,copy"


def test_a_project_without_dvc_in_its_commit_is_told_how_to_put_it_there(tmp_path: Path):
    with pytest.raises(WorkspaceError, match="dvc init"):
        dvcs.share(tmp_path, tmp_path / "worktree")


def test_where_a_push_goes_is_told_with_its_address(tmp_path: Path):
    dvc_settings(tmp_path, "['remote \"near\"']\n    url = ../store\n")
    assert dvcs.remotes(tmp_path) == 'remote "near" at ../store'


# git ------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=tester", "-c", "user.email=tester@example.com"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for who in ("AUTHOR", "COMMITTER"):
        for what in ("NAME", "EMAIL"):
            monkeypatch.delenv(f"GIT_{who}_{what}", raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with its settings committed and its batches landed."""
    root = dvc_settings(tmp_path / "shop", "")
    at = Paths(root, "pumps")
    at.contract.parent.mkdir()
    at.contract.write_text("task: pumps\n")
    (root / "params.yaml").write_text(PARAMS)
    (root / ".gitignore").write_text("data/\n.perennial/\n.dvc/config.local\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    for period in ("2024-01", "2024-02", "2024-03", "2024-04"):
        for path in (at.batch(period), at.validation(period)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(period)
    return Project("pumps", TASK, PUMPS, at)


def opened(project: Project, owner: str = "") -> workspace.Workspace:
    return workspace.open_workspace(project, DUE, owner or f"process {os.getpid()}")


def nothing_left(project: Project) -> None:
    root = project.at.root
    assert not project.at.worktree.exists()
    assert not project.at.workspace.exists()
    assert git(root, "branch", "--format=%(refname:short)") == "main"
    assert len(git(root, "worktree", "list").splitlines()) == 1


def test_a_workspace_has_the_moved_window_as_a_commit_and_the_landed_batches(project: Project):
    made = opened(project)
    assert workspace.read_workspace(project) == made
    assert made.base == "main"
    worktree = project.at.worktree
    assert git(worktree, "log", "-1", "--format=%s") == "Retrain pumps up to 2024-04"
    assert git(worktree, "log", "-1", "--format=%b") == "- heat moved\n- noise moved"
    assert git(worktree, "status", "--porcelain") == ""
    moved = (worktree / "params.yaml").read_text()
    assert moved == PARAMS.replace('last: "2024-03", batches', 'last: "2024-04", batches')
    assert Paths(worktree, "pumps").batch("2024-04").read_text() == "2024-04"
    assert (project.at.params).read_text() == PARAMS, "the project's own file stays"
    workspace.close_workspace(project)
    nothing_left(project)
    workspace.close_workspace(project)


def test_line_ends_of_another_system_stay(project: Project):
    text = PARAMS.replace("\n", "\r\n").encode()
    project.at.params.write_bytes(text)
    git(project.at.root, "commit", "-qam", "windows")
    opened(project)
    moved = (project.at.worktree / "params.yaml").read_bytes()
    assert moved == text.replace(b'"2024-03", batches', b'"2024-04", batches')


SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def left(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> psutil.Process:
    """What DVC was running in an open worktree when its run was killed."""
    said = tmp_path / "pid"
    command = tmp_path / "bin" / "dvc"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\necho $$ > {said}\nexec sleep 60\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")

    def run() -> None:
        opened(project)
        dvcs.dvc(project.at.worktree, "repro", env=os.environ)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    until = time.monotonic() + 30
    while not (said.exists() and said.read_text().endswith("\n")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.join()
    return psutil.Process(int(said.read_text()))


def runs(process: psutil.Process) -> bool:
    """A zombie has ended: nobody asks for it here."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_what_a_killed_run_left_goes_first(project: Project, left: psutil.Process):
    (project.at.worktree / "half.tmp").write_text("half")
    assert runs(left)
    opened(project)
    assert not runs(left), "it would have written into the new worktree"
    assert not (project.at.worktree / "half.tmp").exists()
    assert git(project.at.root, "rev-list", "--count", "main..retrain/pumps") == "1"


def test_what_a_killed_training_goes_on_from_is_there_for_the_next_retraining(
    project: Project, monkeypatch: pytest.MonkeyPatch
):
    """Its worktree is not: it goes at the end, and is made anew."""
    given: dict[str, str] = {}
    monkeypatch.setattr(dvcs, "dvc", lambda *_, env: given.update(env))
    retraining.run_stage(project, opened(project), "prepare")
    monkeypatch.setenv("PERENNIAL_SOURCES", given["PERENNIAL_SOURCES"])
    checkpoint = Paths(Path(given["PERENNIAL_ROOT"]), "pumps").training / "checkpoint-1.pt"
    store.write_text(checkpoint, "an hour's work")
    workspace.close_workspace(project)
    again = opened(project)
    assert checkpoint.read_text() == "an hour's work"
    retraining.run_stage(project, again, "prepare")
    monkeypatch.setenv("PERENNIAL_SOURCES", given["PERENNIAL_SOURCES"])
    assert Paths(Path(given["PERENNIAL_ROOT"]), "pumps").training == checkpoint.parent


def test_what_a_person_runs_in_the_worktree_lives_on(project: Project, left: psutil.Process):
    shell = subprocess.Popen(SLEEPS, cwd=project.at.worktree)
    try:
        opened(project)
        workspace.close_workspace(project)
        assert not runs(left)
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


def test_a_folder_that_git_does_not_know_is_in_nobodys_way(project: Project):
    (project.at.worktree / "deep").mkdir(parents=True)
    opened(project)
    assert not (project.at.worktree / "deep").exists()


def test_a_batch_that_has_not_landed_is_named_and_nothing_is_left(project: Project):
    project.at.batch("2024-02").unlink()
    with pytest.raises(MissingInput, match="perennial ingest pumps --batch 2024-02"):
        opened(project)
    nothing_left(project)


def test_a_living_owner_is_not_disturbed(project: Project):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=time.sleep, args=(60,))
    process.start()
    try:
        opened(project, f"process {process.pid}")
        with pytest.raises(Busy, match=f"kill {process.pid}"):
            opened(project)
        assert project.at.worktree.is_dir()
    finally:
        process.kill()
        process.join()
    opened(project)


def test_a_process_that_has_a_dead_owners_number_by_now_is_not_taken_for_it(project: Project):
    other = subprocess.Popen(SLEEPS)
    try:
        made = opened(project, f"process {other.pid}")
        assert made.started is not None
        before = made.model_copy(update={"started": made.started - 3600})
        project.at.workspace.write_text(before.model_dump_json())
        opened(project)
    finally:
        other.kill()
        other.wait()


def test_a_run_of_airflow_yields_to_the_next_of_its_own_and_to_no_person(project: Project):
    opened(project, "airflow scheduled__1")
    with pytest.raises(Busy, match="perennial retrain pumps --step close"):
        opened(project)
    assert opened(project, "airflow scheduled__2").owner == "airflow scheduled__2"
    workspace.close_workspace(project)
    opened(project)


@pytest.mark.parametrize("file", ["params.yaml", "contracts/pumps.yaml"])
@pytest.mark.parametrize("staged", [False, True])
def test_settings_that_are_not_committed_are_refused(project: Project, file: str, staged: bool):
    root = project.at.root
    before = (root / file).read_text()
    (root / file).write_text(before + "# changed\n")
    if staged:
        git(root, "add", file)
    with pytest.raises(WorkspaceError, match=f"{file} differ from the commit") as refused:
        opened(project)
    nothing_left(project)
    _, _, told = str(refused.value).partition("Put the change away with: ")
    subprocess.run(told.split(";")[0], shell=True, cwd=root, check=True)
    assert (root / file).read_text() == before
    opened(project)


@pytest.mark.parametrize("staged", [False, True])
def test_a_dvc_lock_that_is_in_no_commit_is_put_away_with_the_change_beside_it(
    project: Project, staged: bool
):
    root = project.at.root
    (root / "dvc.lock").write_text("stages: {}\n")
    if staged:
        git(root, "add", "dvc.lock")
    project.at.params.write_text(PARAMS + "# changed\n")
    with pytest.raises(WorkspaceError, match=r"dvc\.lock.* differ") as refused:
        opened(project)
    told = str(refused.value).partition("Put the change away with: ")[2].split(";")[0]
    subprocess.run(told, shell=True, cwd=root, check=True, capture_output=True)
    assert not (root / "dvc.lock").exists()
    opened(project)
    git(root, "stash", "pop")
    assert (root / "dvc.lock").read_text() == "stages: {}\n"


def test_a_contract_that_is_in_no_commit_is_refused_and_the_command_mends_it(project: Project):
    root = project.at.root
    git(root, "rm", "-q", "--cached", "contracts/pumps.yaml")
    git(root, "commit", "-q", "-m", "without")
    with pytest.raises(WorkspaceError, match=r"pumps\.yaml differ") as refused:
        opened(project)
    told = str(refused.value).partition("keep it with: ")[2]
    who = {
        f"GIT_{w}_{x}": "t@example.com" for w in ("AUTHOR", "COMMITTER") for x in ("NAME", "EMAIL")
    }
    subprocess.run(
        told, shell=True, cwd=root, check=True, env=os.environ | who, capture_output=True
    )
    opened(project)


def test_other_files_of_a_person_are_none_of_its_business(project: Project):
    root = project.at.root
    (root / ".gitignore").write_text("data/\n.perennial/\n.dvc/config.local\nmine/\n")
    opened(project)
    assert gits.fast_forward(root, "retrain/pumps", "main")
    assert git(root, "status", "--porcelain") == "M .gitignore"
    assert '"2024-04"' in project.at.params.read_text()


def test_a_base_that_moved_is_not_overwritten(project: Project):
    root = project.at.root
    opened(project)
    trained = git(project.at.worktree, "rev-parse", "HEAD")
    git(root, "commit", "-q", "--allow-empty", "-m", "faster")
    assert not gits.fast_forward(root, "retrain/pumps", "main")
    gits.start_again(project.at.worktree, "main")
    assert (project.at.worktree / "params.yaml").read_text() == PARAMS
    git(project.at.worktree, "merge-base", "--is-ancestor", trained, "HEAD")
    assert gits.fast_forward(root, "retrain/pumps", "main")


def test_the_branch_it_started_from_moves_whatever_is_checked_out_now(project: Project):
    root = project.at.root
    opened(project)
    git(root, "switch", "-q", "-c", "feature")
    assert gits.fast_forward(root, "retrain/pumps", "main")
    assert git(root, "rev-parse", "main") == git(root, "rev-parse", "retrain/pumps")
    assert project.at.params.read_text() == PARAMS, "the person's branch stays as it was"


def test_hooks_of_a_person_do_not_run(project: Project):
    hook = project.at.root / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    opened(project)


def test_git_of_a_hook_does_not_lead_it_astray(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert gits.branch_of(project.at.root) == "main"


def test_commits_are_of_nobody_where_git_knows_nobody_and_of_whom_it_knows(
    project: Project, tmp_path: Path
):
    opened(project)
    who = ("log", "-1", "--format=%an <%ae> %cn <%ce>")
    nobody = "perennial <perennial@localhost>"
    assert git(project.at.worktree, *who) == f"{nobody} {nobody}"
    workspace.close_workspace(project)
    (tmp_path / "gitconfig").write_text("[user]\nemail = ada@example.com\n")
    opened(project)
    half = "perennial <ada@example.com>"
    assert git(project.at.worktree, *who) == f"{half} {half}"


def test_a_detached_head_is_named_with_the_way_back(project: Project):
    git(project.at.root, "switch", "-q", "--detach")
    with pytest.raises(WorkspaceError, match=r"is not on a branch with a commit.*git switch main"):
        opened(project)


def test_no_repository_is_named_with_how_to_make_one(project: Project):
    subprocess.run(["rm", "-rf", str(project.at.root / ".git")], check=True)
    with pytest.raises(WorkspaceError, match=r"is not on a branch with a commit.*init"):
        opened(project)


def test_a_project_below_the_top_of_its_repository_is_told_so(project: Project):
    root = project.at.root
    subprocess.run(["rm", "-rf", str(root / ".git")], check=True)
    git(root.parent, "init", "-q", "-b", "main")
    git(root.parent, "commit", "-q", "--allow-empty", "-m", "start")
    with pytest.raises(WorkspaceError, match="at the top of its own"):
        opened(project)


def test_no_git_is_named(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WorkspaceError, match="git is not installed"):
        opened(project)


def test_a_step_without_an_open_workspace_says_how_to_open_one(project: Project):
    with pytest.raises(MissingInput, match="perennial retrain pumps --step open"):
        workspace.read_workspace(project)
