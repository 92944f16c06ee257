"""Every family through the same checks, then the network's own: `pytest tests/test_models.py`."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipelines import metrics, train_params
from pipelines.models import estimators, fit, tables
from pipelines.models.network import quantile_edges
from pipelines.records import Rows

FAMILIES = ("network", *estimators.FAMILIES)
RANDOM = ("network", "boosting", "forest")
CARDINALITIES = (5, 3)
PARITY = 1e-5

NETWORK = train_params.Network(
    epochs=4, patience=2, batch=256, learning_rate=1e-2, width=32, depth=2, embedding=4, bins=8
)
TRAIN = SimpleNamespace(
    boosting=SimpleNamespace(iterations=60, learning_rate=0.1, min_leaf=20),
    forest=SimpleNamespace(trees=30, min_leaf=5),
    threads=1,
)


def rows(n: int, seed: int = 0, cardinalities: tuple[int, ...] = CARDINALITIES) -> Rows:
    """Label 1 when a number is large in its bend or a category says so; a fifth is missing."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(n, 3)).astype(np.float32)
    codes = np.column_stack([random.integers(0, c, n) for c in cardinalities])
    score = 1.5 * np.abs(numbers[:, 0]) + 2 * numbers[:, 1] + 4 * (codes[:, 0] == 2) - 2.2
    numbers[random.random(numbers.shape) < 0.2 * np.array([0, 0, 1])] = np.nan
    label = (score + random.normal(scale=0.5, size=n) > 0).astype(np.int8)
    return Rows(numbers, codes, label, np.sort(random.integers(0, 20 * 86_400, n)))


def trained(family: str, seed: int = 7, train: Rows | None = None, **changed: Any) -> Any:
    train = train or rows(3000)
    validation, report = rows(800, seed=1), changed.pop("report", lambda epoch, values: None)
    if family == "network":
        settings = NETWORK.model_copy(update=changed)
        return fit.fit(train, validation, CARDINALITIES, settings, seed, report)
    return estimators.fit(family, train, validation, CARDINALITIES, TRAIN, seed, report)


