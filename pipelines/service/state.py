"""What a worker answers with, what failed there, and both in words for people and for metrics."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.artifact import Artifact
from pipelines.paths import Paths
from pipelines.service import wanted
from pipelines.service.wanted import Tripped, Version, Wanted
from pipelines.service.watch import Watch


@dataclass(frozen=True)
class Model:
    """One version, ready to answer. Times are Unix seconds."""

    version: str
    artifact: Artifact
    since: float
    """When the keeper first saw the alias on it."""
    why: str
    threshold: float
    loaded_at: float

    @property
    def classes(self) -> tuple[str, ...]:
        """Empty where the answer is the probability of 1."""
        return self.artifact.contract.classes

    def stands_for(self, version: Version) -> bool:
        return (self.version, self.artifact.digest) == (version.version, version.digest)

    def same_as(self, other: Model) -> bool:
        """The same version; `since` and `why` may have been told anew."""
        return (self.version, self.artifact.digest) == (other.version, other.artifact.digest)


@dataclass(frozen=True)
class Failure:
    """A wanted version that did not load in this worker."""

    version: Version
    reason: str
    tries: int
    since: float
    again: float
    """Monotonic time of the next try."""


def waiting_for(at: Paths, watch: Watch, failure: Failure | None) -> str:
    """Why no champion answers here, in words that go on after a colon; failure: of the champion."""
    now = watch.look()
    if watch.unreadable:
        return f"{at.wanted.name} cannot be read ({watch.unreadable})"
    if failure is not None:
        return f"version {failure.version.version} does not load here ({failure.reason})"
    if now is None:
        return "the keeper has not spoken yet"
    if not now.registry.reachable:
        return f"the registry is out of reach ({now.registry.error})"
    return now.said or "it is being loaded"


def registry_followed(watch: Watch, now: float) -> bool:
    """Did the registry answer the keeper, and did the keeper ask it just now? now: Unix time."""
    said = watch.look() or Wanted()
    return said.registry.reachable and now - said.looked_at < wanted.QUIET_SECONDS


def told(
    at: Paths,
    watch: Watch,
    models: Mapping[str, Model | None],
    failures: Mapping[str, Failure],
    swaps: Mapping[str, Counter[str]],
    off: Tripped | None,
) -> dict[str, Any]:
    """Slot -> what answers, failed and was swapped there; times as ISO 8601, UTC."""
    now = watch.look() or Wanted()
    said: dict[str, Any] = {
        "model": at.task,
        **{slot: _model(model) for slot, model in models.items()},
        "said": now.said,
        "refused": {
            version: {
                "reason": r.reason, "since": _iso(r.since), "tries": r.tries,
                "again_at": _iso(r.again_at),
            }
            for version, r in now.refused.items()
        },
        "registry": now.registry.model_dump() | {"since": _iso(now.registry.since)},
        "keeper": {"looked_at": _iso(now.looked_at), "unreadable": watch.unreadable},
        "swaps": {slot: dict(counted) for slot, counted in swaps.items()},
        "failed": {
            slot: {
                "version": f.version.version, "reason": f.reason, "since": _iso(f.since),
                "tries": f.tries,
            }
            for slot, f in failures.items()
        },
        "upkeep": _upkeep(at),
    }  # fmt: skip
    if off is not None:
        said["challenger_off"] = off.model_dump() | {"at": _iso(off.at)}
    return said


def _upkeep(at: Paths) -> dict[str, Any]:
    try:
        done: dict[str, Any] = json.loads(wanted.upkeep(at).read_bytes())
    except (OSError, ValueError):
        return {}
    return done


def _model(model: Model | None) -> dict[str, Any] | None:
    if model is None:
        return None
    return {
        "version": model.version,
        "since": _iso(model.since),
        "why": model.why,
        "loaded_at": _iso(model.loaded_at),
        "threshold": model.threshold,
        "artifact": model.artifact.digest,
        "family": model.artifact.about.family,
    }


def _iso(at: float | None) -> str | None:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="milliseconds") if at else None
