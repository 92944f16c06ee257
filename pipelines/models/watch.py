"""Loss and gradient of each step: their mean, and a stop at the first that is not finite.

A host that waits for each step's loss keeps a GPU idle between steps. So there the numbers stay on
the device and are looked at every so many steps; which batch it was, they still say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

EVERY = 50
"""Steps between looks, on an accelerator."""
GRADIENT = "the length of the gradient"


@dataclass
class Watch:
    """One epoch's steps."""

    epoch: int
    batches: int
    every: int
    """Steps between looks; at 1, a loss that is not finite stops before its gradient is taken."""
    total: float = 0.0
    seen: int = 0
    """Steps looked at."""
    last: float = math.nan
    """The newest loss looked at."""
    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)

    def loss(self, loss: Tensor) -> None:
        if self.every == 1:
            self._take(loss.item())
        else:
            self.losses.append(loss.detach())

    def gradient(self, norm: Tensor | None) -> None:
        """After a step; None where a scaler looks after the gradient itself."""
        if self.every == 1:
            if norm is not None:
                self._finite(norm.item(), self.seen - 1, GRADIENT)
            return
        if norm is not None:
            self.norms.append(norm)
        if len(self.losses) >= self.every:
            self.look()

    def look(self) -> None:
        """In the order of the steps: an infinite gradient comes before the loss that it spoils."""
        if not self.losses:
            return
        losses, norms = _values(self.losses), _values(self.norms) if self.norms else []
        self.losses.clear()
        self.norms.clear()
        for place, loss in enumerate(losses):
            self._take(loss)
            if norms:
                self._finite(norms[place], self.seen - 1, GRADIENT)

    def mean(self) -> float:
        """Of the epoch's losses."""
        self.look()
        return self.total / self.seen

    def _take(self, loss: float) -> None:
        self._finite(loss, self.seen, "the loss")
        self.total += loss
        self.last = loss
        self.seen += 1

    def _finite(self, value: float, batch: int, what: str) -> None:
        if not math.isfinite(value):
            refuse(f"epoch {self.epoch}, batch {batch} of {self.batches}: {what}", value)


def _values(scalars: list[Tensor]) -> list[float]:
    found: list[float] = torch.stack(scalars).tolist()
    return found


def refuse(what: str, value: float) -> None:
    raise FloatingPointError(
        f"{what} is {value}. Lower learning_rate in params.yaml, or look for infinite numbers in "
        "the data"
    )
