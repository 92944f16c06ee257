"""Where a training runs and in what arithmetic: choices, made of what PyTorch reports.

Each choice is a function of plain values, so that it is tested for machines that are not at hand.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from pipelines.errors import ParamsError

if TYPE_CHECKING:
    from pipelines import train_params

AMPERE = (8, 0)
"""Compute capability from which NVIDIA's tensor cores take bf16 and TF32; older ones emulate bf16,
which PyTorch reports as supported and which is slower than fp32."""
ROOM = 0.5
"""Share of a device's free memory that train rows may take; the rest is for the step."""

Device = Literal["cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Reported:
    """What PyTorch says that this process can train on."""

    cuda: bool = False
    mps: bool = False
    capability: tuple[int, int] = (0, 0)
    """Of this process's CUDA device, where there is one for it."""
    devices: int = 0
    """Of CUDA."""


@dataclass(frozen=True)
class Plan:
    """Where and how this process trains."""

    device: torch.device
    precision: Precision
    tf32: bool
    deterministic: bool

    @property
    def scaled(self) -> bool:
        """fp16 gradients underflow unless the loss is scaled up."""
        return self.precision == "fp16"

    @property
    def autocast(self) -> torch.autocast:
        kind = torch.float16 if self.precision == "fp16" else torch.bfloat16
        on = self.precision != "fp32"
        return torch.autocast(self.device.type, dtype=kind, enabled=on)


def reported(local_rank: int, processes: int) -> Reported:
    """MPS for one process only: neither Gloo nor NCCL exchanges its tensors."""
    cuda = torch.cuda.is_available()
    devices = torch.cuda.device_count() if cuda else 0
    mine = local_rank < devices
    capability = torch.cuda.get_device_capability(local_rank) if mine else (0, 0)
    mps = torch.backends.mps.is_available() and processes == 1
    return Reported(cuda, mps, capability, devices)


def plan(machine: train_params.Machine, found: Reported, local_rank: int = 0) -> Plan:
    """Raises ParamsError where a device is asked for by name that is not there, or where this
    process comes after the last GPU."""
    kind = choose_device(machine.device, found)
    if kind == "cuda" and local_rank >= found.devices:
        raise ParamsError(
            f"train.device is {machine.device}, and process {local_rank} of this machine, counted "
            f"from 0, has no GPU: there are {found.devices}, one for each process. Run: torchrun "
            f"--nproc-per-node {found.devices} -m pipelines train <name>; or train on the CPU, "
            "device: cpu, with: edit params.yaml"
        )
    precision = choose_precision(machine.precision, kind, found.capability)
    device = torch.device("cuda", local_rank) if kind == "cuda" else torch.device(kind)
    tf32 = kind == "cuda" and machine.precision != "fp32" and found.capability >= AMPERE
    return Plan(device, precision, tf32, machine.deterministic)


def choose_device(asked: str, found: Reported) -> Device:
    there: dict[Device, bool] = {"cuda": found.cuda, "mps": found.mps, "cpu": True}
    for kind, is_there in there.items():
        if is_there and asked in ("auto", kind):
            return kind
    allowed = ", ".join(["auto", *(kind for kind, is_there in there.items() if is_there)])
    raise ParamsError(
        f"train.device is {asked}, which PyTorch does not find on this machine; there are: "
        f"{allowed}. Mend it with: edit params.yaml"
    )


def choose_precision(asked: str, device: Device, capability: tuple[int, int]) -> Precision:
    """fp16 needs the scaler, which is CUDA's; elsewhere it is refused."""
    if asked == "fp16" and device != "cuda":
        raise ParamsError(
            f"train.precision is fp16, which needs a CUDA device, and this is {device}; allowed "
            "there are: auto, fp32, bf16. Mend it with: edit params.yaml"
        )
    if asked in ("fp32", "bf16", "fp16"):
        return asked  # type: ignore[return-value]
    if device != "cuda":
        return "fp32"
    return "bf16" if capability >= AMPERE else "fp16"


def fits(rows_bytes: int, free_bytes: int | None) -> bool:
    """May the train rows stay on the device? free_bytes: None where that is the host's memory."""
    return free_bytes is None or rows_bytes <= ROOM * free_bytes


def free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None


@contextlib.contextmanager
def arithmetic(plan: Plan) -> Iterator[None]:
    """TF32 and determinism as planned, for the block; then as they were."""
    strict = torch.are_deterministic_algorithms_enabled()
    tuned = torch.backends.cudnn.benchmark
    if plan.deterministic:
        # cuBLAS reads it when it is first used: docs.nvidia.com/cuda/cublas, reproducibility.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = plan.device.type == "cuda" and not plan.deterministic
    try:
        with tf32(plan, plan.tf32):
            yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.backends.cudnn.benchmark = tuned


@contextlib.contextmanager
def tf32(plan: Plan, on: bool) -> Iterator[None]:
    """For the block, in products and in convolutions, whose switches are two: PyTorch begins with
    that of convolutions on. CUDA only; elsewhere nothing is TF32."""
    if plan.device.type != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
