"""Run: pytest tests/slow/test_bento.py -m slow

A bento made by the real `bentoml build`, served by what requirements-serve.lock installs and no
more, from a folder of its own, as another machine would have it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from packaging.requirements import Requirement

from pipelines import artifact
from pipelines.adapters.registry import Registry
from pipelines.paths import Paths
from pipelines.service.delivery import stage as delivery
from tests.conftest import REPOSITORY
from tests.fakes import BETTER, WORSE
from tests.slow import mlflow_server, serving
from tests.slow.serving import Running, free_port, row

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Made:
    at: Paths
    home: Path
    """BENTOML_HOME."""
    said: str
    path: Path
    """A copy of the bento, away from the project and BentoML's store."""

    def bento(self, *words: str) -> str:
        command = [sys.executable, "-c", "from pipelines.commands.bento import bento; bento()"]
        return told([*command, "pumps", *words], self.at.root, self.home)


def told(command: list[str], folder: Path, home: Path) -> str:
    env = os.environ | {
        "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(home.with_name("repository")),
    }  # fmt: skip
    env.pop("PERENNIAL_ROOT", None)
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Version 1 is champion and in the bento; version 2 is not."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PERENNIAL_ROOT", raising=False)
        # A copy, because who edits the code meanwhile makes another bento.
        shutil.copytree(REPOSITORY / "pipelines", root / "repository" / "pipelines")
        for lock in REPOSITORY.glob("requirements*.lock"):
            shutil.copy(lock, root / "repository")
        at = serving.project(root / "project")
        serving.champion(at, serving.version(at, WORSE))
        serving.version(at, BETTER)
        bare = Made(at, root / "home", "", root)
        said = bare.bento()
        name, _, version = re.match(r"(\S+): model version 1, built\n", said)[1].partition(":")
        shutil.copytree(root / "home" / "bentos" / name / version, root / "elsewhere")
        yield Made(at, root / "home", said, root / "elsewhere")


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only what the serving lock names, as the image installs it."""
    folder = tmp_path_factory.mktemp("venv") / "v"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "-p", sys.executable, str(folder)], check=True)
    # Named outright: uv that runs as a module would install into the environment it runs in.
    subprocess.run(
        [*uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), "--no-deps",
         "--only-binary", ":all:", "-r", str(REPOSITORY / delivery.LOCK)],
        check=True,
    )  # fmt: skip
    return folder


@contextlib.contextmanager
def served(
    made: Made, venv: Path, state: Path, inside: Path | None = None, **environment: str
) -> Iterator[Running]:
    """`bentoml serve`, as the image's entry point does, with no other setting than these.

    inside: the working folder, when it is not `state`.
    """
    state.mkdir(exist_ok=True)
    port = free_port()
    env = {
        "PATH": f"{venv / 'bin'}:/usr/bin:/bin", "HOME": str(state), "BENTOML_CONTAINERIZED": "true",
        "BENTOML_HOME": str(state / "bentoml"), "PERENNIAL_STATE": str(state / "state"),
    }  # fmt: skip
    command = ["bentoml", "serve", str(made.path), "--host", "127.0.0.1", "--port", str(port)]
    log = state / "service.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(venv / "bin" / command[0]), *command[1:]], cwd=inside or state, env=env | environment,
            stdout=out, stderr=out,
        )  # fmt: skip
    at = Paths(state / "state", "pumps")
    running = Running(at, f"http://127.0.0.1:{port}", process, log)
    try:
        running.until(lambda: running.get("/readyz").status_code == 200, "a version")
        yield running
    finally:
        running.client.close()
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """-9, with the workers: each is in a session of its own and would outlive the first process."""
    try:
        family = psutil.Process(process.pid)
        family = [family, *family.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(family)


def answers_as(running: Running, folder: Path, version: str) -> None:
    """Its answers are those of the artifact in `folder`."""
    rows = [row(heat=h, noise=n) for h in (-1.5, 0.0, 2.25) for n in (-0.5, 1.0)]
    table = pd.DataFrame(rows).astype({"moment": "datetime64[s]"})
    expected = artifact.load(folder).predict(table)
    answered = running.predict(*rows)
    assert answered.status_code == 200, answered.text
    assert answered.headers["x-model-version"] == version
    given = [p["probability"] for p in answered.json()["predictions"]]
    assert given == pytest.approx(expected, abs=1e-6)


def asks_for_its_health(made: Made, venv: Path, running: Running) -> bool:
    """What its image asks, at the address where it listens."""
    text = (made.path / "env" / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    asks = json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", text, re.MULTILINE)[1])
    done = subprocess.run(
        [str(venv / "bin" / asks[0]), *asks[1:]],
        env={"BENTOML_PORT": running.url.rpartition(":")[2]},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def test_it_answers_with_its_own_model_with_no_registry_in_reach_killed_and_started_again(
    made: Made, venv: Path, tmp_path: Path
):
    # As one who has just built it does: in the project, whose own package has the same name.
    clone = tmp_path / "clone"
    (clone / "pipelines").mkdir(parents=True)
    (clone / "pipelines" / "__init__.py").write_text("raise ImportError('not this')")
    before = digest_uncompiled(made.path)
    alone = {"MLFLOW_TRACKING_URI": NOWHERE, "PERENNIAL_REGISTRY": "off"}
    model = Registry(made.at).fetch("1")
    with served(made, venv, tmp_path / "s", inside=clone, **alone) as running:
        answers_as(running, model, "1")
        said = running.get("/model").json()["champion"]
        assert (said["version"], said["artifact"]) == ("1", artifact.load(model).digest)
        # BentoML does not start a dead worker again in a container; a bento of ours does.
        (worker,) = running.workers()
        os.kill(worker, signal.SIGKILL)
        running.until(lambda: running.workers() not in ([], [worker]), "another worker")
        running.until(lambda: running.get("/readyz").status_code == 200, "its model")
        answers_as(running, model, "1")
        kill(running.process)
    with served(made, venv, tmp_path / "s", **alone) as running:
        answers_as(running, model, "1")
        assert asks_for_its_health(made, venv, running)
        assert running.stop() == 0
    assert not asks_for_its_health(made, venv, running)
    logged = [p for p in running.at.served.rglob("*") if p.is_file() and p.stat().st_size]
    assert logged, "answers are in the state folder"
    assert digest_uncompiled(made.path) == before


def digest_uncompiled(folder: Path) -> str:
    """Python's compiled files are no change of what serves."""
    for cache in list(folder.rglob("__pycache__")):
        shutil.rmtree(cache)
    return delivery.digest_of_files(folder)


