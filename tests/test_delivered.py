"""Run: pytest tests/test_delivered.py

What a bento needs before it serves, and the folder that it writes to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import store
from pipelines.errors import ArtifactError, Busy, ParamsError
from pipelines.paths import Paths
from pipelines.service.delivery import stage as delivery
from pipelines.service.delivery import start as delivered
from tests.bento_world import files, make_project, small_package, staged
from tests.fakes import WORSE


@pytest.fixture(autouse=True)
def a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It ends with the test, and what it holds with it."""
    small_package(tmp_path, monkeypatch)
    monkeypatch.setattr(delivered.Held, "in_use", None)
    yield
    if delivered.Held.in_use is not None:
        delivered.Held.in_use.close()


def built(staged: delivery.Staged, store_folder: Path) -> Path:
    """The folder of a bento's own files, as `bentoml build` leaves it."""
    shutil.copytree(staged.folder, store_folder / "src")
    (store_folder / "bento.yaml").write_text("name: pumps\n")
    return store_folder / "src"


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return built(staged(tmp_path / "p"), tmp_path / "bento")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A bento with another model."""
    return built(staged(tmp_path / "p2", WORSE), tmp_path / "bento2")


def test_a_bento_serves_its_own_model_from_its_own_files_and_writes_elsewhere(
    src: Path, tmp_path: Path
):
    before = files(src.parent)
    now = {"PERENNIAL_STATE": str(tmp_path / "state")}
    assert delivered.environment(src, now) == {
        "PERENNIAL_TASK": "pumps",
        "PERENNIAL_MODEL": str(src / "model"),
        "PERENNIAL_MODEL_VERSION": "3",
        "PERENNIAL_ROOT": str(tmp_path / "state"),
        "PERENNIAL_REGISTRY": "off",
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": "1",
    }
    assert files(src.parent) == before
    at = Paths(tmp_path / "state", "pumps")
    assert at.params.read_bytes() == (src / "params.yaml").read_bytes()
    assert at.contract.read_bytes() == (src / "contracts" / "pumps.yaml").read_bytes()


def test_a_worker_finds_what_the_first_process_found(src: Path, tmp_path: Path):
    now = {"PERENNIAL_STATE": str(tmp_path / "state"), "PYTHONPATH": "/a:/b"}
    first = now | delivered.environment(src, now)
    # BentoML puts a bento first on a worker's path only where it is not on it yet; named here, the
    # folder that it is started from would come before it.
    assert first["PYTHONPATH"] == "/a:/b"
    assert first | delivered.environment(src, first) == first


def test_what_the_environment_says_already_stays_but_not_which_model_it_is(
    src: Path, tmp_path: Path
):
    told = delivered.environment(
        src,
        {
            "PERENNIAL_STATE": str(tmp_path / "state"),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
            "OMP_NUM_THREADS": "4",
            "PERENNIAL_ROOT": "/elsewhere",
            "PERENNIAL_MODEL": "/elsewhere",
            "PERENNIAL_TASK": "flights",
        },
    )
    assert "PERENNIAL_REGISTRY" not in told, "a registry that is named is followed"
    assert "OMP_NUM_THREADS" not in told
    assert told["PERENNIAL_ROOT"] == str(tmp_path / "state")
    assert told["PERENNIAL_MODEL"] == str(src / "model")
    assert told["PERENNIAL_TASK"] == "pumps"


def test_without_a_folder_for_its_state_it_takes_one_in_bentomls_home(src: Path, tmp_path: Path):
    told = delivered.environment(src, {"BENTOML_HOME": str(tmp_path / "home")})
    assert told["PERENNIAL_ROOT"] == str(tmp_path / "home" / "perennial" / "pumps")


def test_to_build_or_serve_the_build_folder_touches_no_other_state(tmp_path: Path):
    folder = staged(tmp_path / "p").folder
    before = files(folder)
    told = delivered.environment(folder, {"PERENNIAL_STATE": str(tmp_path / "state")})
    assert told["PERENNIAL_ROOT"] == str(folder)
    assert files(folder) == before
    assert not (tmp_path / "state").exists()


def test_a_model_that_is_not_the_one_it_was_made_with_is_refused(src: Path, other: Path):
    shutil.rmtree(src / "model")
    shutil.copytree(other / "model", src / "model")
    mine, theirs = (json.loads((f / delivered.FACTS).read_text())["artifact"] for f in (src, other))
    with pytest.raises(ArtifactError, match=rf"{theirs}.*{mine}.*bento pumps --version 3"):
        delivered.environment(src, {})
    shutil.rmtree(src / "model")
    with pytest.raises(ArtifactError, match="holds artifact none"):
        delivered.environment(src, {})


def test_a_folder_that_is_no_bento_is_told(tmp_path: Path):
    with pytest.raises(ParamsError, match="perennial bento"):
        delivered.environment(tmp_path, {})


def test_it_never_writes_over_a_project(src: Path, tmp_path: Path):
    project = make_project(tmp_path / "mine").at
    before = files(project.root)
    with pytest.raises(ParamsError, match=r"is a project.*export PERENNIAL_STATE=<folder>"):
        delivered.environment(src, {"PERENNIAL_STATE": str(project.root)})
    assert files(project.root) == before


def served(root: Path) -> Path:
    """An answer in the log, and what the keeper of that bento wanted."""
    at = Paths(root, "pumps")
    log = at.served_day("2024-03-02") / "w-1.parquet"
    for file in (log, at.wanted):
        store.write_text(file, "x")
    return log


def test_replicas_of_one_bento_share_a_folder(src: Path, tmp_path: Path):
    root = tmp_path / "state"
    with delivered.settle(src, root, "pumps"):
        served(root)
        before = files(root)
        with delivered.settle(src, root, "pumps"):
            assert files(root) == before


def test_another_bento_waits_for_the_end_of_the_last_replica_and_keeps_its_answers(
    src: Path, other: Path, tmp_path: Path
):
    root = tmp_path / "state"
    one, two = (delivered.settle(src, root, "pumps") for _ in range(2))
    log = served(root)
    for replica in (one, two):
        before = files(root)
        with pytest.raises(Busy, match=r"in use by another bento.*export PERENNIAL_STATE"):
            delivered.settle(other, root, "pumps")
        assert files(root) == before
        replica.close()
    with delivered.settle(other, root, "pumps"):
        assert (root / delivered.FACTS).read_bytes() == (other / delivered.FACTS).read_bytes()
        assert log.read_text() == "x"
        assert not Paths(root, "pumps").wanted.exists(), "the last one's model answers no more"


def test_what_the_last_bento_wanted_must_go_or_the_next_does_not_start(
    src: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "state"
    delivered.settle(src, root, "pumps").close()
    Paths(root, "pumps").service.mkdir(parents=True)

    def denied(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(path)

    monkeypatch.setattr(shutil, "rmtree", denied)
    with pytest.raises(PermissionError):
        delivered.settle(other, root, "pumps")
    assert (root / delivered.FACTS).read_bytes() == (src / delivered.FACTS).read_bytes()


def dying_after(writes: int) -> Callable[[Path, str], None]:
    left = [True] * writes

    def write(path: Path, text: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def as_made_by(root: Path, bento: Path) -> None:
    for name in (delivered.FACTS, "params.yaml", "contracts/pumps.yaml"):
        assert (root / name).read_bytes() == (bento / name).read_bytes()


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_killed_at_its_first_start_the_next_one_serves(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
):
    """Also a replica that comes while the first one writes sees no project in what is half done."""
    now = {"PERENNIAL_STATE": str(tmp_path / "state")}
    with monkeypatch.context() as killed:
        killed.setattr(delivered.store, "write_text", dying_after(writes))
        with pytest.raises(KeyboardInterrupt):
            delivered.environment(src, now)
    assert delivered.environment(src, now)["PERENNIAL_ROOT"] == str(tmp_path / "state")
    as_made_by(tmp_path / "state", src)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_killed_while_it_takes_over_it_is_done_again(
    src: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
):
    root = tmp_path / "state"
    delivered.settle(src, root, "pumps").close()
    with monkeypatch.context() as killed:
        killed.setattr(delivered.store, "write_text", dying_after(writes))
        with pytest.raises(KeyboardInterrupt):
            delivered.settle(other, root, "pumps")
    with delivered.settle(other, root, "pumps"):
        as_made_by(root, other)
