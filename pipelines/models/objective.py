"""What the one loop asks of what it trains."""

# B batch

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

Groups = list[dict[str, Any]]


class Objective(Protocol):
    """A network, the rows it learns from, and what is good about an answer."""

    module: nn.Module
    rows: tuple[Tensor, ...]
    """Train, on the CPU, each N high; the loop puts them where they are used."""
    validation: tuple[Tensor, ...]
    """What `judge` reads besides `module`, so that a checkpoint knows other data from these."""

    def groups(self, weight_decay: float) -> Groups:
        """Everything to be learned, as AdamW takes it. A group may have an `lr` of its own, and
        parameters that are not of the module."""

    def begin(self, epoch: int) -> None:
        """Before an epoch: the time to freeze layers or to let them learn."""

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...], random: torch.Generator) -> Tensor:
        """Scalar: a mean over the B rows of `batch`, so that parts of a batch can be averaged.

        module is the network as the loop runs it; random is of its device, for augmentation.
        """

    def judge(self, device: torch.device) -> dict[str, float]:
        """validation_loss, and whatever `worse` reads; of `module` as it stands, on `device`."""

    def worse(self, found: dict[str, float], top: dict[str, float]) -> bool:
        """Is what was judged worse than the best of before, beyond noise?"""

    def score(self, found: dict[str, float]) -> float:
        """What the best epoch has the most of."""


def decaying(parameters: list[nn.Parameter], weight_decay: float, **more: Any) -> Groups:
    """Matrices and kernels decay; biases and the scales of norms, which have one axis, do not."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, **more},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, **more},
    ]
