"""The loop as a whole, on a made-up shop with the real tools: pytest -m slow tests/slow/test_loop.py"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipelines import (
    artifact,
    candidates,
    flow,
    ledger,
    loop,
    metrics,
    moves,
    replay,
    report,
    status,
    store,
    trace,
    watching,
)
from pipelines.adapters.registry import Registry
from pipelines.errors import ParamsError, Quarantined, RegistryError, UnknownId
from pipelines.project import Project, open_project
from pipelines.variant_params import SUFFIX
from tests.slow.test_never_lost import PARAMS, project

pytestmark = pytest.mark.slow
WEEKS = ("2024-W09", "2024-W10", "2024-W11")


@dataclass(frozen=True)
class Ticked:
    """steps: of the last tick, in the order in which they began."""

    folder: Path
    steps: list[str]


@pytest.fixture(scope="module")
def ticked(tmp_path_factory) -> Ticked:
    """Three ticks of the shop, the last of which lands in a world turned upside down."""
    folder = project(tmp_path_factory.mktemp("loop") / "shop")
    turn(folder, WEEKS[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shop = open_project("orders")
        for week in WEEKS[:-1]:
            loop.tick(shop, week, pages=False)
        steps = told_steps(patch)
        loop.tick(shop, WEEKS[-1], pages=False)
    return Ticked(folder, steps)


def told_steps(patch: pytest.MonkeyPatch) -> list[str]:
    """Filled while a tick runs: each step's name when it begins."""
    told: list[str] = []

    def spy(owner: object, name: str, step: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: object, **options: object) -> object:
            if not told or told[-1] != step:
                told.append(step)
            return real(*args, **options)

        patch.setattr(owner, name, wrapped)

    for step in ("ingest", "validate", "labels", "score"):
        spy(getattr(loop, step), "run", step)
    for step in ("prepare", "train", "evaluate"):
        spy(getattr(candidates, step), "run", step)
    spy(watching.monitor, "run", "monitor")
    spy(watching.policy, "decide", "policy")
    spy(Registry, "register", "register")
    spy(loop.promote, "gate", "gate")
    spy(moves, "promote", "promote")
    return told


def settings(folder: Path, **changed: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump({"tasks": {"orders": PARAMS | changed}}))


def turn(folder: Path, week: str) -> None:
    """From that week on, what was returned is kept and the other way round."""
    path = folder / "inbox" / "orders.parquet"
    table = pd.read_parquet(path)
    later = table["ordered_at"].dt.strftime("%G-W%V") >= week
    table["returned"] = np.where(later, 1 - table["returned"], table["returned"])
    table.to_parquet(path, index=False)


@pytest.fixture
def shop(ticked, monkeypatch) -> Project:
    """The ticked shop, which all share: the tests that move its aliases stand last."""
    monkeypatch.chdir(ticked.folder)
    return open_project("orders")


def test_the_first_tick_makes_the_first_champion(shop):
    first = loop.ticks(shop)[0]
    assert first.decision.reasons == (watching.FIRST,)
    assert (first.champion, first.verdict) == ("1", "promote")
    assert first.window == {"first": "2024-W08", "last": "2024-W08"}


def test_a_world_turned_upside_down_is_noticed_learned_and_answered_anew(shop):
    """W10 is answered wrongly; its labels arrive with W11, and the new champion answers that."""
    by_week = {line.period: line for line in report.lines(shop, report.first_model(shop))}
    assert by_week["2024-W09"].auc > 0.75
    assert by_week["2024-W10"].auc < 0.4
    last = by_week["2024-W11"]
    assert (last.action, last.verdict) == ("retrain", "promote")
    assert "2024-W10" in last.reason
    assert last.auc > 0.6 > last.frozen_auc


def test_the_steps_of_a_tick_come_in_the_order_of_the_flow(ticked):
    told = list(ticked.steps)
    # gate registers first, so its own call comes before register's.
    told[told.index("gate") : told.index("register") + 1] = ["register", "gate"]
    assert tuple(told) == flow.TICK


def test_labels_reach_the_answers_one_batch_later(shop):
    assert shop.at.labels("2024-W10").is_file()
    assert not shop.at.labels("2024-W11").exists()
    answers = pd.read_parquet(shop.at.predictions("2024-W10"))
    labels = pd.read_parquet(shop.at.labels("2024-W10"))
    joined = answers.merge(labels, on="id")
    assert len(joined) == len(answers)
    table = pd.read_parquet(shop.at.batch("2024-W10")).set_index("order")["returned"]
    assert (joined["label"].to_numpy() == table.loc[joined["order"]].to_numpy()).all()


