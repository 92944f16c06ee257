"""A fitted network as files for those who serve PyTorch themselves: TorchScript and torch.export.

They read what the network reads (encoded rows or pixels), not raw columns: the encoder is in
model.onnx alone. Nothing in this project answers with them.
"""

# B rows

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.artifact import PARITY
from pipelines.errors import ArtifactError
from pipelines.variant_params import SUFFIX, Export

ROWS = 64
"""Rows that a file is traced with, and answers again once it is loaded."""


def write(
    network: nn.Module, rows: Sequence[Tensor], folder: Path, task: str, wanted: Sequence[Export]
) -> list[Path]:
    """`<task>.torchscript.pt` and `<task>.pt2` in `folder`, each loaded again and held to `network`.

    network: what answers with probabilities, as its ONNX graph does; rows: its inputs, (B, ...)
    each, with B of 2 or more. Raises ArtifactError where a file answers otherwise; none is kept.
    """
    rows = tuple(part[:ROWS].cpu() for part in rows)
    if len(rows[0]) < 2:
        raise ValueError("a file is traced with 2 rows or more: of one row, no axis is free")
    network = network.cpu().eval()
    written = []
    for kind in wanted:
        path = folder / f"{task}{SUFFIX[kind]}"
        beside = path.with_name(f".{path.name}")
        try:
            with torch.no_grad(), _settled():
                answer = _WRITE[kind](network, rows, beside)
                _hold(path.name, answer, network, rows)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        written.append(path)
    return written


def _torchscript(network: nn.Module, rows: tuple[Tensor, ...], path: Path) -> Callable[..., object]:
    torch.jit.save(torch.jit.trace(network, rows), path)
    loaded: Callable[..., object] = torch.jit.load(path, map_location="cpu")
    return loaded


def _torch_export(
    network: nn.Module, rows: tuple[Tensor, ...], path: Path
) -> Callable[..., object]:
    free = torch.export.Dim("rows", min=1)
    program = torch.export.export(
        network, rows, dynamic_shapes=tuple({0: free} for _ in rows), strict=False
    )
    # By an open file: a name that does not end in .pt2 is warned of, and this one is not there yet.
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        loaded: Callable[..., object] = torch.export.load(file).module()
    return loaded


_WRITE: dict[Export, Callable[[nn.Module, tuple[Tensor, ...], Path], Callable[..., object]]] = {
    "torchscript": _torchscript,
    "torch_export": _torch_export,
}


def _hold(
    name: str, answer: Callable[..., object], network: nn.Module, rows: tuple[Tensor, ...]
) -> None:
    """The loaded file against the network: of all rows, and of one, which traces like to fix."""
    for part in (rows, tuple(r[:1] for r in rows)):
        for found, expected in zip(_flat(answer(*part)), _flat(network(*part)), strict=True):
            same = found.shape == expected.shape
            worst = float((found - expected).abs().max()) if same else float("nan")
            if not worst <= PARITY:
                raise ArtifactError(
                    f"{name} answers {len(part[0])} rows {worst:.2g} away from the network (allowed: "
                    f"{PARITY:g}); it was not written. Take it out of train.export in params.yaml "
                    "and run: dvc repro"
                )


def _flat(answer: object) -> list[Tensor]:
    return [answer] if isinstance(answer, Tensor) else list(answer)  # type: ignore[call-overload]


@contextmanager
def _settled() -> Iterator[None]:
    """TorchScript was asked for by name, so that it is deprecated tells nothing new; and what a
    trace may have fixed is looked for in the answers (`_hold`)."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, torch.jit.TracerWarning):
            warnings.simplefilter("ignore", kind)
        yield
