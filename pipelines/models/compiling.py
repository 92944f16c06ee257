"""torch.compile where it is asked for, or where a measurement says that it pays in this training.

Compiling costs a minute or so and buys a share of each step. So under `auto` short trainings never
try; long ones time some steps both ways and keep the faster, and the finding is kept beside the
checkpoint for the next training of the same network on the same device.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pipelines import store
from pipelines.models import chance
from pipelines.models.learner import Stepper
from pipelines.models.place import Batch

log = logging.getLogger(__name__)

WORTH_SECONDS = 120.0
"""Shorter trainings than this do not earn the compilation back."""
GAIN = 0.95
"""Share of the plain step's time that a compiled one must stay under."""
TIMED = 10
"""Steps of one measurement, after as many for warming up."""

Timer = Callable[[Stepper, Batch], float]


def choose(
    stepper: Stepper,
    parts: Sequence[Batch],
    asked: str,
    steps: int,
    memory: Path | None = None,
    timer: Timer | None = None,
) -> bool:
    """Put the compiled network into the learner, or leave the plain one; is it compiled now?

    parts: what is computed at once, one of each size, the first of the usual one: a compiler may fail at
    the second size only. steps: with as much, in the whole training. memory: file of what was found
    before.
    """
    batch = parts[0]
    timer = timer or seconds
    module = stepper.learner.module
    if asked == "never" or (asked == "auto" and stepper.plan.device.type != "cuda"):
        return False
    known = store.read_json(memory, "train") if memory is not None and memory.is_file() else {}
    key = _key(stepper, batch)
    plain = 0.0
    if asked == "auto":
        if known.get(key) is False:
            return False
        plain = timer(stepper, batch)
        if plain * steps < WORTH_SECONDS:
            return False
    stepper.learner.running[0] = torch.compile(module)
    try:
        with unmoved(stepper):
            for part in parts:
                _pass(stepper, part)
        pays = asked == "always" or timer(stepper, batch) < GAIN * plain
    except Exception as error:  # the compiler's own, of any kind: the plain network is there
        log.warning("torch.compile failed, going on without it: %s", _first_line(error))
        pays = False
    if not pays:
        stepper.learner.running[0] = module
    if memory is not None and asked == "auto":
        store.write_json(memory, known | {key: pays})
    return pays


@contextmanager
def unmoved(stepper: Stepper) -> Iterator[None]:
    """What the block runs leaves weights, moments and chance as they were."""
    drawn = chance.state(stepper.random)
    buffers = {name: b.clone() for name, b in stepper.learner.named_buffers()}
    stepper.learner.train()
    try:
        yield
    finally:
        chance.restore(drawn, stepper.random)
        for name, buffer in stepper.learner.named_buffers():
            buffer.copy_(buffers[name])
        stepper.optimizer.zero_grad()  # a backward pass that fails leaves some


def _pass(stepper: Stepper, batch: Batch) -> None:
    """As a step has it: autocast anew, which casts each weight once within it, and no gradient left."""
    with stepper.plan.autocast:
        loss = stepper.learner(batch, stepper.random)
    loss.backward()
    stepper.optimizer.zero_grad()


def seconds(stepper: Stepper, batch: Batch) -> float:
    """Of one forward and backward pass."""
    device = stepper.plan.device
    with unmoved(stepper):
        for index in range(2 * TIMED):
            if index == TIMED:
                _wait(device)
                began = time.perf_counter()
            _pass(stepper, batch)
        _wait(device)
    return (time.perf_counter() - began) / TIMED


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _key(stepper: Stepper, batch: Batch) -> str:
    device = stepper.plan.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    shapes = [[str(part.dtype), list(part.shape)] for part in batch]
    return store.digest_of(
        [repr(stepper.learner.module), shapes, name, stepper.plan.precision, torch.__version__]
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
