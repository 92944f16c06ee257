"""What networks for pictures share, and the small one: pixels as stored in, logits out.

A network holds the mean and the standard deviation of its train pictures (of another network's, whose
weights it began with), so the exported graph reads uint8 pixels and serving cannot scale otherwise.
Convolutions run channels_last: pixels are stored that way, so standardising moves nothing.
"""

# B batch, H height, W width, C channels of a picture, F channels of a layer, E embedding, K classes

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipelines.models.initial import start
from pipelines.train_params import Initial

WHITE = 255.0


class Picture(nn.Module, ABC):
    """Logits of K classes from pictures. A network adds its layers, `features` and `depths`."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        deviation: Sequence[float],
        embedding: int,
        classes: int,
        dropout: float,
    ) -> None:
        """mean, deviation: of each channel of the train pictures, white being 1."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean) * WHITE)
        self.register_buffer("deviation", torch.tensor(deviation) * WHITE)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embedding, classes)
        self.frozen = False

    def draw(self, initial: Initial) -> None:
        """First weights, once its layers are there; channels_last.

        The head begins near 0, so every class with the same probability: drawn like the others it
        starts with sure, wrong answers, and takes an epoch to forget them.
        """
        start(self, initial)
        nn.init.normal_(self.head.weight, std=0.01)
        self.to(memory_format=torch.channels_last)

    def standardise(self, pixels_BHWC: Tensor) -> Tensor:
        """(B, C, H, W) float32, channels_last: 0 is the mean of the train pictures, 1 a deviation."""
        images_BHWC = (pixels_BHWC.to(self.mean.dtype) - self.mean) / self.deviation
        return images_BHWC.permute(0, 3, 1, 2)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, K) logits of uint8 (B, H, W, C) as stored, or of (B, C, H, W) as `standardise` gives.

        The second is what augmentation changed: it runs outside, so that what is compiled or
        distributed is the network alone.
        """
        logits_BK: Tensor = self.head(self.dropout(self.embed(pictures)))
        return logits_BK

    def embed(self, pictures: Tensor) -> Tensor:
        """(B, E) of the same: what the head reads, and what drift is measured on."""
        raw = pictures.dtype == torch.uint8
        return self.features(self.standardise(pictures) if raw else pictures)

    @abstractmethod
    def features(self, images_BCHW: Tensor) -> Tensor:
        """(B, E)."""

    @abstractmethod
    def depths(self) -> list[list[nn.Module]]:
        """Its layers in groups from the pixels to the head, which is the last one alone."""

    def freeze(self, frozen: bool = True) -> None:
        """Let the head alone learn, or all. BatchNorm of what is frozen keeps its moments."""
        self.frozen = frozen
        for layer in self._backbone():
            layer.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Picture:
        super().train(mode)
        if self.frozen:
            for layer in self._backbone():
                layer.eval()
        return self

    def _backbone(self) -> list[nn.Module]:
        return [layer for group in self.depths()[:-1] for layer in group]


class Cnn(Picture):
    """Stages of convolution, halving, BatchNorm and ReLU; then the largest value of each channel.

    Any size from 8 by 8 up: a side of one pixel is halved no further.
    """

    def __init__(
        self,
        mean: Sequence[float],
        deviation: Sequence[float],
        classes: int,
        *,
        channels: Sequence[int],
        convolutions: int,
        dropout: float,
        initial: Initial,
    ) -> None:
        """channels: of each stage; convolutions: of each stage but the first, which has one."""
        super().__init__(mean, deviation, channels[-1], classes, dropout)
        widths = [len(mean), *channels]
        self.stages = nn.ModuleList(
            _stage(widths[i], widths[i + 1], convolutions if i else 1) for i in range(len(channels))
        )
        self.draw(initial)

    def features(self, images_BCHW: Tensor) -> Tensor:
        layer_BFHW = images_BCHW
        for stage in self.stages:
            layer_BFHW = stage(layer_BFHW)
        return layer_BFHW.amax(dim=(2, 3))

    def depths(self) -> list[list[nn.Module]]:
        return [*([stage] for stage in self.stages), [self.head]]


def _stage(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    """Halved before BatchNorm and ReLU, which then cost a quarter and answer the same for ReLU."""
    layers: list[nn.Module] = []
    for index in range(convolutions):
        layers.append(nn.Conv2d(outputs if index else inputs, outputs, 3, padding=1, bias=False))
        layers += [nn.MaxPool2d(2, ceil_mode=True)] if index == 0 else []
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
