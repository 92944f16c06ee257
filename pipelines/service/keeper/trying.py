"""Trying a version: fetch it, verify it, and leave a note on disk meanwhile.

A model that kills who loads it is told by its note. One death is no proof, as a keeper may be killed
by anyone; a version that two keepers died on is not tried a third time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines import store
from pipelines.contract import Contract
from pipelines.errors import ArtifactError, RegistryError, UnknownId
from pipelines.service.keeper.telling import without_password
from pipelines.service.verify import verified

DEATHS = 2
TRANSIENT = (RegistryError, UnknownId, OSError, MemoryError)
"""Network, registry and disk may mend themselves; a model that is wrong stays wrong."""


@dataclass(frozen=True)
class Tried:
    """How the try of one version ended: `folder` is set when it may answer."""

    version: str
    digest: str
    folder: Path | None = None
    reason: str = ""
    transient: bool = False


def attempt(
    version: str, digest: str, fetch: Callable[[str], Path], notes: Notes, contract: Contract
) -> Tried:
    """Never raises. digest: of the artifact as registered, empty when the registry does not say."""
    try:
        if not digest:
            raise ArtifactError(
                f"version {version} has no tag `artifact`, so nothing says what its files should "
                f"be. Register a model with: perennial gate {contract.task}"
            )
        if notes.deaths(version, digest) >= DEATHS:
            raise ArtifactError(
                f"version {version} killed the process that loaded it, {DEATHS} times. Go back "
                f"with: perennial rollback {contract.task}"
            )
        notes.begin(version, digest)
        # Before the note, the process could still die of it; after, only the model's death leaves one.
        try:
            folder = fetch(version)
            verified(folder, digest, contract)
        finally:
            notes.end(version)
    except Exception as error:  # whatever it is, this version does not answer
        told = str(error) or type(error).__name__
        if not isinstance(error, (ArtifactError, RegistryError, UnknownId)):
            told = f"{type(error).__name__}: {told}"
        return Tried(
            version, digest, None, without_password(told)[:1000], isinstance(error, TRANSIENT)
        )
    return Tried(version, digest, folder)


class Notes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, version: str, digest: str) -> None:
        """Call before the first byte of the model is loaded."""
        note = {"digest": digest, "deaths": self.deaths(version, digest) + 1}
        store.write_json(self.folder / version, note)

    def end(self, version: str) -> None:
        (self.folder / version).unlink(missing_ok=True)

    def deaths(self, version: str, digest: str) -> int:
        """Keepers that died while they tried this very artifact."""
        try:
            note = json.loads((self.folder / version).read_text(encoding="utf-8"))
            return int(note["deaths"]) if note["digest"] == digest else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def keep_only(self, versions: set[str]) -> None:
        """An alias that left a version and comes back to it is a person's wish to try again."""
        for note in self.folder.iterdir() if self.folder.is_dir() else ():
            # A dot: a note that another thread is writing at this moment.
            if note.name not in versions and not note.name.startswith("."):
                note.unlink(missing_ok=True)
