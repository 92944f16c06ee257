"""The one loop, setting by setting; each is seen to do something: `pytest tests/test_fit.py`."""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from pipelines import train_params
from pipelines.models import chance, devices, observing, place, tables, watch
from pipelines.models.averaging import Average
from pipelines.models.classes import Classes
from pipelines.models.learner import Stepper
from pipelines.models.loop import Loop, Trained
from pipelines.models.objective import decaying
from pipelines.models.schedule import schedule
from pipelines.models.tables import class_weights, table
from pipelines.models.watch import Watch
from tests.training_world import (
    CARDINALITIES,
    CPU,
    HELD_ROWS,
    LOOP,
    TABLE,
    TRAIN_ROWS,
    Small,
    digest,
    on_pictures,
    pictures,
    rows,
    trained,
)

ANY = torch.Generator()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def differ(one: Trained, other: Trained) -> bool:
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


def test_the_loop_is_the_plain_one_to_the_bit() -> None:
    """What everyone would write, for the defaults; the loop adds nothing to the weights."""
    torch.manual_seed(7)
    train = rows(TRAIN_ROWS)
    objective = table(train, rows(HELD_ROWS, seed=1), CARDINALITIES, TABLE)
    network = objective.module
    biases = [p for p in network.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [*biases, objective.effect_D], "weight_decay": 0.0},
        ],
        lr=TABLE.learning_rate,
        fused=True,
    )
    steps = TRAIN_ROWS // TABLE.batch
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, TABLE.learning_rate, total_steps=steps * TABLE.epochs + 1, pct_start=0.2
    )
    _, day = np.unique(train.time // 86_400, return_inverse=True)
    weights = {}
    for _ in range(TABLE.epochs):
        network.train()
        order = torch.randperm(TRAIN_ROWS)
        for step in range(steps):
            at = order[step * TABLE.batch : (step + 1) * TABLE.batch]
            logit = network(torch.tensor(train.numbers)[at], torch.tensor(train.codes)[at])
            prior = objective.effect_D.square().sum() / (2 * 0.1**2 * TRAIN_ROWS)
            logit = logit + objective.effect_D[torch.tensor(day)[at]]
            label = torch.tensor(train.label, dtype=torch.float32)[at]
            loss = F.binary_cross_entropy_with_logits(logit, label) + prior
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rate.step()
        weights = {name: value.clone() for name, value in network.state_dict().items()}
    found = trained("table")
    assert found.best["epoch"] == TABLE.epochs - 1, "the plain loop above keeps the last epoch"
    for name, value in found.module.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("world", ["table", "pictures"])
@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 0.02}, {"warmup": 0.5}, {"weight_decay": 0.5}, {"clip": 0.01},
        {"clip": 0.0}, {"average": 0.9}, {"label_smoothing": 0.2}, {"class_weights": "balanced"},
        {"schedule": "cosine"}, {"schedule": "constant"}, {"schedule": "step"},
        {"schedule": "step", "decay": 0.5}, {"schedule": "step", "decay_epochs": 2},
        {"schedule": "plateau"}, {"batch": 40},
    ],
    ids=str,
)  # fmt: skip
def test_each_setting_changes_the_weights(world: str, changed: dict[str, Any]) -> None:
    base = {k: v for k, v in changed.items() if k == "schedule" and len(changed) > 1}
    if changed == {"clip": 0.0}:
        base = {"clip": 0.01}
    if changed == {"schedule": "plateau"}:  # falls where the loss no longer does
        base, changed = {"schedule": "constant", "epochs": 8, "learning_rate": 0.5}, {
            "schedule": "plateau", "epochs": 8, "learning_rate": 0.5, "patience": 8,
        }  # fmt: skip
        base["patience"] = 8
    assert differ(trained(world, **base), trained(world, **changed))


@pytest.mark.parametrize("changed", [{"dropout": 0.4}, {"initial": "kaiming"}], ids=str)
def test_each_setting_of_the_table_changes_the_weights(changed: dict[str, Any]) -> None:
    assert differ(trained("table"), trained("table", **changed))


