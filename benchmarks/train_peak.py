"""What share of the arithmetic that a device is good for does the ResNet's training take?

Of the rate of one large matrix product in the same precision, timed in the same run: bf16 on CUDA,
fp32 on a CPU. A data sheet's peak is of another clock, and no product reaches it.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines import train_params
from pipelines.models import fit
from pipelines.models.classes import Classes
from pipelines.models.resnet import Resnet

CLASSES, EPOCHS, PRODUCTS = 10, 4, 10


def share_of_peak() -> dict[str, Any]:
    """Operations count products and sums: two for each weight that a value meets."""
    cuda = torch.cuda.is_available()
    settings = train_params.Resnet(
        depth=18 if cuda else 10, width=1.0 if cuda else 0.5, batch=1024 if cuda else 128,
        epochs=EPOCHS, patience=EPOCHS,
    )  # fmt: skip
    pictures, side, channels = (50_000, 32, 3) if cuda else (512, 28, 1)
    kind, device = (torch.bfloat16, "cuda") if cuda else (torch.float32, "cpu")
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(
        random.integers(0, 256, (pictures, side, side, channels), dtype=np.uint8)
    )
    label = torch.from_numpy(random.integers(0, CLASSES, pictures))

    def network() -> Resnet:
        return Resnet(
            (0.5,) * channels, (0.3,) * channels, CLASSES, depth=settings.depth,
            width=settings.width, stem=settings.stem, dropout=0.0, initial=settings.initial,
        )  # fmt: skip

    def objective() -> Classes:
        return Classes(network(), (pixels, label), (pixels[:64], label[:64]), CLASSES, settings)

    speeds: list[float] = []
    machine = train_params.Machine(
        precision="bf16" if cuda else "fp32", compile="auto" if cuda else "never", checkpoint=0
    )
    fit.run(
        objective, settings, 7, lambda _, found: speeds.append(found["rows_per_second"]),
        machine=machine,
    )  # fmt: skip
    each = operations(network(), pixels[:2]) / 2
    rate, peak = statistics.median(speeds[1:]) * each, product_rate(kind, device)
    return {
        "share of the peak": rate / peak,
        "network": f"ResNet-{settings.depth}, width {settings.width:g}, {side} x {side} x {channels}",
        "precision": str(kind).removeprefix("torch."),
        "rows a second": round(statistics.median(speeds[1:])),
        "operations a row": each,
        "peak, operations a second": peak,
    }


def operations(network: torch.nn.Module, pixels: torch.Tensor) -> float:
    """Of forward and backward of these pictures together."""
    with FlopCounterMode(display=False) as counted:
        network(pixels).sum().backward()
    return float(counted.get_total_flops())


def product_rate(kind: torch.dtype, device: str) -> float:
    """Operations a second of the fastest of PRODUCTS square products."""
    side = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(side, side, dtype=kind, device=device) for _ in range(2))
    took = []
    for _ in range(PRODUCTS + 1):
        began = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * side**3 / min(took[1:])
