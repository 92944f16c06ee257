"""Where a training runs, for machines that are not at hand: `pytest tests/test_devices.py`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ParamsError
from pipelines.models import compiling, devices, distributed, loop
from pipelines.models.compiling import choose
from pipelines.models.devices import Reported, plan
from pipelines.models.learner import Stepper
from pipelines.models.loop import Loop
from pipelines.models.place import Batch
from pipelines.models.world import World, world
from pipelines.train_params import Machine
from tests.training_world import CPU, LOOP, digest, on_pictures, trained

H100 = Reported(cuda=True, capability=(9, 0), devices=4)
V100 = Reported(cuda=True, capability=(7, 0), devices=1)
MAC = Reported(mps=True)
NONE = Reported()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("found", "device", "precision", "tf32", "scaled"),
    [
        (H100, "cuda", "bf16", True, False),
        (V100, "cuda", "fp16", False, True),
        (MAC, "mps", "fp32", False, False),
        (NONE, "cpu", "fp32", False, False),
    ],
)
def test_the_best_that_is_there_is_chosen(
    found: Reported, device: str, precision: str, tf32: bool, scaled: bool
) -> None:
    made = plan(Machine(), found)
    assert (made.device.type, made.precision, made.tf32, made.scaled) == (
        device, precision, tf32, scaled,
    )  # fmt: skip
    assert plan(Machine(device="cpu"), found).device.type == "cpu"


def test_a_choice_of_ones_own_holds() -> None:
    made = plan(Machine(precision="fp32"), H100, local_rank=3)
    assert (str(made.device), made.precision, made.tf32) == ("cuda:3", "fp32", False)
    assert plan(Machine(precision="fp16"), H100).scaled
    assert plan(Machine(precision="bf16"), NONE).precision == "bf16"


@pytest.mark.parametrize(
    ("machine", "found", "message"),
    [
        (Machine(device="cuda"), MAC, "train.device is cuda.* there are: auto, mps, cpu. Mend"),
        (Machine(device="mps"), NONE, "train.device is mps.* there are: auto, cpu. Mend"),
        (Machine(precision="fp16"), NONE, "precision is fp16, which needs a CUDA device, and"),
    ],
)
def test_what_is_not_there_is_refused(machine: Machine, found: Reported, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        plan(machine, found)


def test_a_process_after_the_last_gpu_trains_on_the_cpu_or_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def capability(device: int) -> tuple[int, int]:
        assert device < 2, "Invalid device id"  # as PyTorch says it
        return (9, 0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    last, after = devices.reported(1, 3), devices.reported(2, 3)
    assert (last.devices, last.capability) == (2, (9, 0))
    assert str(plan(Machine(), last, local_rank=1).device) == "cuda:1"
    assert plan(Machine(device="cpu"), after, local_rank=2).device.type == "cpu"
    with pytest.raises(
        ParamsError,
        match=r"process 2 of this machine, counted from 0, has no GPU: there are 2.* Run: torchrun "
        "--nproc-per-node 2 -m pipelines train <name>; or.* device: cpu, with: edit params.yaml",
    ):
        plan(Machine(), after, local_rank=2)


def test_a_mac_trains_on_its_gpu_with_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gloo exchanges no tensors of MPS."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert plan(Machine(), devices.reported(0, 1)).device.type == "mps"
    assert plan(Machine(), devices.reported(0, 2)).device.type == "cpu"
    with pytest.raises(ParamsError, match="device is mps"):
        plan(Machine(device="mps"), devices.reported(0, 2))


@given(rows=st.integers(0, 10**12), free=st.integers(0, 10**12))
def test_rows_stay_on_a_device_while_they_leave_room(rows: int, free: int) -> None:
    assert devices.fits(rows, free) == (2 * rows <= free)
    assert devices.fits(rows, None)


def test_bf16_and_determinism_reach_the_arithmetic() -> None:
    seen: list[Any] = []

    def change(objective: Any) -> None:
        head = objective.module.head
        head.register_forward_hook(
            lambda _, __, out: seen.append(
                (out.dtype, torch.are_deterministic_algorithms_enabled(), objective.module.training)
            )
        )

    def dtypes(training: bool) -> set[Any]:
        return {(d, strict) for d, strict, t in seen if t == training}

    trained("pictures", change=change, epochs=1)
    assert dtypes(True) == {(torch.float32, False)}
    seen.clear()
    strict = CPU.model_copy(update={"precision": "bf16", "deterministic": True})
    trained("pictures", change=change, epochs=1, machine=strict)
    assert dtypes(True) == {(torch.bfloat16, True)}
    assert dtypes(False) == {(torch.float32, True)}, "judged as it will be exported"
    assert not torch.are_deterministic_algorithms_enabled()


def tf32() -> tuple[str, bool]:
    """Of products, of convolutions."""
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("before", [("highest", True), ("high", False), ("medium", True)])
@pytest.mark.parametrize(
    ("machine", "found", "inside"),
    [
        (Machine(), H100, ("high", True)),
        (Machine(precision="fp32"), H100, ("highest", False)),
        (Machine(), V100, ("highest", False)),
        (Machine(), NONE, None),
    ],
)
def test_tf32_is_as_planned_in_products_and_convolutions_and_then_as_it_was(
    before: tuple[str, bool],
    machine: Machine,
    found: Reported,
    inside: tuple[str, bool] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before[0])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before[1])
    try:
        with devices.arithmetic(plan(machine, found)):
            assert tf32() == (inside or before)
        assert tf32() == before
    finally:
        torch.set_float32_matmul_precision(first)


def test_networks_are_judged_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the plan of an H100; the arithmetic stays here."""
    seen: list[tuple[str, tuple[str, bool]]] = []
    real = Loop._judge

    def change(objective: Any) -> None:
        loss, judge = objective.loss, objective.judge
        objective.loss = lambda *given: (seen.append(("loss", tf32())), loss(*given))[1]
        objective.judge = lambda _: (seen.append(("judge", tf32())), judge(torch.device("cpu")))[1]

    def judged(loop: Loop, report: dict[str, float]) -> bool:
        loop.plan = plan(Machine(), H100)
        return real(loop, report)

    monkeypatch.setattr(Loop, "_judge", judged)
    with devices.arithmetic(plan(Machine(), H100)):
        trained("pictures", epochs=1, change=change)
    assert set(seen) == {("loss", ("high", True)), ("judge", ("highest", False))}


