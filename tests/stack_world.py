"""A project with a stack of short Python programs instead of servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.stack import choices, plan, process, running, secrets
from pipelines.stack.choices import Choices
from pipelines.stack.part import Part
from pipelines.stack.places import Places


def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """A project whose every process is ended with the test."""
    for name in choices.VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    made = Places(folder)
    yield made
    running.down(made)
    while STARTED:
        STARTED.pop().wait()


def planned(places: Places, **chosen: str | int) -> dict[str, Part]:
    made = secrets.ensure(places)
    given = {"PATH": "/usr/bin", "AIRFLOW__CORE__PARALLELISM": "9"}
    parts = plan.parts(places, Choices(**chosen), made, given, lambda errand: None)
    return {part.name: part for part in parts}


def program(code: str, name: str = "program", **other: object) -> Part:
    """A part that runs these lines, and then sleeps."""
    command = (sys.executable, "-c", f"{code}\nimport time; time.sleep(60)")
    return Part(name, command, {}, ask=lambda started: None, patience=5, **other)


STARTED: list[subprocess.Popen[bytes]] = []
"""Kept until the test is over: a forgotten child is a warning."""


def started(part: Part, places: Places, order: int = 0) -> process.Record:
    STARTED.append(process.start(part, order, places))
    record = process.read(places.record(part.name))
    assert record is not None
    return record
