"""The loop over HTTP: asked, labelled, noticed, retrained, promoted, swapped, answered anew.

Run: pytest -m slow tests/slow/test_loop_http.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import labelled, loop, report, trace
from pipelines.project import Project, open_project
from pipelines.served import answers
from tests.conftest import REPOSITORY
from tests.slow.test_loop import WEEKS, turn
from tests.slow.test_never_lost import project

pytestmark = pytest.mark.slow


def perennial(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *words], cwd=folder, capture_output=True, text=True,
        timeout=400, check=False, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop of test_loop, whose world is turned upside down in its second week, over HTTP."""
    found = project(tmp_path_factory.mktemp("http") / "shop")
    turn(found, WEEKS[1])
    done = perennial(found, "tick", "orders", "--through", WEEKS[-1], "--serve")
    assert done.returncode == 0, done.stdout + done.stderr
    return found


@pytest.fixture
def shop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(folder)
    return open_project("orders")


def given(shop: Project, week: str):
    return answers.given(shop.at, shop.contract, week, shop.task.period)


def test_nothing_was_scored_here_every_answer_came_over_http(shop):
    for week in WEEKS:
        assert not shop.at.predictions(week).exists()
        assert set(given(shop, week)["route"]) == {"champion"}


def test_every_row_was_answered_once_by_the_champion_of_its_tick(shop):
    for tick in loop.ticks(shop):
        found = given(shop, tick.period)
        assert len(found) == tick.rows
        assert not found["row"].duplicated().any()
        assert set(found["version"]) == {tick.champion}


def test_the_swap_that_follows_a_promotion_is_seen_by_the_next_answers(shop):
    before, after = (set(given(shop, week)["version"]) for week in WEEKS[1:])
    assert before == {"1"}
    assert after != before
    last = loop.ticks(shop)[-1]
    assert last.verdict == "promote"
    assert after == {last.champion}


def test_the_world_turned_upside_down_is_noticed_from_labels_that_were_posted(shop):
    found = given(shop, WEEKS[1])
    labels = labelled.labels(shop.at.served_labels, found["id"])
    assert len(labels) == len(found)
    last = {line.period: line for line in report.lines(shop, report.first_model(shop))}[WEEKS[2]]
    assert WEEKS[1] in last.reason
    assert last.auc > 0.6 > last.frozen_auc


def test_labels_of_the_last_week_are_not_told_before_their_time(shop):
    assert labelled.labels(shop.at.served_labels, given(shop, WEEKS[2])["id"]) == {}


def test_an_id_that_came_back_over_http_is_traced(shop):
    prediction = given(shop, WEEKS[2])["id"].iloc[0]
    found = trace.trace(shop, prediction)
    assert found["model"]["version"] == loop.ticks(shop)[-1].champion
    assert found["batch"] == WEEKS[2]
    assert found["verdict"] == "promote"
    assert found["data"]


def test_the_same_command_again_asks_nothing_anew(shop, folder):
    before = [len(given(shop, week)) for week in WEEKS]
    done = perennial(folder, "tick", "orders", "--through", WEEKS[-1], "--serve")
    assert done.returncode == 0, done.stderr
    assert [len(given(shop, week)) for week in WEEKS] == before


def test_a_service_that_is_not_there_is_named_with_what_starts_it(folder):
    nowhere = "http://127.0.0.1:9"
    done = perennial(folder, "tick", "orders", "--batch", WEEKS[-1], "--service", nowhere)
    assert done.returncode == 11
    assert "perennial serve" in done.stderr
