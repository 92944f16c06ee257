"""A headless Chromium, driven through its DevTools protocol, as far as these tests need it."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0",
)  # fmt: skip
WITHIN = 60.0
"""Seconds that anything awaited may take on a busy machine before a test gives up."""
KEYS = {"Enter": (13, "\r"), "Tab": (9, "")}


class Tab:
    """One page. requests: every address it asked for; errors: all that its console complained of;
    challenges: how often it was asked for a password while logging in."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.challenges = 0
        self._password = ""
        self._sent = 0
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._post(method, params)
        while True:
            message = json.loads(self.socket.recv(timeout=WITHIN))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._heard(message)

    def _post(self, method: str, params: dict[str, Any]) -> int:
        self._sent += 1
        self.socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        return self._sent

    def _heard(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.errors.append(json.dumps(told["entry"]))
            case "Fetch.requestPaused":
                self._post("Fetch.continueRequest", {"requestId": told["requestId"]})
            case "Fetch.authRequired":
                self.challenges += 1
                typed = {
                    "response": "ProvideCredentials",
                    "username": "",
                    "password": self._password,
                }
                told = {"requestId": told["requestId"], "authChallengeResponse": typed}
                self._post("Fetch.continueWithAuth", told)

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)
        path = urlsplit(address).path
        self.until(f"document.readyState === 'complete' && location.pathname === '{path}'")

    def log_in(self, address: str, password: str) -> None:
        """Opens it and fills in the box that the browser shows for a 401, and no later one."""
        self._password = password
        self.send("Fetch.enable", handleAuthRequests=True)
        self.open(address)
        self.send("Fetch.disable")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        done = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, script: str) -> Any:
        """The expression's value, once it is truthy."""
        end = time.monotonic() + WITHIN
        while time.monotonic() < end:
            if value := self.ask(script):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never came true: {script}\n{self.ask('document.body.innerText')}")

    def type(self, selector: str, text: str) -> None:
        """Into the field, as a person does: over what stands there."""
        self.ask(f"document.querySelector({json.dumps(selector)}).select()")
        self.ask(f"document.querySelector({json.dumps(selector)}).focus()")
        if text:
            self.send("Input.insertText", text=text)
        else:
            self.ask("document.execCommand('delete')")

    def press(self, key: str) -> None:
        code, text = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def size(self, width: int, height: int) -> None:
        """The window, in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def picture(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(home: Path) -> Iterator[Callable[[], Tab]]:
    """Opens tabs; the browser ends with the block. home: an empty folder for what it keeps."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt install chromium")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={home}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with contextlib.ExitStack() as sockets:
            port = _port(home / "DevToolsActivePort", process)

            def tab() -> Tab:
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT"
                )
                with urllib.request.urlopen(request, timeout=WITHIN) as response:
                    address = json.load(response)["webSocketDebuggerUrl"]
                return Tab(sockets.enter_context(connect(address, max_size=None)))

            yield tab
    finally:
        process.terminate()
        process.wait(timeout=WITHIN)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + WITHIN
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.1)
    raise AssertionError(f"Chromium opened no port (exit status {process.poll()})")