def test_the_ledger_tells_the_story_in_order(shop):
    told = [(e["kind"], e.get("period") or e.get("version")) for e in ledger.read(shop.at.ledger)]
    assert told[:3] == [("retraining", "2024-W09"), ("verdict", "2024-W09"), ("promotion", "1")]
    assert ("alarm", "2024-W11") in told
    assert told.index(("alarm", "2024-W11")) < told.index(("decision", "2024-W11"))
    assert told[-1][0] == "promotion"


def test_ticking_again_does_nothing(shop):
    before = {p: store.md5(p) for p in shop.at.live.rglob("*.parquet")}
    lines = len(ledger.read(shop.at.ledger))
    again = loop.tick(shop, "2024-W10", pages=False)
    assert again == loop.ticks(shop)[1]
    assert {p: store.md5(p) for p in shop.at.live.rglob("*.parquet")} == before
    assert len(ledger.read(shop.at.ledger)) == lines


def test_a_candidate_is_trained_anew_when_a_setting_changed_and_only_then(shop):
    candidate = shop.ending("2024-W10")
    model = candidate.at.model / "manifest.json"
    before = model.stat().st_mtime_ns
    candidates.train_candidate(candidate, "again")
    assert model.stat().st_mtime_ns == before
    train = candidate.task.train.model_copy(update={"seed": 8})
    changed = replace(candidate, task=candidate.task.model_copy(update={"train": train}))
    exported = [candidate.at.model / f"orders{suffix}" for suffix in SUFFIX.values()]
    for file in exported:
        file.write_bytes(b"of the model before")
    candidates.train_candidate(changed, "another seed")
    assert artifact.load(candidate.at.model).about.seed == 8
    assert not any(file.exists() for file in exported), "no longer this model's"
    candidates.train_candidate(candidate, "and back")
    assert artifact.load(candidate.at.model).about.seed == 7


def test_a_training_that_fails_halfway_is_not_taken_for_the_one_before_it(shop, monkeypatch):
    candidate = shop.ending("2024-W10")
    candidates.train_candidate(candidate, "done, or done before")
    train = candidate.task.train.model_copy(update={"seed": 8})
    changed = replace(candidate, task=candidate.task.model_copy(update={"train": train}))

    def fail(*_: object) -> None:
        raise RegistryError("out of reach")

    with monkeypatch.context() as patch:
        patch.setattr(candidates.evaluate, "run", fail)
        with pytest.raises(RegistryError):
            candidates.train_candidate(changed, "another seed")
    assert artifact.load(candidate.at.model).about.seed == 8
    candidates.train_candidate(candidate, "and back")
    assert artifact.load(candidate.at.model).about.seed == 7


def test_ticks_go_forward_only(shop):
    with pytest.raises(ParamsError, match="ticks go forward"):
        loop.tick(shop, "2024-W07")


def test_an_answer_is_traced_to_the_bytes_that_made_its_model(shop):
    answers = pd.read_parquet(shop.at.predictions("2024-W11"))
    one = answers.iloc[17]
    found = trace.trace(shop, one["id"])
    assert found["inputs"]["price"] == one["price"]
    assert found["model"]["version"] == one["version"]
    assert [d["period"] for d in found["data"]][-1] == "2024-W10"
    for data in found["data"]:
        assert store.md5(shop.at.batch(data["period"])) == data["md5"]
        assert found["validation"][data["period"]].startswith("accepted")
    assert found["verdict"] == "promote"
    model = artifact.load(Registry(shop.at).fetch(one["version"]))
    assert abs(model.predict(answers.iloc[[17]])[0] - one["probability"]) < 1e-6
    assert trace.as_text(found)


@pytest.mark.parametrize(
    "wrong", ["orders-1-0000000000000000", "orders", "orders-x-00f1e2d3c4b5a697"]
)
def test_an_id_nobody_gave_is_said_to_be_unknown(shop, wrong):
    with pytest.raises(UnknownId, match="perennial status"):
        trace.trace(open_project(trace.task_of(wrong)), wrong)


