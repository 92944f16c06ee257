"""Pictures changed at random, each property by itself: `pytest tests/test_augment.py`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pipelines.models.augment import DRAWS, augment, changed
from pipelines.train_params import Augment

SOME = Augment(shift=3, flip=True, crop=0.4, rotation=20, cutout=4)
ONLY = {"shift": 2, "flip": True, "crop": 0.5, "rotation": 30, "cutout": 3}
MIDDLE, NEVER_FLIP, FLIP = 0.5, 0.9, 0.1
sizes = st.tuples(
    st.integers(1, 6), st.sampled_from([1, 3]), st.integers(8, 14), st.integers(8, 14)
)


def pictures(size: tuple[int, int, int, int], seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) + 1


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(batch: int, **at: float) -> Tensor:
    """Numbers that change nothing but what is named by its place: see DRAWS."""
    places = {"down": 0, "right": 1, "flip": 2, "cut": 3, "low": 4, "far": 5, "turn": 6}
    places |= {"top": 7, "left": 8}
    one = torch.full((batch, DRAWS), MIDDLE)
    one[:, 2], one[:, 3] = NEVER_FLIP, 0
    for name, value in at.items():
        one[:, places[name]] = value
    return one


@given(sizes, st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_off_is_identity(size: tuple[int, int, int, int], seed: int) -> None:
    images = pictures(size)
    assert torch.equal(augment(images, Augment(), drawn(seed)), images)


@given(sizes, st.integers(0, 99), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None, max_examples=50)
def test_shape_type_and_range_are_kept_and_the_input_too(
    size: tuple[int, int, int, int], seed: int, dtype: torch.dtype
) -> None:
    images = pictures(size, seed).to(dtype)
    before = images.clone()
    uncut = SOME.model_copy(update={"cutout": 0})
    after = augment(images, uncut, drawn(seed))
    assert after.shape == images.shape
    assert after.dtype == dtype
    assert torch.equal(images, before)
    assert after.min() >= images.min() - 1e-5
    assert after.max() <= images.max() + 1e-5


@pytest.mark.parametrize("only", ONLY)
def test_one_generator_state_gives_one_answer_and_another_another(only: str) -> None:
    images, one = pictures((8, 3, 12, 10)), Augment(**{only: ONLY[only]})
    assert torch.equal(augment(images, one, drawn(7)), augment(images, one, drawn(7)))
    assert not torch.equal(augment(images, one, drawn(7)), augment(images, one, drawn(8)))


@pytest.mark.parametrize("only", ONLY)
def test_each_picture_is_changed_its_own_way(only: str) -> None:
    images = pictures((1, 1, 12, 12)).expand(40, 1, 12, 12)
    after = augment(images, Augment(**{only: ONLY[only]}), drawn(1))
    different = {tuple(picture.flatten().tolist()) for picture in after}
    assert len(different) >= (2 if only == "flip" else 10)


@pytest.mark.parametrize("name", ["shift", "flip", "crop", "rotation", "cutout"])
def test_what_a_picture_draws_is_its_own_whatever_else_is_on(name: str) -> None:
    """So a batch dealt to two processes is changed as it is by one."""
    images, one = pictures((6, 1, 9, 9)), Augment(**{name: ONLY[name]})
    all_draws = torch.rand(6, DRAWS, generator=drawn(3))
    whole = changed(images, one, all_draws)
    halves = [changed(images[at], one, all_draws[at]) for at in (slice(0, 3), slice(3, 6))]
    assert torch.allclose(whole, torch.cat(halves), atol=1e-6)
    generator, other = drawn(5), drawn(5)
    augment(images, one, generator)
    augment(images, SOME, other)
    assert torch.equal(generator.get_state(), other.get_state())


@given(sizes)
@settings(deadline=None, max_examples=20)
def test_a_flip_is_its_own_inverse_and_mirrors_left_to_right(
    size: tuple[int, int, int, int],
) -> None:
    images, flips = pictures(size), draws(size[0], flip=FLIP)
    once = changed(images, Augment(flip=True), flips)
    assert torch.equal(once, images.flip(3))
    assert torch.equal(changed(once, Augment(flip=True), flips), images)


def test_half_are_flipped() -> None:
    images = pictures((1, 1, 8, 8)).expand(2000, 1, 8, 8)
    flipped = (augment(images, Augment(flip=True), drawn(2)) != images).flatten(1).any(1)
    assert abs(flipped.float().mean() - 0.5) < 4 * math.sqrt(0.25 / 2000)


@given(sizes, st.integers(0, 4), st.integers(-4, 4), st.integers(-4, 4))
@settings(deadline=None, max_examples=60)
def test_a_shift_rolls_a_picture_padded_with_its_border(
    size: tuple[int, int, int, int], most: int, down: int, right: int
) -> None:
    down, right = max(-most, min(most, down)), max(-most, min(most, right))
    steps = 2 * most + 1
    one = draws(size[0], down=(down + most + 0.5) / steps, right=(right + most + 0.5) / steps)
    images = pictures(size)
    height, width = size[2:]
    rolled = F.pad(images, (5, 5, 5, 5), mode="replicate").roll((down, right), (2, 3))
    expected = rolled[:, :, 5 : 5 + height, 5 : 5 + width]
    assert torch.equal(changed(images, Augment(shift=most), one), expected)


def test_every_shift_is_as_likely() -> None:
    images = torch.zeros(5000, 1, 11, 11)
    images[:, :, 5, 5] = 1
    after = augment(images, Augment(shift=2), drawn(4))
    counts = after.sum(dim=(0, 1))
    assert counts[3:8, 3:8].sum() == 5000
    assert abs(counts[3:8, 3:8] - 200).max() < 4.5 * math.sqrt(200)


@given(sizes, st.integers(1, 20), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_cutout_zeroes_one_square_and_touches_nothing_else(
    size: tuple[int, int, int, int], side: int, seed: int
) -> None:
    images = pictures(size)  # none of it is 0
    after = augment(images, Augment(cutout=side), drawn(seed))
    gone = after == 0
    assert torch.equal(after[~gone], images[~gone])
    tall, wide = min(side, size[2]), min(side, size[3])
    assert torch.equal(gone.sum(dim=(2, 3)), torch.full(size[:2], tall * wide))
    rows, columns = gone.any(dim=3).sum(dim=2), gone.any(dim=2).sum(dim=2)
    assert (rows == tall).all()
    assert (columns == wide).all()


def test_cutout_reaches_every_place() -> None:
    after = augment(torch.ones(3000, 1, 8, 8), Augment(cutout=3), drawn(6))
    corners = after[:, 0, [0, 0, 7, 7], [0, 7, 0, 7]] == 0
    assert ((corners.float().mean(0) - 1 / 36).abs() < 4 * math.sqrt(1 / 36 / 3000)).all()


@pytest.mark.parametrize("size", [(2, 1, 9, 9), (2, 3, 8, 8)])
def test_a_turn_of_90_degrees_is_exact(size: tuple[int, int, int, int]) -> None:
    images = pictures(size)
    after = changed(images, Augment(rotation=90), draws(size[0], turn=1))
    assert torch.allclose(after, images.rot90(1, (2, 3)), atol=1e-5)


def test_a_turn_of_what_is_not_square_is_no_shear() -> None:
    """The picture of a disc stays one, whatever the angle."""
    y, x = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(40) - 19.5, indexing="ij")
    disc = (torch.hypot(y, x) < 7).float()[None, None].repeat(16, 1, 1, 1)
    after = augment(disc, Augment(rotation=180), drawn(9))
    assert (after - disc).abs().mean() < 0.02


@given(st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_a_crop_scales_a_window_of_the_picture(low: float, far: float) -> None:
    """A ramp stays a ramp: its slope is the window's side, its middle lies inside the picture."""
    line = (torch.arange(32) + 0.5) / 32
    ramp = (line[:, None] + 10 * line[None, :])[None, None]
    one = draws(1, cut=1, low=low, far=far)
    after = changed(ramp, Augment(crop=0.75), one)[0, 0]
    steps = after.diff(dim=1)[:, 2:-2]  # at the border half a pixel is padding
    assert torch.allclose(steps, torch.full_like(steps, 10 * 0.5 / 32), atol=1e-4)
    middle = after[15:17, 15:17].mean()
    assert abs(middle - ((low + 0.5) / 2 + 10 * (far + 0.5) / 2)) < 1e-3


def test_a_crop_leaves_out_at_most_its_share() -> None:
    line = (torch.arange(64) + 0.5) / 64
    images = line[None, None, None, :].expand(500, 1, 64, 64)
    after = augment(images, Augment(crop=0.5), drawn(11))
    side = after[:, 0, 0, 33] - after[:, 0, 0, 30]
    side = side * 64 / 3
    assert side.min() >= math.sqrt(0.5) - 1e-3
    assert side.max() <= 1 + 1e-3
    assert side.std() > 0.05


def test_pictures_stay_channels_last() -> None:
    images = pictures((4, 3, 12, 12)).to(memory_format=torch.channels_last)
    moved: dict[str, Any] = {"shift": 2, "flip": True, "cutout": 3}
    for after in (augment(images, SOME, drawn(0)), augment(images, Augment(**moved), drawn(0))):
        assert after.is_contiguous(memory_format=torch.channels_last)
