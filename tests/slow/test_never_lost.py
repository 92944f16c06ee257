"""kill -9 at any moment, then the same command again: pytest -m slow tests/slow/test_never_lost.py"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipelines import artifact, contract, ledger, store
from pipelines.adapters.registry import Registry
from pipelines.paths import Paths
from pipelines.proposal import propose
from tests.conftest import shop

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parent.parent.parent
LIVES = 6
"""Most kills of a tick; the life after them may end."""
KILLS = 8
"""Fewest, of both ticks, that must have hit one at work."""
MOMENT = 2.0
"""Most seconds between a step's end and the kill, which falls into one that comes next."""
TICKS = ("2024-W09", "2024-W10")
PARAMS = {
    "source": {"kind": "files", "path": "inbox/*.parquet"},
    "period": "week",
    "calendar": ["hour", "weekday"],
    # Windows of one week, so that a model forgets the world of before at once.
    "window": {"first": "2024-W01", "last": "2024-W08", "batches": 1},
    "min_category": 50,
    "train": {"family": "boosting", "seed": 7},
    "evaluate": {"bootstrap": 100},
    # Every tick trains and judges, so that a kill may fall into any of the stages.
    "policy": {"cooldown": 0, "min_labels": 1, "budget": 12},
    "monitor": {"effect": 0.0001, "p_value": 0.99, "drifted_columns": 1},
}


@pytest.fixture
def folder(tmp_path):
    return project(tmp_path / "killed")


def project(folder: Path) -> Path:
    (folder / "inbox").mkdir(parents=True)
    (folder / "contracts").mkdir()
    table = shop(days=77, rows_a_day=600)
    table.to_parquet(folder / "inbox" / "orders.parquet", index=False)
    (folder / "params.yaml").write_text(yaml.safe_dump({"tasks": {"orders": PARAMS}}))
    weeks = {
        str(name): rows for name, rows in table.groupby(table["ordered_at"].dt.strftime("%G-W%V"))
    }
    text = propose.propose("orders", weeks, key=["order"], label="returned")
    (folder / "contracts" / "orders.yaml").write_text(text)
    contract.parse(text)
    return folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PERENNIAL_ROOT": str(folder)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", *words],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def hashes(folder: Path) -> dict[str, str]:
    """Everything that must be the same, whenever and however often the tick was killed.

    Left out: the moment an answer was given, seconds, MLflow's own ids, and pages for people.
    """
    found = {}
    for path in sorted((folder / "data").rglob("*")):
        name = str(path.relative_to(folder))
        if (
            not path.is_file()
            or path.suffix == ".html"
            or path.name in ("seconds.json", "ledger.jsonl")
        ):
            continue
        if "2_docs" in name:
            continue
        if "predictions" in name:
            table = pd.read_parquet(path).drop(columns="at")
            found[name] = hashlib.md5(table.to_csv().encode()).hexdigest()
        elif "verdicts" in name:
            verdict = json.loads(path.read_text())
            # A measured latency is not the same twice; whether it was within its limit is.
            found[name] = str([(c["name"], c["passed"]) for c in verdict["checks"]])
        else:
            found[name] = store.md5(path)
    return found


def said(folder: Path) -> list[tuple]:
    entries = ledger.read(folder / "data" / "6_live" / "orders" / "ledger.jsonl")
    return [(e["kind"], e.get("period"), e.get("version"), e.get("decision")) for e in entries]


@pytest.mark.long
def test_a_killed_tick_is_finished_by_the_same_command(folder, tmp_path):
    whole = project(tmp_path / "whole")
    for period in TICKS:
        finish(start(whole, "tick", "orders", "--batch", period))

    chance = random.Random(20130401)
    kills = 0
    for period in TICKS:
        for _ in range(LIVES):
            process = start(folder, "tick", "orders", "--batch", period)
            until_a_step_ends(folder, process)
            time.sleep(chance.uniform(0, MOMENT))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += process.returncode == -signal.SIGKILL
            nothing_bad_stands(folder)
            if Paths(folder, "orders").tick(period).is_file():
                break
        finish(start(folder, "tick", "orders", "--batch", period))
    assert kills >= KILLS, "most came after the tick's end: nothing is proven"

    expected = hashes(whole)
    for stage in (
        "1_raw",
        "2_valid",
        "3_prepared",
        "4_model",
        "5_report",
        "labels",
        "alarms",
        "verdicts",
    ):
        assert any(stage in name for name in expected), (
            f"no tick reached {stage}: nothing is proven"
        )
    assert hashes(folder) == expected
    assert said(folder) == said(whole)
    left = [p for p in folder.rglob(".*") if p.suffix in (".tmp", ".old")]
    assert not left, "half-written files stayed behind"


def until_a_step_ends(folder: Path, process: subprocess.Popen[str]) -> None:
    """Each life gets further than the one before, on any machine; what it does next is killed."""
    before = places(folder)
    deadline = time.monotonic() + 300
    while process.poll() is None and not places(folder) - before:
        assert time.monotonic() < deadline, "the tick never did anything"
        time.sleep(0.02)


def places(folder: Path) -> set[str]:
    """Folders with a finished file. Not by rglob, which fails when a folder goes while it looks."""
    found = (at for at, _, names in os.walk(folder / "data") for n in names if n[0] != ".")
    return {at for at in found if ".tmp" not in at}


def nothing_bad_stands(folder: Path) -> None:
    """Each landed batch reads whole, and each alias names a version that loads."""
    at = Paths(folder, "orders")
    for path in at.raw.glob("*.parquet"):
        assert len(pd.read_parquet(path)) > 0
    if (at.mlflow / "mlflow.db").is_file():
        registry = Registry(at)
        for version in registry.aliases().values():
            artifact.self_test(artifact.load(registry.fetch(version)))


def test_the_second_of_two_ticks_is_told_who_holds_the_task(folder):
    first = start(folder, "tick", "orders", "--batch", TICKS[0])
    lock = folder / ".perennial" / "locks" / "orders.lock"
    deadline = time.monotonic() + 60
    while not (lock.is_file() and lock.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    second = start(folder, "tick", "orders", "--batch", TICKS[0])
    waiting = start(folder, "tick", "orders", "--batch", TICKS[0], "--wait")
    _, error = second.communicate(timeout=300)
    assert second.returncode == 9
    assert f"process {first.pid} since" in error
    assert "--wait" in error
    finish(first)
    assert "2024-W09" in finish(waiting)
    assert [k for k, *_ in said(folder)].count("promotion") == 1
