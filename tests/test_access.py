"""pytest tests/test_access.py: without a key only this machine may ask; with one, who has it."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pipelines import loop
from pipelines.adapters.service import Service
from pipelines.commands.loop import tick
from pipelines.errors import ParamsError, PipelineError
from pipelines.labelled import Counted
from pipelines.project import open_project
from pipelines.serve_params import Serve
from pipelines.service.access import (
    PASSED_ON,
    Access,
    given_key,
    key_from_environment,
    must_have_key,
)
from pipelines.service.front import Front
from pipelines.service.routes import POSTS, Routes, routes
from pipelines.wire.problem import Refused

KEY = b"0123456789abcdef0123"
HERE, THERE = ("127.0.0.1", 5), ("10.1.2.3", 5)


def basic(user: bytes, password: bytes) -> bytes:
    return b"Basic " + base64.b64encode(user + b":" + password)


def with_key(key: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"models.example.org"), (b"x-api-key", key)]


def test_without_a_key_only_this_machine_may_ask() -> None:
    open_here = Access(None)
    assert open_here.allows(HERE, [])
    assert not open_here.allows(THERE, [])
    assert not open_here.allows(THERE, with_key(b"anything"))
    assert not open_here.allows(None, [])


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (b"127.0.0.1:3000", True),
        (b"localhost", True),
        (b"LocalHost:80", True),
        (b"[::1]:3000", True),
        (b"evil.example:3000", False),
        (b"127.0.0.1.evil.example", False),
        (b"localhost.evil.example:3000", False),
        (b"[::1].evil.example", False),
        (b"[", False),
        (b"", False),
        (b"\xff", False),
    ],
)
def test_without_a_key_a_foreign_page_that_was_turned_to_this_machine_is_kept_out(
    host: bytes, allowed: bool
) -> None:
    """DNS rebinding: the browser is here, and tells the name that it believes to be the page's own."""
    assert Access(None).allows(HERE, [(b"host", host)]) is allowed


@pytest.mark.parametrize("name", sorted(PASSED_ON))
def test_without_a_key_nobody_is_let_in_through_a_proxy_of_this_machine(name: bytes) -> None:
    """It asks from here, by this machine's name, for anyone."""
    asked = [(b"host", b"127.0.0.1:3000"), (b"accept", b"*/*")]
    assert Access(None).allows(HERE, asked)
    assert not Access(None).allows(HERE, [*asked, (name, b"10.1.2.3")])
    assert Access(KEY).allows(HERE, [*asked, (name, b"10.1.2.3"), *with_key(KEY)])


def test_with_a_key_this_machine_needs_it_too() -> None:
    closed = Access(KEY)
    assert closed.allows(THERE, with_key(KEY))
    assert not closed.allows(HERE, [])
    assert not closed.allows(HERE, with_key(KEY[:-1]))


@given(st.binary(max_size=40))
def test_no_other_key_opens(other: bytes) -> None:
    assert Access(KEY).allows(THERE, with_key(other)) == (other == KEY)


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer " + KEY),
        (b"authorization", b"bearer  " + KEY),
        (b"x-api-key", KEY),
        (b"authorization", basic(b"anyone", KEY)),
    ],
)
def test_a_key_comes_in_any_of_three_headers(header: tuple[bytes, bytes]) -> None:
    assert given_key([(b"host", b"x"), header]) == KEY


@given(st.binary(max_size=60))
def test_no_header_makes_reading_it_fail(value: bytes) -> None:
    found = given_key([(b"authorization", value)])
    assert found is None or isinstance(found, bytes)


