"""Run: pytest tests/test_delivery.py

What goes into a bento. How it starts: test_delivered.py; with the real tools: slow/test_bento.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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
    MissingInput,
    ParamsError,
    PipelineError,
    RegistryError,
    UnknownId,
)
from pipelines.paths import Paths
from pipelines.project import Project, open_project
from pipelines.service.delivery import stage as delivery
from tests.bento_world import BY, files, make_project, small_package, staged
from tests.conftest import REPOSITORY
from tests.fakes import BETTER, PUMPS, WORSE, MemoryRegistry, pump_model
from tests.gate_world import TASK

OF_TRAINING = (
    "torch", "apache-airflow", "dvc", "great-expectations", "evidently", "scikit-learn", "mlflow",
    "onnx", "skl2onnx", "matplotlib", "scipy",
)  # fmt: skip


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small_package(tmp_path, monkeypatch)


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