@pytest.mark.parametrize("initial", ["kaiming", "xavier", "orthogonal"])
def test_first_weights_are_drawn_as_named(initial: str) -> None:
    torch.manual_seed(1)
    changed = TABLE.model_copy(update={"initial": initial, "width": 64})
    layer = table(rows(50), rows(50), CARDINALITIES, changed).module.trunk[0]
    outputs, inputs = layer.weight.shape
    assert torch.all(layer.bias == 0)
    if initial == "orthogonal":
        gram = layer.weight @ layer.weight.T if outputs < inputs else layer.weight.T @ layer.weight
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
    else:
        variance = 2 / outputs if initial == "kaiming" else 2 / (inputs + outputs)
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.2)


def test_parts_of_a_batch_make_the_step_of_the_whole() -> None:
    """In float64: the same but for rounding. 5 does not divide 64."""

    def double(objective: Any) -> None:
        objective.module.double()
        objective.rows = tuple(r.double() if r.is_floating_point() else r for r in objective.rows)
        objective.effect_D.data = objective.effect_D.data.double()
        objective.judge = lambda _: {"validation_loss": 1.0, "validation_auc": 0.5}

    still = {"dropout": 0.0, "change": double}
    unseen, tables_unseen = 0.0, "pipelines.models.network.UNSEEN"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables_unseen, unseen)
        whole, parts = trained("table", **still), trained("table", accumulate=5, **still)
    for name, value in whole.module.state_dict().items():
        torch.testing.assert_close(parts.module.state_dict()[name], value, rtol=1e-8, atol=1e-8)
    sizes: list[int] = []

    def sized(objective: Any) -> None:
        real = objective.loss
        objective.loss = lambda m, batch, g: (sizes.append(len(batch[0])), real(m, batch, g))[1]

    trained("table", accumulate=5, epochs=1, change=sized)
    assert max(sizes) == 13


def test_early_stopping_keeps_the_best_epoch() -> None:
    scores, weights = iter([0.6, 0.9, 0.7, 0.7, 0.7]), []

    def change(objective: Classes) -> None:
        def judge(_: torch.device) -> dict[str, float]:
            weights.append({k: v.clone() for k, v in objective.module.state_dict().items()})
            return {"validation_loss": 0.5, "validation_accuracy": next(scores)}

        objective.judge = judge  # type: ignore[method-assign]

    found = trained("pictures", epochs=9, patience=2, change=change)
    assert len(found.history) == 4
    assert found.best == {"epoch": 1.0, "validation_loss": 0.5, "validation_accuracy": 0.9}
    for name, value in found.module.state_dict().items():
        assert torch.equal(value, weights[1][name])


# Schedules


def rates(**changed: Any) -> list[float]:
    changed = {"learning_rate": 1.0, "epochs": 5} | changed
    losses = changed.pop("losses", [1.0] * 5)
    asked = train_params.Loop(**changed)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made, found = schedule(optimizer, asked, batches=10), []
    for epoch in range(5):
        for _ in range(10):
            found.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            made.step()
        made.epoch(losses[epoch])
    return found


@given(
    shape=st.sampled_from(["one_cycle", "cosine", "step", "plateau", "constant"]),
    warmup=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]),
)
@settings(max_examples=25, deadline=None)
def test_a_rate_rises_for_the_warm_up_and_never_after(shape: str, warmup: float) -> None:
    found = rates(schedule=shape, warmup=warmup)
    top = round(50 * warmup)
    assert all(0 <= rate <= 1 + 1e-9 for rate in found)
    assert all(a <= b + 1e-9 for a, b in pairwise(found[:top]))
    assert all(a >= b - 1e-9 for a, b in pairwise(found[top:]))
    assert max(found) > 0.85


def test_a_rate_falls_as_its_shape_says() -> None:
    assert rates(schedule="constant", warmup=0.0) == [1.0] * 50
    cosine = rates(schedule="cosine", warmup=0.0)
    assert cosine[25] == pytest.approx(0.5)
    assert cosine[-1] < 0.01
    steps = rates(schedule="step", warmup=0.0, decay=0.5, decay_epochs=2)
    assert steps == [1.0] * 20 + [0.5] * 20 + [0.25] * 10
    falling = rates(schedule="plateau", warmup=0.0, decay_epochs=2, losses=[3, 2, 1, 1, 1])
    assert falling == [1.0] * 50, "the second epoch without a lower loss was the last"
    stuck = rates(schedule="plateau", warmup=0.0, losses=[1, 1, 0.5, 0.5, 0.4])
    assert stuck == [1.0] * 20 + [0.1] * 20 + [pytest.approx(0.01)] * 10


