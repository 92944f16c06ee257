"""One look at the registry: which versions the aliases name, and their tags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipelines.adapters.registry import CHALLENGER, CHAMPION, PENDING, Registry
from pipelines.errors import UnknownId

REST = 5.0
"""Seconds after which what changes rarely is read and written again."""


@dataclass(frozen=True)
class Tags:
    tags: dict[str, str]
    read_at: float

    @property
    def pending(self) -> bool:
        return self.tags.get("verdict") == PENDING


class Aliases:
    """route: the challenger's; off: its alias is not asked for at all."""

    def __init__(
        self, route: Literal["off", "canary", "shadow"], clock: Callable[[], float]
    ) -> None:
        self.route, self.clock = route, clock
        self._known: dict[str, Tags] = {}

    def read(self, registry: Registry) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """Slot -> version, and version -> tags. Raises what the registry raises.

        A challenger that is the champion is none: it could not be told from it. Nor is, where it would
        answer, one that the gate held or that was rolled back, which keeps the alias until the next
        training and was found to be worse; nor one that the gate has registered and not judged yet. One
        that a person has named has no verdict, and answers.
        """
        aliases = registry.aliases()
        named = {slot: aliases[slot] for slot in (CHAMPION, CHALLENGER) if slot in aliases}
        if self.route == "off" or named.get(CHALLENGER) == named.get(CHAMPION):
            named.pop(CHALLENGER, None)
        self._known = {v: self._tags(registry, v) for v in named.values()}
        challenger = named.get(CHALLENGER)
        if challenger is not None and self.route == "canary":
            tags = self._known[challenger].tags
            if tags.get("verdict") in ("hold", PENDING) or tags.get("rolled_back") == "true":
                del named[CHALLENGER]
        return named, {v: known.tags for v, known in self._known.items()}

    def _tags(self, registry: Registry, version: str) -> Tags:
        """Read again every REST seconds: a registry made anew has other files under old numbers. At
        each look while the gate judges: what it says must not wait."""
        known = self._known.get(version)
        if known is not None and self.clock() - known.read_at < REST and not known.pending:
            return known
        try:
            return Tags(registry.tags(version), self.clock())
        except UnknownId:  # deleted since its alias was read; the alias goes with it
            return Tags({}, self.clock())
