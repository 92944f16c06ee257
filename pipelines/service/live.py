"""The versions that this worker answers with. Requests read one attribute; a swap is one assignment.

Nothing of MLflow is here: the keeper says in a file what is wanted, and the file is looked at twenty
times a second. The new version is loaded, tested and warmed up in a thread, beside the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pipelines.contract import Contract
from pipelines.paths import Paths
from pipelines.service import backoff, state, wanted
from pipelines.service.state import Failure, Model
from pipelines.service.verify import verified
from pipelines.service.wanted import Tripped, Version
from pipelines.service.watch import Watch

log = logging.getLogger(__name__)

SLOTS = ("champion", "challenger")
LOOK_SECONDS = 0.02
PAUSE_SECONDS = 0.03
"""Between the parts of a loading. In one piece it has requests wait for the interpreter faster than they
are answered: for a tenth of a second half of them took twice as long."""
SWITCH_SECONDS = (sys.getswitchinterval(), 0.00005)
"""For which a thread may keep the interpreter from those who answer: else, and while one loads. Python's
own 5 ms are twice what an answer takes; the shorter time, kept for good, costs each request 15 % of
processor time, as the thread that writes the log asks for the interpreter too (docs/log.md)."""


class Live:
    """on_swap(slot, outcome, version): outcome is swapped, failed or tripped; version None when the
    slot was emptied. Not called while this is made."""

    def __init__(
        self, at: Paths, contract: Contract, on_swap: Callable[[str, str, str | None], None]
    ) -> None:
        self.at, self.contract, self.on_swap = at, contract, on_swap
        self.champion: Model | None = None
        self.challenger: Model | None = None
        self._watch = Watch(at)
        self._off: Tripped | None = None
        self._loading = 0
        self._failures: dict[str, Failure] = {}
        self._swaps = {slot: Counter[str]() for slot in SLOTS}
        for slot in SLOTS:
            if (version := self._target(slot)) is not None:
                self._take(slot, self._attempt(slot, version))

    async def follow(self) -> None:
        """For ever. Each slot by itself: a champion does not wait for a challenger that is slow."""
        await asyncio.gather(*(self._follow(slot) for slot in SLOTS))

    def registry_followed(self) -> bool:
        return state.registry_followed(self._watch, time.time())

    def trip(self, model: Model, reason: str) -> None:
        """The challenger gets no more requests, in any worker, until the alias names another.

        model: what was weighed; when another has taken its place meanwhile, that one stays.
        """
        if self.challenger is None or not self.challenger.same_as(model):
            return
        self.challenger = None
        off = Tripped(
            version=model.version, digest=model.artifact.digest, reason=reason, at=time.time()
        )
        self._off = off
        try:
            wanted.write(wanted.tripped(self.at, model.version), off)
        except OSError as error:  # the other workers will see for themselves
            log.error("tripped challenger could not be told", extra={"error": str(error)})
        self._count("challenger", "tripped", model.version)

    def waiting_for(self) -> str:
        """Why no champion answers here, in words that go on after a colon."""
        return state.waiting_for(self.at, self._watch, self._failures.get("champion"))

    def state(self) -> dict[str, Any]:
        """For people and for metrics; times as ISO 8601, UTC."""
        models = {"champion": self.champion, "challenger": self.challenger}
        return state.told(self.at, self._watch, models, self._failures, self._swaps, self._off)

    # one slot
    async def _follow(self, slot: str) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._step(slot)
            except Exception:  # a look that fails is told, and the next one comes all the same
                log.exception("look failed", extra={"slot": slot})

    async def _step(self, slot: str) -> None:
        version = self._target(slot)
        now: Model | None = getattr(self, slot)
        if version is None:
            if slot == "challenger":  # a champion goes on until there is another
                self._empty()
            return
        if now is not None and now.stands_for(version):
            self._failures.pop(slot, None)
            if (now.since, now.why) != (version.since, version.why):
                setattr(self, slot, replace(now, since=version.since, why=version.why))
            return
        failure = self._failures.get(slot)
        failed = failure is not None and _same(failure.version, version)
        if failed and failure is not None and time.monotonic() < failure.again:
            return
        with self._taking_turns():
            outcome = await asyncio.to_thread(self._attempt, slot, version)
        after = self._target(slot)
        if after is None or not _same(after, version):
            return  # while it was loading, something else was wanted
        self._take(slot, outcome)
        self.on_swap(slot, "swapped" if isinstance(outcome, Model) else "failed", version.version)

    def _empty(self) -> None:
        self._failures.pop("challenger", None)
        if self.challenger is not None:
            self.challenger = None
            self._count("challenger", "swapped", None)

    @contextlib.contextmanager
    def _taking_turns(self) -> Iterator[None]:
        """Both slots may be loading at once."""
        usual, often = SWITCH_SECONDS
        self._loading += 1
        sys.setswitchinterval(often)
        try:
            yield
        finally:
            self._loading -= 1
            if not self._loading:
                sys.setswitchinterval(usual)

    def _attempt(self, slot: str, version: Version) -> Model | Failure:
        """In a thread while requests are answered; touches nothing of this object that changes."""
        try:
            artifact = verified(version.folder, version.digest, self.contract, _pause)
        except Exception as error:  # whatever it is, the old version stays
            before = self._failures.get(slot)
            again = before is not None and _same(before.version, version)
            tries = before.tries + 1 if before is not None and again else 1
            since = before.since if before is not None and again else time.time()
            reason = f"{type(error).__name__}: {error}"[:1000]
            return Failure(version, reason, tries, since, time.monotonic() + backoff.wait(tries))
        return Model(
            version.version, artifact, version.since, version.why,
            artifact.about.threshold, time.time(),
        )  # fmt: skip

    def _take(self, slot: str, outcome: Model | Failure) -> None:
        if isinstance(outcome, Model):
            setattr(self, slot, outcome)
            self._failures.pop(slot, None)
            self._swaps[slot]["swapped"] += 1
            log.info(
                "swapped", extra={"slot": slot, "version": outcome.version, "why": outcome.why}
            )
        else:
            self._failures[slot] = outcome
            self._swaps[slot]["failed"] += 1
            said = {"slot": slot, "version": outcome.version.version, "reason": outcome.reason}
            log.error("swap failed", extra=said | {"tries": outcome.tries})

    def _count(self, slot: str, outcome: str, version: str | None) -> None:
        self._swaps[slot][outcome] += 1
        self.on_swap(slot, outcome, version)

    # what is wanted
    def _target(self, slot: str) -> Version | None:
        said = self._watch.look()
        version: Version | None = getattr(said, slot) if said is not None else None
        if slot == "champion":
            return version
        if version is None:
            self._off = None
            return None
        off = self._off
        if off is None or (off.version, off.digest) != (version.version, version.digest):
            off = self._off = self._watch.tripped(version)
        return version if off is None else None


def _pause() -> None:
    time.sleep(PAUSE_SECONDS)


def _same(one: Version, other: Version) -> bool:
    return (one.version, one.digest) == (other.version, other.digest)
