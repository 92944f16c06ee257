"""Measured, accepted or refused, chosen: `pytest tests/test_variants.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from pydantic import ValidationError

from pipelines import artifact, variants
from pipelines.adapters import onnx_int8, onnx_layers, onnx_variants
from pipelines.adapters.onnx import raw_to_probability
from pipelines.artifact import PARITY
from pipelines.graph import raw_inputs
from pipelines.models import estimators
from pipelines.variant_params import Variants
from pipelines.variants import Measured, Seen
from tests.fakes import pump_model
from tests.test_models import TRAIN
from tests.variant_world import CASES, KNOWN, LOOSE, NAMES, TABLE, Case, case_of, encoded, made


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


def test_each_is_measured_and_the_first_within_the_limits_serves(case):
    chosen = onnx_variants.choose(case.graph, *case.half, LOOSE)
    assert [m.name for m in chosen.table] == ["fp32", *NAMES]
    assert chosen.name == "fp16"
    assert chosen.graph == made(case, "fp16")
    for measured in chosen.table[1:]:
        assert measured.parity > 0
        assert measured.row_ms > 0
        assert measured.batch_ms > 0
        assert {c.name for c in measured.checks} == {
            "alone", "parity", "auc", "log_loss", "slower", "gain",
        }  # fmt: skip
        assert (measured.accuracy_change is None) == (case.half[2].max() == 1)
        assert Measured.model_validate_json(measured.model_dump_json()) == measured
    small = {m.name: m.zipped_bytes for m in chosen.table}
    assert small["int8_static"] < small["fp16"] < small["fp32"]
    assert small["pruned"] < small["fp32"]


def test_the_artifact_is_the_variant_and_tells_of_the_others(tmp_path):
    case, wish = case_of("table"), LOOSE.model_copy(update={"make": ("int8_static",)})
    chosen = onnx_variants.choose(case.graph, case.feeds, case.feeds, case.label, wish)
    other = pump_model(tmp_path / "other")
    about = other.about.model_copy(update={"variant": chosen.name, "variants": chosen.table})
    examples = TABLE.head(50).assign(expected_probability=chosen.answers[:50].tolist())
    reference = {n: other.folder / n for n in ("reference.json", "reference.parquet")}
    (tmp_path / "made").mkdir()
    artifact.write(tmp_path / "made", chosen.graph, KNOWN, about, reference, examples)
    saved = artifact.load(tmp_path / "made")
    assert saved.about.variant == "int8_static"
    assert saved.about.variants == chosen.table
    assert variants.told(saved.about.variants).reason.startswith("int8_static serves: ")
    assert artifact.self_test(saved) <= PARITY
    np.testing.assert_allclose(saved.predict(TABLE), chosen.answers, atol=PARITY)


def test_without_a_wish_nothing_is_made_or_measured():
    chosen = onnx_variants.choose(case_of("pictures").graph, {}, {}, np.empty(0), Variants())
    assert chosen == onnx_variants.Chosen(case_of("pictures").graph, "fp32")


def test_a_variant_that_answers_badly_is_refused_and_the_next_one_serves(monkeypatch):
    """The weights' signs are lost on the way."""

    def broken(model: onnx.ModelProto) -> bytes:
        for layer in onnx_layers.layers(model):
            weight = onnx_layers.weights(model)[layer.input[1]]
            weight.CopyFrom(
                numpy_helper.from_array(np.abs(numpy_helper.to_array(weight)), weight.name)
            )
        return onnx_layers.write(model)

    monkeypatch.setattr(onnx_variants, "_half", broken)
    case, wish = case_of("table"), Variants(make=("fp16", "int8_static"), max_slowdown=99)
    chosen = onnx_variants.choose(case.graph, *case.half, wish)
    assert chosen.name == "int8_static"
    assert chosen.graph != case.graph
    failed = {c.name for c in chosen.table[1].checks if not c.passed}
    assert {"parity", "auc", "log_loss"} <= failed
    assert chosen.table[1].reason.startswith("one answer differs by ")
    told = variants.told(chosen.table)
    assert told.passed
    assert told.reason.startswith("int8_static serves: 0.")
    assert "not fp16: one answer differs by" in told.reason


def test_weights_beyond_half_precision_are_refused_for_their_answers():
    model = onnx_layers.read(case_of("table").graph)
    first, second = onnx_layers.layers(model)[:2]
    known = onnx_layers.weights(model)
    for layer, factor in ((first, 1e7), (second, 1e-7)):
        weight = known[layer.input[1]]
        scaled = (numpy_helper.to_array(weight) * factor).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
    graph = onnx_layers.write(model)
    chosen = onnx_variants.choose(graph, *case_of("table").half, Variants(make=("fp16",)))
    assert chosen.name == "fp32"
    assert chosen.graph == graph
    assert "NaN or infinite" in chosen.table[1].reason


def test_a_converter_that_raises_costs_the_variant_and_not_the_training(monkeypatch):
    def raises(*_: object) -> bytes:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(onnx_int8, "static", raises)
    case = case_of("pictures")
    chosen = onnx_variants.choose(case.graph, *case.half, Variants(make=("int8_static",)))
    assert chosen.name == "fp32"
    assert chosen.graph == case.graph
    assert chosen.table[1].reason == "could not be made: no kernel for this"


