"""The whole loop on pictures, over HTTP and with the real tools: pytest -m slow tests/slow/test_digits.py"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines import artifact, labelled, ledger, loop, replay, report
from pipelines.adapters.registry import Registry
from pipelines.project import Project, open_project
from pipelines.served import answers
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.long]
WEEKS = ("2024-W04", "2024-W05", "2024-W06")


def perennial(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *words], cwd=folder, capture_output=True, text=True,
        timeout=600, check=False, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As shipped, and asked for an fp16 model beside: three weeks, each a writer of their own."""
    home = tmp_path_factory.mktemp("digits")
    task = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["tasks"]["digits"]
    task["train"] |= {"variants": {"make": ["fp16"]}, "export": ["torchscript"]}
    (home / "params.yaml").write_text(yaml.safe_dump({"tasks": {"digits": task}}))
    (home / "contracts").mkdir()
    shutil.copy(REPOSITORY / "contracts" / "digits.yaml", home / "contracts")
    done = perennial(home, "tick", "digits", "--through", WEEKS[-1], "--serve")
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture
def digits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(folder)
    return open_project("digits")


def test_every_picture_was_answered_over_http_with_the_probability_of_each_class(digits):
    for tick in loop.ticks(digits):
        found = answers.given(digits.at, digits.contract, tick.period, "week")
        assert found is not None
        assert len(found) == tick.rows
        assert set(found["route"]) == {"champion"}
        assert "image" not in found  # as large as the batch, and nobody asks for them there
        assert set(found["version"]) == {tick.champion}
        probability = np.array(found["probability"].tolist())
        assert probability.shape == (tick.rows, 10)
        assert np.allclose(probability.sum(axis=1), 1, atol=1e-3)
        best = np.array(digits.contract.classes)[probability.argmax(axis=1)]
        assert found["prediction"].tolist() == best.tolist()


def test_labels_were_told_by_their_class_and_are_those_of_the_batch(digits):
    found = answers.given(digits.at, digits.contract, WEEKS[0], "week")
    known = labelled.labels(digits.at.served_labels, found["id"])
    assert len(known) == len(found)
    right = np.mean([known[i] == int(p) for i, p in zip(found["id"], found["prediction"])])  # noqa: B905
    assert right > 0.8


def test_another_hand_is_noticed_by_what_the_model_itself_makes_of_the_pictures(digits):
    alarms = {a["period"]: a for a in ledger.of_kind(digits.at.ledger, "alarm")}
    assert any(a["raised"] for a in alarms.values())
    moved = [c["column"] for a in alarms.values() for c in a["columns"] if c["drifted"]]
    assert any("direction" in name for name in moved)


def test_a_challenger_that_saw_more_hands_is_judged_on_rows_that_nobody_saw(digits):
    verdicts = ledger.of_kind(digits.at.ledger, "verdict")
    assert len(verdicts) >= 2
    judged = verdicts[-1]
    assert judged["champion"] is not None
    assert {"better", "unseen_rows", "enough_rows", "variant"} <= {
        c["name"] for c in judged["checks"]
    }
    assert {"challenger_accuracy", "champion_accuracy"} <= judged["metrics"].keys()


def test_the_variant_that_was_asked_for_serves_where_it_was_accepted(digits):
    made = artifact.load(Registry(digits.at).fetch("1"))
    measured = {m.name: m for m in made.about.variants}
    assert measured.keys() == {"fp32", "fp16"}
    assert made.about.variant == ("fp16" if measured["fp16"].accepted else "fp32")
    assert made.about.variants[1].size_bytes < made.about.variants[0].size_bytes
    exported = next((digits.at.live / "candidates").rglob("*.torchscript.pt"))
    assert exported.stat().st_size > 0


def test_the_report_and_the_trace_tell_of_classes(folder, digits):
    lines = report.lines(digits, report.first_model(digits))
    assert all(0.9 < line.auc <= 1 for line in lines)
    found = answers.given(digits.at, digits.contract, WEEKS[-1], "week")
    traced = perennial(folder, "trace", found["id"].iloc[0], "--json")
    assert traced.returncode == 0, traced.stderr
    assert json.loads(traced.stdout)["prediction"]["prediction"] in digits.contract.classes


def test_replay_compares_policies_on_pictures(digits):
    told = replay.replay(digits, ("frozen", "always"), WEEKS[1])
    assert told["frozen"]["trainings"] == 0
    assert told["always"]["trainings"] > 0
    assert all(0.9 < told[policy]["mean_auc"] <= 1 for policy in told)
