"""Run: pytest tests/slow/test_keeper.py -m slow

The keeper as a process, beside MLflow's real server: killed, doubled, knocked at, out of disk.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import artifact
from pipelines.adapters import mlflow_home
from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.paths import Paths
from pipelines.service import wanted, webhook
from pipelines.service.keeper import keep as keeper
from pipelines.service.keeper import trying
from pipelines.service.keeper.follower import Follower
from tests.conftest import REPOSITORY
from tests.fakes import BETTER, PUMPS, WORSE, pump_graph
from tests.keeper_world import FakeRegistry, eventually, make_models, project
from tests.slow import mlflow_server
from tests.slow.mlflow_server import Server
from tests.slow.trained import train

pytestmark = pytest.mark.slow

GRAPHS = {"1": WORSE, "2": BETTER, "3": pump_graph({"heat": 0.5})}
WAIT = 120.0
"""Seconds until a keeper must have done what it must: long, as importing MLflow on a busy machine is."""
SECRET = "a shared secret"


def write_project(root: Path, **serve: Any) -> Paths:
    opened = project(root, **serve)
    root.mkdir(parents=True, exist_ok=True)
    tasks = {"tasks": {"pumps": opened.task.model_dump(mode="json", exclude_none=True)}}
    opened.at.params.write_text(yaml.safe_dump(tasks))
    opened.at.contract.parent.mkdir(exist_ok=True)
    opened.at.contract.write_text(yaml.safe_dump(PUMPS.model_dump(mode="json", exclude_none=True)))
    return opened.at


def answering(at: Paths) -> str | None:
    """What the file says now; a reader never finds it torn."""
    if not at.wanted.is_file():
        return None
    said = wanted.read(at.wanted)
    return said.champion.version if said.champion else None


@contextlib.contextmanager
def kept(at: Paths, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    log = at.root / "keeper.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.service.keeper", "pumps", *words],
            cwd=at.root, stderr=out, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        try:
            yield process
        except BaseException:
            print(log.read_text()[-5000:])
            raise
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MLflow's server with three versions; the test that kills it stands last of those that use it."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch, mlflow_server.home(folder).serve() as server:
        patch.setenv(mlflow_home.VARIABLE, server.uri)
        at = Paths(folder / "project", "pumps")
        for version, graph in GRAPHS.items():
            train(at, graph, folder / version / "model")
            assert Registry(at).register(artifact.load(folder / version / "model")) == version
        yield server


def test_mlflows_own_knock_is_believed_and_wakes_the_keeper(registry: Server, tmp_path: Path):
    import mlflow

    at = write_project(tmp_path / "project", poll_seconds=600)
    heard: list[bool] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            believed = webhook.verify(dict(self.headers), body, SECRET, time.time())
            assert not webhook.verify(dict(self.headers), body, "guessed", time.time())
            if believed and webhook.wakes(body, at.registered_name):
                webhook.touch(at.wake)
            heard.append(believed)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    receiver = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    try:
        registry.name("pumps", CHAMPION, "1")
        client = mlflow.MlflowClient(registry.uri)
        made = client.create_webhook(
            name="perennial",
            url=f"http://127.0.0.1:{receiver.server_port}/hooks/mlflow",
            secret=SECRET,
            events=["model_version_alias.created", "model_version_alias.deleted"],
        )
        time.sleep(1.5)  # the server reads its list of webhooks once a second
        with kept(at):
            eventually(lambda: answering(at) == "1", WAIT)
            registry.name("pumps", CHAMPION, "2")
            # The next look by the clock is ten minutes away.
            eventually(lambda: answering(at) == "2", WAIT)
        assert heard
        assert all(heard)
        client.delete_webhook(made.webhook_id)
    finally:
        receiver.shutdown()
        receiver.server_close()


def test_a_move_by_rest_is_followed_through_kills_of_keeper_and_registry(
    registry: Server, tmp_path: Path
):
    at = write_project(tmp_path / "project", poll_seconds=0.2)
    registry.name("pumps", CHAMPION, "1")
    with kept(at) as first:
        eventually(lambda: answering(at) == "1", WAIT)
        registry.name("pumps", CHAMPION, "2")
        eventually(lambda: answering(at) == "2", WAIT)
        with kept(at) as second:
            assert second.wait(WAIT) == 0
        assert first.poll() is None
        first.kill()
        first.wait()
    registry.name("pumps", CHAMPION, "3")
    with kept(at) as heir:
        eventually(lambda: answering(at) == "3", WAIT)
        registry.kill()
        eventually(lambda: not wanted.read(at.wanted).registry.reachable, WAIT)
        assert registry.uri in wanted.read(at.wanted).registry.error
        assert answering(at) == "3"
        heir.send_signal(signal.SIGTERM)
        assert heir.wait(WAIT) == 0


def test_killed_at_any_moment_the_file_is_whole_and_the_next_keeper_ends_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(mlflow_home.VARIABLE, raising=False)
    at = write_project(tmp_path / "project", poll_seconds=0.05)
    registry = local_versions(at, tmp_path)
    chance = random.Random(7)
    turns = itertools.cycle("21")

    def turn() -> str:
        version = next(turns)
        move(registry, version)
        answering(at)
        return version

    def written() -> int:
        return at.wanted.stat().st_mtime_ns if at.wanted.is_file() else 0

    def at_work(process: subprocess.Popen[bytes], before: int) -> bool:
        assert process.poll() is None
        turn()
        return written() != before

    for _ in range(6):
        before = written()
        with kept(at) as process:
            eventually(lambda p=process, b=before: at_work(p, b), WAIT)
            until = time.monotonic() + chance.uniform(0, 1.5)
            while time.monotonic() < until:
                turn()
            assert process.poll() is None
            process.kill()
            process.wait()
        answering(at)
    last = turn()
    with kept(at):
        eventually(lambda: answering(at) == last, WAIT)
        eventually(lambda: wanted.read(at.wanted).refused == {}, WAIT)


def local_versions(at: Paths, scratch: Path) -> Registry:
    """Three versions in SQLite; 1 is champion."""
    registry = Registry(at)
    for version, graph in GRAPHS.items():
        train(at, graph, scratch / version / "model")
        assert registry.register(artifact.load(scratch / version / "model")) == version
    move(registry, "1")
    return registry


def move(registry: Registry, version: str) -> None:
    with registry._client() as client:
        client.set_registered_model_alias(registry.name, CHAMPION, version)


def test_a_keeper_goes_with_its_service_even_when_nobody_buries_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(keeper.REGISTRY, "off")
    at = write_project(tmp_path / "project")
    service = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with kept(at, "--parent", str(service.pid)) as process:
        eventually(lambda: at.wanted.is_file(), WAIT)
        assert process.poll() is None
        service.kill()
        assert process.wait(WAIT) == 0
    service.wait()


def test_a_model_that_kills_who_loads_it_kills_two_keepers_and_not_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    registry = FakeRegistry(tmp_path / "registry", make_models(tmp_path / "models"))
    opened = project(tmp_path, poll_seconds=0.05)
    plain = trying.verified

    def deadly(folder: Path, *rest: Any) -> Any:
        if folder.name == "2":
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        return plain(folder, *rest)

    monkeypatch.setattr(trying, "verified", deadly)
    monkeypatch.setattr(keeper, "Registry", lambda _: registry)

    def live_and_die(until: Callable[[], bool]) -> int:
        """A keeper in a process of its own; the signal that ended it, 0 when `until` came true."""
        child = os.fork()
        if child == 0:
            stop = threading.Event()
            threading.Thread(target=keeper.keep, args=(opened, stop), daemon=True).start()
            try:
                eventually(until, WAIT)
            finally:
                os._exit(0)
        return os.waitpid(child, 0)[1] & 0x7F

    assert live_and_die(lambda: answering(opened.at) == "1") == 0
    registry.name("2")
    assert live_and_die(lambda: False) == signal.SIGSEGV
    assert live_and_die(lambda: False) == signal.SIGSEGV
    assert live_and_die(lambda: "2" in wanted.read(opened.at.wanted).refused) == 0
    said = wanted.read(opened.at.wanted)
    assert answering(opened.at) == "1"
    assert "killed the process that loaded it, 2 times" in said.refused["2"].reason


def test_a_disk_that_is_full_during_the_fetch_leaves_the_old_version_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(mlflow_home.VARIABLE, raising=False)
    at = write_project(tmp_path / "project")
    registry = local_versions(at, tmp_path)
    cache = at.models_cache
    cache.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(cache)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk")
    now = [1_000.0]
    try:
        follow = Follower(
            project(at.root), registry, start=lambda work: work(), clock=lambda: now[0]
        )

        def looked() -> str | None:
            follow.look()
            follow.look()
            return answering(at)

        assert looked() == "1"
        free = shutil.disk_usage(cache).free
        (cache / "filler").write_bytes(b"\0" * (free - 4096))
        move(registry, "2")
        assert looked() == "1"
        refusal = wanted.read(at.wanted).refused["2"]
        assert refusal.again_at == now[0] + 2
        assert "while downloading" in refusal.reason
        assert [p.name for p in cache.iterdir() if p.name.startswith(".")] == []
        (cache / "filler").unlink()
        now[0] += 2
        assert looked() == "2"
        assert wanted.read(at.wanted).refused == {}
    finally:
        subprocess.run(["umount", str(cache)], check=True)
