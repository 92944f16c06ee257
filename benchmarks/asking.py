"""A load that knows the right answers: keep-alive clients, in a process of their own.

wrk asks faster, and cannot do this: each answer's probability is held against what the version that
it names answers to that very row, and every worker's first answer of a version is told when it comes.
The clients are as strict as a program without retries: a connection that breaks, although the
service had not said `Connection: close`, is a failed request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

REPOSITORY = Path(__file__).parent.parent
AGREE = 1e-6
"""Rows that are answered together may differ from a row alone in the last bit."""
APART = 1e-3
"""Smallest difference between two versions' answers to a row: else neither would be told apart."""
ENDS_WITHIN = 60.0
REFUSED_PAUSE = 0.05
"""Seconds until a client that found nobody at the port knocks again."""


@dataclass(frozen=True)
class Questions:
    """One body a row, and for each version its probability for each of them, in the same order."""

    bodies: list[bytes]
    right: dict[str, list[float]]

    def __post_init__(self) -> None:
        for i in range(len(self.bodies)):
            found = sorted(answers[i] for answers in self.right.values())
            near = min((b - a for a, b in itertools.pairwise(found)), default=1.0)
            if near < APART:
                raise ValueError(f"two versions answer row {i} alike: {found}")


class News(msgspec.Struct, frozen=True):
    """A worker's first answer of a version that it had not answered with just before. Unix time."""

    at: float
    worker: str
    version: str


class Failure(msgspec.Struct, frozen=True):
    """what: status and type of problem, or how the connection broke; told: an extract of it."""

    at: float
    what: str
    told: str


class Report(msgspec.Struct, frozen=True):
    """requests: answered with 200; wrong: of these, the ones that are not what their version says."""

    requests: int
    wrong: int
    sample: str
    by_version: dict[str, int]


class Asking:
    """What the clients have told so far."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.home, self.process = home, process
        self._stdin, self._stdout = process.stdin, process.stdout
        self.news: list[News] = []
        self.failures: list[Failure] = []
        self.report: Report | None = None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._stdout:
            kind, _, told = line.partition(b" ")
            if kind == b"news":
                self.news.append(msgspec.json.decode(told, type=News))
            elif kind == b"failure":
                self.failures.append(msgspec.json.decode(told, type=Failure))
            elif kind == b"report":
                self.report = msgspec.json.decode(told, type=Report)

    def end(self) -> Report:
        """Each client gets the answer that it waits for; then the clients are gone."""
        if self.report is None:
            self._stdin.close()
            self.process.wait(ENDS_WITHIN)
            self._listener.join(ENDS_WITHIN)
        if self.report is None:
            raise RuntimeError("the clients died; what they said is above")
        return self.report

    def bury(self) -> None:
        self.process.wait()
        self._listener.join()
        self._stdin.close()
        self._stdout.close()

    def workers(self) -> set[str]:
        return {news.worker for news in self.news}

    def arrivals(self, version: str, since: float) -> dict[str, float]:
        """Worker -> Unix time of its first answer of that version after `since`."""
        found: dict[str, float] = {}
        for news in tuple(self.news):
            if news.version == version and news.at >= since:
                found.setdefault(news.worker, news.at)
        return found

    def latencies(self) -> np.ndarray:
        """(N, 2) after the end: when each request was sent, Unix time, and seconds to its answer."""
        return np.fromfile(self.home / "latencies", np.float64).reshape(-1, 2)

    def ids(self) -> set[str]:
        """After the end: of every answer that a client received."""
        return set((self.home / "ids").read_text().split())


@contextlib.contextmanager
def asking(
    url: str,
    questions: Questions,
    home: Path,
    *,
    clients: int,
    per_second: float,
    keep: bool = True,
) -> Iterator[Asking]:
    """Clients that ask the service until the block ends.

    per_second: requests of all together; a client that is late does not catch up. keep: each
    latency and id, which a long run has no room for.
    """
    home.mkdir(parents=True)
    plan = {
        "url": url,
        "clients": clients,
        "per_second": per_second,
        "keep": keep,
        "bodies": [body.decode() for body in questions.bodies],
        "right": questions.right,
    }
    (home / "plan.json").write_text(json.dumps(plan))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.asking", str(home)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    asked = Asking(home, process)
    try:
        yield asked
        asked.end()
    finally:
        if process.poll() is None:
            process.kill()
        asked.bury()


# What follows runs in the process of the clients. ------------------------------------------------


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
        "POST /predict HTTP/1.1\r\nhost: service\r\ncontent-type: application/json\r\n"
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
