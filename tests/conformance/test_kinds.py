"""What every kind of task keeps: `pytest tests/conformance`. A new kind is one more line in TOYS."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from pipelines import artifact, images, metrics, params, store
from pipelines import contract as contracts
from pipelines.adapters import onnx
from pipelines.artifact import About, Artifact
from pipelines.contract import Contract
from pipelines.drift import profile
from pipelines.errors import ParamsError
from pipelines.graph import open_graph, raw_inputs
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.search import rows_of
from pipelines.sources.digits import Digits
from pipelines.tasks.base import KINDS, Kind
from tests.conftest import REPOSITORY
from tests.fakes import PUMPS, pumps


class Toy(NamedTuple):
    """A small task of one kind: rows in time order, and how it is fitted in seconds."""

    name: str
    contract: Contract
    rows: Callable[[], pd.DataFrame]
    fit: dict[str, Any]


def digits() -> pd.DataFrame:
    source = Digits("week")
    return pd.concat([source.read(p) for p in source.periods()[:4]], ignore_index=True)


TOYS = {
    "tabular": Toy(
        "pumps",
        PUMPS,
        lambda: pumps(1500),
        {"family": "network", "network": {"epochs": 3, "batch": 128}},
    ),
    "image": Toy(
        "digits",
        contracts.load(REPOSITORY / "contracts" / "digits.yaml"),
        digits,
        {"family": "cnn", "cnn": {"channels": [16, 32], "epochs": 8, "patience": 8, "batch": 32}},
    ),
}


def test_every_kind_is_held_to_this():
    assert TOYS.keys() == KINDS.keys()


class World(NamedTuple):
    kind: Kind
    task: Task
    contract: Contract
    table: pd.DataFrame
    encoder: Any
    train: Any
    validation: Any
    fitted: Any
    graph: bytes


def settings(name: str, **changed: Any) -> Task:
    toy = TOYS[name]
    plain = {
        "kind": name, "source": {"kind": "flights"}, "period": "week", "calendar": [],
        "min_category": 1, "window": {"first": "2024-W01", "last": "2024-W04"},
        "train": {"seed": 7, "threads": 1, **toy.fit}, "evaluate": {},
    }  # fmt: skip
    return Task.model_validate(plain | changed, strict=False)


def fitted(name: str) -> World:
    toy, kind, task = TOYS[name], KINDS[name], settings(name)
    table = toy.rows()
    cut = len(table) * 3 // 4
    encoder = kind.fit_encoder(table.iloc[:cut], toy.contract, task)
    parts = [kind.encode(part, toy.contract, encoder) for part in (table[:cut], table[cut:])]
    made = kind.fit(toy.name, task, *parts, encoder, lambda epoch, found: None)
    graph = kind.graph(made, toy.contract, encoder)
    return World(kind, task, toy.contract, table, encoder, *parts, made, graph)


@pytest.fixture(scope="module", params=sorted(KINDS))
def world(request: pytest.FixtureRequest) -> World:
    return fitted(request.param)


@pytest.fixture
def model(world: World, tmp_path: Path) -> Artifact:
    """What was fitted, as files."""
    rows = world.table.tail(20)
    seen = world.kind.reference(world.train, world.contract, world.graph, 7)
    if seen is None:
        seen = profile.make(world.kind.watched(world.table, world.contract, None), 7)
    profile.write(seen, tmp_path)
    expected = world.kind.answers(
        world.fitted, world.kind.encode(rows, world.contract, world.encoder)
    )
    examples = rows[[*world.contract.key, *world.contract.inputs]]
    examples = examples.loc[:, ~examples.columns.duplicated()]
    about = About(
        task=world.contract.task, kind=world.task.kind, family=world.task.train.family, seed=7,
        threshold=0.5, trained_until=0, window={}, data=(), params={}, contract="",
        baseline_rate=0.5, baseline={}, rows={}, metrics={},
    )  # fmt: skip
    folder = tmp_path / "model"
    folder.mkdir()
    artifact.write(
        folder, world.graph, world.contract, about,
        {n: tmp_path / n for n in ("reference.json", "reference.parquet")},
        examples.assign(expected_probability=expected.tolist()),
    )  # fmt: skip
    return artifact.load(folder)


def test_rows_are_encoded_one_for_one_and_in_their_order(world: World):
    rows = world.kind.encode(world.table, world.contract, world.encoder)
    assert len(rows) == len(world.table)
    assert np.array_equal(rows.label, world.contract.codes(world.table[world.contract.label]))
    assert np.all(np.diff(rows.time) >= 0)
    # What is set in another order comes out in that order.
    turned = world.kind.encode(world.table[::-1], world.contract, world.encoder)
    for name, values in vars(rows).items():
        assert np.array_equal(values[::-1], getattr(turned, name), equal_nan=name == "numbers")


def test_rows_and_encoder_survive_their_files(world: World, tmp_path: Path):
    store.write_arrays(tmp_path / "train.npz", **vars(world.train))
    back = world.kind.read_rows(store.read_arrays(tmp_path / "train.npz", ""))
    assert type(back) is type(world.train)
    for name, values in vars(world.train).items():
        assert np.array_equal(values, getattr(back, name), equal_nan=name == "numbers")
        assert values.dtype == getattr(back, name).dtype
    assert world.kind.read_encoder(world.encoder.model_dump(mode="json")) == world.encoder


def test_a_part_of_the_rows_is_that_part_of_every_array(world: World):
    part = world.train.take(slice(5, 12))
    assert len(part) == 7
    assert dataclasses.is_dataclass(part)
    for name, values in vars(world.train).items():
        assert np.array_equal(values[5:12], getattr(part, name), equal_nan=name == "numbers")


def test_a_row_is_known_again_wherever_it_stands_or_never(world: World):
    chosen = np.arange(len(world.validation)) % 3 == 0
    some = world.validation.take(chosen)
    assert len(some) == chosen.sum()
    names, of_some = (world.kind.known_by(rows) for rows in (world.validation, some))
    assert (names is None) == (of_some is None)
    if names is not None:
        assert len(set(names)) > 1
        assert np.array_equal(names[chosen], of_some)


def test_a_search_has_each_row_that_would_be_known_again_once(world: World, tmp_path: Path):
    """Else a fold judges a model on what it was fitted on."""
    at, names = Paths(tmp_path, "task"), world.kind.known_by(world.train)
    there = np.arange(len(world.train))
    again = world.train.take(np.concatenate([there, there[:3]]))
    store.write_arrays(at.prepared / "train.npz", **vars(again))
    found = rows_of(world.task, at)
    if names is None:
        assert len(found) == len(again)
    else:
        assert world.kind.known_by(found).tolist() == list(dict.fromkeys(names.tolist()))


def test_statistics_are_of_the_rows_that_were_given_and_no_others(world: World):
    cut = len(world.train)
    again = world.kind.fit_encoder(world.table.iloc[:cut], world.contract, world.task)
    assert again == world.encoder
    other = world.kind.fit_encoder(world.table.iloc[cut:], world.contract, world.task)
    assert other != world.encoder


def test_answers_are_probabilities_of_each_row(world: World):
    answers = world.kind.answers(world.fitted, world.validation)
    classes = len(world.contract.classes)
    assert answers.shape == (
        (len(world.validation), classes) if classes else (len(world.validation),)
    )
    assert answers.dtype == np.float32
    assert np.all((answers >= 0) & (answers <= 1))
    if classes:
        assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)


def test_something_was_learned_from_the_rows(world: World):
    answers = world.kind.answers(world.fitted, world.validation)
    assert metrics.auc(world.validation.label, answers) > 0.7


def test_the_graph_answers_as_the_model_in_memory_from_raw_columns(world: World):
    feeds = raw_inputs(world.table, world.contract, world.contract.inputs)
    rows = world.kind.encode(world.table, world.contract, world.encoder)
    assert onnx.check_parity(world.graph, feeds, world.kind.answers(world.fitted, rows)) <= 1e-5


def test_the_same_seed_gives_the_same_graph_to_the_byte(world: World):
    assert fitted(world.task.kind).graph == world.graph


def test_an_artifact_answers_its_examples_and_each_row_as_if_it_were_alone(
    world: World, model: Artifact
):
    assert artifact.self_test(model) <= artifact.PARITY
    rows = world.table.tail(7)
    together = model.predict(rows)
    assert together.shape == model.shape(7)
    alone = np.concatenate([model.predict(rows.iloc[[i]]) for i in range(7)])
    assert np.allclose(together, alone, atol=1e-6)
    assert model.predict(rows.head(0)).shape == model.shape(0)


def test_many_rows_and_large_pictures_are_answered_in_parts_that_bound_memory(
    world: World, model: Artifact, monkeypatch: pytest.MonkeyPatch
):
    ran: list[int] = []

    class Counted:
        def __init__(self, graph: Path | bytes, **options: Any) -> None:
            self.session = open_graph(graph, **options)
            self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs

        def run(self, output: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            ran.append(len(next(iter(feeds.values()))))
            return self.session.run(output, feeds)

    rows, whole = world.table.head(23), model.predict(world.table.head(23))
    for owner in (artifact, onnx):
        monkeypatch.setattr(owner, "open_graph", Counted)
    monkeypatch.setattr(artifact, "BATCH", 7)
    monkeypatch.setattr(images, "TOGETHER", 7)
    monkeypatch.setattr(images, "PIXELS", 5 * 8 * 8)
    most = 5 if world.contract.images else 7
    opened = artifact.load(model.folder)
    assert np.allclose(opened.predict(rows), whole, atol=1e-6)
    assert (max(ran), sum(ran)) == (most, 23)
    feeds = raw_inputs(rows, world.contract, world.contract.inputs)
    assert np.allclose(onnx.answers(world.graph, feeds, "probability"), whole, atol=1e-6)
    assert (max(ran), sum(ran)) == (most, 46)


def test_what_the_monitor_looks_at_is_what_the_champion_took_along(world: World, model: Artifact):
    """Or a batch would be held against columns that the reference does not have."""
    known = profile.read(model.folder).summary
    now = world.kind.watched(world.table, world.contract, model)
    assert len(now.table) == len(world.table)
    assert now.time == known.time
    assert set(now.numbers) == set(known.numbers)
    assert set(now.categories) == set(known.categories)
    for name in now.numbers:
        assert np.isfinite(profile.values(now.table, name, now.time)).all()


def test_settings_of_another_kind_are_refused_with_what_is_allowed(world: World):
    others = [
        family
        for name, toy in TOYS.items()
        if name != world.task.kind
        for family in [toy.fit["family"]]
    ]
    for family in others:
        train = params.Train(seed=7, family=family)
        task = world.task.model_copy(update={"train": train})
        with pytest.raises(ParamsError, match=f"family is '{family}'.*must be one of"):
            world.kind.check(task, world.contract)
    world.kind.check(world.task, world.contract)


def test_a_contract_of_another_kind_is_refused(world: World):
    for name, toy in TOYS.items():
        if name != world.task.kind:
            with pytest.raises(ParamsError, match=rf"contracts/{toy.contract.task}\.yaml"):
                world.kind.check(world.task, toy.contract)


def test_nobody_outside_of_the_kinds_asks_which_kind_a_task_is_of():
    """By name: `kind == "image"`, `kind in (...)`, `match kind`, wherever the kind came from."""

    def names_a_kind(node: ast.AST) -> bool:
        return any(isinstance(n, ast.Constant) and n.value in KINDS for n in ast.walk(node))

    asking = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in (REPOSITORY / "pipelines").rglob("*.py")
        if path.parent.name != "tasks"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare | ast.Match)
        and names_a_kind(node)
        and "kind" in ast.unparse(node.left if isinstance(node, ast.Compare) else node.subject)
    ]
    assert asking == []