@pytest.mark.parametrize("size", [1, 4])
def test_torchrun_says_who_this_process_is(size: int) -> None:
    told = {"RANK": "2", "WORLD_SIZE": str(size), "LOCAL_RANK": "1"}
    assert world(told) == World(2, size, 1)
    assert not world(told).first
    assert world({}) == World(0, 1, 0)


# torch.compile


def stepper(device: str = "cpu") -> tuple[Stepper, tuple[torch.Tensor, ...]]:
    objective = on_pictures(LOOP)
    made = Stepper(objective, LOOP, plan(CPU, NONE), 6, torch.Generator())
    if device != "cpu":  # what is asked of a plan only; the arithmetic stays here
        made.plan = plan(Machine(precision="fp32"), H100)
    return made, tuple(part[:32] for part in objective.rows)


@pytest.mark.parametrize("world", ["table", "pictures"])
@pytest.mark.parametrize("fails", ["forward", "backward"])
def test_a_compiler_that_fails_is_told_of_and_done_without(
    world: str, fails: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the backward pass some have their gradient already: a table's days, which no network has."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no compiler\nwas found")

    def broken(module: torch.nn.Module) -> torch.nn.Module:
        class Broken(torch.nn.Module):
            def forward(self, *given: Any) -> torch.Tensor:
                if fails == "forward":
                    fail()
                answer: torch.Tensor = module(*given)
                answer.register_hook(fail)
                return answer

        return Broken()

    expected = digest(trained(world))
    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        found = trained(world, machine=CPU.model_copy(update={"compile": "always"}))
    assert "torch.compile failed, going on without it: RuntimeError: no compiler" in caplog.text
    assert digest(found) == expected, "the try moved weights, moments or chance"


def test_the_compiled_network_is_the_one_that_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def compiled(module: torch.nn.Module) -> torch.nn.Module:
        class Compiled(torch.nn.Module):
            def forward(self, *given: Any) -> Any:
                called.append(1)
                return module(*given)

        return Compiled()

    expected = digest(trained("pictures"))
    monkeypatch.setattr(torch, "compile", compiled)
    trained("pictures")
    assert not called, "auto compiles on a GPU only"
    found = trained("pictures", machine=CPU.model_copy(update={"compile": "always"}))
    assert len(called) == 18 + 1
    assert digest(found) == expected


@pytest.mark.parametrize(("accumulate", "rows", "steps"), [(1, [32], 18), (3, [11, 10], 54)])
def test_compiling_is_tried_with_every_size_that_is_computed_at_once(
    accumulate: int, rows: list[int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[list[int]], int]] = []

    def choose(_: Stepper, parts: list[Batch], how: str, steps: int, *__: Any) -> bool:
        asked.append(([[len(rows) for rows in part] for part in parts], steps))
        return False

    monkeypatch.setattr(compiling, "choose", choose)
    trained("pictures", accumulate=accumulate)
    assert asked == [([[size, size] for size in rows], steps)]


def test_every_process_compiles_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rank 0 found, which alone has measured."""
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    monkeypatch.setattr(compiling, "choose", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(loop, "world", lambda: World(1, 2, 1))
    for said in (0.0, 1.0):
        monkeypatch.setattr(
            distributed, "values_from_first", lambda found, said=said: {"compiled": said}
        )
        made = Loop(on_pictures(LOOP), LOOP, (), 7, CPU, plan(CPU, NONE), None)
        made._compile()
        assert len(compiled) == said


@pytest.mark.parametrize(
    ("plain", "compiled", "steps", "expected"),
    [
        (0.01, 0.005, 100_000, True),
        (0.01, 0.0099, 100_000, False),
        (0.01, 0.001, 1000, False),
    ],
)
def test_compiling_is_kept_where_it_pays_and_the_finding_too(
    plain: float,
    compiled: float,
    steps: int,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, batch = stepper("cuda")
    monkeypatch.setattr(compiling, "_key", lambda *_: "this network")
    monkeypatch.setattr(torch, "compile", lambda module: torch.nn.Sequential(module))
    monkeypatch.setattr(compiling, "unmoved", lambda _: torch.enable_grad())
    times = iter([plain, compiled])
    memory = tmp_path / "compile.json"
    assert choose(made, [batch], "auto", steps, memory, lambda *_: next(times)) is expected
    assert (made.learner.running[0] is not made.learner.module) is expected
    if steps > 1000:
        assert f'"this network": {str(expected).lower()}' in memory.read_text()
    if not expected and steps > 1000:
        never = iter(())
        assert choose(made, [batch], "auto", steps, memory, lambda *_: next(never)) is False


def test_a_measurement_takes_time_and_moves_nothing() -> None:
    made, batch = stepper()
    before = {k: v.clone() for k, v in made.learner.state_dict().items()}
    drawn = torch.get_rng_state()
    assert compiling.seconds(made, batch) > 0
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(v, before[k]) for k, v in made.learner.state_dict().items())
    assert all(p.grad is None for p in made.learner.parameters())
