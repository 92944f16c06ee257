"""What moves the alias champion: a promotion and a rollback, each on the ledger."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipelines import artifact, ledger
from pipelines.adapters.registry import CHALLENGER, CHAMPION, PENDING, Verify
from pipelines.errors import MissingInput, RegistryError
from pipelines.paths import Paths

if TYPE_CHECKING:
    from pipelines.adapters.registry import Registry

log = logging.getLogger(__name__)


def promote(
    name: str,
    at: Paths,
    registry: Registry,
    version: str | None = None,
    force: bool = False,
    by: str | None = None,
) -> str:
    """Move champion to `version` (None: the challenger) if nobody else was promoted meanwhile.

    by: the person who approved, told with the reason.

    Without `force` the version's verdict must say promote, and the champion must be the one it was
    judged against. Raises RegistryError otherwise, MissingInput when there is no challenger.
    """
    version = version or registry.alias(CHALLENGER)
    if version is None:
        raise MissingInput(f"{name} has no challenger. Make one with: perennial gate {name}")
    if force:
        expect, reason = registry.alias(CHAMPION), f"forced by {by or 'a person'}"
    else:
        expect, reason = _permitted(name, at, registry, version)
        reason = f"approved by {by}; {reason}" if by else reason
    moved = registry.promote(version, expect, _verify(registry))
    _write_move(at, "promotion", name, version, expect, reason, moved)
    registry.set_tags(version, {"rolled_back": "false", "promoted": reason})
    log.info(
        "promote %s: champion is version %s, was %s: %s", name, version, expect or "none", reason
    )
    return version


def rollback(name: str, at: Paths, registry: Registry) -> str:
    """Move champion to the one before it; what it leaves needs a person's force to come back."""
    left, before = registry.alias(CHAMPION), registry.before()
    if left and before not in (None, left):
        # First, so that a kill before the alias moves leaves a mark and not a gap.
        registry.set_tags(left, {"rolled_back": "true", "verdict": "hold"})
    version, left = registry.rollback(_verify(registry))
    _write_move(at, "rollback", name, version, left, "asked for by a person", left is not None)
    log.info("rollback %s: champion is version %s, was %s", name, version, left or version)
    return version


def _permitted(name: str, at: Paths, registry: Registry, version: str) -> tuple[str | None, str]:
    """The champion that the version was judged against, and why it may replace it."""
    tags = registry.tags(version)
    said = tags.get("verdict")
    here = ledger.newest(at.ledger, "verdict", challenger=version)
    if said == "promote" and here is not None and here["decision"] != "promote":
        failed = [c["reason"] for c in here["checks"] if not c["passed"]]
        said, tags = "hold", {"verdict_reason": "; ".join(failed)}
    if said != "promote":
        why = f"was held: {tags.get('verdict_reason', '')}"
        if said in (None, PENDING):
            why = "was never judged"
        raise RegistryError(
            f"{name} version {version} {why}. Promote it all the same "
            f"with: perennial promote {name} --version {version} --force"
        )
    return tags.get("verdict_champion") or None, f"verdict: {tags.get('verdict_reason', '')}"


def _verify(registry: Registry) -> Verify:
    return lambda version: _answers_well(registry, version)


def _answers_well(registry: Registry, version: str) -> None:
    artifact.self_test(artifact.load(registry.fetch(version)))


def _write_move(
    at: Paths, kind: str, name: str, version: str, left: str | None, reason: str, moved: bool
) -> None:
    """moved: False when the alias was there already, as after a kill before this line."""
    moves = [e for e in ledger.read(at.ledger) if e["kind"] in ("promotion", "rollback")]
    if moved or not moves or moves[-1]["version"] != version:
        entry = {"kind": kind, "task": name, "version": version, "from": left, "reason": reason}
        ledger.append(at.ledger, entry)
