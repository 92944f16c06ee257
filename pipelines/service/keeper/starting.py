"""What a keeper finds when it starts: what the one before it has said, and the model that came along."""

from __future__ import annotations

import logging
from pathlib import Path

from pipelines import store
from pipelines.paths import Paths
from pipelines.service import wanted
from pipelines.service.wanted import Version, Wanted

log = logging.getLogger(__name__)

CAME_ALONG = "it came with the service"


def said_before(at: Paths) -> Wanted:
    """Nothing where there is no file, or none that can be read."""
    try:
        return wanted.read(at.wanted)
    except FileNotFoundError:
        return Wanted()
    except (OSError, ValueError) as error:
        log.warning("wanted.json is left out", extra={"error": str(error)[:300]})
        return Wanted()


def carried(folder: Path, version: str, now: float) -> Version:
    manifest = folder / "manifest.json"
    digest = store.md5(manifest) if manifest.is_file() else ""
    return Version(version=version, folder=folder, digest=digest, since=now, why=CAME_ALONG)
