"""What is searched, on which rows, and how it is written back: pytest tests/test_tuning.py"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import time as clock
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import threadpoolctl
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines import contract, params, params_text, store, tuning
from pipelines.adapters import tune_store
from pipelines.adapters.tuner import PRESENT, Study
from pipelines.crew import Crew, Report
from pipelines.errors import ArtifactError, MissingInput, ParamsError, PipelineError, RegistryError
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.prepared import Prepared
from pipelines.search import Job, Judged, bench, search
from pipelines.stages import tune as stage
from pipelines.tasks.base import KINDS
from pipelines.train_params import Train
from pipelines.tune_params import Dimension, Tune, fields
from tests.conftest import REPOSITORY, shop

CONTRACT = """
task: orders
time: ordered_at
key: [order]
label: returned
rows: {min: 1}
columns:
  ordered_at: {type: timestamp}
  order: {type: integer, feature: false}
  country: {type: category, values: [DE, FR, NL]}
  price: {type: number}
  weight: {type: number, nulls: 0.2}
  returned: {type: integer, feature: false}
"""
PARAMS = """
# Orders of a shop.
tasks:
  orders:
    source: {kind: files, path: inbox}
    period: month
    calendar: [hour, weekday]
    min_category: 10
    window: {first: "2024-01", last: "2024-03"}
    train:
      family: boosting  # the trees
      seed: 7
      boosting: {iterations: 3, learning_rate: 0.001, min_leaf: 20}  # planted: far too little
    evaluate: {}
    tune:
      trials: 6
      space:
        boosting.iterations: {choices: [3, 40]}
        boosting.learning_rate: {low: 0.001, high: 0.3, log: true}
