"""A task's bento, made by `perennial bento`, and what is known of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import PipelineError
from pipelines.service.delivery.start import FACTS, MODEL


@dataclass(frozen=True)
class Bento:
    name: str
    """name:version in BentoML's store."""
    path: Path

    @property
    def facts(self) -> dict[str, str]:
        return dict(json.loads((self.path / "src" / FACTS).read_text(encoding="utf-8")))

    @property
    def model(self) -> Path:
        return self.path / "src" / MODEL

    @property
    def dockerfile(self) -> Path:
        return self.path / "env" / "docker" / "Dockerfile"

    def image(self, registry: str) -> str:
        """`[registry/]flights:4-3f2a9c0d1e4b`: model version and commit; `-dirty` where that is not
        all of the code."""
        facts = self.facts
        dirty = "-dirty" if facts["git_dirty"] == "true" else ""
        name = self.name.partition(":")[0]
        tagged = f"{name}:{facts['model_version']}-{facts['git_commit'][:12]}{dirty}"
        return f"{registry}/{tagged}" if registry else tagged


def built(task: str) -> Bento:
    """The champion's; nothing is built that is there already."""
    import bentoml

    made = subprocess.run(
        [sys.executable, "-m", "pipelines", "bento", task],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise PipelineError(f"no bento of {task} was made. See why with: perennial bento {task}")
    name = made.stdout.split(": ", maxsplit=1)[0]
    return Bento(name, Path(bentoml.bentos.get(name).path))
