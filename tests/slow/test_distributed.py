"""Two processes train as one with a batch twice as large: `pytest -m slow tests/slow/test_distributed.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ranks
from tests.training_world import LOOP

pytestmark = pytest.mark.slow

CLASSES = {"label_smoothing": 0.1, "class_weights": "balanced", "average": 0.9, "clip": 0.1}


def torchrun(folder: Path, *, fails: bool = False, **asked: Any) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    ran = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "tests.ranks", json.dumps(asked | {"folder": str(folder)}),
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode != 0) == fails, ran.stderr
    files = sorted(folder.glob("rank*.pt"))
    return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_are_one_with_the_doubled_batch(accumulate: int, tmp_path: Path) -> None:
    """In float64: sums are grouped otherwise, so equal to rounding, which AdamW's division by the
    gradient's size carries on; 1e-9 is a millionth of what float32 would hide."""
    first, second = torchrun(tmp_path, world="classes", batch=16, accumulate=accumulate, **CLASSES)
    alone = ranks.train("classes", 32, **CLASSES)
    for name, value in alone.module.state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-9, atol=1e-9)
    assert first["history"] == second["history"]
    for found, expected in zip(first["history"], alone.history, strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    assert first["best"] == pytest.approx(alone.best, rel=1e-6)


def test_two_processes_train_the_network_for_tables_as_one(tmp_path: Path) -> None:
    """Day effects, which are beside the network, are exchanged too. In float32: 1e-3 of rounding
    that AdamW carries through 42 steps; gradients left apart would differ in the first digit."""
    first, second = torchrun(tmp_path, world="table", batch=16)
    alone = ranks.train("table", 32)
    for name, value in alone.module.state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-3, atol=1e-3)
    assert first["best"] == pytest.approx(alone.best, rel=1e-3)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_what_two_processes_judge_is_what_they_keep(average: float, tmp_path: Path) -> None:
    """Moments of a BatchNorm too: the weights that are kept answer the validation rows so."""
    first, second = torchrun(tmp_path, world="moments", batch=16, average=average)
    kept = ranks.of_moments(LOOP)
    kept.module.load_state_dict(first["weights"])
    found = kept.judge(torch.device("cpu"))
    best = dict(first["best"])
    epoch = first["history"][int(best.pop("epoch"))]
    assert found == pytest.approx(best, rel=1e-6)
    assert {name: epoch[name] for name in best} == best
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name])


@pytest.mark.long
def test_killed_two_processes_with_moments_judge_as_if_they_were_not(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    asked = {"world": "moments", "batch": 16, "average": 0.9}
    expected = torchrun(whole, **asked)
    assert torchrun(cut, fails=True, death=11, **asked) == []
    assert len(list(cut.glob("checkpoint-*.pt"))) == 1
    for found, wanted in zip(torchrun(cut, **asked), expected, strict=True):
        assert found["history"] == wanted["history"]
        assert found["best"] == wanted["best"]
        for name, value in wanted["weights"].items():
            assert torch.equal(found["weights"][name], value), name


@pytest.mark.long
def test_killed_two_processes_go_on_to_the_same_bits(tmp_path: Path) -> None:
    """With dropout, so that each process's own random numbers must come back."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    expected = torchrun(whole, world="table", batch=16, dropout=0.3)
    assert torchrun(cut, fails=True, world="table", batch=16, dropout=0.3, death=23) == []
    assert len(list(cut.glob("checkpoint-*.pt"))) == 1
    for found, wanted in zip(
        torchrun(cut, world="table", batch=16, dropout=0.3), expected, strict=True
    ):
        assert found["history"] == wanted["history"]
        for name, value in wanted["weights"].items():
            assert torch.equal(found["weights"][name], value)
    assert not list(cut.glob("checkpoint-*.pt"))
