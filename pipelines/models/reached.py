"""How far a training has come: what its checkpoint holds beside the state of a step."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Reached:
    """How far a training has come, and what it found on the way."""

    epoch: int = 0
    batch: int = 0
    """Steps of this epoch that are done."""
    total: float = 0.0
    """Sum of their losses, on this process."""
    order: Tensor | None = None
    """Rank 0's random state from which this epoch's order of rows was drawn."""
    reports: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    top: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def waited_out(self, patience: int) -> bool:
        """Have as many epochs gone by since the best one?"""
        waited = self.epoch - 1 - self.best["epoch"] if self.reports else 0
        return waited >= patience

    def history(self) -> list[dict[str, float]]:
        """Without the speed, which differs from run to run."""
        return [
            {"epoch": float(epoch)} | {k: v for k, v in found.items() if k != "rows_per_second"}
            for epoch, found in enumerate(self.reports)
        ]