"""


def prepare(root: Path, text: str = PARAMS, rows: int = 3000) -> Paths:
    """A project whose task `orders` is prepared; its test and validation files cannot be read."""
    at = Paths(root, "orders")
    store.write_text(at.params, text)
    store.write_text(at.contract, CONTRACT)
    task, kind = params.task(at.params, "orders"), KINDS["tabular"]
    table, agreed = shop(days=60, rows_a_day=rows // 60), contract.parse(CONTRACT)
    encoder = kind.fit_encoder(table, agreed, task)
    encoded: Any = kind.encode(table, agreed, encoder)
    store.write_arrays(at.prepared / "train.npz", **vars(encoded))
    store.write_text(at.prepared / "encoder.json", encoder.model_dump_json())
    for poisoned in ("test.npz", "test.parquet", "validation.npz"):
        (at.prepared / poisoned).write_bytes(b"nobody may read this")
    prepared = Prepared(
        first="2024-01", last="2024-03", data=(), contract=agreed.digest, trained_until=0,
        rows={"train": len(encoded)}, baseline_rate=0.2, baseline={},
    )  # fmt: skip
    store.write_text(at.prepared / "prepared.json", prepared.model_dump_json())
    return at


# The settings of a search ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"network.lerning_rate": {"low": 0.1, "high": 1}},
            ["network.lerning_rate is not a key of train", "network.learning_rate", "forest.trees"],
        ),
        ({"network": {"choices": [1]}}, ["network is not a key of train"]),
        ({"checkpoint": {"choices": [0, 9]}}, ["checkpoint is not a key of train"]),
        ({"threads": {"choices": [1, 2]}}, ["threads is not a key of train"]),
        ({"cnn.channels": {"choices": [32, 64]}}, ["cnn.channels is not a key of train"]),
        ({"network.dropout": {"low": 0.1, "high": 1.0}}, ["network.dropout is 1.0", "less than 1"]),
        ({"network.width": {"choices": [64, 0]}}, ["network.width is 0", "greater than 0"]),
        ({"network.width": {"choices": [64, 0.5]}}, ["network.width is 0.5", "valid integer"]),
        ({"network.width": {"low": 1.5, "high": 4}}, ["network.width is 1.5", "whole number"]),
        ({"family": {"low": 1, "high": 4}}, ["family is not a plain number", "choices"]),
        ({"family": {"choices": ["forrest"]}}, ["'forrest'", "'forest'"]),
        ({"network.width": {"low": 4}}, ["low and high"]),
        ({"network.width": {"low": 4, "high": 2}}, ["low below high"]),
        ({"network.width": {"low": 4, "high": 8, "choices": [1]}}, ["either choices"]),
        ({"network.width": {"choices": [4, 4]}}, ["different values"]),
        ({"network.dropout": {"low": 0, "high": 0.5, "log": True}}, ["log goes with low above 0"]),
        ({"network.width": {"lo": 4, "high": 8}}, ["network.width.lo is not a known key", "low"]),
    ],
)
def test_a_wrong_space_is_refused_before_any_work(tmp_path: Path, space: dict, said: list[str]):
    content = yaml.safe_load(PARAMS)
    content["tasks"]["orders"]["tune"]["space"] = space
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ParamsError) as refused:
        params.load(tmp_path / "params.yaml")
    for part in (*said, "params.yaml: tasks.orders.tune", "edit params.yaml"):
        assert part in str(refused.value)


def test_a_grid_needs_choices_or_steps():
    space = {"network.dropout": Dimension(low=0, high=0.5)}
    with pytest.raises(ValidationError, match=r"network\.dropout needs choices or a step"):
        Tune(sampler="grid", space=space)


def task_with(space: dict, family: str = "boosting") -> Task:
    content = yaml.safe_load(PARAMS)["tasks"]["orders"]
    content["train"]["family"], content["tune"]["space"] = family, space
    return Task.model_validate_json(store.json.dumps(content))


def test_a_setting_that_would_change_nothing_is_refused():
    with pytest.raises(
        ParamsError, match=r"network\.width, but the family that is trained is boos"
    ):
        tuning.check("orders", task_with({"network.width": {"choices": [8]}}))
    tuning.check("orders", task_with({"network.width": {"choices": [8]}}, "network"))
    both = {"network.width": {"choices": [8]}, "family": {"choices": ["network", "logistic"]}}
    tuning.check("orders", task_with(both))
    with pytest.raises(ParamsError, match="space is empty"):
        tuning.check("orders", task_with({}))


@pytest.mark.parametrize(
    ("name", "train", "space", "said"),
    [
        (
            "digits", {}, {"family": ["cnn", "network"]},
            ["digits.tune.space has family network", "must be one of cnn, resnet"],
        ),
        (
            "flights", {}, {"family": ["cnn", "forest"]},
            ["flights.tune.space has family cnn", "must be one of network, logistic, boosting"],
        ),
        (
            "flights", {}, {"augment.shift": [0, 2]},
            ["flights.tune.space has augment.shift", "is network", "read it: cnn, resnet"],
        ),
        (
            "flights", {"family": "boosting"}, {"precision": ["fp32", "bf16"]},
            ["has precision", "is boosting", "read it: network, cnn, resnet"],
        ),
        (
            "flights", {}, {"family": ["network", "forest"], "backbone.layer_decay": [0.5, 1.0]},
            ["has backbone.layer_decay", "is network or forest", "read it: cnn, resnet"],
        ),
        (
            "flights", {"export": ("torchscript",)}, {"family": ["network", "forest"]},
            ["with settings of tune.space", "['torchscript'] needs a family of PyTorch", "forest"],
        ),
        ("flights", {"family": "cnn"}, {"seed": [1, 2]}, ["flights.train.family is 'cnn'"]),
    ],
)  # fmt: skip
def test_a_family_or_key_of_another_kind_is_refused_before_any_work(
    name: str, train: dict, space: dict, said: list[str], tmp_path: Path
):
    """Nothing is prepared here, which would be told of if it were looked for."""
    task = params.task(REPOSITORY / "params.yaml", name)
    searched = {key: Dimension(choices=tuple(values)) for key, values in space.items()}
    task = task.model_copy(
        update={"tune": Tune(space=searched), "train": task.train.model_copy(update=train)}
    )
    agreed = contract.load(REPOSITORY / "contracts" / f"{name}.yaml")
    with pytest.raises(ParamsError) as refused:
        stage.run(name, task, agreed, Paths(tmp_path, name), workers=1, nested=False)
    for part in (*said, "edit params.yaml"):
        assert part in str(refused.value)


NUMBERS = {key for key, field in fields() if field.annotation in (int, float)}
UNIT = {"network.dropout": 0.9}


@st.composite
def dimensions(draw: st.DrawFn, key: str) -> Dimension:
    if dict(fields())[key].annotation is int:
        low = draw(st.integers(2 if key in ("cnn.batch", "resnet.batch") else 1, 50))
        high = low + draw(st.integers(1, 50))
        step = draw(st.none() | st.integers(1, 7))
        return Dimension(low=low, high=high, step=step)
    low = draw(st.floats(1e-5, 0.4))
    high = low + draw(st.floats(1e-4, 0.4))
    if draw(st.booleans()):
        return Dimension(low=low, high=high, log=True)
    return Dimension(low=low, high=high, step=draw(st.none() | st.floats(0.01, 0.2)))


@given(st.data())
def test_whatever_a_sampler_comes_upon_is_tried_in_few_digits_and_inside_its_limits(data):
    key = data.draw(st.sampled_from(sorted(NUMBERS)))
    dimension = data.draw(dimensions(key))
    low, high = dimension.bounds
    sampled = data.draw(st.floats(low, high))
    if dimension.step is not None:
        sampled = low + dimension.step * int((sampled - low) / dimension.step)
    value = tuning.written({key: dimension}, {key: sampled})[key]
    assert low <= value <= high
    assert value in (low, high) or dimension.step or float(f"{value:.3g}") == value
    train = tuning.applied(Train(seed=1), {key: value})
    assert tuning.present(train, {key: dimension}) == {key: value}


@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 5))
def test_a_grid_has_every_combination_once(low: int, length: int, step: int):
    space = {
        "seed": Dimension(low=low, high=low + length, step=step),
        "network.dropout": Dimension(low=0.0, high=0.3, step=0.1),
        "family": Dimension(choices=("network", "forest")),
    }
    every = tuning.grid(space)
    assert len(every) == (length // step + 1) * 4 * 2
    assert len({repr(values) for values in every}) == len(every)
    for values in every:
        assert tuning.contains(space, values)
        tuning.applied(Train(seed=1), values)


# The rows -------------------------------------------------------------------------------------

TIMES = st.lists(st.integers(0, 400), min_size=60, max_size=300).map(sorted).map(np.array)


def in_time_order(time: np.ndarray, *parts: slice) -> None:
    for one, other in itertools.pairwise(parts):
        assert len(time[one])
        assert time[one].max() < time[other].min(), "a moment is in two parts, or comes too late"


@given(TIMES, st.integers(1, 6))
def test_what_judges_is_later_than_all_that_was_seen_and_each_row_judges_once(time, count):
    if len(np.unique(time)) < 10 * count:  # a moment may be as long as a part
        return
    folds = tuning.folds(time, count)
    assert len(folds) == count
    for fold in folds:
        in_time_order(time, fold.train, fold.judged)
        assert fold.train.start == 0
        assert fold.validation == fold.judged
    for one, other in itertools.pairwise(folds):
        assert one.judged.stop == other.judged.start == other.train.stop
    assert folds[-1].judged.stop == len(time)


@given(TIMES, st.integers(1, 4), st.integers(1, 3))
def test_an_outer_fold_decides_on_earlier_rows_only(time, count, inner):
    try:
        outer = tuning.outer(time, count, inner)
    except ParamsError:
        return
    for fold in outer:
        in_time_order(time, fold.train, fold.validation, fold.judged)
        assert fold.validation.stop == fold.judged.start
        for within in tuning.folds(time[: fold.judged.start], inner):
            in_time_order(time, within.train, within.judged, fold.judged)


def test_rows_of_one_moment_cannot_be_cut():
    with pytest.raises(ParamsError, match=r"tune\.folds 3"):
        tuning.folds(np.zeros(100, dtype=np.int64), 3)


def test_a_trial_reads_train_rows_only_and_gives_one_score_a_fold(tmp_path: Path):
    at = prepare(tmp_path)
    task = params.task(at.params, "orders")
    time = np.load(at.prepared / "train.npz")["time"]
    told: list[float] = []
    better = {"boosting.iterations": 40, "boosting.learning_rate": 0.1}
    judge = bench("orders", task, at)
    judged = judge(Job(better, tuning.folds(time, 3), reports=True), told.append)
    assert len(judged.scores) == 3
    assert told == pytest.approx([judged.scores[0], np.mean(judged.scores[:2])])
    alone = judge(Job({}, tuning.folds(time, 1), reports=True), told.append)
    assert told[-1] == pytest.approx(alone.scores[0]), "with one fold, epochs are told"


def test_a_trial_answers_with_as_many_threads_as_it_is_fitted_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Workers side by side whose boosted trees answer with all cores are many times slower."""
    at = prepare(tmp_path)
    task = params.task(at.params, "orders")
    task = task.model_copy(update={"train": task.train.model_copy(update={"family": "boosting"})})
    kind, seen = KINDS["tabular"], list[int]()
    real = kind.answers

    def answers(fitted: Any, rows: Any) -> np.ndarray:
        seen.extend(pool["num_threads"] for pool in threadpoolctl.threadpool_info())
        return real(fitted, rows)

    monkeypatch.setattr(kind, "answers", answers)
    time = np.load(at.prepared / "train.npz")["time"]
    with threadpoolctl.threadpool_limits(2):
        bench("orders", task, at)(Job({}, tuning.folds(time, 2), True), lambda _: None)
    assert task.train.threads == 1
    assert set(seen) == {1}


