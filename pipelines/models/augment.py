"""Pictures changed at random as they are learned, on their device, the whole batch at once.

Each picture takes DRAWS numbers, whatever the settings: which pictures a batch holds, and no
setting, decides what the next one draws. What comes in from outside is the nearest border pixel:
black round a shoe on black, sky above sky.
"""

# B batch, C channels, H height, W width, R random numbers of a picture

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from pipelines import train_params

DRAWS = 9
"""Shift 2, flip 1, crop 3 (size and place), rotation 1, cutout 2."""


def augment(
    images_BCHW: Tensor, settings: train_params.Augment, generator: torch.Generator
) -> Tensor:
    """(B, C, H, W) float, each picture changed its own way; generator: of the pictures' device."""
    draws_BR = torch.rand(len(images_BCHW), DRAWS, generator=generator, device=images_BCHW.device)
    return changed(images_BCHW, settings, draws_BR)


def changed(images_BCHW: Tensor, settings: train_params.Augment, draws_BR: Tensor) -> Tensor:
    """The same with the numbers drawn already, (B, DRAWS) in [0, 1)."""
    if settings.crop or settings.rotation:
        images_BCHW = _turned(images_BCHW, settings, draws_BR[:, 3:7])
    if settings.shift or settings.flip:
        images_BCHW = _moved(images_BCHW, settings, draws_BR[:, :3])
    if settings.cutout:
        images_BCHW = _cut(images_BCHW, settings.cutout, draws_BR[:, 7:])
    return images_BCHW.contiguous(memory_format=torch.channels_last)


def _moved(images_BCHW: Tensor, settings: train_params.Augment, draws_BR: Tensor) -> Tensor:
    """Shifted by whole pixels, then mirrored: one look-up, no interpolation."""
    batch, _, height, width = images_BCHW.shape
    shift_B2 = (draws_BR[:, :2] * (2 * settings.shift + 1)).long() - settings.shift
    row_BH = _line(images_BCHW, height) - shift_B2[:, :1]
    column_W = _line(images_BCHW, width)
    if settings.flip:
        mirrored_B1 = draws_BR[:, 2:] < 0.5
        column_BW = torch.where(mirrored_B1, width - 1 - column_W, column_W) - shift_B2[:, 1:]
    else:
        column_BW = column_W - shift_B2[:, 1:]
    picture_B11 = torch.arange(batch, device=images_BCHW.device)[:, None, None]
    moved_BHWC = images_BCHW.permute(0, 2, 3, 1)[
        picture_B11, row_BH.clamp(0, height - 1)[:, :, None], column_BW.clamp(0, width - 1)[:, None]
    ]
    return moved_BHWC.permute(0, 3, 1, 2)


def _turned(images_BCHW: Tensor, settings: train_params.Augment, draws_BR: Tensor) -> Tensor:
    """Cropped to a window of the same shape, scaled back, and rotated about the window's middle.

    In grid_sample's coordinates a picture spans -1 to 1 both ways; height / width makes a rotation
    of pixels out of one of these, or what is not square would be sheared.
    """
    height, width = images_BCHW.shape[2:]
    side_B = (1 - settings.crop * draws_BR[:, 0]).sqrt()
    free_B2 = (1 - side_B)[:, None] * (2 * draws_BR[:, 1:3] - 1)
    angle_B = (2 * draws_BR[:, 3] - 1) * math.radians(settings.rotation)
    cos_B, sin_B = side_B * angle_B.cos(), side_B * angle_B.sin()
    map_B23 = torch.stack(
        [
            torch.stack([cos_B, -sin_B * (height / width), free_B2[:, 1]], dim=1),
            torch.stack([sin_B * (width / height), cos_B, free_B2[:, 0]], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(
        map_B23.to(images_BCHW.dtype), list(images_BCHW.shape), align_corners=False
    )
    return F.grid_sample(images_BCHW, grid, padding_mode="border", align_corners=False)


def _cut(images_BCHW: Tensor, side: int, draws_BR: Tensor) -> Tensor:
    """A square of 0 wholly inside: of standardised pictures, their mean."""
    height, width = images_BCHW.shape[2:]
    tall, wide = min(side, height), min(side, width)
    top_B1 = (draws_BR[:, :1] * (height - tall + 1)).long()
    left_B1 = (draws_BR[:, 1:] * (width - wide + 1)).long()
    row_BH, column_BW = _line(images_BCHW, height) - top_B1, _line(images_BCHW, width) - left_B1
    tall_BH1 = ((row_BH >= 0) & (row_BH < tall))[:, :, None]
    wide_B1W = ((column_BW >= 0) & (column_BW < wide))[:, None]
    return images_BCHW.masked_fill((tall_BH1 & wide_B1W)[:, None], 0)


def _line(images: Tensor, length: int) -> Tensor:
    return torch.arange(length, device=images.device)
