"""A verdict as a person reads it before deciding: pytest tests/test_verdicts.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.__main__ import cli
from pipelines.adapters import registry as registries
from tests.fakes import MemoryRegistry


def test_where_no_challenger_waits_the_verdict_is_null_and_says_how_to_make_one(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    memory = MemoryRegistry(project_folder / "registry")
    monkeypatch.setattr(registries, "Registry", lambda at: memory)
    told = CliRunner().invoke(cli, ["verdict", "flights", "--json"])
    assert (told.exit_code, json.loads(told.stdout)) == (0, None)
    shown = CliRunner().invoke(cli, ["verdict", "flights"])
    assert "flights has no challenger. Make one with: perennial retrain flights" in shown.stdout
