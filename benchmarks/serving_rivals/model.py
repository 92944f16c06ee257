"""The model that every rival answers with."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines import artifact

FOLDER = "PERENNIAL_BENCH_MODEL"
"""Environment: folder of the artifact."""
ENCODER = "PERENNIAL_BENCH_ENCODER"
"""Environment: encoder.json of the training that made it."""


def opened() -> artifact.Artifact:
    return artifact.load(Path(os.environ[FOLDER]))
