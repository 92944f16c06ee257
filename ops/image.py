"""The image of the champion's bento, tagged with model version and commit: `make image TASK=flights`.

`make push TASK=flights REGISTRY=host/path` pushes it. A registry that wants a login finds
REGISTRY_USER and REGISTRY_PASSWORD in the environment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

from ops.bento import built
from pipelines.errors import PipelineError


def main(task: str, registry: str, push: bool) -> None:
    if push and not registry:
        raise PipelineError(
            f"no registry is named. Name it with: make push TASK={task} REGISTRY=host/path"
        )
    bento = built(task)
    name = bento.image(registry)
    print(f"bento {bento.name}: model version {bento.facts['model_version']}", flush=True)
    build = ["docker", "build", "--tag", name, "--file", str(bento.dockerfile), str(bento.path)]
    need_docker(" ".join(build))
    subprocess.run(build, check=True)
    print(f"image {name}", flush=True)
    if push:
        _log_in(registry)
        subprocess.run(["docker", "push", name], check=True)


def need_docker(line: str) -> None:
    """Raises PipelineError naming the command `line` that a machine with an engine would run."""
    if shutil.which("docker") is None:
        raise PipelineError(
            f"docker is not installed here, so there is no image. Make it with: {line}"
        )
    asked = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise PipelineError(
            f"docker is installed, but no engine answers ({said}), so there is no image. "
            f"Where one runs, make it with: {line}"
        )


def _log_in(registry: str) -> None:
    user, password = (os.environ.get(f"REGISTRY_{name}") for name in ("USER", "PASSWORD"))
    if user and password:
        # Over standard input: an argument would stand in the list of processes.
        command = [
            "docker",
            "login",
            "--username",
            user,
            "--password-stdin",
            registry.split("/")[0],
        ]
        subprocess.run(command, input=password, text=True, check=True)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("task")
    words.add_argument("--registry", default="")
    words.add_argument("--push", action="store_true")
    given = words.parse_args()
    try:
        main(given.task, given.registry, given.push)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
