"""Turns of load on servers that are all up, and what was measured of each."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks import load
from benchmarks.serving_rivals.bodies import JSON, Question, Rows
from benchmarks.serving_rivals.running import Running, started
from benchmarks.serving_rivals.servers import Server, World

SINGLE = {1: 3, 8: 3, 64: 5}
"""Rounds by connections, one row in each request."""
BULK_CONNECTIONS, BULK_ROUNDS = 4, 3
SHARED_ROUNDS = 5
SECONDS = 2
"""Length of a round."""
CLOSE = ("bare ASGI, batching", "Perennial", "Perennial, no log")
CLOSE_ROUNDS, CLOSE_SECONDS = 30, 1
"""Servers that differ by less than a machine does from second to second, where it has neighbours: many
short rounds at the most connections, one server right after the other."""
AGREE = 1e-5
"""Largest difference from the model's own answers that a server may give."""
SETTLED, PATIENCE = 0.1, 60
"""Share of a core below which a server has settled, and the seconds that it has to get there."""

Measured = dict[tuple[str, int], list[load.Round]]
"""By label and connections; the rows of a bulk request are in its label."""


@dataclass(frozen=True)
class Turn:
    """A server, asked in one way."""

    label: str
    server: Running
    shot: load.Shot
    connections: int


def measure(
    world: World, servers: dict[str, Server], one: Rows, many: Rows
) -> tuple[Measured, dict[str, float]]:
    """The rounds, and the memory of each server after them: MB by label."""
    with contextlib.ExitStack() as stack:
        up = [
            stack.enter_context(started(name, server, world.home, load.pinned(0)))
            for name, server in servers.items()
        ]
        for server in up:
            server.until_ready(next(iter(server.server.single.values())))
            _agrees(server, server.server.single, one)
            _agrees(server, server.server.bulk, many)
        _settle(up)
        single = [turn for s in up for turn in _turns(world, s, s.server.single, one)]
        bulk = [turn for s in up for turn in _turns(world, s, s.server.bulk, many)]
        measured: Measured = {}
        _in_turns(single, 1, 1)  # warm
        close = [
            replace(turn, label=f"{turn.label}, close", connections=max(SINGLE))
            for turn in single
            if turn.label in CLOSE
        ]
        measured |= _in_turns(close, CLOSE_ROUNDS, CLOSE_SECONDS)
        for connections, rounds in SINGLE.items():
            asked = [replace(turn, connections=connections) for turn in single]
            measured |= _in_turns(asked, rounds, SECONDS)
        measured |= _in_turns(bulk, BULK_ROUNDS, SECONDS)
        return measured, {
            label: load.memory_mb(s.process.pid) for s in up for label in s.server.single
        }


def shares(
    world: World, server: Server, one: Rows, connections: tuple[int, ...]
) -> dict[int, list[dict[str, int]]]:
    """Answers by worker in each round, for each number of clients; not pinned, so that workers can
    run at once."""
    question = next(iter(server.single.values()))
    with started("workers", server, world.home, []) as up:
        up.until_ready(question)
        shot = _turns(world, up, server.single, one)[0].shot

        def fire(clients: int) -> dict[str, int]:
            pid = up.process.pid
            return load.fire(shot, pid, clients, SECONDS, prefix=[], count_workers=True).by_worker

        return {c: [fire(c) for _ in range(SHARED_ROUNDS)] for c in connections}


def _settle(up: list[Running]) -> None:
    """Some go on importing after their first answer, and some go on answering after wrk has gone:
    64 requests to `mlflow models serve` take it longer than a moment, on the core of the next one."""
    for _ in range(PATIENCE):
        before = [load.processor(server.process.pid) for server in up]
        time.sleep(1)
        after = [load.processor(server.process.pid) for server in up]
        if all(b - a < SETTLED for a, b in zip(before, after, strict=True)):
            return


def _agrees(server: Running, questions: dict[str, Question], rows: Rows) -> None:
    """A quick answer to another question would be no rival."""
    for label, question in questions.items():
        try:
            answers = server.ask(question)
        except RuntimeError as refused:
            raise SystemExit(f"{label}: {refused}\n{server.last_words()}") from None
        worst = float(np.max(np.abs(answers - rows.expected())))
        if not worst <= AGREE:
            raise SystemExit(
                f"{label} answers {worst:.2g} away from the model (allowed: {AGREE:g})"
            )


def _turns(world: World, server: Running, questions: dict[str, Question], rows: Rows) -> list[Turn]:
    found: list[Turn] = []
    count = rows.table.num_rows
    for label, question in questions.items():
        body = world.home / f"{server.name}-{len(found)}-{count}.body"
        body.write_bytes(question.body)
        # What is not text is known by its length only: at least four bytes for each row.
        text = question.kind == JSON
        marker = f"{rows.expected()[0]:.6f}"[:5] if text else ""
        shot = load.Shot(server.url(question), question.kind, body, marker, 4 * count)
        told = label if count == 1 else f"{label}, {count} rows"
        found.append(Turn(told, server, shot, BULK_CONNECTIONS))
    return found


def _in_turns(asked: list[Turn], rounds: int, seconds: int) -> Measured:
    """Each round begins with another server, and each turn when all of them are idle."""
    measured: Measured = {(turn.label, turn.connections): [] for turn in asked}
    up = list({turn.server.process.pid: turn.server for turn in asked}.values())
    for number in range(rounds):
        at = number * len(asked) // rounds
        for turn in (*asked[at:], *asked[:at]):
            process = turn.server.process.pid
            _settle(up)
            done = load.fire(turn.shot, process, turn.connections, seconds, prefix=load.pinned(1))
            if done.failed:
                print(f"{turn.label}: {done.failed} failed, the last: {done.sample}")
            measured[turn.label, turn.connections].append(done)
    return measured


def ratio(
    measured: Measured, ours: str, rival: str, connections: int, of: Callable[[load.Round], float]
) -> float:
    """Median over the rounds of ours through the rival's, each round within itself."""
    pairs = zip(measured[ours, connections], measured[rival, connections], strict=True)
    return statistics.median(of(a) / max(of(b), 1e-9) for a, b in pairs)


def medians(rounds: list[load.Round]) -> dict[str, float]:
    names = ("rate", "p50", "p99", "cpu", "server_share", "wrk_share")
    return {n: statistics.median(getattr(r, n) for r in rounds) for n in names} | {
        "failed": sum(r.failed for r in rounds)
    }


def full(measured: Measured) -> list[load.Round]:
    """The rounds at the most connections: every server's core should be used up."""
    return [one for (_, c), found in measured.items() if c == max(SINGLE) for one in found]


def as_table(measured: Measured, memory: dict[str, float]) -> str:
    width = max(len(label) for label, _ in measured)
    head = ("c", "req/s", "p50 ms", "p99 ms", "cpu us", "failed", "core", "wrk", "PSS MB")
    lines = [f"{'':<{width}}" + "".join(f"{name:>9}" for name in head)]
    for (label, connections), rounds in measured.items():
        m = medians(rounds)
        lines.append(
            f"{label:<{width}}{connections:>9}{m['rate']:>9.0f}{m['p50']:>9.2f}{m['p99']:>9.2f}"
            f"{m['cpu']:>9.1f}{m['failed']:>9.0f}{m['server_share']:>9.2f}"
            f"{m['wrk_share']:>9.2f}" + (f"{memory[label]:>9.0f}" if label in memory else "")
        )
    return "\n".join(lines)
