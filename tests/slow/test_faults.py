"""Run: pytest tests/slow/test_faults.py -m slow

What goes wrong while many ask: versions, registry, processes, disk. The old version answers on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.asking import Asking, asking
from pipelines.adapters import mlflow_home
from pipelines.adapters.registry import CHALLENGER
from pipelines.paths import Paths
from pipelines.served.answers import Wanted, read
from tests.fakes import PUMPS, pump_graph, pumps
from tests.keeper_world import other_contract
from tests.served_world import json_body
from tests.slow import mlflow_server, serving
from tests.slow.mlflow_server import Server
from tests.slow.questions import graph, questions
from tests.slow.serving import Running
from tests.slow.test_service import metric

pytestmark = pytest.mark.slow

WORKERS, CLIENTS, PER_SECOND = 2, 8, 400
BALLAST = 8_000_000
"""Numbers that a heavy graph carries: 32 MB."""
SMALL_DISK = "size=32m"


def heavy(number: int) -> bytes:
    """Answers as graph(number) does, and takes its time to be fetched and loaded."""
    made = onnx.load_from_string(graph(number))
    ballast = np.random.default_rng(0).random(BALLAST, np.float32)
    made.graph.initializer.append(numpy_helper.from_array(ballast, "ballast"))
    return bytes(made.SerializeToString())


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own where that is allowed; full_disk works without one, less like a real disk."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def full_disk(service: Running) -> Iterator[None]:
    journals = service.at.journals
    if os.path.ismount(journals):
        filler = journals / "filler"
        with filler.open("wb", buffering=0) as out, contextlib.suppress(OSError):
            while out.write(b"\0" * 4096):
                pass
        try:
            yield
        finally:
            filler.unlink()
        return
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in service.workers()}
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid, limit in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


@dataclass
class World:
    """A service that follows MLflow's server; versions 1 and 2 are sound, and 1 is to answer."""

    home: mlflow_server.Home
    service: Running
    server: Server
    stack: contextlib.ExitStack
    graphs: dict[str, bytes]

    def restart_registry(self) -> None:
        self.server = self.stack.enter_context(self.home.serve())

    def add(self, made: bytes, **about: Any) -> str:
        version = serving.version(self.service.at, made, **about)
        self.graphs[version] = made
        return version

    def name(self, version: str) -> None:
        self.server.name("pumps", "champion", version)

    @contextlib.contextmanager
    def asked(self, folder: Path) -> Iterator[Asking]:
        """Every worker answers with version 1 when the block begins; all answers were right."""
        with asked(self.service, self.graphs, folder) as load:
            yield load

    def follows(self, load: Asking) -> None:
        """To version 2 and back, in every worker."""
        for version in ("2", "1"):
            moved = time.time()
            self.name(version)
            self.service.until(
                lambda to=version, since=moved: len(load.arrivals(to, since)) == WORKERS,
                f"version {version} from every worker",
            )


@contextlib.contextmanager
def asked(service: Running, graphs: dict[str, bytes], folder: Path) -> Iterator[Asking]:
    """Load; in the end no answer was wrong. Which requests may fail, each test says."""
    with asking(
        service.url, questions(graphs), folder / "load", clients=CLIENTS, per_second=PER_SECOND
    ) as load:
        service.until(lambda: len(load.workers()) == WORKERS, "every worker's first answer")
        yield load
        report = load.end()
        assert report.wrong == 0, report.sample
        assert report.requests > 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    at = serving.project(
        folder / "project", poll_seconds=0.2, workers=WORKERS, log={"buffer_mb": 0.02}
    )
    home = mlflow_server.home(folder)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.ExitStack() as stack,
        small_disk(at.journals),
    ):
        server = stack.enter_context(home.serve())
        patch.setenv(mlflow_home.VARIABLE, server.uri)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        graphs = {number: graph(int(number)) for number in ("1", "2")}
        for number, made in graphs.items():
            assert serving.version(at, made) == number
        server.name("pumps", "champion", "1")
        with serving.serving(at) as service:
            yield World(home, service, server, stack, graphs)


def told(service: Running) -> dict[str, Any]:
    """/model, as any worker tells it; /readyz stays 200 whatever is refused."""
    assert service.get("/readyz").status_code == 200
    said: dict[str, Any] = service.get("/model").json()
    return said


def refused(service: Running, version: str) -> str:
    """The reason, once /readyz, /model and /metrics all tell that the version is refused."""
    service.until(lambda: version in told(service)["refused"], f"version {version} to be refused")
    service.until(lambda: metric(service, "perennial_versions_refused", "") == 1, "the metric")
    said = told(service)
    assert service.get("/readyz").json()["refused"].keys() == {version}
    assert said["champion"]["version"] == "1"
    assert f"version {version}, which is refused; version 1 goes on" in said["said"]
    return str(said["refused"][version]["reason"])


