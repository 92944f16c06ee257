"""Run: pytest tests/test_delivery.py

What goes into a bento, and what it needs before it serves. The real tools: tests/slow/test_bento.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from pipelines import artifact, store
from pipelines.adapters import registry as registries
from pipelines.commands.bento import bento as command
from pipelines.errors import (
    ArtifactError,
    Busy,
    MissingInput,
    ParamsError,
    PipelineError,
    RegistryError,
    UnknownId,
)
from pipelines.paths import Paths
from pipelines.project import Project, open_project
from pipelines.provenance import Provenance
from pipelines.service import delivered, delivery
from tests.conftest import REPOSITORY
from tests.fakes import BETTER, PUMPS, WORSE, MemoryRegistry, pump_model
from tests.gate_world import TASK

BY = Provenance(git_commit="c" * 40, git_dirty=False, requirements="d" * 32)
OF_TRAINING = (
    "torch", "apache-airflow", "dvc", "great-expectations", "evidently", "scikit-learn", "mlflow",
    "onnx", "skl2onnx", "matplotlib", "scipy",
)  # fmt: skip


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package and its lock, so that a test may change them."""
    package = tmp_path / "repository" / "pipelines"
    (package / "service").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "service" / "page.html").write_text("<p>")
    (package.parent / delivery.LOCK).write_text("bentoml==1.4.39\n")
    monkeypatch.setattr(delivery, "CODE", package)
    return package


@pytest.fixture(autouse=True)
def a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(delivered.Held, "in_use", None)
    yield
    ends()


def ends() -> None:
    """What the end of a serving process does."""
    if delivered.Held.in_use is not None:
        delivered.Held.in_use.close()
        delivered.Held.in_use = None


def make_project(root: Path) -> Project:
    at = Paths(root, "pumps")
    at.contract.parent.mkdir(parents=True)
    described = PUMPS.model_dump(mode="json", exclude_none=True)
    at.contract.write_text(yaml.safe_dump(described))
    task = TASK.model_dump(mode="json", exclude_defaults=True)
    at.params.write_text(yaml.safe_dump({"tasks": {"pumps": task, "other": {**task}}}))
    return Project("pumps", TASK, PUMPS, at)


def staged(root: Path, graph: bytes = BETTER, by: Provenance = BY) -> delivery.Staged:
    return delivery.stage(make_project(root), "3", pump_model(root / "m" / "model", graph), by)


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# The build folder -------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_bytes_wherever_they_are_staged(tmp_path: Path):
    one, other = staged(tmp_path / "one"), staged(tmp_path / "other")
    assert files(one.folder) == files(other.folder)
    assert (one.version, one.facts) == (other.version, other.facts)


def test_it_holds_what_serves_and_nothing_else(tmp_path: Path, code: Path):
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "x.pyc").write_bytes(b"x")
    (tmp_path / "p" / "data" / "1_raw").mkdir(parents=True)
    (tmp_path / "p" / ".env").write_text("PASSWORD=x")
    (code.parent / ".env").write_text("PASSWORD=x")
    assert set(files(staged(tmp_path / "p").folder)) == {
        "bentofile.yaml",
        "contracts/pumps.yaml",
        "delivered.json",
        "Dockerfile.template",
        *(f"model/{name}" for name in (*artifact.FILES, "manifest.json")),
        "params.yaml",
        "pipelines/__init__.py",
        "pipelines/service/page.html",
        "requirements.txt",
    }


def test_a_second_staging_leaves_nothing_of_the_first(tmp_path: Path, code: Path):
    (code / "old.py").write_text("")
    assert "pipelines/old.py" in files(staged(tmp_path / "p").folder)
    (code / "old.py").unlink()
    shutil.rmtree(tmp_path / "p" / "contracts")
    shutil.rmtree(tmp_path / "p" / "m")
    assert "pipelines/old.py" not in files(staged(tmp_path / "p").folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda p, code: (code / "__init__.py").write_text("#"),
        lambda p, code: (code / "service" / "page.html").write_text("<b>"),
        lambda p, code: (code.parent / delivery.LOCK).write_text("bentoml==1.4.38\n"),
        lambda p, code: p.at.params.write_text(p.at.params.read_text().replace("50", "51")),
        lambda p, code: p.at.contract.write_text(p.at.contract.read_text() + "\n# reviewed\n"),
    ],
    ids=["code", "page", "lock", "setting", "contract"],
)
def test_whatever_changes_what_serves_changes_the_bentos_version(
    tmp_path: Path, code: Path, change: Callable[[Project, Path], Any]
):
    project = make_project(tmp_path / "p")
    made = pump_model(tmp_path / "m" / "model")
    before = delivery.stage(project, "3", made, BY)
    change(project, code)
    after = delivery.stage(project, "3", made, BY)
    assert after.version != before.version