@pytest.mark.parametrize("family", ["boosting", "forest"])
def test_trees_have_nothing_to_make_smaller_and_say_so(family):
    rows, encoder = encoded()
    with threadpoolctl.threadpool_limits(1):
        model = estimators.fit(family, rows, rows, encoder.cardinalities, TRAIN, 7, lambda *_: None)
    graph = raw_to_probability(encoder, model.to_onnx())
    feeds = raw_inputs(TABLE, KNOWN, KNOWN.inputs)
    chosen = onnx_variants.choose(graph, feeds, feeds, rows.label, LOOSE)
    assert chosen.name == "fp32"
    assert chosen.graph == graph
    for measured in chosen.table[1:]:
        assert not measured.accepted
        assert measured.reason.startswith("not applicable: the model has no layer of weights")
        assert "TreeEnsemble" in measured.reason


def test_graphs_are_timed_in_turns():
    asked: list[str] = []

    class Session:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, _: list[str], feeds: dict[str, np.ndarray]) -> None:
            asked.append(self.name)
            assert len(feeds["x"]) == variants.BATCH  # of 100 rows there are: some come again

    found = onnx_variants._in_turns(
        {n: Session(n) for n in "ab"}, {"x": np.arange(100)}, variants.BATCH, 1024
    )
    assert set(found) == {"a", "b"}
    rounds = onnx_variants.ROUNDS[variants.BATCH]
    assert asked == ["a", "b", "b", "a"] * (rounds // 2)  # and none is always behind the other


LABEL = np.arange(200) % 2
TRAINED = Seen(
    answers=(0.3 + 0.4 * LABEL + np.linspace(-0.25, 0.25, 200)).astype(np.float32),
    alone=np.empty(0, np.float32), size_bytes=1000, zipped_bytes=900, row_ms=1.0, batch_ms=10.0,
)  # fmt: skip


def seen(**changed: object) -> Seen:
    return replace(TRAINED, **({"zipped_bytes": 300} | changed))


DEFAULT = Variants()


def judged(wish: Variants = DEFAULT, label: np.ndarray = LABEL, **changed: object) -> Measured:
    return variants.measure("fp16", seen(**changed), TRAINED, label, wish, PARITY)


@settings(deadline=None)
@given(
    noise=st.floats(0, 0.3), zipped=st.integers(100, 2000), row=st.floats(0.1, 3),
    batch=st.floats(1, 30), apart=st.floats(0, 1e-4), seed=st.integers(0, 99),
    wish=st.builds(
        Variants, max_auc_loss=st.floats(0, 0.05), max_log_loss_rise=st.floats(0, 0.05),
        max_parity=st.floats(0, 0.3), min_gain=st.floats(1, 3), max_slowdown=st.floats(1, 3),
    ),
)  # fmt: skip
def test_what_is_accepted_keeps_within_every_limit(noise, zipped, row, batch, apart, seed, wish):
    random = np.random.default_rng(seed)
    answers = TRAINED.answers + random.uniform(-noise, noise, 200)
    answers = answers.clip(0, 1).astype(np.float32)
    found = judged(wish, answers=answers, alone=answers[:9] + np.float32(apart),
                   zipped_bytes=zipped, row_ms=row, batch_ms=batch)  # fmt: skip
    apart = float(np.abs(answers[:9] - (answers[:9] + np.float32(apart))).max())
    within = {
        "alone": apart <= PARITY,
        "parity": found.parity <= wish.max_parity,
        "auc": -found.auc_change <= wish.max_auc_loss,
        "log_loss": found.log_loss_change <= wish.max_log_loss_rise,
        "slower": max(row / 1.0, batch / 10.0) <= wish.max_slowdown,
        "gain": max(900 / zipped, 1.0 / row, 10.0 / batch) >= wish.min_gain,
    }
    assert {c.name: c.passed for c in found.checks} == within
    assert found.accepted == all(within.values())
    assert bool(found.reason) == (not found.accepted)


def test_measures_that_cannot_be_taken_refuse():
    one_class = judged(label=np.ones(200, int))
    assert not one_class.accepted
    assert one_class.auc_change is None
    assert "cannot tell" in one_class.reason
    for answers, reason in {
        "NaN": (np.where(np.arange(200) == 7, np.nan, TRAINED.answers), "1 of 200 answers are NaN"),
        "outside": (TRAINED.answers + 0.5, "lie outside 0 to 1"),
        "shape": (TRAINED.answers[:, None], "answers of shape (200, 1), not (200,)"),
    }.values():
        found = judged(answers=answers)
        assert not found.accepted
        assert reason in found.reason


@given(st.lists(st.booleans(), max_size=4))
def test_the_first_that_passes_serves_and_the_original_if_none_does(passes):
    rows = [judged() if ok else judged(zipped_bytes=2000) for ok in passes]
    named = [m.model_copy(update={"name": n}) for m, n in zip(rows, NAMES, strict=False)]
    table = [variants.original(TRAINED, LABEL), *named]
    chosen = variants.choose(table)
    assert chosen.name == ([n for n, ok in zip(NAMES, passes, strict=False) if ok] or ["fp32"])[0]
    check = variants.told(table)
    assert check.passed
    assert check.name == "variant"
    assert check.reason.startswith(f"{chosen.name} serves")


def test_settings_name_what_is_allowed():
    with pytest.raises(ValidationError, match="'fp16', 'int8_dynamic', 'int8_static' or 'pruned'"):
        Variants(make=("int4",))
    with pytest.raises(ValidationError, match="named twice"):
        Variants(make=("fp16", "fp16"))