def test_a_fold_inside_an_outer_one_needs_two_labels_as_well(tmp_path: Path):
    at = prepare(tmp_path)
    task, agreed = params.task(at.params, "orders"), contract.load(at.contract)
    file = at.prepared / "train.npz"
    rows = dict(np.load(file))
    (one, *_) = tuning.outer(rows["time"], task.tune.outer_folds, task.tune.folds)
    inner = tuning.folds(rows["time"][: one.judged.start], task.tune.folds)[0].judged
    rows["label"] = np.arange(len(rows["label"])) % 5 == 0
    rows["label"][inner] = 0
    store.write_arrays(file, **rows)
    said = rf"train rows {inner.start} to {inner.stop} into a part .* one label only"
    with pytest.raises(ParamsError, match=said):
        stage.run("orders", task, agreed, at, workers=1, nested=True)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("params", 'last: "2024-03"', 'last: "2024-04"', "up to 2024-03, and params.yaml says 2024-04"),
        ("contract", "nulls: 0.2", "nulls: 0.3", "an earlier contracts/orders.yaml"),
    ],
)  # fmt: skip
def test_rows_of_another_window_or_contract_are_refused_before_any_trial(
    tmp_path: Path, file: str, old: str, new: str, said: str
):
    at = prepare(tmp_path)
    path: Path = getattr(at, file)
    path.write_text(path.read_text().replace(old, new))
    task, agreed = params.task(at.params, "orders"), contract.load(at.contract)
    with pytest.raises(MissingInput, match=rf"prepared.json is of .*{said}.*repro prepare@orders"):
        stage.run("orders", task, agreed, at, workers=1, nested=False)
    assert not at.tune.exists()


