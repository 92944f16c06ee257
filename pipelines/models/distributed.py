"""One training on several processes, as `torchrun` starts them; one process is a world of 1.

Every process has the same rows and draws the same order of them; each takes its own part of every
batch, gradients are averaged, rank 0 writes. `batch` is of one process, so W of them make the step
that one would make with a batch W times as large.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.models.world import World, world


@contextlib.contextmanager
def group(device: torch.device) -> Iterator[World]:
    """The processes, able to speak with each other: NCCL between GPUs, Gloo otherwise."""
    here = world()
    if here.size == 1 or dist.is_initialized():
        yield here
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield here
    finally:
        dist.destroy_process_group()


def share(rows: int) -> slice:
    """The rows, of those that all processes answer together, that are this one's."""
    if not dist.is_initialized():
        return slice(0, rows)
    each = -(-rows // dist.get_world_size())
    start = min(rows, dist.get_rank() * each)
    return slice(start, min(rows, start + each))


def joined(mine: np.ndarray, rows: int) -> np.ndarray:
    """(rows, ...) of all processes' answers to their `share`; the same array on each."""
    if not dist.is_initialized():
        return mine
    each = -(-rows // dist.get_world_size())
    padded = torch.zeros((each, *mine.shape[1:]), dtype=torch.from_numpy(mine).dtype)
    padded[: len(mine)] = torch.from_numpy(mine)
    whole: np.ndarray = torch.cat(gathered(padded))[:rows].numpy()
    return whole


def gathered(value: Tensor) -> list[Tensor]:
    """The tensor of every process, on the CPU, by rank; of one shape on all of them."""
    if not dist.is_initialized():
        return [value]
    sent = value.to(_wire())
    found = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
    dist.all_gather(found, sent)
    return [part.cpu() for part in found]


def from_first(value: Tensor) -> Tensor:
    """Rank 0's tensor, on the CPU, on every process; of one shape on all of them."""
    if not dist.is_initialized():
        return value
    sent = value.to(_wire())
    dist.broadcast(sent, src=0)
    return sent.cpu()


def values_from_first(found: dict[str, float]) -> dict[str, float]:
    """So that no process decides otherwise for a last bit that differs."""
    values = from_first(torch.tensor(list(found.values()), dtype=torch.float64)).tolist()
    return dict(zip(found, values, strict=True))


def bytes_from_first(held: bytes) -> bytes:
    if not dist.is_initialized():
        return held
    length = int(from_first(torch.tensor(len(held))))
    sent = torch.zeros(length, dtype=torch.uint8)
    if dist.get_rank() == 0 and length:
        sent = torch.frombuffer(bytearray(held), dtype=torch.uint8)
    return from_first(sent).numpy().tobytes() if length else b""


def mean(value: float) -> float:
    """Over processes."""
    if not dist.is_initialized():
        return value
    return float(torch.stack(gathered(torch.tensor(value, dtype=torch.float64))).mean())


def _wire() -> torch.device:
    """Where tensors must be for these processes to exchange them."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
