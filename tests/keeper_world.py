"""A task with models to answer with, and a registry in memory that can be down, slow and spoiled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import artifact
from pipelines.adapters.registry import CHALLENGER, CHAMPION
from pipelines.contract import Contract
from pipelines.errors import RegistryError
from pipelines.paths import Paths
from pipelines.project import Project
from pipelines.serve_params import Challenger, Serve
from pipelines.service.wanted import Version
from tests.fakes import PUMPS, MemoryRegistry, pump_graph, pump_model
from tests.gate_world import TASK


def project(root: Path, route: str = "canary", **serve: Any) -> Project:
    settings = Serve(challenger=Challenger(route=route), **serve)  # type: ignore[arg-type]
    task = TASK.model_copy(update={"serve": settings})
    return Project("pumps", task, PUMPS, Paths(root, "pumps"))


def make_models(root: Path) -> Path:
    """Folders 1, 2 and 3: three models that may answer, each with answers of its own."""
    for number in (1, 2, 3):
        pump_model(root / str(number) / "model", pump_graph({"heat": number, "noise": 0.5}))
    return root


def version(folder: Path, number: str, why: str = "", since: float = 1.0) -> Version:
    digest = artifact.load(folder).digest
    return Version(version=number, folder=folder, digest=digest, since=since, why=why)


def sign(folder: Path) -> str:
    """Write the manifest anew, as one who alters a model on purpose would; returns the digest."""
    names = artifact.FILES
    sums = {n: hashlib.md5((folder / n).read_bytes()).hexdigest() for n in names}
    (folder / "manifest.json").write_text(json.dumps(sums, indent=1, sort_keys=True))
    return hashlib.md5((folder / "manifest.json").read_bytes()).hexdigest()


def other_contract(**changed: Any) -> Contract:
    return PUMPS.model_copy(update=changed)


class FakeRegistry(MemoryRegistry):
    """Counts what is asked of it. `slow` versions wait for their event; `failures` are raised once each."""

    def __init__(self, home: Path, models: Path) -> None:
        super().__init__(home)
        self.down = False
        self.fetched: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most_at_once = 0
        self.slow: dict[str, threading.Event] = {}
        self.failures: dict[str, list[Exception]] = {}
        self._lock = threading.Lock()
        for number in ("1", "2", "3"):
            assert self.register(artifact.load(models / number / "model")) == number
        self.moved = {CHAMPION: "1"}

    def name(self, champion: str | None, challenger: str | None = None) -> None:
        told = {CHAMPION: champion, CHALLENGER: challenger}
        self.moved = {alias: v for alias, v in told.items() if v is not None}

    def aliases(self) -> dict[str, str]:
        if self.down:
            # As with real ones, no two messages are alike.
            raise RegistryError(f"no answer, {time.monotonic_ns()}")
        return super().aliases()

    def fetch(self, version: str) -> Path:
        with self._counted(version):
            if version in self.slow:
                assert self.slow[version].wait(30)
            if self.failures.get(version):
                raise self.failures[version].pop(0)
            # What the real one would refuse as well, but what is tested here is the keeper's own eye.
            return self.home / version

    @contextlib.contextmanager
    def _counted(self, version: str) -> Iterator[None]:
        with self._lock:
            self.fetched[version] += 1
            self.at_once[version] += 1
            self.most_at_once = max(self.most_at_once, self.at_once[version])
        try:
            yield
        finally:
            with self._lock:
                self.at_once[version] -= 1


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def eventually(true: Any, seconds: float = 20.0) -> None:
    """Waits until `true()`; no bound on how long a busy machine may take, but for ever."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)