def test_a_training_that_breaks_down_is_an_answer(tmp_path: Path):
    at = prepare(tmp_path)
    task = params.task(at.params, "orders")
    values = {"family": "network", "network.batch": 256, "network.learning_rate": 1e30}
    time = np.load(at.prepared / "train.npz")["time"]
    judged = bench("orders", task, at)(Job(values, tuning.folds(time, 2), True), lambda _: None)
    assert judged.scores == ()
    assert "loss" in judged.broke


# Back into params.yaml ------------------------------------------------------------------------

KEYS = ("tasks", "orders", "train")


def test_a_value_changes_and_every_other_character_stays():
    changes = {(*KEYS, "boosting", "iterations"): 40, (*KEYS, "boosting", "learning_rate"): 0.12}
    changed = params_text.put(PARAMS, changes)
    assert changed == PARAMS.replace("iterations: 3,", "iterations: 40,").replace(
        "learning_rate: 0.001,", "learning_rate: 0.12,"
    )


LAYOUTS = [
    PARAMS,
    PARAMS.replace("\n", "\r\n"),
    PARAMS.replace("{iterations: 3, learning_rate: 0.001, min_leaf: 20}", "{}"),
    PARAMS.replace(
        "{iterations: 3, learning_rate: 0.001, min_leaf: 20}",
        "\n        # one\n        iterations: 3  # two\n\n        # three\n",
    ),
    "tasks: {orders: {train: {seed: 7}}}\n",
    "tasks:\n  orders:\n    train:\n      seed: 7",
    "tasks:\n  orders:\n    train:\n      seed: 7 # last\n  # of tasks\n  other: {train: {seed: 1}}\n",
]


