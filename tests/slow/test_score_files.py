"""Run: pytest tests/slow/test_score_files.py -m slow

The command with the real registry: its answers are traced and labelled by their ids.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from pipelines import store, trace
from pipelines.__main__ import cli
from pipelines.adapters.registry import CHAMPION, PREVIOUS, Registry
from pipelines.errors import Quarantined
from pipelines.paths import Paths
from pipelines.project import open_project
from tests.bento_world import make_project
from tests.fakes import pumps
from tests.gate_world import TASK
from tests.slow.trained import challenge, prepare_world

pytestmark = pytest.mark.slow


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PERENNIAL_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    prepare_world(tmp_path)
    return make_project(tmp_path).at


def perennial(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def test_files_are_answered_by_the_champion_traced_and_labelled(at: Paths):
    rows = pumps(20).drop(columns="failed")
    (at.root / "inbox").mkdir()
    rows.to_csv(at.root / "inbox" / "monday.csv", index=False)
    said = perennial("score", "pumps", "--files", "inbox")
    assert said.exit_code == 0, said.output
    assert "1 answered, 0 before, 0 refused" in said.output

    answers = store.read_table(at.scored / "monday.parquet", "")
    found = trace.trace(open_project("pumps"), answers["id"][7])
    assert found["prediction"]["id"] == answers["id"][7]
    assert (found["route"], found["model"]["version"]) == ("file", answers["version"][7])
    assert found["inputs"]["heat"] == rows["heat"][7]
    settings = {"window": {"first": "2024-01", "last": "2024-02"}, "train": TASK.train.model_dump()}
    assert "in a file of rows" in trace.as_text(found | {"params": settings})

    answers[["id"]].assign(label=0).to_csv("labels.csv", index=False)
    labelled = perennial("labels", "pumps", "--file", "labels.csv")
    assert "20 accepted" in labelled.output

    # Another champion: what was answered stays, what comes is its.
    assert challenge(at).decision == "promote"
    now = Registry(at).aliases()
    assert now[CHAMPION] != now[PREVIOUS] == answers["version"][0]
    pumps(20, seed=1).drop(columns="failed").to_parquet("inbox/tuesday.parquet")
    rows.assign(heat="hot").to_csv("inbox/wrong.csv", index=False)
    said = perennial("score", "pumps", "--files", "inbox", "--json")
    assert isinstance(said.exception, Quarantined)
    told = json.loads(said.output)
    assert [a["version"] for a in told["answered"]] == [now[CHAMPION]]
    assert (told["before"], len(told["refused"])) == (1, 1)
    pd.testing.assert_frame_equal(store.read_table(at.scored / "monday.parquet", ""), answers)


def test_what_to_answer_is_said_in_one_way(at: Paths):
    for words in (
        [],
        ["--batch", "2024-03", "--files", "inbox"],
        ["--batch", "2024-03", "--out", "o"],
    ):
        assert "give either --batch, or --files" in perennial("score", "pumps", *words).output
