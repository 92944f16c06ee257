"""A task with models to answer with, and a registry in memory that can be down, slow and spoiled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines import artifact, contract
from pipelines.adapters.registry import CHALLENGER, CHAMPION
from pipelines.contract import Contract
from pipelines.errors import RegistryError
from pipelines.paths import Paths
from pipelines.project import Project
from pipelines.serve_params import Challenger, Serve
from pipelines.service import wanted
from pipelines.service.keeper.follower import Follower
from pipelines.service.wanted import Version
from tests.fakes import BETTER, PUMPS, MemoryRegistry, pump_graph, pump_model
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


def made(
    root: Path,
    registry: Any,
    clock: Clock,
    own: tuple[Path, str] | None = None,
    route: str = "canary",
    start: Callable[[Callable[[], None]], None] = lambda work: work(),
) -> Follower:
    return Follower(project(root, route), registry, own, start, clock)


def looks(follow: Follower, times: int = 2) -> wanted.Wanted:
    """A try begins in one look and is published in the next."""
    for _ in range(times):
        follow.look()
    return wanted.read(follow.at.wanted)


def answering(said: wanted.Wanted) -> str | None:
    return said.champion.version if said.champion else None


# Ways to spoil version 2 ----------------------------------------------------------------------

Spoil = Callable[[FakeRegistry, Path], None]


def replaced(graph: bytes) -> Spoil:
    """Another graph in the same files, signed anew: only its answers can tell."""

    def spoil(registry: FakeRegistry, _: Path) -> None:
        (registry.home / "2" / "model.onnx").write_bytes(graph)
        registry.set_tags("2", {"artifact": sign(registry.home / "2")})

    return spoil


def trained(graph: bytes = BETTER, described: contract.Contract = PUMPS) -> Spoil:
    """A model that is sound as far as it itself can tell."""

    def spoil(registry: FakeRegistry, scratch: Path) -> None:
        made = pump_model(scratch / "model", graph, described)
        shutil.rmtree(registry.home / "2")
        shutil.copytree(made.folder, registry.home / "2")
        registry.set_tags("2", {"artifact": made.digest})

    return spoil


def under(described: contract.Contract) -> Spoil:
    """Trained under another contract than the service's."""
    return trained(described=described)


def column(name: str, **changed: Any) -> contract.Contract:
    columns = PUMPS.columns | {name: PUMPS.columns[name].model_copy(update=changed)}
    return other_contract(columns=columns)


def renamed(old: str, new: str) -> contract.Contract:
    columns = {new if n == old else n: c for n, c in PUMPS.columns.items()}
    return other_contract(columns=columns)


def altered(name: str) -> Spoil:
    def spoil(registry: FakeRegistry, _: Path) -> None:
        path = registry.home / "2" / name
        path.write_bytes(path.read_bytes() + b" ")

    return spoil


def without_examples(registry: FakeRegistry, _: Path) -> None:
    path = registry.home / "2" / "examples.parquet"
    pd.read_parquet(path).head(0).to_parquet(path)
    registry.set_tags("2", {"artifact": sign(registry.home / "2")})


def beside(name: str) -> Spoil:
    return lambda registry, _: (registry.home / "2" / name).write_bytes(b"\x80\x04N.") and None


def emptied(registry: FakeRegistry, _: Path) -> None:
    shutil.rmtree(registry.home / "2")
    (registry.home / "2").mkdir()


def untagged(registry: FakeRegistry, _: Path) -> None:
    del registry.tagged["2"]["artifact"]


def swapped_for_another(registry: FakeRegistry, _: Path) -> None:
    shutil.rmtree(registry.home / "2")
    shutil.copytree(registry.home / "3", registry.home / "2")