@given(st.binary(max_size=60))
def test_no_basic_header_makes_reading_it_fail(value: bytes) -> None:
    found = given_key([(b"authorization", b"Basic " + value)])
    assert found is None or isinstance(found, bytes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_other_machines_are_not_let_in_without_a_key(host: str) -> None:
    with pytest.raises(ParamsError, match="PERENNIAL_API_KEY"):
        must_have_key(host, None)
    must_have_key(host, KEY)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    must_have_key(host, None)


def test_the_key_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERENNIAL_API_KEY", raising=False)
    monkeypatch.delenv("PERENNIAL_API_KEY_FILE", raising=False)
    assert key_from_environment() is None
    monkeypatch.setenv("PERENNIAL_API_KEY", KEY.decode())
    assert key_from_environment() == KEY
    (tmp_path / "key").write_bytes(KEY + b"99\n")
    monkeypatch.setenv("PERENNIAL_API_KEY_FILE", str(tmp_path / "key"))
    assert key_from_environment() == KEY + b"99"


def test_a_short_key_and_a_missing_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there must not open the service to everyone."""
    monkeypatch.setenv("PERENNIAL_API_KEY", "secret")
    with pytest.raises(ParamsError, match="6 characters; at least 16"):
        key_from_environment()
    monkeypatch.setenv("PERENNIAL_API_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(ParamsError, match="which is no file"):
        key_from_environment()


# at the door
class Meters:
    def __init__(self) -> None:
        self.refused: list[tuple[int, str]] = []

    def refuse(self, status: int, kind: str) -> None:
        self.refused.append((status, kind))


def asked(path: str, key: bytes | None = None, method: str = "POST") -> tuple[int, Meters]:
    """Status of a closed service's answer (204: it was let in), and what was counted."""

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    nothing: Any = None
    meters: Any = Meters()
    front = Front(inside, inside, nothing, Access(KEY), meters, nothing, Serve(), None)
    headers = [(b"x-api-key", key)] if key else []
    scope = {
        "type": "http", "path": path, "method": method, "headers": headers, "client": THERE,
    }  # fmt: skip
    asyncio.run(front(scope, nothing, send))
    return told[0]["status"], meters


def test_mlflow_which_cannot_send_a_key_reaches_the_webhook_and_nothing_else() -> None:
    assert asked("/hooks/mlflow")[0] == 204
    for path in ("/labels", "/predict", "/model", "/metrics", "/hooks/mlflow/", "/hooks"):
        assert asked(path)[0] == 401, path


def test_who_is_turned_away_is_counted_where_predictions_are_asked_for_and_only_there() -> None:
    assert asked("/predict")[1].refused == [(401, "unauthorized")]
    for path in ("/", "/labels", "/model", "/nothing"):
        assert asked(path)[1].refused == [], path


# those that take a place and do not use it
def test_a_client_that_vanished_in_its_body_loses_its_place_when_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meters, nothing = Meters(), cast(Any, None)
    front = Front(
        nothing, nothing, nothing, Access(KEY), cast(Any, meters), nothing,
        Serve(concurrency=1), None,
    )  # fmt: skip

    async def ask() -> list[Any]:
        told: list[Any] = []
        started = [{"type": "http.request", "body": b'{"rows": [', "more_body": True}]

        async def receive() -> Any:
            return started.pop() if started else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            told.append(message)

        headers = [(b"content-type", b"application/json"), (b"x-api-key", KEY)]
        scope = {
            "type": "http", "path": "/predict", "method": "POST", "headers": headers, "client": HERE,
        }  # fmt: skip
        await front(scope, receive, send)
        return told

    async def run() -> None:
        vanished = asyncio.create_task(ask())
        await asyncio.sleep(0)
        assert (await ask())[0]["status"] == 429
        assert not vanished.done()
        monkeypatch.setattr("pipelines.service.front.BODY_SECONDS", 0.0)
        assert (await ask())[0]["status"] == 429  # by it the place is free, for the next one
        done, _ = await asyncio.wait({vanished}, timeout=20)
        assert done
        start, body = vanished.result()
        assert start["status"] == 408
        assert (b"connection", b"close") in start["headers"]
        assert json.loads(body["body"])["type"] == "/problems/too-slow"
        assert (front.busy, front.reading, front.late) == (0, {}, set())
        ended = asyncio.create_task(ask())
        await asyncio.sleep(0)
        ended.cancel()  # by the server, which stops
        with pytest.raises(asyncio.CancelledError):
            await ended

    asyncio.run(run())


def test_only_so_many_posts_of_labels_are_here_at_the_same_time(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Routes(open_project("flights"), cast(Any, None))
    request: Any = None

    async def run() -> None:
        stored = asyncio.Event()

        async def store(_: Any) -> Any:
            await stored.wait()
            return "stored"

        monkeypatch.setattr(service, "_labels", store)
        posts = [asyncio.create_task(service.labels(request)) for _ in range(POSTS)]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await service.labels(request)
        assert refused.value.problem.status == 429
        stored.set()
        assert await asyncio.gather(*posts) == ["stored"] * POSTS
        assert await service.labels(request) == "stored"

    asyncio.run(run())


def test_a_post_of_labels_whose_client_vanished_gives_its_place_back(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.service.routes.BODY_SECONDS", 0.01)
    app = routes(open_project("flights"), cast(Any, None))
    told: list[Any] = []
    started = [{"type": "http.request", "body": b'{"labels": [', "more_body": True}]

    async def receive() -> Any:
        return started.pop() if started else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        told.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {
        "type": "http", "path": "/labels", "method": "POST", "headers": headers, "client": HERE,
        "query_string": b"", "root_path": "",
    }  # fmt: skip
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 20))
    assert told[0]["status"] == 408
    assert (b"connection", b"close") in told[0]["headers"]
    assert json.loads(told[1]["body"])["type"] == "/problems/too-slow"


def test_what_was_taken_at_once_is_told_where_the_second_look_fails(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Routes(open_project("flights"), cast(Any, None))
    outcomes: list[Any] = [
        Counted(accepted=3, unknown=2),
        PipelineError("labels.db cannot be used"),
    ]

    def take(*_: Any) -> Counted:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return cast(Counted, outcome)

    monkeypatch.setattr("pipelines.served.labels.take", take)
    assert asyncio.run(service._take([])) == Counted(accepted=3, unknown=2)
    outcomes.append(PipelineError("labels.db cannot be used"))
    with pytest.raises(PipelineError):
        asyncio.run(service._take([]))


@pytest.mark.parametrize("length", [b"0" * 4400 + b"2", b"9" * 4400, b"9" * 19])
def test_a_length_that_no_number_holds_is_too_large(length: bytes) -> None:
    meters, nothing = Meters(), cast(Any, None)
    front = Front(nothing, nothing, nothing, Access(KEY), cast(Any, meters), nothing, Serve(), None)
    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    headers = [
        (b"content-type", b"application/json"), (b"x-api-key", KEY), (b"content-length", length),
    ]  # fmt: skip
    scope = {"type": "http", "path": "/predict", "method": "POST", "headers": headers}
    asyncio.run(front(scope, nothing, send))
    assert told[0]["status"] == 413


# the loop, which asks a service as anyone else
def test_the_loop_asks_with_the_key_of_the_file_and_no_more_rows_than_are_taken(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Service] = []

    def through(project: Any, last: Any, told: Any, wait: bool, service: Service) -> list[Any]:
        found.append(service)
        return []

    monkeypatch.setattr(loop, "through", through)
    monkeypatch.setattr(Service, "version", lambda self: "1")
    (project_folder / "key").write_bytes(KEY + b"\n")
    monkeypatch.setenv("PERENNIAL_API_KEY_FILE", str(project_folder / "key"))
    params = Path("params.yaml")
    settings = yaml.safe_load(params.read_text())
    settings["tasks"]["flights"]["serve"] = {"max_rows": 7, "max_mb": 2}
    params.write_text(yaml.safe_dump(settings))
    words = ["flights", "--through", "2013-02", "--service", "http://there:3000"]
    done = CliRunner().invoke(tick, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (service,) = found
    assert service._session.headers["authorization"] == f"Bearer {KEY.decode()}"
    assert (service.rows, service.size) == (7, 2e6)


@pytest.mark.parametrize(
    ("most", "letters", "expected"),
    [
        ({"rows": 3}, 1, [3, 3, 2]),
        ({"size": 5_000}, 1_500, [2, 2, 2, 2]),
        ({"size": 5_000}, 9_000, [1] * 8),  # which the service refuses, and says why
    ],
)
def test_a_batch_is_asked_in_parts_that_the_service_takes(
    monkeypatch: pytest.MonkeyPatch, most: dict[str, int], letters: int, expected: list[int]
) -> None:
    service, sizes = Service("http://there:3000", **most), []

    def answered(method: str, path: str, data: bytes, headers: Any) -> Any:
        n = pa.ipc.open_stream(data).read_all().num_rows
        sizes.append(n)
        out = pa.BufferOutputStream()
        ids = pa.table({"id": [f"{len(sizes)}-{i}" for i in range(n)]})
        with pa.ipc.new_stream(out, ids.schema) as stream:
            stream.write_table(ids)
        return SimpleNamespace(content=out.getvalue().to_pybytes())

    monkeypatch.setattr(service, "_ask", answered)
    rows = pd.DataFrame({"picture": [b"%d" % i * letters for i in range(8)]})
    assert len(set(service.predict(rows))) == 8
    assert sizes == expected
