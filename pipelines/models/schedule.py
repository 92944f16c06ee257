"""How the learning rate goes from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from pipelines import train_params


class Schedule(Protocol):
    def step(self) -> None:
        """After each step of the optimiser."""

    def epoch(self, validation_loss: float) -> None:
        """After each epoch."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def schedule(
    optimizer: torch.optim.Optimizer, settings: train_params.Loop, batches: int
) -> Schedule:
    """batches: steps of an epoch. Each group's rate goes in proportion to the `lr` it came with."""
    if settings.schedule == "one_cycle":
        total = batches * settings.epochs + 1
        # PyTorch divides by the length of the rise, which it counts from step 1: one step of it is 0.
        rise = 0.0 if settings.warmup * total == 1 else settings.warmup
        return OneCycle(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            total_steps=total,
            pct_start=rise,
        )
    return Shaped(optimizer, settings, batches)


class OneCycle(torch.optim.lr_scheduler.OneCycleLR):
    """PyTorch's, with momentum against the rate (Smith and Topin 2018, arXiv:1708.07120)."""

    def epoch(self, validation_loss: float) -> None:
        """It knows its end from the start."""


class Shaped:
    """A factor of each group's rate: warm-up, then one of the shapes."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: train_params.Loop, batches: int
    ) -> None:
        self.optimizer, self.settings, self.batches = optimizer, settings, batches
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.steps = 0
        self.lowest, self.waited, self.fallen = math.inf, 0, 0
        self._apply()

    def step(self) -> None:
        self.steps += 1
        self._apply()

    def epoch(self, validation_loss: float) -> None:
        """plateau falls here: after `decay_epochs` epochs without a lower loss."""
        self.waited = 0 if validation_loss < self.lowest else self.waited + 1
        self.lowest = min(self.lowest, validation_loss)
        if self.settings.schedule == "plateau" and self.waited >= self.settings.decay_epochs:
            self.fallen, self.waited = self.fallen + 1, 0
            self._apply()

    def factor(self) -> float:
        total = self.batches * self.settings.epochs
        warm = int(self.settings.warmup * total)
        if self.steps < warm:
            return (self.steps + 1) / (warm + 1)
        match self.settings.schedule:
            case "cosine":
                done = min(1.0, (self.steps - warm) / max(1, total - warm))
                return (1 + math.cos(math.pi * done)) / 2
            case "step":
                epoch = self.steps // self.batches
                return self.settings.decay ** (epoch // self.settings.decay_epochs)
            case "plateau":
                return self.settings.decay**self.fallen
        return 1.0

    def _apply(self) -> None:
        factor = self.factor()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        names = ("steps", "lowest", "waited", "fallen")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._apply()
