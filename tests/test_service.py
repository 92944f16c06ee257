"""pytest tests/test_service.py: the fast way in front and BentoML's own way behind it answer alike.

In this process, with the real application of both; no server, no registry, no keeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from pipelines.commands import serve
from pipelines.service import wanted
from pipelines.service.wanted import Version, Wanted
from tests.fakes import pump_model
from tests.slow import serving
from tests.slow.serving import body, row

HERE = ("127.0.0.1", 50_000)


class Asked:
    """An application, asked from outside of its event loop."""

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.app, self.loop = app, loop

    def request(self, method: str, path: str, **what: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=HERE)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1"
            ) as client:
                return await client.request(method, path, **what)

        return asyncio.run_coroutine_threadsafe(ask(), self.loop).result(60)

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, content: Any) -> httpx.Response:
        return self.request("POST", path, json=content)


class Both:
    def __init__(self, front: Asked, stock: Asked) -> None:
        self.front, self.stock = front, stock


@contextlib.contextmanager
def living(app: Any) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in which the application was started, and is stopped at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    to_app: asyncio.Queue[Any] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()

    def say(kind: str) -> None:
        async def told() -> Any:
            await to_app.put({"type": f"lifespan.{kind}"})
            return await from_app.get()

        answered = asyncio.run_coroutine_threadsafe(told(), loop).result(60)
        assert answered["type"] == f"lifespan.{kind}.complete", answered

    life = app({"type": "lifespan", "state": {}}, to_app.get, from_app.put)
    running = asyncio.run_coroutine_threadsafe(life, loop)
    try:
        say("startup")
        yield loop
        say("shutdown")
        running.result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    at = serving.project(tmp_path_factory.mktemp("pumps"))
    made = pump_model(at.root / "made" / "model")
    folder = at.models_cache / "1"
    shutil.copytree(made.folder, folder)
    version = Version(
        version="1", folder=folder, digest=made.digest, since=time.time(), why="first"
    )
    at.service.mkdir(parents=True)
    wanted.write(at.wanted, Wanted(champion=version))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_ROOT", str(at.root))
        patch.setenv("PERENNIAL_TASK", "pumps")
        patch.setenv("BENTOML_HOME", str(at.service / "bentoml"))
        patch.setenv("BENTOML_DO_NOT_TRACK", "True")
        sys.modules.pop("pipelines.service.app", None)
        app = importlib.import_module("pipelines.service.app")
        worker = importlib.import_module("pipelines.service.worker")
        patch.setattr(worker.Worker, "_guard_keeper", lambda self: None)
        front: Any = app.service.to_asgi()
        # Starts and stops what both share: BentoML's application runs the service's own hooks.
        with living(front) as loop:
            yield Both(Asked(front, loop), Asked(front.stock, loop))
        sys.modules.pop("pipelines.service.app", None)


def test_the_service_is_wrapped_by_the_way_in_that_is_pinned(both: Both) -> None:
    """Were `to_asgi` renamed, BentoML would answer alone: as right, and twenty times slower."""
    from pipelines.service.front import Front

    assert isinstance(both.front.app, Front)
    answered = both.front.post("/predict", body())
    assert answered.headers["x-model-version"] == "1"
    assert "x-model-version" not in both.stock.post("/predict", body()).headers


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_both_ways_answer_alike(both: Both, rows: int) -> None:
    asked = body(*[row(heat=0.1 * i, noise=-0.2 * i) for i in range(rows)])
    fast, stock = (one.post("/predict", asked) for one in (both.front, both.stock))
    assert (fast.status_code, stock.status_code) == (200, 200)
    told = [
        [(p["probability"], p["prediction"]) for p in got.json()["predictions"]]
        for got in (fast, stock)
    ]
    assert told[0] == told[1]
    assert fast.json()["version"] == stock.json()["version"] == "1"
    ids = [p["id"] for got in (fast, stock) for p in got.json()["predictions"]]
    assert len(set(ids)) == 2 * rows


@pytest.mark.parametrize(
    "wrong",
    [
        {"heat": "hot"}, {"heat": None}, {"heat": True}, {"colour": "red"}, {"moment": "yesterday"},
        {"moment": "2024-03-02T10:00:00+01:00"}, {"pump": 1.5}, {"heat": 1e300}, {"site": 7},
    ],
)  # fmt: skip
def test_both_ways_refuse_alike(both: Both, wrong: dict[str, Any]) -> None:
    asked = body(row(**wrong))
    fast, stock = (one.post("/predict", asked) for one in (both.front, both.stock))
    assert fast.status_code == 422
    assert stock.status_code == 400  # BentoML's word for what the caller got wrong
    (mistake,) = fast.json()["errors"]
    assert mistake["field"].startswith("rows[0].")
    assert stock.json() == [{"error": fast.text}]


def test_bentomls_own_pages_are_still_there(both: Both) -> None:
    assert both.front.get("/livez").status_code == 200
    schema = both.front.get("/schema.json").json()
    assert [r["name"] for r in schema["routes"]] == ["predict"]


def test_every_address_in_the_document_is_answered(both: Both) -> None:
    document = both.front.get("/openapi.json").json()
    # BentoML's own, of all workers; it needs the folder that their master makes: see tests/slow.
    others = {path: told for path, told in document["paths"].items() if path != "/metrics"}
    for path, methods in others.items():
        for method in set(methods) & {"get", "post"}:
            got = both.front.request(method, path)
            assert got.status_code != 404, path
            assert str(got.status_code) in methods[method]["responses"], (path, got.status_code)


def test_the_example_in_the_document_works_as_pasted(both: Both) -> None:
    document = both.front.get("/openapi.json").json()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    given = content.get("example") or next(iter(content["examples"].values()))["value"]
    assert both.front.post("/predict", given).status_code == 200


def test_answers_carry_headers_that_keep_a_browser_from_guessing(both: Both) -> None:
    page, answer = both.front.get("/"), both.front.post("/predict", body())
    assert (
        page.headers["x-content-type-options"]
        == answer.headers["x-content-type-options"]
        == "nosniff"
    )
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY"


def test_answers_go_on_record_while_all_other_threads_are_busy(both: Both) -> None:
    worker = importlib.import_module("pipelines.service.app").Held.worker
    free = threading.Event()

    async def fill() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(100):
            loop.run_in_executor(None, free.wait)

    asyncio.run_coroutine_threadsafe(fill(), both.front.loop).result(60)
    try:
        before = worker.journal.written
        assert both.front.post("/predict", body()).status_code == 200
        until = time.monotonic() + 20
        while worker.journal.written == before:
            assert time.monotonic() < until, "it never went on record"
            time.sleep(0.01)
    finally:
        free.set()


def test_upkeep_is_due_a_while_after_the_last_or_after_the_start_and_readyz_tells_of_it(
    both: Both,
) -> None:
    worker = importlib.import_module("pipelines.service.app").Held.worker
    file, every = wanted.upkeep(worker.project.at), worker.serve.log.rotate_seconds
    for upkeep, last in (({}, worker._began), ({"compacted_at": 4e9}, 4e9)):
        file.write_text(json.dumps(upkeep))
        worker._gauge()
        assert worker.meters.upkeep_due._value.get() == last + every
        assert both.front.get("/readyz").json()["upkeep"] == upkeep
    file.unlink()


def test_a_disk_that_hangs_keeps_the_metrics_from_nothing(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = importlib.import_module("pipelines.service.app").Held.worker
    free, put = threading.Event(), worker.journal.put
    monkeypatch.setattr(worker.journal, "put", lambda taken: free.wait(60) and put(taken))
    try:
        assert both.front.post("/predict", body()).status_code == 200
        until = time.monotonic() + 20
        while worker.journal.pending_bytes:  # until it is on its way to the disk, and stays there
            assert time.monotonic() < until
            time.sleep(0.01)
        assert both.front.post("/predict", body()).status_code == 200
        while worker.meters.pending._value.get() == 0:
            assert time.monotonic() < until, "what waits is not told"
            time.sleep(0.01)
    finally:
        free.set()


def test_a_mistake_of_the_service_is_told_in_the_same_shape_and_keeps_no_place(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    front: Any = both.front.app

    def broken(rows: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(front.engine.wire, "rows", broken)
        got = both.front.post("/predict", body())
    assert (got.status_code, got.json()["type"]) == (500, "/problems/internal")
    assert front.busy == 0


# a service of the loop's own


class Process:
    """One that does not heed SIGTERM."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.told: list[str] = []

    def poll(self) -> None: ...

    def terminate(self) -> None:
        self.told.append("terminate")

    def kill(self) -> None:
        self.told.append("kill")

    def wait(self, timeout: float | None = None) -> int:
        if "kill" not in self.told:
            raise subprocess.TimeoutExpired("perennial serve", timeout or 0)
        return -9


def test_the_loop_waits_for_a_service_that_is_slow_to_start_and_not_for_one_that_does_not_end(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process()
    answers = [requests.ReadTimeout(), requests.ConnectionError(), None]

    def get(url: str, timeout: float) -> requests.Response:
        if (error := answers.pop(0)) is not None:
            raise error
        got = requests.Response()
        got.status_code = 200 if not answers else 503
        return got

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: process)
    monkeypatch.setattr(requests, "get", get)
    with serve.running("flights") as url:
        assert url.startswith("http://127.0.0.1:")
    assert process.told == ["terminate", "kill"]