def altered(world: World) -> str:
    """A byte of the newest graph in the artifact store is another one than was registered."""
    version = world.add(graph(3))
    stored = max(world.home.artifacts.rglob("model.onnx"), key=lambda p: p.stat().st_mtime_ns)
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    return version


def of_another_contract(world: World) -> str:
    return world.add(graph(4), described=other_contract(key=("pump",)))


def that_can_answer_no_example(world: World) -> str:
    return world.add(pump_graph({"heat": float("nan")}))


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        (altered, "model.onnx is not the file"),
        (of_another_contract, "key is pump in the model and pump, moment in the contract"),
        (that_can_answer_no_example, "no example to be tested on"),
    ],
)
def test_a_version_that_may_not_answer_is_refused_once_and_said(
    world: World, tmp_path: Path, spoiled: Callable[[World], str], reason: str
) -> None:
    version = spoiled(world)
    del world.graphs[version]
    with world.asked(tmp_path) as load:
        world.name(version)
        assert reason in refused(world.service, version)
        time.sleep(1.0)  # five looks of the keeper
        assert told(world.service)["refused"][version]["tries"] == 1
        world.name("1")
        world.service.until(lambda: not told(world.service)["refused"], "the refusal to go")
    assert load.failures == []
    assert load.report is not None
    assert load.report.by_version.keys() == {"1"}


def test_the_old_version_answers_while_a_slow_one_is_tried(world: World, tmp_path: Path) -> None:
    service = world.service
    slow = world.add(heavy(5))
    with world.asked(tmp_path) as load:
        keeper = keeper_of(service)
        moved = time.time()
        world.name(slow)
        service.until(lambda: "is being tried" in told(service)["said"], "the try to begin")
        os.kill(keeper, signal.SIGSTOP)
        try:
            time.sleep(1.5)
            assert load.arrivals(slow, moved) == {}
            assert told(service)["champion"]["version"] == "1"
        finally:
            os.kill(keeper, signal.SIGCONT)
        service.until(lambda: len(load.arrivals(slow, moved)) == WORKERS, "the slow version")
        assert told(service)["said"] == ""
        world.follows(load)
    assert load.failures == []


def test_a_registry_that_is_killed_changes_nothing_and_is_followed_when_it_is_back(
    world: World, tmp_path: Path
) -> None:
    service = world.service
    with world.asked(tmp_path) as load:
        world.server.kill()
        service.until(lambda: not told(service)["registry"]["reachable"], "the registry's absence")
        service.until(lambda: metric(service, "perennial_registry_reachable", "") == 0, "metric")
        assert not service.get("/readyz").json()["registry"]["reachable"]
        assert world.server.uri in told(service)["registry"]["error"]
        assert told(service)["champion"]["version"] == "1"
        world.restart_registry()
        service.until(lambda: told(service)["registry"]["reachable"], "the registry")
        service.until(lambda: metric(service, "perennial_registry_reachable", "") == 1, "metric")
        world.follows(load)
    assert load.failures == []


def test_a_keeper_that_is_killed_comes_back_and_follows(world: World, tmp_path: Path) -> None:
    with world.asked(tmp_path) as load:
        before = keeper_of(world.service)
        os.kill(before, signal.SIGKILL)
        world.follows(load)
        assert keeper_of(world.service) != before
    assert load.failures == []


def keeper_of(service: Running) -> int:
    """Its process id, once there is one."""
    wanted = f"pipelines.service.keeper\0pumps\0--parent\0{service.process.pid}\0"
    found: list[int] = []

    def there() -> bool:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cmdline").read_text().endswith(wanted):
                    found.append(int(process.name))
        return bool(found)

    service.until(there, "a keeper")
    return found[0]


def test_answers_go_on_when_the_disk_of_the_log_is_full_and_what_is_lost_is_counted(
    world: World, tmp_path: Path
) -> None:
    service = world.service
    with world.asked(tmp_path) as load:
        with full_disk(service):
            service.until(
                lambda: metric(service, "perennial_log_lost_rows_total", "") > 0, "a loss"
            )
        written = metric(service, "perennial_log_written_rows_total", "")
        service.until(
            lambda: metric(service, "perennial_log_written_rows_total", "") > written,
            "the log again",
        )
    assert load.failures == []
    answered = load.ids()

    def each_is_on_record_or_counted() -> bool:
        """Nothing is both, nothing is neither. A metric may be older than the last answers."""
        missing = answered - set(read(service.at, PUMPS, Wanted())["id"])
        pending = metric(service, "perennial_log_pending_bytes", "")
        lost = metric(service, "perennial_log_lost_rows_total", "")
        return (pending, lost) == (0, len(missing))

    service.until(each_is_on_record_or_counted, "the last answers' record")


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    at = serving.project(
        tmp_path_factory.mktemp("durable"), workers=WORKERS, log={"mode": "durable"}
    )
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(mlflow_home.VARIABLE, raising=False)
            serving.champion(at, serving.version(at, graph(1)))
            stack.enter_context(small_disk(at.journals))
            service = stack.enter_context(serving.serving(at))
        yield service