@given(
    st.sampled_from(LAYOUTS),
    st.sampled_from([("seed",), ("family",), ("boosting", "min_leaf"), ("network", "width")]),
    st.integers(0, 999)
    | st.floats(1e-9, 1e9)
    | st.sampled_from(["on", "a: b", "network", "1e-05"]),
)
def test_any_key_can_be_set_in_any_layout_and_comments_stay(text, key, value):
    changed = params_text.put(text, {(*KEYS, *key): value})
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    here = after["tasks"]["orders"]["train"]
    for part in key[:-1]:
        here = here[part]
    assert here[key[-1]] == value
    assert type(here[key[-1]]) is type(value)
    assert len(changed.splitlines()) - len(text.splitlines()) in (0, 1)
    for line in text.splitlines():
        if "#" in line:
            assert line.partition("#")[2] in changed
    back = {(*KEYS, *key): value}
    assert params_text.put(changed, back) == changed
    other = {name for name in before["tasks"] if name != "orders"}
    assert {n: before["tasks"][n] for n in other} == {n: after["tasks"][n] for n in other}


def test_a_value_that_an_anchor_shares_is_refused():
    text = "tasks: {orders: {train: &t {seed: 7}}, other: {train: *t}}\n"
    with pytest.raises(ParamsError, match=r"tasks\.orders\.train\.seed .* anchor.*edit params"):
        params_text.put(text, {(*KEYS, "seed"): 8})


# The study ------------------------------------------------------------------------------------

SPACE = {
    "boosting.learning_rate": Dimension(low=0.001, high=1.0, log=True),
    "boosting.iterations": Dimension(choices=(10, 20, 30)),
}
TODAY: tuning.Values = {"boosting.learning_rate": 0.05, "boosting.iterations": 20}


def opened(folder: Path, sampler: Any = "tpe", name: str = "orders-1", **more: Any) -> Study:
    tune = Tune(sampler=sampler, **{"space": SPACE, "trials": 12} | more)
    return Study(f"sqlite:///{folder}/trials.db", name, tune, seed=7)


def value_of(values: tuning.Values) -> float:
    return -abs(np.log10(float(values["boosting.learning_rate"])) + 1) - float(
        values["boosting.iterations"] != 30
    )


def work_off(study: Study, trials: int) -> list[tuning.Values]:
    while study.left(trials) > 0:
        trial = study.ask(TODAY)
        study.tell(trial, value_of(trial.values), (value_of(trial.values),))
    return [t.values for t in study.tried()]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_stopped_tries_what_it_would_have_tried(tmp_path: Path, sampler: str):
    whole = work_off(opened(tmp_path, sampler), 9)
    assert whole[0] == TODAY
    assert len({repr(values) for values in whole}) == 9

    part = opened(tmp_path, sampler, "orders-2")
    assert work_off(part, 6) == whole[:6]
    killed = part.ask(TODAY)
    assert killed.values == whole[6]
    again = opened(tmp_path, sampler, "orders-2")
    assert again.left(9) == 3, "a trial that a killed process left open does not count"
    again.bury()
    assert work_off(again, 9) == whole


@pytest.mark.parametrize("whose", ["another host's", "one whose pid is another's now"])
def test_a_trial_left_open_in_sqlite_is_failed_whoever_had_it(
    tmp_path: Path, whose: str, monkeypatch: pytest.MonkeyPatch
):
    """As after a restart in another container: the lock says that nobody is at it."""
    with monkeypatch.context() as then:
        if whose == "another host's":
            then.setattr(socket, "gethostname", lambda: "elsewhere")
        else:
            then.setattr(os, "getpid", lambda: 1)
        opened(tmp_path).ask(TODAY)
    again = opened(tmp_path)
    again.bury()
    assert work_off(again, 3)[0] == TODAY


def test_the_present_settings_are_tried_however_few_trials_are_left(tmp_path: Path):
    study = opened(tmp_path)
    present, *others = [study.ask(TODAY) for _ in range(4)]
    for trial in others:
        study.tell(trial, None, ())
    study.fail(present)
    assert study.left(3) == 1
    assert study.ask(TODAY).index == PRESENT
    assert study.left(3) == 0


