"""Run: pytest tests/test_gate_mutations.py

The gate as it is wired: real artifacts, the stage, a registry in memory. Each row breaks one
thing; each must end in hold (or refusal), with champion where it was. One good challenger passes,
so that this test can fail the other way. What raises or dies on the way: tests/test_gate_faults.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipelines import contract, ledger, moves, rivals, store
from pipelines.adapters.registry import CHAMPION
from pipelines.errors import RegistryError
from pipelines.records import Verdict
from pipelines.stages import promote as stage
from tests import gate_world
from tests.fakes import (
    PUMPS,
    TRAINED_UNTIL,
    WORSE,
    MemoryRegistry,
    pump_graph,
    pump_model,
    pumps,
)
from tests.gate_world import PERIOD, TASK, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return gate_world.build(tmp_path, monkeypatch)


def test_the_good_challenger_is_promoted(world: World):
    verdict = world.challenge()
    assert verdict.decision == "promote", verdict.reason
    assert world.registry.aliases() == {"champion": "2", "previous": "1"}
    assert world.registry.tags("2")["verdict"] == "promote"
    assert [e["kind"] for e in ledger.read(world.at.ledger)] == ["verdict", "promotion"]
    assert {"slices", "better", "plausible_jump"} <= {c.name for c in verdict.checks}


# name -> (what is broken, the check that must say so)
Mutation = tuple[Callable[[World], Any], str]
MUTATIONS: dict[str, Mutation] = {
    # the model
    "worse model": (lambda w: w.challenger(pump_graph({"noise": 1.0})), "better"),
    "as good a model, scaled": (lambda w: w.challenger(pump_graph({"heat": 1.1})), "better"),
    "swapped sign": (
        lambda w: w.challenger(pump_graph({"heat": -1.0, "noise": -0.8})),
        "direction",
    ),
    "leaked label": (
        lambda w: w.challenger(pump_graph({"repair_cost": 9.0}, bias=-4.5)),
        "plausible_auc",
    ),
    "leaked test rows, window lies": (
        lambda w: w.challenger(metrics={"validation_auc": 0.6}),
        "plausible_jump",
    ),
    "constant output": (lambda w: w.challenger(pump_graph({})), "probabilities"),
    "no better than the hour": (
        lambda w: w.gate_settings(baseline_gain=0.4),
        "baseline",
    ),
    "NaN scores": (
        lambda w: w.challenger(pump_graph({"heat": 1.0}, bias=1.5, after=("Sqrt", "Tanh"))),
        "probabilities",
    ),
    "infinite scores": (
        lambda w: w.challenger(pump_graph({"heat": 40.0}, bias=-30.0, after=("Exp",))),
        "probabilities",
    ),
    "scores above 1": (
        lambda w: w.challenger(pump_graph({"heat": 1.0, "noise": 0.8}, after=("Exp",))),
        "probabilities",
    ),
    "scores below 0": (
        lambda w: w.challenger(pump_graph({"heat": 0.1, "noise": 0.08}, after=("Tanh",))),
        "probabilities",
    ),
    "uncalibrated": (
        lambda w: w.challenger(pump_graph({"heat": 1.0, "noise": 0.8}, bias=2.0)),
        "calibration",
    ),
    "one slice collapsed, better overall": (lambda w: _collapse(w, "west"), "slice"),
    "too slow": (lambda w: w.gate_settings(latency_ms=1e-6), "latency"),
    "too large": (lambda w: w.gate_settings(size_mb=1e-6), "size"),
    "gain below what is asked": (lambda w: w.gate_settings(min_gain=0.2), "better"),
    # the window
    "overlapping window": (
        lambda w: w.challenger(trained_until=TRAINED_UNTIL + 2 * 86_400),
        "unseen_rows",
    ),
    "test rows older than training": (lambda w: w.rows(pumps(start="2023-06-01")), "unseen_rows"),
    "champion has seen the rows": (lambda w: _well_read_champion(w), "unseen_rows"),
    "one row too early": (
        lambda w: w.challenger(trained_until=int(pumps()["moment"].min().timestamp())),
        "unseen_rows",
    ),
    # the rows
    "too few rows": (lambda w: w.rows(pumps(900)), "enough_rows"),
    "no rows": (lambda w: w.rows(pumps(0)), "enough_rows"),
    "one label only": (lambda w: w.rows(pumps().assign(failed=1)), "enough_rows"),
    "too few of one label": (
        lambda w: w.rows(pumps().assign(failed=(np.arange(1500) < 40).astype(int))),
        "enough_rows",
    ),
    "rows twice": (lambda w: w.rows(pumps().iloc[np.arange(1500) // 2]), "rows"),
    "labels beyond 0 and 1": (lambda w: w.rows(pumps().assign(failed=2)), "arrays"),
    "labels missing": (
        lambda w: w.rows(pumps().assign(failed=np.where(np.arange(1500) < 9, np.nan, 1))),
        "arrays",
    ),
    "label column gone": (lambda w: w.rows(pumps().drop(columns="failed")), "no_exception"),
    "feature column gone": (lambda w: w.rows(pumps().drop(columns="heat")), "no_exception"),
    "slice column gone": (lambda w: w.rows(pumps().drop(columns="site")), "no_exception"),
    "rows gone": (lambda w: (w.at.prepared / "test.parquet").unlink(), "no_exception"),
    "rows cut short": (lambda w: _truncate(w.at.prepared / "test.parquet"), "no_exception"),
    # the tables of answers
    "stale challenger scores": (
        lambda w: w.answers("2", lambda s: replace(s, artifact="0" * 32)),
        "artifact",
    ),
    "stale champion scores": (
        lambda w: w.answers("1", lambda s: replace(s, artifact="0" * 32)),
        "artifact",
    ),
    "champion's NaN": (
        lambda w: w.answers("1", lambda s: replace(s, probability=s.probability * np.nan)),
        "probabilities",
    ),
    "different rows": (lambda w: w.answers("1", lambda s: replace(s, key=s.key + 1)), "rows"),
    "reordered rows": (
        lambda w: w.answers(
            "2", lambda s: replace(s, key=s.key[::-1], time=s.time[::-1], label=s.label[::-1])
        ),
        "rows",
    ),
    "different labels": (
        lambda w: w.answers("2", lambda s: replace(s, label=np.roll(s.label, 1))),
        "rows",
    ),
    "different times": (lambda w: w.answers("2", lambda s: replace(s, time=s.time + 60)), "rows"),
    "answers missing": (
        lambda w: w.answers("2", lambda s: replace(s, probability=s.probability[:-1])),
        "arrays",
    ),
    "slice missing": (
        lambda w: w.answers("2", lambda s: replace(s, slices={"site": s.slices["site"]})),
        "slices_present",
    ),
    "all slices missing": (
        lambda w: w.answers("2", lambda s: replace(s, slices={})),
        "slices_present",
    ),
    "slice cut otherwise": (
        lambda w: w.answers(
            "2", lambda s: replace(s, slices=dict(s.slices) | {"site": s.slices["site"][::-1]})
        ),
        "slices_present",
    ),
    "answers of another version": (
        lambda w: w.answers("1", lambda s: replace(s, version="7")),
        "champion",
    ),
    # the artifacts
    "champion artifact missing": (
        lambda w: shutil.rmtree(w.registry.home / "1"),
        "champion_loads",
    ),
    "champion artifact corrupt": (
        lambda w: _truncate(w.registry.home / "1" / "model.onnx"),
        "champion_loads",
    ),
    "champion replaced by another model": (
        lambda w: _replace(w.registry.home / "1", w.at.model),
        "champion_loads",
    ),
    "champion of another label": (
        lambda w: _champion_under(w, lambda c: c | {"label": "broke"}),
        "champion_contract",
    ),
    "champion reads a column that has gone": (
        lambda w: _champion_under(w, lambda c: c | {"columns": c["columns"] | MORE}),
        "champion_contract",
    ),
    "challenger corrupt": (lambda w: _truncate(w.at.model / "model.onnx"), "no_exception"),
    "challenger's contract altered": (
        lambda w: (w.at.model / "contract.json").write_text("{}"),
        "no_exception",
    ),
    "challenger answers its examples otherwise": (
        lambda w: _other_examples(w.at.model),
        "no_exception",
    ),
    "model of another task": (lambda w: w.challenger(task="lamps"), "contract"),
    "contract of another task": (lambda w: _foreign_contract(w), "contract"),
    "contract reviewed since": (lambda w: _reviewed_contract(w), "contract"),
    "rolled back by a person": (lambda w: _rolled_back(w), "not_rolled_back"),
}


def _collapse(world: World, site: str) -> None:
    """A champion that knows little anywhere, and a challenger that is blind on one site."""
    champion = pump_model(world.at.root / "weak" / "model", pump_graph({"noise": 1.0}))
    world.registry = MemoryRegistry(world.at.root / "registry-weak")
    version = world.registry.register(champion)
    world.registry.promote(version, None, lambda _: None)
    world.challenger(pump_graph({"heat": 1.0, "noise": 0.8}, sign_at={site: -0.05}))


def _well_read_champion(world: World) -> None:
    champion = pump_model(
        world.at.root / "read" / "model", WORSE, trained_until=TRAINED_UNTIL + 10 * 86_400
    )
    version = world.registry.register(champion)
    world.registry.promote(version, "1", lambda _: None)


MORE = {"broke": {"type": "boolean", "feature": False}, "hum": {"type": "number"}}


def _champion_under(world: World, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """A champion that was trained before the contract was changed."""
    content = PUMPS.model_dump(mode="json")
    content["columns"] |= {"broke": MORE["broke"]}
    described = contract.parse(yaml.safe_dump(change(content)))
    champion = pump_model(world.at.root / "before" / "model", WORSE, described=described)
    world.registry.promote(world.registry.register(champion), "1", lambda _: None)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _replace(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def _other_examples(folder: Path) -> None:
    """Whole by its manifest, so only asking the model finds it out."""
    examples = pd.read_parquet(folder / "examples.parquet")
    examples["expected_probability"] += 0.01
    examples.to_parquet(folder / "examples.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["examples.parquet"] = store.md5(folder / "examples.parquet")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))


def _foreign_contract(world: World) -> None:
    content = PUMPS.model_dump(mode="json") | {"task": "lamps"}
    world.challenger(described=contract.parse(yaml.safe_dump(content)))


def _reviewed_contract(world: World) -> None:
    content = PUMPS.model_dump(mode="json")
    content["columns"]["heat"]["max"] = 9.0
    world.contract = contract.parse(yaml.safe_dump(content))


def _rolled_back(world: World) -> None:
    assert world.challenge().decision == "promote"
    moves.rollback("pumps", world.at, world.registry)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_held_and_the_champion_stays(name: str, world: World):
    mutate, check = MUTATIONS[name]
    mutate(world)
    champion = world.registry.alias(CHAMPION)
    verdict = world.challenge()
    failed = {c.name: c.reason for c in verdict.checks if not c.passed}
    assert verdict.decision == "hold"
    assert check in failed, failed
    assert world.registry.alias(CHAMPION) == champion
    newest = ledger.newest(world.at.ledger, "verdict")
    assert newest is not None
    assert newest["decision"] == "hold"
    stored = Verdict.model_validate_json(world.at.verdict(PERIOD).read_text())
    assert stored == verdict
    with pytest.raises(RegistryError, match=r"perennial promote pumps --version \w+ --force"):
        moves.promote("pumps", world.at, world.registry, _challenger(world))


def _challenger(world: World) -> str:
    """The version that was held; one that never got as far stands in as never judged."""
    held = Verdict.model_validate_json(world.at.verdict(PERIOD).read_text()).challenger
    if held == stage.UNREGISTERED:
        shutil.rmtree(world.at.model)
        return world.registry.register(world.challenger())
    return held


def test_there_are_enough_mutations():
    assert len(MUTATIONS) >= 25


def test_the_baseline_says_the_rate_of_the_hour(world: World):
    rates = {str(hour): hour / 24 for hour in range(6, 24)}
    made = world.challenger(baseline=rates, baseline_rate=0.3)
    rows = rivals.scores("2", made, pumps(), PUMPS, TASK)
    naive = rivals.baseline(made, rows).probability
    hours = pumps()["moment"].dt.hour.to_numpy()
    assert naive.tolist() == [rates.get(str(hour), 0.3) for hour in hours.tolist()]
