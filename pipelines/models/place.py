"""Train rows where the step reads them: on its device when they fit, streamed to it when not.

Either way a batch is one index into tensors: no loader, no Python per row.
"""

# S steps, B batch

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from pipelines.models import devices

AHEAD = 3
"""Batches that wait on the device while a step runs."""

Batch = tuple[Tensor, ...]


class Placed(Protocol):
    def batches(self, order_SB: Tensor) -> Iterator[Batch]:
        """The rows of each step, on the device."""


def place(rows: Batch, device: torch.device) -> Placed:
    size = sum(part.nbytes for part in rows)
    if devices.fits(size, devices.free_bytes(device)):
        return Resident(rows, device)
    return Streamed(rows, device)


class Resident:
    def __init__(self, rows: Batch, device: torch.device) -> None:
        self.rows, self.device = tuple(part.to(device) for part in rows), device

    def batches(self, order_SB: Tensor) -> Iterator[Batch]:
        for rows_B in order_SB.to(self.device):
            yield tuple(part.index_select(0, rows_B) for part in self.rows)


class Streamed:
    """A thread gathers rows and, on CUDA, copies them by a stream of their own beside the step's."""

    def __init__(self, rows: Batch, device: torch.device) -> None:
        self.rows, self.device = rows, device
        # One for all epochs: PyTorch keeps the memory of each stream apart.
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, order_SB: Tensor) -> Iterator[Batch]:
        ready: queue.Queue[tuple[Batch, object] | BaseException | None] = queue.Queue(AHEAD)
        stop = threading.Event()
        worker = threading.Thread(target=self._fill, args=(order_SB, ready, stop), daemon=True)
        worker.start()
        try:
            while (found := ready.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield self._arrived(*found)
        finally:
            stop.set()
            while worker.is_alive():  # it may wait for room in the queue
                with_room = not ready.empty()
                if with_room:
                    ready.get()
                worker.join(0.001)

    def _fill(self, order_SB: Tensor, ready: queue.Queue, stop: threading.Event) -> None:
        stream = self.stream
        try:
            for rows_B in order_SB:
                if stop.is_set():
                    return
                gathered = tuple(part.index_select(0, rows_B) for part in self.rows)
                if stream is None:
                    ready.put((tuple(part.to(self.device) for part in gathered), None))
                    continue
                with torch.cuda.stream(stream):
                    # The pinned copy is kept by PyTorch until the stream has read it.
                    moved = tuple(
                        part.pin_memory().to(self.device, non_blocking=True) for part in gathered
                    )
                ready.put((moved, stream.record_event()))
            ready.put(None)
        except BaseException as error:  # raised where the batches are read
            ready.put(error)

    def _arrived(self, moved: Batch, event: object) -> Batch:
        if event is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_event(event)
            for part in moved:
                part.record_stream(here)
        return moved
