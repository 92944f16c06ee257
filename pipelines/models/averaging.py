"""The running mean of a network's weights, which generalises better than the last ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """Of all floating-point state, so that a BatchNorm's moments fit the weights they go with."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.live = [v for v in _state(module) if v.is_floating_point()]
        self.mean = [value.clone() for value in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """A mean that looks far back would hold the first weights for long, so it starts short."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.mean, self.live, 1 - decay)
        self.steps += 1

    @contextlib.contextmanager
    def worn(self) -> Iterator[None]:
        """In the block the network has the mean as its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        kept = [value.clone() for value in self.live]
        torch._foreach_copy_(self.live, self.mean)
        torch._foreach_copy_(self.mean, kept)


def _state(module: nn.Module) -> list[Tensor]:
    """Views of what the module holds: what is written to them, the module has."""
    return list(module.state_dict().values())
