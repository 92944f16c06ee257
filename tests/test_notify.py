"""People are told, or the log says why not; a run never fails of it: pytest tests/test_notify.py"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import notify

MESSAGE = {"text": "retrain_pumps failed", "kind": "failed"}


@dataclass
class Chat:
    """A server that takes messages, and answers with `status`; 0: hangs up without a word."""

    address: str = ""
    status: int = 200
    got: list[tuple[str, Any]] = field(default_factory=list)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    said = Chat()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            said.got.append((self.headers["content-type"], json.loads(body)))
            if said.status:
                self.send_response(said.status)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    said.address = f"http://127.0.0.1:{server.server_port}/hook"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv(notify.ADDRESS, said.address)
    yield said
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_message_is_posted_as_json(chat: Chat):
    assert notify.tell(MESSAGE)
    assert chat.got == [("application/json", MESSAGE)]


def test_a_failed_run_is_told_with_its_name_and_reason(chat: Chat):
    run = SimpleNamespace(dag_id="retrain_pumps", run_id="manual__1")
    notify.failed({"dag_run": run, "reason": "task_failure"})
    notify.failed({"dag_run": run})
    said = [body for _, body in chat.got]
    assert said[0] == {
        "text": "retrain_pumps failed: task_failure (manual__1)",
        "kind": "failed",
        "dag": "retrain_pumps",
        "run": "manual__1",
    }
    assert "a task failed" in said[1]["text"]


def test_a_run_that_is_late_is_told(chat: Chat):
    run = {"dag_id": "retrain_pumps", "dag_run_id": "manual__1"}
    asyncio.run(notify.late({"dag_run": run}, deadline="ignored"))
    assert chat.got[0][1]["text"] == "retrain_pumps is late (manual__1)"


@pytest.mark.parametrize("status", [500, 404, 0])
def test_a_server_that_refuses_or_hangs_up_is_logged_and_nothing_is_raised(
    chat: Chat, caplog: pytest.LogCaptureFixture, status: int
):
    chat.status = status
    assert not notify.tell(MESSAGE)
    assert MESSAGE["text"] in caplog.text
    assert f"{notify.ADDRESS} names an address that did not take the message" in caplog.text


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/hook", "not an address", "http://[::1"])
def test_a_dead_or_wrong_address_is_logged_and_nothing_is_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv(notify.ADDRESS, address)
    assert not notify.tell(MESSAGE)
    assert notify.ADDRESS in caplog.text


@pytest.mark.parametrize("address", [None, ""])
def test_without_an_address_it_is_in_the_log_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str | None
):
    monkeypatch.delenv(notify.ADDRESS, raising=False)
    if address is not None:
        monkeypatch.setenv(notify.ADDRESS, address)
    with caplog.at_level(logging.ERROR):
        assert not notify.tell(MESSAGE)
    assert [record.message for record in caplog.records] == [MESSAGE["text"]]
