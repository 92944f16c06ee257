"""Small trainings for tests of the one loop, and one that is killed: `python -m tests.training_world`."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines import train_params
from pipelines.models import fit
from pipelines.models.classes import Classes
from pipelines.models.loop import Trained
from pipelines.models.objective import Objective
from pipelines.models.tables import table
from pipelines.records import Rows

CPU = train_params.Machine(device="cpu")
CARDINALITIES = (5, 3)
TABLE = train_params.Network(
    epochs=3, patience=3, batch=64, learning_rate=1e-2, width=16, embedding=4, bins=4
)
LOOP = train_params.Loop(epochs=3, patience=3, batch=32, learning_rate=1e-2)
TRAIN_ROWS, HELD_ROWS = 448, 200


def rows(n: int, seed: int = 0, cardinalities: tuple[int, ...] = CARDINALITIES) -> Rows:
    """Label 1 when one number is large or a category says so; a fifth of another is missing."""
    drawn = np.random.default_rng(seed)
    numbers = drawn.normal(size=(n, 3)).astype(np.float32)
    codes = np.column_stack([drawn.integers(0, c, n) for c in cardinalities or (1,)])
    score = 2 * numbers[:, 1] + 3 * (codes[:, 0] == 2)
    numbers[drawn.random(numbers.shape) < 0.2 * np.array([0, 0, 1])] = np.nan
    label = (score + drawn.normal(scale=0.5, size=n) > 0.5).astype(np.int8)
    codes = codes[:, : len(cardinalities)]
    return Rows(numbers, codes, label, np.sort(drawn.integers(0, 5 * 86_400, n)))


def pictures(n: int, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    """uint8 (n, 8, 8, 1) and int64 (n,): a bright band whose row is the class, in noise."""
    drawn = np.random.default_rng(seed)
    label = drawn.integers(0, classes, n)
    pixels = drawn.integers(0, 120, (n, 8, 8, 1))
    pixels[np.arange(n), 2 * label + 1] += 100
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(label)


class Small(nn.Module):
    """A convolution, a BatchNorm, dropout and a head."""

    def __init__(self, classes: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * 8, classes)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        images_BCHW = pixels_BHWC.permute(0, 3, 1, 2).float() / 255
        layer_BFHW = torch.relu(self.norm(self.convolution(images_BCHW)))
        answer: Tensor = self.head(self.dropout(layer_BFHW.mean(dim=3).flatten(1)))
        return answer


def shaken(pixels_BHWC: Tensor, generator: torch.Generator) -> Tensor:
    """Noise from each source of chance that a training has."""
    noise = torch.randint(0, 20, pixels_BHWC.shape, generator=generator, dtype=torch.uint8)
    return pixels_BHWC // 2 + noise + random.randrange(9) + int(np.random.randint(9))


def on_table(settings: Any) -> Objective:
    return table(rows(TRAIN_ROWS), rows(HELD_ROWS, seed=1), CARDINALITIES, settings)


def on_pictures(settings: Any) -> Objective:
    return Classes(Small(), pictures(200), pictures(100, seed=1), 3, settings, augment=shaken)


WORLDS = {"table": on_table, "pictures": on_pictures}


def trained(
    world: str, *, seed: int = 7, machine: train_params.Machine = CPU, **more: Any
) -> Trained:
    """more: `folder`, `on_epoch`, `on_step`, `change` (of the objective), `forget`, and settings."""
    forget = more.pop("forget", True)
    folder, change = more.pop("folder", None), more.pop("change", lambda objective: None)
    on_epoch = more.pop("on_epoch", lambda epoch, values: None)
    on_step = more.pop("on_step", None)
    settings = {"table": TABLE, "pictures": LOOP}[world].model_copy(update=more)

    def make() -> Objective:
        objective = WORLDS[world](settings)
        change(objective)
        return objective

    found = fit.run(make, settings, seed, on_epoch, machine=machine, folder=folder, on_step=on_step)
    if forget:
        found.forget()
    return found


def digest(found: Trained) -> str:
    """Of the weights to the bit, the history and the best."""
    whole = hashlib.sha256(json.dumps([found.history, found.best]).encode())
    for name, value in found.module.state_dict().items():
        whole.update(name.encode() + value.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _killed_at(death: tuple[str, int], objective: Any) -> None:
    """SIGKILL in the n-th loss, or in the n-th writing of a file to the disk."""
    where, n = death
    owner, name = (objective, "loss") if where == "loss" else (os, "fsync")
    real, calls = getattr(owner, name), [0]

    def deadly(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)

    setattr(owner, name, deadly)


def _life(world: str, folder: Path, death: tuple[str, int] | None, settings: dict) -> None:
    """One process of a training. Forked before any arithmetic, so torch is imported once."""
    torch.set_num_threads(1)
    machine = CPU.model_copy(update={"checkpoint": 3})
    change = (lambda objective: _killed_at(death, objective)) if death else lambda objective: None
    found = trained(world, machine=machine, folder=folder, change=change, **settings)
    (folder / "digest").write_text(digest(found))


def main() -> None:
    """argv: JSON of {world, folder, deaths, settings}. Prints each life's exit status, a line each."""
    importlib.import_module("torch._dynamo")  # seconds, at an optimiser's first step
    asked = json.loads(sys.argv[1])
    folder = Path(asked["folder"])
    for death in [*asked["deaths"], None]:
        pid = os.fork()
        if pid == 0:
            _life(asked["world"], folder, death, asked["settings"])
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
