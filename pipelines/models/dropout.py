"""Dropout that costs a CPU what it is worth.

PyTorch draws one uniform number for each unit, which on a CPU was a sixth of a step of the network
for tables. Here the generator's 64 bits make four units' chances of 16 bits each: a fifth of the
time, and a share of units left out that is the asked one to within 1/131,072.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 1 << 16
UNITS = 4
"""Chances in one number of the generator."""
ALL = -(1 << 63)
"""With it, `random_` draws all 64 bits; without, one less."""


class Dropout(nn.Dropout):
    """nn.Dropout; off the CPU, where PyTorch's own is one kernel, it is that."""

    def forward(self, units: Tensor) -> Tensor:
        left_out = min(round(self.p * LEVELS), LEVELS - 1)
        if not self.training or not left_out or units.device.type != "cpu":
            return super().forward(units)
        draws = torch.empty((units.numel() + UNITS - 1) // UNITS, dtype=torch.int64)
        chances = draws.random_(ALL, None).view(torch.int16)[: units.numel()].view(units.shape)
        kept = (chances >= left_out - LEVELS // 2).to(units.dtype)
        return units * kept.mul_(LEVELS / (LEVELS - left_out))