@pytest.mark.parametrize("shape", ["one_cycle", "cosine"])
def test_groups_keep_the_proportion_of_their_rates(shape: str) -> None:
    asked = train_params.Loop(schedule=shape, learning_rate=1.0)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.AdamW(groups)
    made = schedule(optimizer, asked, batches=10)
    for _ in range(30):
        optimizer.step()
        made.step()
        head, trunk = (float(group["lr"]) for group in optimizer.param_groups)
        assert trunk == pytest.approx(0.1 * head)


# Weights of rows and of the past


def test_only_matrices_and_kernels_decay() -> None:
    module = Small()
    heavy, light = decaying(list(module.parameters()), 0.3)
    assert [p.shape for p in heavy["params"]] == [(4, 1, 3, 3), (3, 32)]
    assert (heavy["weight_decay"], light["weight_decay"]) == (0.3, 0.0)
    assert len(light["params"]) == 4


def test_the_mean_of_weights_follows_them_and_is_what_is_kept() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    average = Average(module, 0.5)
    expected = module.weight.item()
    for step in range(20):
        module.weight.data.fill_(step)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.worn():
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == 19
    kept: list[torch.Tensor] = []

    def change(objective: Any) -> None:
        real = objective.judge
        objective.judge = lambda d: (kept.append(objective.module.head.weight.clone()), real(d))[1]

    found = trained("pictures", average=0.9, change=change)
    assert torch.equal(found.module.head.weight, kept[int(found.best["epoch"])])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_balanced_classes_weigh_alike(labels: list[int]) -> None:
    label = np.array(labels)
    weights = np.array(class_weights(label, 4))
    total = np.bincount(label, weights=weights[label], minlength=4)
    assert weights[label].mean() == pytest.approx(1.0)
    assert total[total > 0] == pytest.approx(total.max())


def test_the_loss_of_classes_is_cross_entropy_smoothed_and_weighted() -> None:
    train = pictures(50)
    asked = LOOP.model_copy(update={"label_smoothing": 0.3, "class_weights": "balanced"})
    objective = Classes(Small(dropout=0.0), train, train, 3, asked)
    found = objective.loss(objective.module, train, ANY)
    log = torch.log_softmax(objective.module(train[0]), dim=1)
    target = F.one_hot(train[1], 3) * 0.7 + 0.1
    weight = torch.tensor(class_weights(train[1].numpy(), 3))[train[1]]
    expected = -(target * log).sum(dim=1) * weight
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_the_loss_of_a_table_is_smoothed_and_weighted() -> None:
    asked = TABLE.model_copy(
        update={"label_smoothing": 0.2, "class_weights": "balanced", "day_effect": 0.0}
    )
    train = rows(100)
    objective = table(train, train, CARDINALITIES, asked)
    objective.module.eval()
    logit = objective.module(*objective.rows[:2]).detach()
    label = objective.rows[2]
    weight = torch.tensor(class_weights(train.label, 2))[label.long()]
    smooth = label * 0.8 + 0.1
    each = -smooth * F.logsigmoid(logit) - (1 - smooth) * F.logsigmoid(-logit)
    found = objective.loss(objective.module, objective.rows, ANY).item()
    assert found == pytest.approx((each * weight).mean().item(), rel=1e-5)


def test_layers_learn_from_the_epoch_that_lets_them() -> None:
    seen: list[torch.Tensor] = []

    def change(objective: Classes) -> None:
        def begin(epoch: int) -> None:
            objective.module.convolution.requires_grad_(epoch >= 1)
            seen.append(objective.module.convolution.weight.detach().clone())

        objective._begin = begin
        objective._groups = lambda decay: decaying(list(objective.module.parameters()), decay)

    trained("pictures", change=change)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


# Numbers that are not finite


@given(
    bad=st.integers(0, 99),
    every=st.sampled_from([1, 7, 50]),
    kind=st.sampled_from(["loss", "gradient"]),
)
@settings(deadline=None)
def test_the_first_that_is_not_finite_is_named(bad: int, every: int, kind: str) -> None:
    """Also where the host looks at every so many steps only."""
    seen = Watch(3, 100, every)
    what = "the loss is nan" if kind == "loss" else f"{watch.GRADIENT} is inf"

    def steps() -> None:
        for batch in range(100):
            spoilt = batch > bad or (batch == bad and kind == "loss")
            seen.loss(torch.tensor(math.nan if spoilt else 1.0))
            hurt = batch > bad or (batch == bad and kind == "gradient")
            seen.gradient(torch.tensor(math.inf if hurt else 1.0))
        seen.mean()

    with pytest.raises(FloatingPointError, match=f"epoch 3, batch {bad} of 100: {what}"):
        steps()