def test_another_model_is_another_bento_and_another_tasks_settings_are_none_of_its_business(
    tmp_path: Path,
):
    assert staged(tmp_path / "a", WORSE).version != staged(tmp_path / "b", BETTER).version
    project = make_project(tmp_path / "p")
    made = pump_model(tmp_path / "m" / "model")
    before = delivery.stage(project, "3", made, BY)
    content = yaml.safe_load(project.at.params.read_text())
    content["tasks"]["other"]["min_category"] = 9
    project.at.params.write_text(yaml.safe_dump(content))
    assert delivery.stage(project, "3", made, BY) == before
    assert list(yaml.safe_load((before.folder / "params.yaml").read_text())["tasks"]) == ["pumps"]


def test_its_labels_say_which_code_lock_contract_and_model_made_it(tmp_path: Path, code: Path):
    dirty = BY.model_copy(update={"git_dirty": True})
    made = staged(tmp_path / "p", by=dirty)
    file = yaml.safe_load((made.folder / "bentofile.yaml").read_text())
    assert file["labels"] == made.facts
    assert file["labels"] | {"identity": ""} == {
        "task": "pumps",
        "model_version": "3",
        "artifact": artifact.load(made.folder / "model").digest,
        "contract": PUMPS.digest,
        "git_commit": "c" * 40,
        "git_dirty": "true",
        "requirements": "d" * 32,
        "serve_requirements": store.md5(code.parent / delivery.LOCK),
        "identity": "",
    }
    assert made.version.startswith("3-")


def test_no_path_of_this_machine_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the real code: a path would tie the bento to where it was made."""
    monkeypatch.setattr(delivery, "CODE", REPOSITORY / "pipelines")
    made = staged(tmp_path / "p")
    for name, content in files(made.folder).items():
        for path in (tmp_path, REPOSITORY, Path.home() / "x"):
            assert str(path).removesuffix("x").encode() not in content, (name, path)


def test_without_the_serving_lock_it_says_how_to_make_it(tmp_path: Path, code: Path):
    (code.parent / delivery.LOCK).unlink()
    with pytest.raises(MissingInput, match=r"requirements-serve\.lock.*make lock"):
        staged(tmp_path / "p")
    assert not (tmp_path / "p" / "data").exists()


def test_what_is_staged_is_a_project_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PERENNIAL_ROOT", str(staged(tmp_path / "p").folder))
    opened = open_project("pumps")
    assert (opened.contract, opened.task) == (PUMPS, TASK)


# The serving lock -------------------------------------------------------------------------------


def pins(lock: Path) -> set[tuple[str, str]]:
    """(name, version) of every line; a name may have one for each Python."""
    lines = [line.partition(";")[0].strip() for line in lock.read_text().splitlines()]
    assert all(line.count("==") == 1 for line in lines)
    return {(name, version) for name, _, version in (line.partition("==") for line in lines)}


def test_the_serving_lock_is_a_part_of_the_whole_one():
    serving, whole = pins(REPOSITORY / delivery.LOCK), pins(REPOSITORY / "requirements.lock")
    assert serving <= whole, sorted(serving - whole)
    assert len(serving) < len(whole) / 2


def test_the_serving_lock_has_all_that_is_asked_for_and_nothing_of_training():
    names = {name for name, _ in pins(REPOSITORY / delivery.LOCK)}
    asked = (REPOSITORY / "requirements-serve.in").read_text().splitlines()
    wanted = {line.partition("#")[0].strip() for line in asked} - {""}
    assert wanted <= names
    assert names.isdisjoint(OF_TRAINING)


# Into BentoML's store ---------------------------------------------------------------------------


def test_a_bento_that_is_there_is_not_built_again_and_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = staged(tmp_path / "p")
    there = SimpleNamespace(path=str(tmp_path), info=SimpleNamespace(labels=made.facts))
    monkeypatch.setattr(delivery, "_stored", lambda name: there)
    assert delivery.build(made, None) == delivery.Built(f"pumps:{made.version}", tmp_path, True)
    there.info.labels = made.facts | {"identity": "another"}
    with pytest.raises(ParamsError, match=r"--tag mine.*pumps:mine.*bentoml delete pumps:mine"):
        delivery.build(made, "mine")


def test_when_bentoml_fails_its_words_and_the_command_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = staged(tmp_path / "p")
    monkeypatch.setattr(delivery, "_stored", lambda name: None)
    monkeypatch.setattr(delivery.sys, "executable", "/bin/false")
    with pytest.raises(PipelineError, match=rf"cd {made.folder} && bentoml build"):
        delivery.build(made, None)


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def bento(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`perennial bento pumps`, as far as BentoML; version 1 is champion, 2 is not."""
    root = make_project(tmp_path / "p").at.root
    memory = MemoryRegistry(tmp_path / "registry")
    for number, graph in (("1", WORSE), ("2", BETTER)):
        made = pump_model(tmp_path / number / "model", graph)
        assert memory.register(made) == number
    memory.moved["champion"] = "1"
    monkeypatch.setenv("PERENNIAL_ROOT", str(root))
    monkeypatch.setattr(registries, "Registry", lambda at: memory)
    monkeypatch.setattr(
        delivery,
        "build",
        lambda s, tag: delivery.Built(f"pumps:{tag or s.version}", s.folder, False),
    )

    def run(*words: str) -> Result:
        done = CliRunner().invoke(command, ["pumps", *words], standalone_mode=False)
        if isinstance(done.exception, PipelineError):
            raise done.exception
        assert done.exception is None, done.exception
        return done

    run.memory, run.at = memory, Paths(root, "pumps")  # type: ignore[attr-defined]
    return run


