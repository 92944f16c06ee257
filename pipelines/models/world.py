"""Which of the processes of one training this is. Standard library only: asked before torch is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Which of its machine's processes, and so which of its GPUs."""

    @property
    def first(self) -> bool:
        """Does this process write and report?"""
        return self.rank == 0


def world(environ: Mapping[str, str] = os.environ) -> World:
    """As `torchrun` tells it to its processes; alone where it does not."""
    return World(
        rank=int(environ.get("RANK", "0")),
        size=int(environ.get("WORLD_SIZE", "1")),
        local_rank=int(environ.get("LOCAL_RANK", "0")),
    )