@pytest.mark.parametrize("every", [1, 7, 50])
def test_the_mean_is_of_all_steps_however_they_are_looked_at(every: int) -> None:
    seen = Watch(0, 100, every)
    for batch in range(100):
        seen.loss(torch.tensor(float(batch)))
        seen.gradient(torch.tensor(1.0))
    assert seen.mean() == 49.5


def test_an_infinite_gradient_of_a_finite_loss_stops() -> None:
    def change(objective: Any) -> None:
        weight = objective.module.head.weight
        weight.register_hook(lambda gradient: gradient * math.inf)

    for clip in (1.0, 0.0):
        with pytest.raises(FloatingPointError, match="epoch 0, batch 0 of 6: the length"):
            trained("pictures", clip=clip, change=change)


# Rows in place and on the way


@pytest.mark.parametrize("world", ["table", "pictures"])
def test_streamed_rows_train_as_those_in_place(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digest(trained(world))
    used: list[int] = []
    real = place.Streamed._fill
    monkeypatch.setattr(place.Streamed, "_fill", lambda *given: (used.append(1), real(*given))[1])
    monkeypatch.setattr("pipelines.models.devices.free_bytes", lambda device: 0)
    assert digest(trained(world)) == expected
    assert len(used) == 3


def test_a_stream_that_breaks_says_so_and_one_that_is_left_ends() -> None:
    import threading

    order = torch.arange(64).view(16, 4)
    before = threading.active_count()
    streamed = place.Streamed((torch.arange(8),), torch.device("cpu"))
    with pytest.raises(IndexError):
        list(streamed.batches(order))
    taken: list[int] = []

    def endless() -> Iterator[torch.Tensor]:
        while True:
            taken.append(1)
            yield order[0]

    batches = place.Streamed((torch.arange(64),), torch.device("cpu")).batches(endless())
    assert next(batches)[0].tolist() == [0, 1, 2, 3]
    batches.close()
    assert threading.active_count() == before


# What is seen from outside


def test_the_callers_chance_stays() -> None:
    def drawn() -> list[float]:
        return [float(torch.rand(1)), random.random(), float(np.random.rand())]

    for set_seed in (torch.manual_seed, random.seed, np.random.seed):
        set_seed(3)
    expected = drawn()
    for set_seed in (torch.manual_seed, random.seed, np.random.seed):
        set_seed(3)
    trained("pictures", epochs=1)
    assert drawn() == expected


def test_progress_is_told_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    began = time.perf_counter()
    trained("table", epochs=6, on_step=told.append)
    assert len(told) <= 10 * (time.perf_counter() - began) + 1
    monkeypatch.setattr("pipelines.models.progress.TELL_SECONDS", 0.0)
    told.clear()
    trained("table", on_step=told.append)
    assert [(p.epoch, p.batch) for p in told] == [(e, b + 1) for e in range(3) for b in range(7)]
    assert all(math.isfinite(p.loss) and p.rows_per_second > 0 for p in told)
    assert told[-1].seconds_left == 0 < told[0].seconds_left


def test_a_macs_own_random_state_is_kept_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    here = torch.Generator()
    now = [torch.tensor([1])]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: now[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: now.__setitem__(0, state))
    of_mps = SimpleNamespace(
        device=SimpleNamespace(type="mps"), get_state=here.get_state, set_state=here.set_state
    )
    kept = chance.state(of_mps)
    now[0] = torch.tensor([2])
    chance.restore(kept, of_mps)
    assert now[0].item() == 1
    with chance.seeded(7, torch.device("mps")):
        now[0] = torch.tensor([3])
    assert now[0].item() == 1


def test_the_newest_loss_is_told_across_epochs_where_it_is_looked_at_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On an accelerator; epochs of fewer steps than lie between looks told no loss at all."""
    monkeypatch.setattr("pipelines.models.progress.TELL_SECONDS", 0.0)
    monkeypatch.setattr(Loop, "_accelerated", True)
    told: list[Any] = []
    trained("table", on_step=told.append)
    assert [math.isfinite(p.loss) for p in told] == [p.epoch > 0 for p in told]


def test_what_needs_too_much_memory_is_told_with_what_makes_it_less() -> None:
    def change(objective: Any) -> None:
        objective.loss = lambda *_: torch.empty(2**60)

    with pytest.raises(MemoryError, match=r"with batch 32 in 1 parts: .*accumulate.*params\.yaml"):
        trained("pictures", change=change)


def test_other_failures_stay_what_they_are() -> None:
    def change(objective: Any) -> None:
        objective.loss = lambda *_: torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError, match="size"):
        trained("pictures", change=change)


def test_fp16_whose_every_step_is_left_out_is_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scaler leaves out a step whose gradient is not finite, and halves the scale each time."""
    monkeypatch.setattr(Stepper, "scale", 2.0**-3)
    with pytest.raises(FloatingPointError, match=r"epoch 0: the scale of fp16's loss.* is 0\.125"):
        trained("pictures")


def test_the_scale_is_the_scalers_own() -> None:
    made = Stepper(
        on_pictures(LOOP), LOOP, devices.plan(CPU, devices.Reported()), 6, torch.Generator()
    )
    assert made.scale == 1
    made.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    inputs = torch.zeros((), requires_grad=True)
    for expected in (4.0, 2.0, 1.0, 0.5):
        assert made.scale == expected
        optimizer = torch.optim.SGD([inputs], lr=1.0)
        made.scaler.scale(inputs * math.inf).backward()
        made.scaler.step(optimizer)
        made.scaler.update()
        optimizer.zero_grad()


def test_another_trainings_trace_is_not_taken_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trace.json").write_text("of another training")
    monkeypatch.setattr(observing, "traced", lambda *_: contextlib.nullcontext(lambda: None))
    trained("pictures", machine=CPU.model_copy(update={"profile": True}), folder=tmp_path)
    assert not (tmp_path / "trace.json").exists()


def test_a_trace_that_too_few_steps_leave_unwritten_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with observing.traced(tmp_path / "trace.json", 100, cuda=False) as step:
        step()
    assert not (tmp_path / "trace.json").exists()
    assert "too few steps for a trace" in caplog.text


def test_epochs_that_are_told_again_are_drawn_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in (2, 3):
        with observing.events(tmp_path) as tell:
            for epoch in range(epochs):
                tell(epoch, {"loss": float(epoch)})
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [event.step for event in found] == [0, 1, 2]


def test_a_trace_and_events_are_written_where_asked(tmp_path: Path) -> None:
    machine = CPU.model_copy(update={"profile": True, "tensorboard": True})
    found = trained("pictures", machine=machine, folder=tmp_path)
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert any("adamw" in event.get("name", "").lower() for event in trace["traceEvents"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    other = trained("pictures", machine=machine, folder=tmp_path, learning_rate=1e-3)
    told = []
    for run in (run for run in (tmp_path / "events").iterdir() if run.is_dir()):
        events = EventAccumulator(str(run)).Reload().Scalars("validation_loss")
        told.append([event.value for event in events])
    expected = [[h["validation_loss"] for h in one.history] for one in (found, other)]
    assert sorted(told) == [pytest.approx(losses, rel=1e-5) for losses in sorted(expected)]
    with pytest.raises(ValueError, match="folder"):
        trained("pictures", machine=machine)
    plain = tmp_path / "plain"
    trained("pictures", folder=plain)
    assert not list(plain.glob("*"))


def test_a_later_epoch_within_the_noise_is_kept() -> None:
    objective = Classes(Small(), pictures(9), pictures(100), 3, LOOP)
    top = {"validation_accuracy": 0.9}
    assert not objective.worse({"validation_accuracy": 0.88}, top)
    assert objective.worse({"validation_accuracy": 0.86}, top)
    assert tables.worse(0.5, 0.8, np.arange(1000) % 2)


def test_pictures_are_never_computed_alone() -> None:
    """BatchNorm takes no deviation of one, where a network has shrunk the picture to a point."""
    sizes: list[int] = []

    def sized(objective: Any) -> None:
        real = objective.loss
        objective.loss = lambda m, batch, g: (sizes.append(len(batch[0])), real(m, batch, g))[1]

    trained("pictures", batch=9, accumulate=7, epochs=1, change=sized)
    assert set(sizes) == {2, 3}
    for family in (train_params.Cnn, train_params.Resnet):
        with pytest.raises(ValidationError, match="greater than or equal to 2"):
            family(batch=1)
