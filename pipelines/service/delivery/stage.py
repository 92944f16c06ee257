"""One version of a task's model as a bento: all that it serves with, pinned, in one folder.

The build folder is what `bentoml build` reads. The same code, settings, contract, lock and model
give the same files, and the same identity.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import pipelines
from pipelines import artifact, store
from pipelines.artifact import Artifact
from pipelines.errors import MissingInput, ParamsError, PipelineError
from pipelines.paths import PARAMS
from pipelines.project import Project
from pipelines.provenance import Provenance
from pipelines.service.delivery.start import FACTS, MODEL, STATE

CODE = Path(pipelines.__file__).parent
LOCK = "requirements-serve.lock"
SERVICE = "pipelines.service.bento:service"
BASE_IMAGE = "python:3.11.14-slim-bookworm"
LEFT_OUT = ("__pycache__", ".DS_Store")

# BentoML's own template installs compilers and git, 300 MB that nothing here needs, and gives the
# code to the user that runs it. This is its documented way to another one; it goes on from the
# base's user, environment and entry point, and ends as that user. The price: `bentoml containerize`
# of 1.4.39 cannot read a template (BentoML issue 5566), so the image is built with `docker build`.
DOCKERFILE = f"""\
{{% extends bento_base_template %}}
{{% block SETUP_BENTO_COMPONENTS %}}
RUN python -m venv /app/.venv
ENV VIRTUAL_ENV=/app/.venv PATH="/app/.venv/bin:$PATH"
COPY ./env/python/requirements.txt ./env/python/requirements.txt
RUN pip install --no-cache-dir --no-deps --only-binary :all: -r ./env/python/requirements.txt
COPY . ./
RUN chmod -R a+rX . && python -m compileall -q ./src
ENV BENTOML_DO_NOT_TRACK=True {STATE}=/data
RUN mkdir /data && chown {{{{ bento__user }}}}:{{{{ bento__user }}}} /data
VOLUME /data
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import os, urllib.request as ask; \\
ask.urlopen(f'http://127.0.0.1:{{os.environ.get(\\"BENTOML_PORT\\", 3000)}}/readyz', timeout=5)"]
{{% endblock %}}
"""


@dataclass(frozen=True)
class Staged:
    folder: Path
    facts: dict[str, str]

    @property
    def name(self) -> str:
        return bento_name(self.facts["task"])

    @property
    def version(self) -> str:
        """Of the bento: the model's, and what tells it from others with the same model."""
        return f"{self.facts['model_version']}-{self.facts['identity'][:12]}"


def bento_name(task: str) -> str:
    """BentoML's names are lower case."""
    return task.lower()


def build_folder(project: Project) -> Path:
    """Not below .perennial: BentoML reads no file whose path has a hidden part."""
    return project.at.data / "8_bento" / project.name


def stage(project: Project, version: str, made: Artifact, by: Provenance) -> Staged:
    """Fill the build folder, replacing what is in it.

    version: of the registered model; made: its artifact, verified; by: the code's.
    """
    lock = CODE.parent / LOCK
    if not lock.is_file():
        raise MissingInput(f"{lock} does not exist. Make it with: make lock")
    folder = build_folder(project)
    with store.atomic_folder(folder) as new:
        shutil.copytree(CODE, new / CODE.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        (new / MODEL).mkdir()
        for name in (*artifact.FILES, "manifest.json"):
            shutil.copyfile(made.folder / name, new / MODEL / name)
        (new / "contracts").mkdir()
        shutil.copyfile(project.at.contract, new / "contracts" / project.at.contract.name)
        shutil.copyfile(lock, new / "requirements.txt")
        _write(new / PARAMS, yaml.safe_dump(_settings(project), sort_keys=True))
        _write(new / "Dockerfile.template", DOCKERFILE)
        facts = {
            "task": project.name,
            "model_version": version,
            "artifact": made.digest,
            "contract": project.contract.digest,
            "git_commit": by.git_commit or "none",
            "git_dirty": str(by.git_dirty).lower(),
            "requirements": by.requirements,
            "serve_requirements": store.md5(lock),
            "identity": digest_of_files(new),
        }
        store.write_json(new / FACTS, facts)
        _write(new / "bentofile.yaml", yaml.safe_dump(_bentofile(facts), sort_keys=False))
    return Staged(folder, facts)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _settings(project: Project) -> dict[str, Any]:
    """Only this task's: another one's settings are no part of what answers."""
    content = yaml.safe_load(project.at.params.read_text(encoding="utf-8"))
    return {"tasks": {project.name: content["tasks"][project.name]}}


def _bentofile(facts: dict[str, str]) -> dict[str, Any]:
    return {
        "service": SERVICE,
        "name": bento_name(facts["task"]),
        "description": f"Perennial: {facts['task']}, model version {facts['model_version']} "
        f"(artifact {facts['artifact']}), code {facts['git_commit']}.",
        "labels": facts,
        "include": ["*"],
        "python": {"requirements_txt": "requirements.txt", "lock_packages": False},
        "docker": {"base_image": BASE_IMAGE, "dockerfile_template": "Dockerfile.template"},
    }


def digest_of_files(folder: Path) -> str:
    """sha256 of every file below it, by relative name and content."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{content}  {file.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Built:
    name: str
    """name:version in BentoML's store."""
    path: Path
    before: bool
    """Was it there already?"""


def build(staged: Staged, tag: str | None) -> Built:
    """Run `bentoml build` in the folder, unless the store holds the same bento.

    tag: the bento's version; None = one that says what is in it.
    """
    name = f"{staged.name}:{tag or staged.version}"
    there = _stored(name)
    if there is not None:
        if there.info.labels.get("identity") == staged.facts["identity"]:
            return Built(name, Path(there.path), before=True)
        raise ParamsError(
            f"--tag {tag}: {name} is there already, and holds something else. Choose another one, "
            f"or remove it with: bentoml delete {name}"
        )
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", ".", "--version", name.partition(":")[2]],
        cwd=staged.folder,
        env=os.environ | {"BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PipelineError(
            f"bentoml build failed:\n{(done.stderr or done.stdout).strip()[-2000:]}\n"
            f"See it whole with: cd {staged.folder} && bentoml build"
        )
    return Built(name, Path(_stored(name).path), before=False)


def _stored(name: str) -> Any:
    """The bento in BentoML's store; None when there is none of that name."""
    import bentoml
    from bentoml.exceptions import BentoMLException, NotFound

    try:
        return bentoml.bentos.get(name)
    except NotFound:
        return None
    except (BentoMLException, ValueError) as error:
        raise ParamsError(
            f"{name}: {error}. A tag is of small letters, digits, '.', '_' and '-'"
        ) from None
