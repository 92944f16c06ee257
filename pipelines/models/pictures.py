"""A network for pictures, fitted: its settings put together for the one loop.

N rows, H height, W width, C channels, K classes, E embedding, D directions of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from torch import Tensor

from pipelines import images, train_params
from pipelines.models import classes, fit, pretrained
from pipelines.models.augment import augment
from pipelines.models.loop import OnEpoch
from pipelines.models.picture import Cnn, Picture
from pipelines.models.picture_graph import to_onnx
from pipelines.models.progress import OnStep
from pipelines.models.resnet import Resnet
from pipelines.paths import project_root, sources_root
from pipelines.records import Pictures

DIRECTIONS = 8
"""Numbers that the monitor reads of a picture's embedding: most of its variance is in the first few,
and a hundred columns would bury the one that moved."""
SAMPLE = 20_000
"""Train pictures that the directions are found on, evenly over the window."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Fitted:
    """best: epoch and measures of the weights it kept. centre (E,), directions (E, D): mean of what
    it makes of the train pictures, and where they differ most. forget: as of `loop.Trained`."""

    network: Picture
    best: dict[str, float]
    history: list[dict[str, float]]
    forget: Callable[[], None]
    centre: np.ndarray
    directions: np.ndarray

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """(N, K) float32 probabilities of uint8 (N, H, W, C)."""
        return classes.answer(self.network, torch.from_numpy(pixels), CPU)

    def to_onnx(self, size: tuple[int, int]) -> onnx.ModelProto:
        """Input pixels uint8 (N, H, W, C); outputs probability (N, K), embedding (N, E)."""
        return to_onnx(self.network, size, len(self.network.mean))


def fit_pictures(
    train: Pictures,
    validation: Pictures,
    mean: Sequence[float],
    deviation: Sequence[float],
    number: int,
    settings: train_params.Train,
    on_epoch: OnEpoch,
    *,
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """mean, deviation: of each channel of the train pictures, white being 1; number: of classes."""
    loop = settings.cnn if settings.family == "cnn" else settings.resnet

    def make() -> classes.Classes:
        network = _network(mean, deviation, number, settings)
        return classes.Classes(
            network,
            _tensors(train),
            _tensors(validation),
            number,
            loop,
            augment=_augment(network, settings.augment),
            groups=partial(_groups, network, loop, settings.backbone),
            begin=partial(_begin, network, settings.backbone),
        )

    made = fit.run(
        make, loop, settings.seed, on_epoch, beside=(settings.augment, settings.backbone),
        machine=settings if folder else settings.unwatched, folder=folder, on_step=on_step,
    )  # fmt: skip
    network = cast(Picture, made.module.to(CPU))
    found = _directions(_embedding(network, train.pixels))
    return Fitted(network, made.best, made.history, made.forget, *found)


def _tensors(rows: Pictures) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.pixels), torch.from_numpy(rows.label)


def _network(
    mean: Sequence[float], deviation: Sequence[float], number: int, settings: train_params.Train
) -> Picture:
    network: Picture
    if settings.family == "cnn":
        of = settings.cnn
        network = Cnn(
            mean, deviation, number, channels=of.channels, convolutions=of.convolutions,
            dropout=of.dropout, initial=of.initial,
        )  # fmt: skip
    else:
        res = settings.resnet
        network = Resnet(
            mean, deviation, number, depth=res.depth, width=res.width, stem=res.stem,
            dropout=res.dropout, initial=res.initial,
        )  # fmt: skip
    if settings.backbone.weights:
        place = sources_root(project_root()) / settings.backbone.weights
        pretrained.begin_with(network, pretrained.weights(place), place)
    return network


def _augment(
    network: Picture, settings: train_params.Augment
) -> Callable[[Tensor, torch.Generator], Tensor]:
    def changed(pixels_BHWC: Tensor, random: torch.Generator) -> Tensor:
        # A place in a picture takes more digits than bf16 has: a fifth of a pixel off at 224 a side.
        with torch.autocast(pixels_BHWC.device.type, enabled=False):
            return augment(network.standardise(pixels_BHWC), settings, random)

    return changed


def _groups(
    network: Picture, loop: train_params.Loop, backbone: train_params.Backbone, weight_decay: float
) -> list[dict[str, object]]:
    return pretrained.groups(network, loop.learning_rate, weight_decay, backbone.layer_decay)


def _begin(network: Picture, backbone: train_params.Backbone, epoch: int) -> None:
    """Freeze what has learned before, or let it learn on."""
    if backbone.weights:
        network.freeze(backbone.unfreeze is None or epoch < backbone.unfreeze)


def _embedding(network: Picture, pixels: np.ndarray) -> np.ndarray:
    """(M, E) of at most SAMPLE pictures."""
    taken = np.unique(np.linspace(0, len(pixels) - 1, SAMPLE).astype(np.int64))
    parts = math.ceil(len(taken) / images.together(pixels.shape[1:3]))
    network.eval()
    with torch.inference_mode():
        found = [
            network.embed(torch.from_numpy(pixels[some])).numpy()
            for some in np.array_split(taken, parts)
        ]
    return np.concatenate(found)


def _directions(embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (E,), and the directions (E, D) of largest variance: principal components. Each points
    to the side of its largest weight, so that the same pictures give the same signs."""
    centre = embedding.mean(axis=0)
    _, _, axes = np.linalg.svd(embedding - centre, full_matrices=False)
    directions = axes[:DIRECTIONS].T
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    return centre, directions * np.where(largest < 0, -1, 1)
