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
KILLS = 22
TICKS = ("2024-W09", "2024-W10")
PARAMS = {
    "source": {"kind": "files", "path": "inbox/*.parquet"},
    "period": "week",
    "calendar": ["hour", "weekday"],
    "window": {"first": "2024-W01", "last": "2024-W08"},
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


def test_a_killed_tick_is_finished_by_the_same_command(folder, tmp_path):
    whole = project(tmp_path / "whole")
    began = time.monotonic()
    for period in TICKS:
        finish(start(whole, "tick", "orders", "--batch", period))
    span = (time.monotonic() - began) / len(TICKS)

    chance = random.Random(20130401)
    kills = 0
    for period in TICKS:
        while kills < KILLS * (TICKS.index(period) + 1) // len(TICKS):
            process = start(folder, "tick", "orders", "--batch", period)
            time.sleep(chance.uniform(0.3, span))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            nothing_bad_stands(folder)
        finish(start(folder, "tick", "orders", "--batch", period))

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