def test_what_another_command_has_not_ended_is_told(tmp_path: Path):
    study = opened(tmp_path)
    study.ask(TODAY)
    study.tell(study.ask(TODAY), 0.5, (0.5,))
    with pytest.raises(PipelineError, match="has the trial of the present settings") as told:
        stage._present(study)
    assert f"another command ({socket.gethostname()}:{os.getpid()})" in str(told.value)
    command = str(told.value).partition("end that trial with: ")[2]
    subprocess.run(
        ["bash", "-c", command], check=True, capture_output=True, timeout=60,
        env=os.environ | {"PERENNIAL_TUNE_STORE": f"sqlite:///{tmp_path}/trials.db"},
    )  # fmt: skip
    assert opened(tmp_path).ask(TODAY).index == PRESENT


def test_nothing_is_stopped_for_a_trial_that_was_killed(tmp_path: Path):
    """It is tried again, and Optuna's own pruner counts both."""

    def search(name: str, killed: bool) -> list[bool]:
        study = opened(tmp_path, "random", name)
        if killed:
            study.step(study.ask(TODAY), 1, 0.60)
            study = opened(tmp_path, "random", name)
            study.bury()
        return [study.step(study.ask(TODAY), 1, value) for value in (0.60, 0.70, 0.62, 0.65)]

    assert search("whole", False) == search("killed", True) == [True, True, False, True]


def test_a_setting_that_may_be_null_is_tried_from_null_on(tmp_path: Path):
    space = {"backbone.unfreeze": Dimension(choices=(0, None, 2))}
    study = opened(tmp_path, "grid", space=space)
    while study.left(9):
        study.tell(study.ask({"backbone.unfreeze": None}), 0.5, (0.5,))
    assert next(t.values["backbone.unfreeze"] for t in study.tried()) is None
    assert {t.values["backbone.unfreeze"] for t in study.tried()} == {0, None, 2}
    bounds = {"backbone.layer_decay": Dimension(low=0.5, high=1.0)}
    assert not tuning.contains(bounds, {"backbone.layer_decay": None})


def test_tpe_learns_and_comes_near_the_best(tmp_path: Path):
    found = [value_of(values) for values in work_off(opened(tmp_path, trials=25), 25)]
    assert max(found[10:]) > -0.2
    assert np.mean(found[10:]) > np.mean(found[:8]) + 0.3


def test_a_grid_tries_the_present_and_then_every_combination_once(tmp_path: Path):
    space = {
        "boosting.learning_rate": Dimension(choices=(0.05, 0.1)),
        "boosting.iterations": Dimension(low=10, high=30, step=10),
    }
    tried = work_off(opened(tmp_path, "grid", space=space), 100)
    assert tried[0] == TODAY
    assert len(tried) == 6
    assert len({repr(values) for values in tried}) == 6
    apart = {"boosting.iterations": 11, "boosting.learning_rate": 0.05}
    study = opened(tmp_path, "grid", "other", space=space)
    study.fail(study.ask(apart))
    assert study.ask(apart).values == apart, "not on the grid, and first all the same"


def test_present_settings_outside_the_space_are_the_first_trial_all_the_same(tmp_path: Path):
    study = opened(tmp_path)
    today = TODAY | {"boosting.iterations": 7}
    trial = study.ask(today)
    assert (trial.index, trial.values) == (PRESENT, today)
    study.tell(trial, 0.5, (0.5,))
    assert study.ask(today).values != today


def test_the_lower_half_is_stopped_and_the_present_settings_never(tmp_path: Path):
    study = opened(tmp_path, "random")
    present = study.ask(TODAY)
    for step, value in enumerate((0.6, 0.7), 1):
        assert study.step(present, step, value)
    worse, better = study.ask(TODAY), study.ask(TODAY)
    assert not study.step(worse, 1, 0.5)
    assert study.step(better, 1, 0.65)
    assert study.step(better, 2, 0.75)
    assert study.step(better, 4, 0.8)
    assert study.step(present, 4, 0.1), "in the lower half, and not stopped"
    study.tell(worse, None, ())
    study.tell(better, 0.75, (0.65, 0.85))
    study.tell(present, 0.1, (0.1,))
    assert [t.score for t in study.tried()] == [0.1, None, 0.75]
    free = opened(tmp_path, "random", "free", pruner="none")
    trials = [free.ask(TODAY) for _ in range(3)]
    assert all(free.step(trial, 1, value) for trial, value in zip(trials, (3, 2, 1), strict=True))


