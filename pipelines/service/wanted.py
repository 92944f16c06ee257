"""What the keeper says and the workers read: which version shall answer, since when, and why.

One small JSON file, replaced as a whole. Times are Unix seconds.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipelines import store
from pipelines.paths import Paths
from pipelines.records import Record

QUIET_SECONDS = 60.0
"""A keeper looks more than once a second; one that has not for this long hangs or is gone."""


class Version(Record):
    """A version that was fetched and verified, and may answer."""

    version: str
    folder: Path
    digest: str
    since: float
    """When the alias was first seen on it."""
    why: str


class Refusal(Record):
    """A version that an alias names, and that may not answer."""

    digest: str
    """Of the artifact as it was registered; another one is another try."""
    reason: str
    since: float
    tries: int = 1
    again_at: float | None = None
    """When it is tried again; None: not before the alias moves or the registered files change."""


class Reach(Record):
    """Whether the registry answered the last time it was asked."""

    reachable: bool = True
    since: float = 0.0
    error: str = ""


class Wanted(Record):
    champion: Version | None = None
    challenger: Version | None = None
    left: Version | None = None
    """The champion of before, where its files could not be taken up at a start: until there is one
    again, the keeper of a bento does not go back to the bento's own."""
    refused: dict[str, Refusal] = Field(default_factory=dict)
    registry: Reach = Reach()
    said: str = ""
    """What a person should know where the champion does not follow its alias; else empty."""
    looked_at: float = 0.0
    """When the keeper last looked; kept to within some seconds, so that the file rests."""


class Tripped(Record):
    """A challenger version that lost its traffic. The file of it is how the other workers hear."""

    version: str
    digest: str
    reason: str
    at: float


def write(path: Path, said: Wanted | Tripped) -> None:
    store.write_text(path, said.model_dump_json(indent=1) + "\n")


def read(path: Path) -> Wanted:
    """Raises FileNotFoundError before the first one, ValueError when it is torn or another file."""
    return Wanted.model_validate_json(path.read_bytes())


def tripped(at: Paths, version: str) -> Path:
    return at.service / f"tripped-{version}.json"


def all_tripped(at: Paths) -> list[Path]:
    return sorted(at.service.glob("tripped-*.json"))


def upkeep(at: Paths) -> Path:
    """What the keeper's upkeep of the log has done, and how often it failed."""
    return at.service / "upkeep.json"
