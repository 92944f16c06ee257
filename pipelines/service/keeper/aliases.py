"""One look at the registry: which versions the aliases name, and their tags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.adapters.registry import CHALLENGER, CHAMPION, Registry
from pipelines.errors import UnknownId

REST = 5.0
"""Seconds after which what changes rarely is read and written again."""


@dataclass(frozen=True)
class Tags:
    tags: dict[str, str]
    read_at: float


class Aliases:
    """challenges: whether the alias challenger is asked for at all."""

    def __init__(self, challenges: bool, clock: Callable[[], float]) -> None:
        self.challenges, self.clock = challenges, clock
        self._known: dict[str, Tags] = {}

    def read(self, registry: Registry) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """Slot -> version, and version -> tags. Raises what the registry raises.

        A challenger that is the champion is none: it could not be told from it.
        """
        aliases = registry.aliases()
        named = {slot: aliases[slot] for slot in (CHAMPION, CHALLENGER) if slot in aliases}
        if not self.challenges or named.get(CHALLENGER) == named.get(CHAMPION):
            named.pop(CHALLENGER, None)
        self._known = {v: self._tags(registry, v) for v in named.values()}
        return named, {v: known.tags for v, known in self._known.items()}

    def _tags(self, registry: Registry, version: str) -> Tags:
        """Read again every REST seconds: a registry made anew has other files under old numbers."""
        known = self._known.get(version)
        if known is not None and self.clock() - known.read_at < REST:
            return known
        try:
            return Tags(registry.tags(version), self.clock())
        except UnknownId:  # deleted since its alias was read; the alias goes with it
            return Tags({}, self.clock())
