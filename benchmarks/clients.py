"""The clients of benchmarks/asking.py, in their own process: `python -m benchmarks.clients <folder>`.

The folder holds plan.json, and gets `latencies` and `ids`. What happens is told on stdout, a line
each; the clients end when their stdin does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.asking import AGREE, Failure, News, Report

REFUSED_PAUSE = 0.05
"""Seconds until a client that found nobody at the port knocks again."""


class _Answer(msgspec.Struct):
    id: str
    probability: float


class _Reply(msgspec.Struct):
    version: str
    predictions: list[_Answer]


class _Clients:
    def __init__(self, home: Path) -> None:
        plan: dict[str, Any] = json.loads((home / "plan.json").read_text())
        self.home, self.keep = home, plan["keep"]
        self.clients = plan["clients"]
        self.every = self.clients / plan["per_second"]
        at = urlsplit(plan["url"])
        self.host, self.port = str(at.hostname), at.port
        self.right = plan["right"]
        self.requests = [_request(body.encode()) for body in plan["bodies"]]
        self.read = msgspec.json.Decoder(_Reply).decode
        self.stopping = False
        self.done = self.wrong = 0
        self.sample = ""
        self.by_version: dict[str, int] = {}
        self.latest: dict[str, tuple[int, str]] = {}
        """Worker -> its highest counter and the version of that answer: clients hear out of order."""
        self.latencies = array("d")
        self.ids: list[str] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()

        def wait_for_end() -> None:
            sys.stdin.read()
            loop.call_soon_threadsafe(self._stop)

        threading.Thread(target=wait_for_end, daemon=True).start()
        await asyncio.gather(*(self._client(n) for n in range(self.clients)))
        if self.keep:
            with (self.home / "latencies").open("wb") as out:
                self.latencies.tofile(out)
            (self.home / "ids").write_text("\n".join(self.ids))
        _tell("report", Report(self.done, self.wrong, self.sample, self.by_version))

    def _stop(self) -> None:
        self.stopping = True

    async def _client(self, number: int) -> None:
        question = number * len(self.requests) // self.clients
        due = time.monotonic() + self.every * number / self.clients
        while not self.stopping:
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
            except OSError as error:
                self._failed("refused", repr(error))
                await asyncio.sleep(REFUSED_PAUSE)
                continue
            goes_on = True
            while goes_on and not self.stopping:
                now = time.monotonic()
                if due > now:
                    await asyncio.sleep(due - now)
                due = max(due, now) + self.every
                question = (question + 1) % len(self.requests)
                try:
                    goes_on = await self._ask(question, reader, writer)
                except (OSError, asyncio.IncompleteReadError) as error:
                    self._failed("broken", repr(error))
                    goes_on = False
            writer.close()

    async def _ask(
        self, question: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """False when the connection cannot be used again."""
        sent = time.time()
        writer.write(self.requests[question])
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(_header(head, b"content-length")))
        heard = time.time()
        status = head[9:12].decode()
        if status != "200":
            with contextlib.suppress(msgspec.DecodeError, KeyError):
                status += " " + msgspec.json.decode(body)["type"]
            self._failed(status, body[:300].decode(errors="replace"))
        else:
            self._answered(question, head, body, sent, heard)
        return _header(head, b"connection") != b"close"

    def _answered(self, question: int, head: bytes, body: bytes, sent: float, heard: float) -> None:
        self.done += 1
        reply = self.read(body)
        version, (answer,) = reply.version, reply.predictions
        right = self.right.get(version)
        _, named, _, worker, counter = answer.id.rsplit("-", 4)
        if (
            right is None
            or not abs(answer.probability - right[question]) <= AGREE
            or not version == named == _header(head, b"x-model-version").decode()
        ):
            self.wrong += 1
            self.sample = f"row {question}: {body[:300].decode(errors='replace')}"
        self.by_version[version] = self.by_version.get(version, 0) + 1
        if self.keep:
            self.latencies.extend((sent, heard - sent))
            self.ids.append(answer.id)
        count, before = int(counter, 16), self.latest.get(worker)
        if before is None or count > before[0]:
            self.latest[worker] = count, version
            if before is None or before[1] != version:
                _tell("news", News(heard, worker, version))

    def _failed(self, what: str, told: str) -> None:
        _tell("failure", Failure(time.time(), what, told))


def _request(body: bytes) -> bytes:
    head = (
        "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _header(head: bytes, name: bytes) -> bytes:
    """Empty where the answer has none of that name."""
    _, there, rest = head.lower().partition(b"\r\n" + name + b": ")
    return rest[: rest.index(b"\r\n")] if there else b""


def _tell(kind: str, what: msgspec.Struct) -> None:
    print(kind, msgspec.json.encode(what).decode(), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_Clients(Path(sys.argv[1])).run())
