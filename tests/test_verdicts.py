"""A verdict as a person reads it before deciding: pytest tests/test_verdicts.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines import verdicts
from pipelines.__main__ import cli
from pipelines.adapters import registry as registries
from pipelines.paths import Paths
from pipelines.project import Project
from pipelines.records import Check, Verdict
from tests.fakes import PUMPS, MemoryRegistry
from tests.gate_world import TASK


def check(name: str, passed: bool = True) -> Check:
    return Check(name=name, passed=passed, reason="because")


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ([check("unseen_rows"), check("unseen_rows")], "on 1500 rows that neither has seen: "),
        ([check("unseen_rows"), check("unseen_rows", passed=False)], "on 1500 rows: "),
        ([check("arrays", passed=False)], "on 1500 rows: "),
    ],
)
def test_rows_are_called_unseen_only_where_that_was_looked_at_and_is_so(
    tmp_path: Path, checks: list[Check], said: str
):
    verdict = Verdict(
        task="pumps", challenger="2", champion="1", decision="hold", checks=tuple(checks), rows=1500
    )
    project = Project("pumps", TASK, PUMPS, Paths(tmp_path, "pumps"))
    assert f"against champion 1, {said}" in verdicts.as_markdown(project, verdict)


def test_where_no_challenger_waits_the_verdict_is_null_and_says_how_to_make_one(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    memory = MemoryRegistry(project_folder / "registry")
    monkeypatch.setattr(registries, "Registry", lambda at: memory)
    told = CliRunner().invoke(cli, ["verdict", "flights", "--json"])
    assert (told.exit_code, json.loads(told.stdout)) == (0, None)
    shown = CliRunner().invoke(cli, ["verdict", "flights"])
    assert "flights has no challenger. Make one with: perennial retrain flights" in shown.stdout
