"""Follows the registry's aliases: what they name is tried, and published when it may answer.

Whatever fails, what was published before stays.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import store
from pipelines.adapters.registry import CHALLENGER, CHAMPION, Registry
from pipelines.project import Project
from pipelines.service import backoff, wanted
from pipelines.service.keeper import starting, telling
from pipelines.service.keeper.aliases import Aliases
from pipelines.service.keeper.publish import Publisher
from pipelines.service.keeper.trying import Notes, Tried, attempt
from pipelines.service.wanted import Reach, Refusal, Version, Wanted

log = logging.getLogger(__name__)


def in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class Follower:
    """registry: None follows none. own: folder and version of the artifact that a bento carries."""

    def __init__(
        self,
        project: Project,
        registry: Registry | None,
        own: tuple[Path, str] | None = None,
        start: Callable[[Callable[[], None]], None] = in_thread,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.at, self.contract = project.at, project.contract
        self.registry, self.own = registry, own
        route = project.task.serve.challenger.route
        self.challenges = route != "off"
        self.start, self.clock = start, clock
        self._aliases = Aliases(route, clock)
        self.notes = Notes(self.at.service / "trying")
        self.wanted = Wanted(registry=Reach(since=clock()))
        self.ended: queue.SimpleQueue[Tried] = queue.SimpleQueue()
        self._results: dict[str, Tried] = {}
        self._in_hand: set[str] = set()
        self._publisher = Publisher(self.at.wanted)

    def begin(self) -> None:
        """What answered last answers again, if it still may: the registry may be down now.

        The model that came along answers where none did before. In place of a champion that is newer
        and cannot be read it would be an old version again, and nobody had asked for that.
        """
        store.sweep(self.notes.folder)
        last = self._take_up_last() if self.registry is not None else None
        if self.wanted.champion is None and self.own is not None:
            own = starting.carried(*self.own, self.clock())
            if last is None or (last.version, last.digest) == (own.version, own.digest):
                self._take_up_own(own)
        self._publish()

    def look(self) -> None:
        """One look at the aliases, and what follows from it."""
        while not self.ended.empty():
            tried = self.ended.get()
            self._in_hand.discard(tried.version)
            self._results[tried.version] = tried
        if self.registry is not None:
            try:
                named, tags = self._aliases.read(self.registry)
            except Exception as error:  # whatever it is, what answers goes on answering
                self._unreachable(error)
            else:
                self._reached()
                self._follow(self.registry, named, tags)
        self._publish()

    def due(self) -> float:
        """Seconds until a refused version is tried again; infinite when none is to be, or none can:
        without the registry, and while a try is in hand, a time that has passed calls for nothing."""
        if not self.wanted.registry.reachable:
            return math.inf
        again = [
            refusal.again_at
            for version, refusal in self.wanted.refused.items()
            if refusal.again_at is not None and version not in self._in_hand
        ]
        return max(0.0, min(again) - self.clock()) if again else math.inf

    def leave(self) -> None:
        """An orderly end is no version's fault."""
        for version in tuple(self._in_hand):
            self.notes.end(version)

    # at the start
    def _take_up_last(self) -> Version | None:
        """Returns the champion of before, whether or not it may answer."""
        last = starting.said_before(self.at)
        champion = last.champion or last.left
        if champion is not None and not self._take_up(CHAMPION, champion):
            self._set(left=champion)
        if self.challenges and last.challenger is not None:
            self._take_up(CHALLENGER, last.challenger)
        return champion

    def _take_up(self, slot: str, version: Version) -> bool:
        """No refusal when it fails: its files are fetched anew when the registry is in reach."""
        tried = attempt(
            version.version, version.digest, lambda _: version.folder, self.notes, self.contract
        )
        if tried.folder is None:
            said = f"version {version.version}, as it lies here, cannot answer: {tried.reason}"
            self._set(said=said)
            log.error(said, extra={"task": self.at.task, "slot": slot})
            return False
        self._set(**{slot: version})
        return True

    def _take_up_own(self, own: Version) -> None:
        if self._take_up(CHAMPION, own):
            self._set(said="")

    # one look
    def _follow(
        self, registry: Registry, named: dict[str, str], tags: dict[str, dict[str, str]]
    ) -> None:
        versions = set(named.values())
        self._set(refused={v: r for v, r in self.wanted.refused.items() if v in versions})
        self.notes.keep_only(versions | self._in_hand)
        challenger = named.get(CHALLENGER)
        self._forgive(challenger)
        # A champion goes on until there is another; a challenger that nobody names is not asked.
        if self.wanted.challenger is not None and self.wanted.challenger.version != challenger:
            self._set(challenger=None)
        for slot, version in named.items():
            self._heed(slot, version, tags[version])
        for slot, version in named.items():
            self._consider(registry, slot, version, tags[version].get("artifact", ""))
        self._results.clear()
        self._set(said=telling.champion(named, self.wanted, self.at.task))

    def _heed(self, slot: str, version: str, tags: dict[str, str]) -> None:
        """Publish what was tried with success, and say why the version answers as the tags tell now."""
        digest, why = tags.get("artifact", ""), telling.why(slot, tags)
        now = self._published(slot, version, digest)
        if now is not None and _there(now):
            if now.why != why:
                self._set(**{slot: now.model_copy(update={"why": why})})
            self._set(refused=self._refused_without(version))  # as other files under its number
            return
        tried = self._results.get(version)
        if tried is None or tried.digest != digest:  # the alias moved on, or the files did
            return
        if tried.folder is None:
            self._refuse(tried)
            return
        since = now.since if now is not None else self.clock()
        made = Version(version=version, folder=tried.folder, digest=digest, since=since, why=why)
        self._set(**{slot: made, "refused": self._refused_without(version)})
        log.info(
            "published",
            extra={"task": self.at.task, "slot": slot, "version": version, "why": why},
        )

    def _consider(self, registry: Registry, slot: str, version: str, digest: str) -> None:
        """Start a try of the version, unless it answers already, is in hand, or is refused for now."""
        now = self._published(slot, version, digest)
        if now is not None and _there(now):
            return
        if version in self._in_hand or self._refused_for_now(version, digest):
            return

        def work() -> None:
            self.ended.put(attempt(version, digest, registry.fetch, self.notes, self.contract))

        self._in_hand.add(version)
        self.start(work)

    def _published(self, slot: str, version: str, digest: str) -> Version | None:
        now: Version | None = getattr(self.wanted, slot)
        return now if now is not None and (now.version, now.digest) == (version, digest) else None

    def _refused_for_now(self, version: str, digest: str) -> bool:
        refusal = self.wanted.refused.get(version)
        if refusal is None or refusal.digest != digest:
            return False
        return refusal.again_at is None or self.clock() < refusal.again_at

    def _refuse(self, tried: Tried) -> None:
        before = self.wanted.refused.get(tried.version)
        again = before is not None and before.digest == tried.digest
        tries = before.tries + 1 if before is not None and again else 1
        refusal = Refusal(
            digest=tried.digest,
            reason=tried.reason,
            since=before.since if before is not None and again else self.clock(),
            tries=tries,
            again_at=self.clock() + backoff.wait(tries) if tried.transient else None,
        )
        self._set(refused=self._refused_without(tried.version) | {tried.version: refusal})
        said = {"task": self.at.task, "version": tried.version, "reason": tried.reason}
        log.error("refused", extra=said | {"tries": tries, "again_at": refusal.again_at})

    def _refused_without(self, version: str) -> dict[str, Refusal]:
        return {v: r for v, r in self.wanted.refused.items() if v != version}

    def _forgive(self, challenger: str | None) -> None:
        """A tripped challenger stays off until the alias names another version."""
        keep = wanted.tripped(self.at, challenger) if challenger else None
        for file in wanted.all_tripped(self.at):
            if file != keep:
                file.unlink(missing_ok=True)

    def _unreachable(self, error: Exception) -> None:
        """The first error is kept: the next ones differ in an address or a time, and say no more."""
        if not self.wanted.registry.reachable:
            return
        told = telling.without_password(f"{type(error).__name__}: {error}")[:500]
        self._set(registry=Reach(reachable=False, since=self.clock(), error=told))
        log.error("registry out of reach", extra={"task": self.at.task, "error": told})

    def _reached(self) -> None:
        if not self.wanted.registry.reachable:
            seconds = round(self.clock() - self.wanted.registry.since, 1)
            log.info("registry is back", extra={"task": self.at.task, "seconds": seconds})
            self._set(registry=Reach(since=self.clock()))

    # what the workers read
    def _set(self, **changed: Any) -> None:
        if changed.get(CHAMPION) is not None:
            changed["left"] = None
        self.wanted = self.wanted.model_copy(update=changed)

    def _publish(self) -> None:
        self.wanted = self._publisher.publish(self.wanted, self.clock())


def _there(version: Version) -> bool:
    """Workers that answer have it in memory; one that starts needs its files, which a person may have
    cleaned away."""
    return (version.folder / "manifest.json").is_file()