def test_a_worker_that_is_killed_breaks_its_own_connections_and_loses_no_acknowledged_answer(
    durable: Running, tmp_path: Path
) -> None:
    with asked(durable, {"1": graph(1)}, tmp_path) as load:
        before = durable.workers()
        known = load.workers()
        killed = time.time()
        os.kill(before[0], signal.SIGKILL)
        durable.until(lambda: len(durable.workers()) == WORKERS, "another worker")
        durable.until(lambda: len(load.workers()) > len(known), "its first answer")
        assert before[0] not in durable.workers()
        assert before[1] in durable.workers()
    assert {failure.what for failure in load.failures} <= {"broken"}
    assert len(load.failures) <= CLIENTS
    assert all(killed <= failure.at for failure in load.failures)
    assert load.ids() <= set(read(durable.at, PUMPS, Wanted())["id"])


def test_durable_answers_503_while_the_disk_is_full_and_loses_nothing(
    durable: Running, tmp_path: Path
) -> None:
    with asked(durable, {"1": graph(1)}, tmp_path) as load:
        with full_disk(durable):
            full: list[httpx.Response] = []

            def refused_often() -> bool:
                # The last page of a journal may still have room for a record or two.
                got = durable.predict()
                full.extend([got] if got.status_code != 200 else [])
                return len(full) == 20

            durable.until(refused_often, "the disk's fullness")
            for got in full:
                assert (got.status_code, got.json()["type"]) == (503, "/problems/log-full")
                assert "Make room" in got.json()["detail"]
                assert got.headers["retry-after"]
            assert durable.get("/readyz").status_code == 200
            refusals = 'kind="log-full"'
            durable.until(
                lambda: metric(durable, "perennial_requests_total", refusals) > 0, "the metric"
            )
        durable.until(lambda: durable.predict().status_code == 200, "room")
        roomy = time.time()
        durable.until(lambda: time.time() > roomy + 3, "three seconds of answers")
    assert {failure.what for failure in load.failures} == {"503 /problems/log-full"}
    assert max(failure.at for failure in load.failures) < roomy + 2
    assert load.ids() <= set(read(durable.at, PUMPS, Wanted())["id"])


def test_a_canary_that_begins_to_fail_loses_its_traffic_and_no_request_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(mlflow_home.VARIABLE, raising=False)
    # A straight line: sound on its examples, and far outside of 0..1 on a day of great heat.
    graphs = {"1": graph(1), "2": pump_graph({"heat": 0.005}, bias=0.97, after=("Identity",))}
    at = serving.project(
        tmp_path / "project", workers=WORKERS, poll_seconds=0.2,
        challenger={"route": "canary", "share": 0.5},
    )  # fmt: skip
    serving.champion(at, serving.version(at, graphs["1"]))
    serving.name(at, CHALLENGER, serving.version(at, graphs["2"]))
    with serving.serving(at) as service, asked(service, graphs, tmp_path) as load:
        service.until(lambda: len(load.arrivals("2", 0)) == WORKERS, "the canary's answers")
        table = pumps(1500, seed=5).assign(heat=1e6)
        hot = (json_body(table.iloc[[i]]) for i in range(len(table)))

        def lost_its_traffic() -> bool:
            got = service.client.post(
                f"{service.url}/predict",
                content=next(hot),
                headers={"content-type": "application/json"},
            )
            assert (got.status_code, got.json()["version"]) == (200, "1")
            return "challenger_off" in told(service)

        service.until(lost_its_traffic, "the challenger to be off")
        off = time.time() + 3  # within which the other worker hears of it
        service.until(lambda: time.time() > off + 1, "a second of the champion alone")
        assert "3 failed predictions" in told(service)["challenger_off"]["reason"]
        assert service.get("/readyz").json()["challenger_off"]["version"] == "2"
        assert told(service)["challenger"] is None
        assert metric(service, "perennial_swaps_total", 'outcome="tripped"') >= 1
        assert metric(service, "perennial_model_failures_total", 'version="2"') >= 3
        assert load.arrivals("2", off) == {}
    assert load.failures == []


def test_it_starts_without_its_registry_from_what_it_had(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the project on a machine from where the registry cannot be reached."""
    at = Paths(tmp_path / "project", "pumps")
    ignored = shutil.ignore_patterns("keeper.lock", "bentoml-*", "journals", "made")
    shutil.copytree(world.service.at.root, at.root, ignore=ignored)
    nobody = f"http://127.0.0.1:{serving.free_port()}"
    monkeypatch.setenv(mlflow_home.VARIABLE, nobody)
    with (
        serving.serving(at) as service,
        asked(service, {"1": graph(1)}, tmp_path) as load,
    ):
        service.until(lambda: not told(service)["registry"]["reachable"], "the registry's absence")
        service.until(lambda: metric(service, "perennial_registry_reachable", "") == 0, "metric")
        assert nobody in told(service)["registry"]["error"]
    assert load.failures == []