def test_it_takes_the_champion_or_the_version_that_is_named(bento: Any):
    assert "model version 1, built" in bento().output
    assert (
        artifact.load(bento.at.data / "8_bento" / "pumps" / "model").digest
        == (bento.memory.tags("1")["artifact"])
    )
    said = bento("--version", "2", "--tag", "mine").output
    assert "pumps:mine: model version 2, built" in said
    assert "bentoml serve pumps:mine" in said
    assert "docker build -t pumps:mine -f" in said


def test_code_that_is_in_no_commit_is_told(bento: Any):
    """The small package is in no repository."""
    done = bento()
    assert "warning: the code is not all in a commit" in done.stderr
    facts = json.loads((bento.at.data / "8_bento" / "pumps" / "delivered.json").read_text())
    assert facts["git_commit"] == "none"


def refuses(bento: Any, error: type[PipelineError], says: str, *words: str) -> None:
    with pytest.raises(error, match=says):
        bento(*words)
    assert not (bento.at.data / "8_bento").exists()


def test_an_unknown_version_is_refused(bento: Any):
    refuses(bento, UnknownId, "'7'", "--version", "7")


def test_without_a_champion_it_says_how_to_have_one(bento: Any):
    bento.memory.moved.clear()
    refuses(bento, RegistryError, r"no champion yet.*perennial tick pumps")


def test_a_version_whose_files_were_altered_is_refused(bento: Any):
    (bento.memory.home / "1" / "about.json").write_text("{}")
    refuses(bento, ArtifactError, "about.json")


def test_a_model_of_another_contract_is_refused(bento: Any):
    text = bento.at.contract.read_text().replace("noise:", "noise_level:")
    bento.at.contract.write_text(text)
    refuses(bento, ArtifactError, "noise")


# What a bento needs before it serves ------------------------------------------------------------


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
        "PYTHONPATH": str(src),
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
    assert first["PYTHONPATH"] == f"{src}:/a:/b"
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


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_killed_while_it_takes_over_it_is_done_again(
    src: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
):
    root = tmp_path / "state"
    delivered.settle(src, root, "pumps").close()
    left = [True] * writes

    def write(path: Path, text: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        path.write_text(text)

    with monkeypatch.context() as killed:
        killed.setattr(delivered.store, "write_text", write)
        with pytest.raises(KeyboardInterrupt):
            delivered.settle(other, root, "pumps")
    with delivered.settle(other, root, "pumps"):
        for name in (delivered.FACTS, "params.yaml", "contracts/pumps.yaml"):
            assert (root / name).read_bytes() == (other / name).read_bytes()
