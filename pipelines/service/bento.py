"""The service of a bento that `perennial bento` made: `service: pipelines.service.bento:service`.

The environment must be right before the service is imported, because that opens the project.
"""

import os
from pathlib import Path

from pipelines.errors import PipelineError
from pipelines.service.delivery.start import environment

try:
    os.environ.update(environment(Path(__file__).resolve().parents[2], os.environ))
except PipelineError as error:
    raise SystemExit(f"error: {error}") from None
# With it, BentoML does not start a worker again that died, and goes on with the others, or none.
os.environ.pop("BENTOML_CONTAINERIZED", None)

from pipelines.service.app import service

__all__ = ["service"]
