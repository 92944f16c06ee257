"""Residual networks (He et al. 2016, arXiv:1512.03385), their layers named as torchvision's.

So the published weights of its ResNet-18 and -34 fit the ones here with width 1 and the large stem.
"""

# B batch, H height, W width, C channels of a picture, F channels of a layer, E embedding

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pipelines.models.picture import Picture
from pipelines.train_params import Initial

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
CHANNELS = (64, 128, 256, 512)


class Resnet(Picture):
    """A stem, four stages of basic blocks, and the mean of each channel."""

    def __init__(
        self,
        mean: Sequence[float],
        deviation: Sequence[float],
        classes: int,
        *,
        depth: Literal[10, 18, 34],
        width: float,
        stem: Literal["small", "large"],
        dropout: float,
        initial: Initial,
    ) -> None:
        """width: multiplies 64, 128, 256 and 512 channels, in steps of 8."""
        widths = [max(8, round(width * channels / 8) * 8) for channels in CHANNELS]
        super().__init__(mean, deviation, widths[-1], classes, dropout)
        large = stem == "large"
        self.conv1 = nn.Conv2d(
            len(mean), widths[0], 7 if large else 3,
            stride=2 if large else 1, padding=3 if large else 1, bias=False,
        )  # fmt: skip
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        first, second, third, fourth = BLOCKS[depth]
        self.layer1 = _layer(widths[0], widths[0], first, stride=1)
        self.layer2 = _layer(widths[0], widths[1], second, stride=2)
        self.layer3 = _layer(widths[1], widths[2], third, stride=2)
        self.layer4 = _layer(widths[2], widths[3], fourth, stride=2)
        self.draw(initial)
        for block in self.modules():
            if isinstance(block, Block):
                # A block starts as its shortcut alone (Goyal et al. 2017, arXiv:1706.02677).
                nn.init.zeros_(block.bn2.weight)

    def features(self, images_BCHW: Tensor) -> Tensor:
        layer_BFHW = self.maxpool(self.relu(self.bn1(self.conv1(images_BCHW))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            layer_BFHW = layer(layer_BFHW)
        return layer_BFHW.mean(dim=(2, 3))

    def depths(self) -> list[list[nn.Module]]:
        layers = [[layer] for layer in (self.layer1, self.layer2, self.layer3, self.layer4)]
        return [[self.conv1, self.bn1], *layers, [self.head]]


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, layer_BFHW: Tensor) -> Tensor:
        changed_BFHW = self.relu(self.bn1(self.conv1(layer_BFHW)))
        sum_BFHW = self.bn2(self.conv2(changed_BFHW)) + self.downsample(layer_BFHW)
        answer_BFHW: Tensor = self.relu(sum_BFHW)
        return answer_BFHW


def _layer(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))
