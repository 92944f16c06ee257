"""One process of a training on several, as `torchrun` starts it: `torchrun -m tests.ranks JSON`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import train_params
from pipelines.models import fit
from pipelines.models.classes import Classes
from pipelines.models.loop import Trained
from pipelines.models.objective import Objective
from pipelines.models.tables import table
from pipelines.models.world import world
from tests.training_world import CPU, LOOP, TABLE, Small, pictures, rows

HELD_ROWS = 101
"""Odd, so that two processes answer unequal shares of them."""


class Exact(nn.Module):
    """In float64 and without chance or moments of a batch: what differs, the loop made differ."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        answer: Tensor = self.layers(pixels_BHWC.flatten(1).double() / 255)
        return answer


def of_classes(settings: train_params.Loop) -> Objective:
    return Classes(Exact(), pictures(200), pictures(HELD_ROWS, seed=1), 3, settings)


def of_table(settings: train_params.Network) -> Objective:
    return table(rows(448, cardinalities=()), rows(HELD_ROWS, 1, ()), (), settings)


def of_moments(settings: train_params.Loop) -> Objective:
    """With a BatchNorm, whose moments each process takes from its own rows."""
    return Classes(Small(dropout=0.0), pictures(200), pictures(HELD_ROWS, seed=1), 3, settings)


WORLDS: dict[str, Any] = {"table": of_table, "classes": of_classes, "moments": of_moments}


def train(world: str, batch: int, folder: Path | None = None, **more: Any) -> Trained:
    death = more.pop("death", 0)
    base = TABLE.model_copy(update={"dropout": 0.0}) if world == "table" else LOOP
    settings = base.model_copy(update={"batch": batch, **more})

    def make() -> Objective:
        objective: Any = WORLDS[world](settings)
        if death:
            kill_at(death, objective)
        return objective

    machine = CPU.model_copy(update={"checkpoint": 3})
    return fit.run(make, settings, 7, lambda *_: None, machine=machine, folder=folder)


def kill_at(n: int, objective: Any) -> None:
    real, calls = objective.loss, [0]

    def deadly(*given: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        loss: Tensor = real(*given)
        return loss

    objective.loss = deadly


def main() -> None:
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    folder = Path(asked.pop("folder"))
    found = train(**asked, folder=folder)
    told = {"weights": found.module.state_dict(), "history": found.history, "best": found.best}
    torch.save(told, folder / f"rank{world().rank}.pt")
    found.forget()


if __name__ == "__main__":
    main()