def test_an_answer_of_a_version_that_was_registered_since_is_not_traced_to_it(shop, monkeypatch):
    """The registry was made anew, and its numbers began again."""
    one = pd.read_parquet(shop.at.predictions("2024-W11")).iloc[17]
    monkeypatch.setattr(Registry, "made_at", lambda *_: one["at"] + pd.Timedelta(seconds=1))
    with pytest.raises(UnknownId, match="that registry is no more"):
        trace.trace(shop, one["id"])


def test_the_rows_that_judged_a_challenger_are_later_than_all_it_saw(shop):
    verdict = json.loads(shop.at.verdict("2024-W11").read_text())
    at = shop.ending("2024-W10").at
    challenger = artifact.load(at.model)
    test = pd.read_parquet(at.prepared / "test.parquet")
    newest = int(test["ordered_at"].astype("datetime64[s]").astype("int64").min())
    assert newest > challenger.about.trained_until
    champion = artifact.load(Registry(shop.at).fetch(verdict["champion"]))
    assert newest > champion.about.trained_until
    low = metrics.auc(test["returned"].to_numpy(), champion.predict(test))
    high = metrics.auc(test["returned"].to_numpy(), challenger.predict(test))
    assert verdict["metrics"]["challenger_auc"] == pytest.approx(high)
    assert verdict["metrics"]["champion_auc"] == pytest.approx(low)


def test_status_fits_one_screen_and_names_the_next_command(shop):
    text = status.as_text(status.status())
    assert len(text.splitlines()) <= 24
    assert f"champion = version {Registry(shop.at).alias('champion')}" in text
    assert "2024-W12 is awaited" in text


def test_a_broken_batch_stops_the_tick_and_the_champion_stays(shop, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(shop.at.root, copy)
    monkeypatch.chdir(copy)
    # MLflow's addresses are absolute: the copy goes on with the registry of the original.
    path = copy / "inbox" / "orders.parquet"
    table = pd.read_parquet(path)
    week = table[table["ordered_at"].dt.strftime("%G-W%V") == "2024-W11"].copy()
    week["ordered_at"] += pd.Timedelta(days=7)
    week["order"] += 1_000_000
    week["price"] *= 100
    pd.concat([table, week]).to_parquet(path, index=False)
    spoiled = open_project("orders")
    champion = Registry(spoiled.at).alias("champion")
    with pytest.raises(Quarantined, match="price"):
        loop.tick(spoiled, "2024-W12", pages=False)
    assert Registry(spoiled.at).alias("champion") == champion
    assert not spoiled.at.predictions("2024-W12").exists()
    assert not spoiled.at.tick("2024-W12").exists()
    assert len(list(spoiled.at.quarantine.iterdir())) == 1

    mended = pd.read_parquet(path)
    late = mended["ordered_at"].dt.strftime("%G-W%V") == "2024-W12"
    mended.loc[late, "price"] /= 100
    mended.to_parquet(path, index=False)
    assert loop.tick(spoiled, "2024-W12", pages=False).rows == len(week)


def test_rollback_puts_the_previous_champion_back_and_the_ledger_says_so(shop):
    registry = Registry(shop.at)
    left, previous = registry.alias("champion"), registry.alias("previous")
    assert previous is not None
    assert moves.rollback("orders", shop.at, registry) == previous
    assert registry.alias("champion") == previous
    last = ledger.read(shop.at.ledger)[-1]
    assert (last["kind"], last["version"], last["from"]) == ("rollback", previous, left)


def test_replay_sets_policies_side_by_side_and_repeats_itself(tmp_path, monkeypatch):
    folder = project(tmp_path / "replay")
    turn(folder, WEEKS[1])
    settings(folder, monitor={"drifted_columns": 99, "joint_auc": 0.999})
    monkeypatch.chdir(folder)
    orders = open_project("orders")

    def told(*policies: loop.PolicyName) -> dict:
        found = replay.replay(orders, policies, WEEKS[-1])
        return {p: {k: v for k, v in one.items() if k != "seconds"} for p, one in found.items()}

    first = told("frozen", "always", "on-alarm")
    assert first["frozen"]["trainings"] == 0
    assert first["always"]["trainings"] == 2
    assert first["on-alarm"]["trainings"] == 1
    assert first["on-alarm"]["mean_auc"] > first["frozen"]["mean_auc"] + 0.1
    assert told("on-alarm") == {"on-alarm": first["on-alarm"]}
    assert not orders.at.live.exists(), "a replay must not touch what is live"
    assert not (orders.at.root / ".mlflow").exists()
