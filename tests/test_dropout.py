"""Run: pytest tests/test_dropout.py"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.models.dropout import Dropout

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def left_out(p: float, *shape: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(p)(torch.ones(shape))


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_leaves_out_the_asked_share_and_keeps_the_mean(p: float) -> None:
    units = left_out(p, 1000, 1000)
    share = float((units == 0).double().mean())
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / 1e6) ** 0.5 + 2**-17)
    assert float(units.double().mean()) == pytest.approx(1, abs=5 * (p / (1 - p) / 1e6) ** 0.5)
    kept = units[units != 0].unique()
    assert kept.tolist() == pytest.approx([1 / (1 - p)], rel=2e-4)


def test_the_chances_of_units_that_one_number_makes_do_not_depend_on_each_other() -> None:
    gone_NU = (left_out(0.5, 400_000) == 0).view(-1, 4).double()
    assert torch.corrcoef(gone_NU.T).fill_diagonal_(0).abs().max() < 5 / 100_000**0.5


@given(SHAPES, st.floats(0, 1, exclude_max=True))
def test_any_shape_is_kept_and_a_unit_is_whole_or_nothing(shape: list[int], p: float) -> None:
    units = left_out(p, *shape)
    assert list(units.shape) == shape
    assert len(units.unique()) <= 2


def test_a_gradient_goes_where_the_unit_went() -> None:
    units = torch.ones(64, 32, requires_grad=True)
    answer = Dropout(0.3)(units)
    answer.sum().backward()
    assert torch.equal(units.grad, answer.detach())


def test_the_seed_decides() -> None:
    assert torch.equal(left_out(0.5, 1000), left_out(0.5, 1000))
    assert not torch.equal(left_out(0.5, 1000), left_out(0.5, 1000, seed=1))


@pytest.mark.parametrize("off", [Dropout(0.0), Dropout(0.5).eval()])
def test_is_nothing_where_it_is_off(off: Dropout) -> None:
    units = torch.randn(10, 10)
    state = torch.get_rng_state()
    assert torch.equal(off(units), units)
    assert torch.equal(torch.get_rng_state(), state)
