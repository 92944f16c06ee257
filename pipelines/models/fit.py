"""Fitting, whatever the network: `run` for any objective, `fit` for the network for tables.

Rows are tensors and a batch is one index into them. The loop is in loop.py and a step in
learner.py; where it runs is chosen in devices.py; watch.py stops it and checkpoint.py goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from pipelines import train_params
from pipelines.models import chance, devices, distributed
from pipelines.models.loop import Loop, OnEpoch, Trained
from pipelines.models.network import Network
from pipelines.models.objective import Objective
from pipelines.models.progress import OnStep
from pipelines.models.tables import Fitted, table
from pipelines.models.world import world
from pipelines.records import Rows
from pipelines.settings import Settings

OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator")
"""In what PyTorch raises: CUDA's and Metal's, and the CPU's, which has no class of its own."""
HERE = train_params.Machine()
"""This machine, as it is found."""


def run(
    make: Callable[[], Objective],
    settings: train_params.Loop,
    seed: int,
    on_epoch: OnEpoch,
    *,
    beside: Sequence[Settings] = (),
    machine: train_params.Machine = HERE,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """make: called once, under the seed, so that the first weights are drawn from it.

    beside: settings other than the loop's own that `make` reads and the weights depend on; with
    others it is another training.
    folder: where its checkpoint goes, and by flag trace.json and a folder of its own in events/;
    without, a killed training starts again. A checkpoint of the same training that lies there is
    gone on from: on_epoch is told again of the epochs before it. It holds the end too, until what is
    returned is told to `forget` it.

    The same objective, settings, seed, machine and thread count (the caller's to set) give the same
    weights. Raises FloatingPointError, naming epoch and batch, when a loss or a gradient is not
    finite, MemoryError, naming what makes it need less, and ParamsError when the machine has not what
    is asked for.
    """
    if folder is None and (machine.profile or machine.tensorboard):
        raise ValueError("train.profile and train.tensorboard need a folder to write to")
    here = world()
    plan = devices.plan(machine, devices.reported(here.local_rank, here.size), here.local_rank)
    with (
        devices.arithmetic(plan),
        distributed.group(plan.device),
        chance.seeded(seed, plan.device),
    ):
        try:
            return Loop(make(), settings, beside, seed, machine, plan, folder).until_best(
                on_epoch, on_step
            )
        except RuntimeError as error:
            if not any(sign in str(error) for sign in OUT_OF_MEMORY):
                raise
            raise MemoryError(
                f"out of memory on {plan.device} with batch {settings.batch} in {settings.accumulate} "
                f"parts: {str(error).partition(chr(10))[0][:200]}. Take a smaller batch, more parts "
                "(accumulate) or a smaller network with: edit params.yaml"
            ) from error


def fit(
    train: Rows,
    validation: Rows,
    cardinalities: Sequence[int],
    settings: train_params.Network,
    seed: int,
    on_epoch: OnEpoch,
    *,
    machine: train_params.Machine = HERE,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """The network for tables on encoded rows; otherwise as `run`."""
    made = run(
        lambda: table(train, validation, cardinalities, settings),
        settings, seed, on_epoch, machine=machine, folder=folder, on_step=on_step,
    )  # fmt: skip
    return Fitted(cast(Network, made.module), made.best, made.history, made.forget)
