"""A training made visible, by flag: a trace of some steps, and events for TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SKIPPED, TRACED = 5, 10
"""Steps before the trace, which are unlike the rest, and steps in it."""


@contextmanager
def traced(file: Path | None, steps: int, cuda: bool) -> Iterator[Callable[[], None]]:
    """To be called after each step; `file` is a Chrome trace: chrome://tracing, ui.perfetto.dev.

    steps: that are still to come, if no epoch is the last before its time.
    """
    if file is None:
        yield lambda: None
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if cuda else []
    with torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(
            skip_first=min(SKIPPED, steps // 2), wait=0, warmup=1, active=TRACED, repeat=1
        ),
        on_trace_ready=lambda profile: profile.export_chrome_trace(str(file)),
    ) as profile:
        yield profile.step
    if not file.exists():
        log.warning(
            "train.profile: the training had too few steps for a trace; %s is not there", file
        )


@contextmanager
def events(folder: Path | None) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """To be called with each epoch's measures: `tensorboard --logdir` shows them."""
    if folder is None:
        yield lambda epoch, values: None
        return
    from torch.utils.tensorboard import SummaryWriter

    # A training that is gone on from tells its earlier epochs again: those of before are left out.
    with SummaryWriter(str(folder), purge_step=0) as writer:

        def write(epoch: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, epoch)
            writer.flush()

        yield write
