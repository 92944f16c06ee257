"""A load that knows the right answers: keep-alive clients, in a process of their own.

wrk asks faster, and cannot do this: each answer's probability is held against what the version that
it names answers to that very row, and every worker's first answer of a version is told when it comes.
The clients are as strict as a program without retries: a connection that breaks, although the
service had not said `Connection: close`, is a failed request.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

REPOSITORY = Path(__file__).parent.parent
AGREE = 1e-6
"""Rows that are answered together may differ from a row alone in the last bit."""
APART = 1e-3
"""Smallest difference between two versions' answers to a row: else neither would be told apart."""
ENDS_WITHIN = 60.0


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
        [sys.executable, "-m", "benchmarks.clients", str(home)],
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