def test_a_registry_that_is_away_is_waited_for_and_then_followed(
    made: Made, venv: Path, tmp_path: Path
):
    """mlflow-skinny, in the serving lock, is enough for that."""
    home = mlflow_server.home(tmp_path, made.at.mlflow / "mlflow.db")
    with served(made, venv, tmp_path / "s", MLFLOW_TRACKING_URI=home.uri) as running:
        answers_as(running, Registry(made.at).fetch("1"), "1")
        serving.champion(made.at, "2")
        try:
            with home.serve():
                running.wait_for("2")
                answers_as(running, Registry(made.at).fetch("2"), "2")
        finally:
            serving.champion(made.at, "1")


def test_the_same_again_is_not_built_again_and_the_folder_builds_by_hand(made: Made):
    assert "model version 1, built before\n" in made.bento()
    folder = Path(re.search(r"cd (\S+) && bentoml build", made.said)[1])
    bentoml = [sys.executable, "-m", "bentoml"]
    name = told([*bentoml, "build", "-o", "tag"], folder, made.home).strip()
    by_hand = made.home / "bentos" / name.removeprefix("__tag__:").replace(":", "/")
    labels = [
        yaml.safe_load((path / "bento.yaml").read_text())["labels"] for path in (made.path, by_hand)
    ]
    assert labels[0] == labels[1]
    assert labels[0]["artifact"] == Registry(made.at).tags("1")["artifact"]


def requirements(file: Path) -> set[Requirement]:
    return {Requirement(line) for line in file.read_text().splitlines() if line.strip()}


def test_its_image_is_slim_pinned_and_runs_as_nobody_special(made: Made):
    text = (made.path / "env" / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    steps = [(word.upper(), rest.strip()) for word, rest in lines]
    assert [rest for word, rest in steps if word == "FROM"] == [
        f"{delivery.BASE_IMAGE} as base-container"
    ]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", delivery.BASE_IMAGE)
    words = [word for word, _ in steps]
    assert [rest for word, rest in steps if word == "USER"] == ["bentoml"]
    assert "RUN" not in words[words.index("USER") :], "root does nothing after it"
    copied = [rest.split()[0] for word, rest in steps if word in ("COPY", "ADD")]
    assert copied == ["./env/python/requirements.txt", "."]
    assert not re.search(r"apt-get|curl|wget|--trusted-host|--index-url", text)
    assert not re.search(r"(?i)(key|secret|token|password)\w*[= ]\S", text)
    pip = next(rest for word, rest in steps if word == "RUN" and "pip install" in rest)
    assert "--no-deps" in pip
    assert "--only-binary :all:" in pip
    installed = requirements(made.path / "env" / "python" / "requirements.txt")
    assert installed == requirements(made.path / "src" / "requirements.txt")


def test_it_holds_no_data_and_no_secret(made: Made):
    names = {p.relative_to(made.path / "src").parts[0] for p in (made.path / "src").iterdir()}
    assert names == {
        "bentofile.yaml", "contracts", "delivered.json", "Dockerfile.template", "model",
        "params.yaml", "pipelines", "requirements.txt",
    }  # fmt: skip
    here = (str(made.at.root), str(REPOSITORY), socket.gethostname())
    for file in made.path.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            content = file.read_bytes()
            assert not [h for h in here if h.encode() in content], file
