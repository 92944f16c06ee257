"""A network that begins with layers that have learned before: its weights, its learning rates.

Weights are read without running code: tensors only from PyTorch's files, from safetensors, which
hold nothing else, and from an artifact's ONNX graph, whose initialisers have the names of the
network's weights (see `picture_graph.to_onnx`).
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from pipelines.errors import ArtifactError, MissingInput
from pipelines.models.picture import Picture

GRAPH = "model.onnx"
HEADS = ("head.", "fc.")
"""Weights of the classes: ours, and torchvision's name for it. Other classes learn their own."""
WRAPPERS = ("module.", "_orig_mod.", "network.")
"""What DistributedDataParallel, torch.compile and the export put before a name."""
INNER = ("state_dict", "model", "network", "weights")
"""Keys under which checkpoints of whole trainings keep the weights."""
COUNTER = "num_batches_tracked"
MOMENTS = ("mean", "deviation")
"""Of the train pictures: a file without them leaves the ones measured."""
MEND = "Mend train.backbone.weights in params.yaml"


def weights(place: Path) -> dict[str, Tensor]:
    """Name -> tensor, wrappers' prefixes left out.

    place: an artifact's folder, or a file: .onnx, .safetensors, .pt, .pth. Raises MissingInput, or
    ArtifactError saying why the file cannot be read.
    """
    file = place / GRAPH if place.is_dir() else place
    if not file.is_file():
        raise MissingInput(f"train.backbone.weights: {file} does not exist. {MEND}")
    readers = {".onnx": _onnx, ".safetensors": _safetensors, ".pt": _torch, ".pth": _torch}
    if file.suffix not in readers:
        raise ArtifactError(
            f"train.backbone.weights: {file} ends in {file.suffix!r}; allowed are: an artifact's "
            f"folder, {', '.join(readers)}. {MEND}"
        )
    try:
        found = readers[file.suffix](file)
    except Exception as error:  # damaged in so many ways, a reader raises as many kinds
        raise ArtifactError(
            f"train.backbone.weights: {file} holds no weights that can be read: "
            f"{type(error).__name__}: {error}. {MEND}"
        ) from error
    return {_bare(name): tensor for name, tensor in found.items()}


def begin_with(network: Picture, found: dict[str, Tensor], place: Path) -> None:
    """Copy into all layers but the head; each must be there, in its shape, and nothing else.

    The head is copied too if it has as many classes. Raises ArtifactError naming the layer, both
    shapes and what is allowed, and leaves the network as it was.
    """
    own = network.state_dict()
    found = {n: t for n, t in found.items() if not _of_head(n) or _fits(own.get(n), t)}
    needed = [n for n in own if not n.endswith(COUNTER) and n not in MOMENTS and not _of_head(n)]
    for name in needed:
        if name not in found:
            raise ArtifactError(
                f"train.backbone.weights: {place} has no {name}, which the network has as "
                f"{_shape(own[name])}; it has: {_some(found)}. {MEND}, or the network's settings"
            )
    for name, tensor in found.items():
        if name not in own:
            raise ArtifactError(
                f"train.backbone.weights: {place} has {name} of {_shape(tensor)}, which the "
                f"network has not; allowed are: {_some(own)}. {MEND}, or the network's settings"
            )
        if not _fits(own[name], tensor):
            raise ArtifactError(
                f"train.backbone.weights: {name} is {_shape(tensor)} in {place}; allowed is the "
                f"network's {_shape(own[name])}. {MEND}, or the network's settings"
            )
    network.load_state_dict(found, strict=False)


def groups(
    network: Picture, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, object]]:
    """An optimiser's parameter groups, from the pixels to the head, whose rate is `learning_rate`.

    One step further from the head multiplies the rate by `layer_decay`. Kernels and matrices decay,
    biases and norms do not.
    """
    found: list[dict[str, object]] = []
    depths = network.depths()
    for depth, layers in enumerate(depths):
        rate = learning_rate * layer_decay ** (len(depths) - 1 - depth)
        parameters = [p for layer in layers for p in layer.parameters()]
        for decay, chosen in (
            (weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            if chosen:
                found.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return found


def _torch(file: Path) -> dict[str, Tensor]:
    held = torch.load(file, map_location="cpu", weights_only=True)
    for key in INNER:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise ValueError(f"not a dict of tensors, nor one under: {', '.join(INNER)}")
    return held


def _onnx(file: Path) -> dict[str, Tensor]:
    graph = onnx.load(file).graph
    return {
        i.name.rpartition("/")[2]: torch.from_numpy(numpy_helper.to_array(i).copy())
        for i in graph.initializer
        if i.name.rpartition("/")[2].startswith("network.")
    }


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:  # of no type that callers know
        raise ValueError(str(error)) from error
    return found


def _bare(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _of_head(name: str) -> bool:
    return name.startswith(HEADS)


def _fits(own: Tensor | None, tensor: Tensor) -> bool:
    return own is not None and own.shape == tensor.shape


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _some(names: dict[str, Tensor]) -> str:
    first = [n for n in names if not n.endswith(COUNTER)]
    return ", ".join(first[:8]) + (", ..." if len(first) > 8 else "")
