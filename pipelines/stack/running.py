"""up, down, status: the plan held against what runs."""

from __future__ import annotations

import datetime as dt
import functools
import logging
import os
import subprocess
import time
from dataclasses import dataclass

from pipelines.errors import ServiceError
from pipelines.lock import task_lock
from pipelines.stack import choices as chosen
from pipelines.stack import plan, pool, ports, process, secrets
from pipelines.stack.choices import Choices
from pipelines.stack.part import Part
from pipelines.stack.places import Places

log = logging.getLogger(__name__)

HEALTHY_WITHIN = 240.0
"""Seconds; a busy machine of two cores has needed 125 for Airflow."""

TELL_EVERY = 15.0
"""Seconds between two words of what is waited for."""
TAIL = 2000
"""Characters of a log that an error shows."""


@dataclass(frozen=True)
class Standing:
    """state: running, unhealthy or stopped. wrong: what makes it unhealthy."""

    part: str
    state: str
    pid: int | None = None
    url: str | None = None
    since: str | None = None
    wrong: str | None = None


def environment(places: Places) -> dict[str, str]:
    """What Airflow of this stack runs with."""
    choices = chosen.read(os.environ, places)
    return plan.for_airflow(places, choices, secrets.ensure(places), os.environ)


def up(places: Places) -> list[Standing]:
    """Starts what is missing, and returns when all is healthy. Raises ParamsError for a port that
    somebody else has, ServiceError with the last words of a part that does not become healthy.
    """
    with task_lock(places.lock, "perennial stack up", wait=True):
        choices = chosen.read(os.environ, places)
        secrets.ensure(places)
        parts = _plan(places, choices)
        missing = [p for p in parts if not _runs(p, places)]
        for part in missing:
            # What a part that died has left may still hold its port.
            _clear(part.name, places)
            ports.must_be_free(part)
        chosen.keep(choices, places)
        started: dict[str, subprocess.Popen[bytes]] = {}
        for order, part in enumerate(parts):
            if part not in missing:
                continue
            for other in parts:
                if other.name in part.needs:
                    _wait(other, places, started)
            if part.prepare:
                part.prepare()
            log.info("starting %s", part.name)
            started[part.name] = process.start(part, order, places)
        for part in parts:
            _wait(part, places, started)
        if missing:
            url = next(p.url for p in parts if p.name == "airflow-api-server")
            pool.ensure(str(url), secrets.Secrets(places.secrets))
        return [_standing(part, places) for part in parts]


def down(places: Places) -> list[str]:
    """Stops all that was started, the last first; returns the names of what was stopped."""
    with task_lock(places.lock, "perennial stack down", wait=True):
        stopped = []
        for record in reversed(process.records(places)):
            log.info("stopping %s", record.part)
            process.stop(record, places)
            stopped.append(record.part)
        for torn in places.records.glob("*.json"):
            torn.unlink()
        # Again, until there is nothing: who keeps workers starts another for one that ended.
        while left := process.sweep(places):
            log.info("ended what was left of it: %s", ", ".join(str(pid) for pid in left))
        return stopped


def status(places: Places) -> list[Standing]:
    """Of every part of the plan; of a part that runs and left the plan as well."""
    parts = _plan(places, chosen.read(os.environ, places))
    named = {part.name for part in parts}
    others = [r for r in process.records(places) if r.part not in named and process.running(r)]
    return [_standing(part, places) for part in parts] + [
        Standing(r.part, "running", r.pid, r.url, _since(r)) for r in others
    ]


def _plan(places: Places, choices: Choices) -> list[Part]:
    run = functools.partial(_run_to_end, places)
    return plan.parts(places, choices, secrets.Secrets(places.secrets), os.environ, run)


def _run_to_end(places: Places, part: Part) -> None:
    """On record while it runs, so that `down` ends it when this process was killed."""
    log.info("running %s", part.name)
    status = process.start(part, 0, places).wait()
    places.record(part.name).unlink()
    if status:
        raise ServiceError(f"{part.name} ended with status {status}. {_last_words(part, places)}")


def _runs(part: Part, places: Places) -> bool:
    """Raises ServiceError when it runs with other settings than are asked for."""
    record = process.read(places.record(part.name))
    if record is None or not process.running(record):
        return False
    if record.settings != part.settings:
        raise ServiceError(
            f"{part.name} runs with other settings than are asked for now (STORE, a port, "
            "PERENNIAL_ARTIFACTS or AIRFLOW__...). Stop it first with: perennial stack down"
        )
    return True


def _clear(name: str, places: Places) -> None:
    record = process.read(places.record(name))
    if record is not None:
        process.stop(record, places)


def _wait(part: Part, places: Places, started: dict[str, subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + HEALTHY_WITHIN
    told = time.monotonic()
    while True:
        record = process.read(places.record(part.name))
        # poll: our own child would stay a zombie.
        ended = part.name in started and started[part.name].poll() is not None
        if ended or record is None or not process.running(record):
            raise ServiceError(f"{part.name} ended. {_last_words(part, places)}")
        wrong = part.ask(record.started)
        if wrong is None:
            return
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            log.info("waiting for %s: %s", part.name, wrong)
        if time.monotonic() > until:
            raise ServiceError(
                f"{part.name} is not healthy after {HEALTHY_WITHIN:.0f} s: {wrong}. "
                f"{_last_words(part, places)}"
            )
        time.sleep(0.3)


def _last_words(part: Part, places: Places) -> str:
    told = places.log(part.name)
    words = told.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()
    return f"The end of {told}:\n{words}\nStop all with: perennial stack down"


def _standing(part: Part, places: Places) -> Standing:
    record = process.read(places.record(part.name))
    if record is None or not process.running(record):
        return Standing(part.name, "stopped", url=part.url)
    wrong = part.ask(record.started)
    state = "unhealthy" if wrong else "running"
    return Standing(part.name, state, record.pid, record.url, _since(record), wrong)


def _since(record: process.Record) -> str:
    return dt.datetime.fromtimestamp(record.started).astimezone().isoformat(timespec="seconds")