def answers(graph: onnx.ModelProto, numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (probability,) = session.run(["probability"], {"numbers": numbers, "codes": codes})
    assert probability.dtype == np.float32
    assert probability.shape == (len(numbers), 1)
    return probability[:, 0]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return trained(request.param)


def test_graph_answers_as_the_model_does(model: Any) -> None:
    test = rows(2000, seed=2)
    test.numbers[:300] = np.nan
    test.numbers[300:400] *= 50
    test.codes[:300] = 0
    expected = model.predict(test.numbers, test.codes)
    assert expected.dtype == np.float32
    assert np.all((expected >= 0) & (expected <= 1))
    graph = model.to_onnx()
    onnx.checker.check_model(graph)
    assert [i.name for i in graph.graph.input] == ["numbers", "codes"]
    assert np.max(np.abs(answers(graph, test.numbers, test.codes) - expected)) <= PARITY
    assert graph.SerializeToString() == model.to_onnx().SerializeToString()
    one = answers(graph, test.numbers[:1], test.codes[:1])
    assert np.max(np.abs(one - expected[:1])) <= PARITY


def test_learns_a_signal(model: Any) -> None:
    test = rows(2000, seed=3)
    assert metrics.auc(test.label, model.predict(test.numbers, test.codes)) > 0.9


def test_says_how_good_it_is(model: Any) -> None:
    validation = rows(800, seed=1)
    answered = model.predict(validation.numbers, validation.codes)
    kept = model.history[int(model.best["epoch"])]
    assert kept["validation_auc"] == model.best["validation_auc"]
    assert metrics.auc(validation.label, answered) == pytest.approx(model.best["validation_auc"])
    loss = metrics.log_loss(validation.label, answered)
    assert loss == pytest.approx(model.best["validation_loss"])


def test_answers_no_rows(model: Any) -> None:
    empty = model.predict(np.empty((0, 3), np.float32), np.empty((0, 2), np.int64))
    assert empty.shape == (0,)
    assert empty.dtype == np.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_answers_and_inputs_stay(family: str) -> None:
    train, test = rows(1000), rows(500, seed=2)
    before = copy.deepcopy(vars(train))
    for array in vars(train).values():
        array.flags.writeable = False
    reports: list[tuple[int, dict[str, float]]] = []
    first = trained(family, train=train, report=lambda *values: reports.append(values))
    second = trained(family, train=train)
    one, other = (m.predict(test.numbers, test.codes) for m in (first, second))
    np.testing.assert_array_equal(one, other)
    for name, array in before.items():
        np.testing.assert_array_equal(array, vars(train)[name])
    assert [epoch for epoch, _ in reports] == list(range(len(first.history)))
    keys = {"train_loss", "validation_loss", "validation_auc", "rows_per_second"}
    assert all(set(values) == keys for _, values in reports)


@pytest.mark.parametrize("family", RANDOM)
def test_another_seed_another_model(family: str) -> None:
    test = rows(500, seed=2)
    one, other = (trained(family, seed=s).predict(test.numbers, test.codes) for s in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lacks", ["numbers", "codes"])
def test_numbers_or_categories_alone(family: str, lacks: str) -> None:
    def alone(n: int, seed: int) -> Rows:
        full = rows(n, seed)
        numbers = full.numbers[:, :0] if lacks == "numbers" else full.numbers
        codes = full.codes[:, :0] if lacks == "codes" else full.codes
        return Rows(numbers, codes, full.label, full.time)

    cardinalities = () if lacks == "codes" else CARDINALITIES
    parts = (alone(600, 0), alone(300, 1), cardinalities)
    if family == "network":
        model: Any = fit.fit(*parts, NETWORK, 7, lambda *_: None)
    else:
        model = estimators.fit(family, *parts, TRAIN, 7, lambda *_: None)
    test, graph = alone(100, 2), model.to_onnx()
    has = "codes" if lacks == "numbers" else "numbers"
    assert [i.name for i in graph.graph.input] == [has]
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (found,) = session.run(None, {has: getattr(test, has)})
    assert np.max(np.abs(found[:, 0] - model.predict(test.numbers, test.codes))) <= PARITY


def test_an_epoch_that_is_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch is the best beyond noise: its weights come back, no fifth is run."""
    scores, weights = iter([0.6, 0.9, 0.7, 0.7, 0.7]), []

    def judge(table: tables.Table, _: torch.device) -> dict[str, float]:
        weights.append({k: v.clone() for k, v in table.module.state_dict().items()})
        return {"validation_loss": 0.5, "validation_auc": next(scores)}

    monkeypatch.setattr(tables.Table, "judge", judge)
    model = trained("network", epochs=8, patience=2)
    assert [h["validation_auc"] for h in model.history] == [0.6, 0.9, 0.7, 0.7]
    assert model.best == {"epoch": 1, "validation_auc": 0.9, "validation_loss": 0.5}
    assert model.best["validation_auc"] == max(h["validation_auc"] for h in model.history)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, weights[1][name])


def test_a_difference_within_the_noise_of_validation_keeps_the_later_epoch() -> None:
    label = np.arange(1000) % 2
    assert not tables.worse(0.795, top=0.80, label=label)  # standard error: 0.014
    assert tables.worse(0.78, top=0.80, label=label)
    assert not tables.worse(float("nan"), top=float("-inf"), label=np.ones(9, np.int8))


def test_a_loss_that_is_not_finite_stops_and_names_the_batch() -> None:
    train = rows(1000)
    train.numbers[:, 2] = 0.0  # one value: all of its bins are empty
    train.numbers[::10, 2] = np.inf
    with pytest.raises(FloatingPointError, match="epoch 0, batch 0 of 3: the loss is nan"):
        trained("network", train=train)


def test_a_day_of_its_own_is_not_learned_as_a_rule() -> None:
    """Columns that only tell ten days apart: with day effects they explain less of the label."""
    random = np.random.default_rng(5)
    n = 4000
    day = np.sort(random.integers(0, 10, n))
    shock, mark = random.normal(size=10), random.normal(size=(10, 3))
    numbers = (mark[day] + 0.1 * random.normal(size=(n, 3))).astype(np.float32)
    label = (random.random(n) < 1 / (1 + np.exp(-shock[day]))).astype(np.int8)
    train = Rows(numbers, np.zeros((n, 2), np.int64), label, day * 86_400)
    spread = []
    for effect in (0.0, 1.0):
        settings = NETWORK.model_copy(update={"epochs": 20, "day_effect": effect})
        model = fit.fit(train, train, CARDINALITIES, settings, 7, lambda *_: None)
        spread.append(float(np.std(model.predict(numbers, train.codes))))
    assert spread[1] < 0.8 * spread[0]


def test_the_callers_random_numbers_stay() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trained("network", train=rows(300), epochs=1)
    assert torch.equal(torch.rand(2), expected)


def test_edges_ignore_missing_and_merge_repeats() -> None:
    numbers = np.array([[0, 5, np.nan], [0, 5, np.nan], [0, 5, np.nan], [1, 5, np.nan]], np.float32)
    edges = quantile_edges(numbers, bins=4).numpy()
    assert edges.shape == (3, 5)
    assert np.all(np.diff(edges, axis=1) >= 0)
    assert edges[0, 0] == 0
    assert edges[0, -1] == 1
    assert np.all(edges[1] == 5)
    assert np.all(np.isfinite(edges))


def test_the_first_layer_reads_ramps_gaps_and_embeddings_as_one() -> None:
    """Its two products are one over all features in a row."""
    some = rows(500)
    network = tables.table(some, some, CARDINALITIES, NETWORK).module.eval()
    numbers, codes = torch.from_numpy(some.numbers), torch.from_numpy(some.codes)
    ramps, missing = network.encode(numbers)
    assert torch.equal(missing.bool(), torch.isnan(numbers))
    assert float(missing.sum()) > 0
    assert not ramps.view(len(numbers), 3, -1)[torch.isnan(numbers)].any()
    embedded = [table(codes[:, c]) for c, table in enumerate(network.embeddings)]
    features = torch.cat([ramps, missing, *embedded], dim=1)
    expected = network.head(network.trunk(features)).squeeze(1)
    assert torch.allclose(network(numbers, codes), expected, atol=1e-6)