def test_a_failed_trial_does_not_count_and_its_settings_come_again(tmp_path: Path):
    study = opened(tmp_path, "random")
    work_off(study, 3)
    one, other = study.ask(TODAY), study.ask(TODAY)
    study.fail(one)
    assert study.left(12) == 8
    again = study.ask(TODAY)
    assert (again.index, again.values) == (one.index, one.values)
    assert again.values != other.values


def test_a_database_out_of_reach_is_named_without_its_password():
    url = "postgresql+psycopg2://me:secret@127.0.0.1:1/tune"
    with pytest.raises(RegistryError, match=tune_store.VARIABLE) as refused:
        Study(url, "orders", Tune(), 7)
    assert "127.0.0.1:1/tune" in str(refused.value)
    assert "secret" not in str(refused.value)
    with pytest.raises(RegistryError, match=f"of {tune_store.VARIABLE}"):
        Study("not a url", "orders", Tune(), 7)


# The crew -------------------------------------------------------------------------------------


def doubling() -> Any:
    def work(job: Any, report: Report) -> Any:
        if job == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "break":
            raise ParamsError("params.yaml: wrong")
        for step in range(job):
            report(step)
        return job * 2

    return work


def heard_of(crew: Crew, ticket: str, stop_at: int = 99) -> Any:
    until = clock.monotonic() + 60
    while clock.monotonic() < until:
        for heard in crew.hear():
            if heard.what != "step":
                assert heard.ticket is ticket
                return heard
            crew.answer(ticket, heard.said < stop_at)
    raise AssertionError("nothing was heard")


class Starved:
    """A crew of one, whose worker finds no memory."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    free = property(lambda self: not self.given)
    busy = property(lambda self: bool(self.given))

    def give(self, ticket: Any, _: Job) -> None:
        self.given.append(ticket)

    def hear(self) -> list[Any]:
        none = Judged((), "out of memory", memory=True)
        return [SimpleNamespace(ticket=self.given.pop(), what="done", said=none)]


def test_present_settings_that_found_no_memory_are_tried_again_by_the_same_command(tmp_path: Path):
    """Another process may have had it: kept as an answer, it would refuse every search after."""
    at = prepare(tmp_path)
    task = params.task(at.params, "orders")
    recorded: Any = SimpleNamespace(trial=lambda *_: "run", killed=lambda *_: None)
    starved: Any = Starved()
    study = opened(tmp_path)
    with pytest.raises(PipelineError, match=r"present settings.*out of memory.*--workers 1"):
        search(task, starved, recorded, study, ())
    assert study.tried() == []
    assert opened(tmp_path).ask(TODAY).index == PRESENT


def test_want_of_memory_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def starved(*_: object, **__: object) -> None:
        raise ArtifactError("train orders: out of memory") from MemoryError("out of memory")

    at = prepare(tmp_path)
    monkeypatch.setattr(KINDS["tabular"], "fit", starved)
    time = np.load(at.prepared / "train.npz")["time"]
    judge = bench("orders", params.task(at.params, "orders"), at)
    assert judge(Job({}, tuning.folds(time, 2), True), lambda _: None) == Judged(
        (), "out of memory", memory=True
    )


def test_a_crew_works_stops_breaks_and_loses_one_without_losing_the_other():
    with closing(Crew(2, doubling)) as crew:
        crew.give("one", 3)
        assert heard_of(crew, "one").said == 6
        crew.give("two", 3)
        assert heard_of(crew, "two", stop_at=1).what == "stopped"
        crew.give("three", "break")
        broke = heard_of(crew, "three")
        assert broke.what == "broke"
        assert isinstance(broke.said, ParamsError)
        crew.give("four", "die")
        assert heard_of(crew, "four").what == "died"
        assert crew.free == 1
        crew.give("five", 2)
        assert heard_of(crew, "five").said == 4
