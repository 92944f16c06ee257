"""A network as a file of PyTorch's own: `pytest tests/test_exported.py`.

torch.export takes seconds to import and to trace: tests/slow/test_exported.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.errors import ArtifactError
from pipelines.models import exported
from pipelines.models.network import Network, Probability, quantile_edges


def network() -> Probability:
    torch.manual_seed(0)
    edges = quantile_edges(torch.randn(100, 3).numpy(), bins=4)
    return Probability(Network(edges, (5, 3), embedding=4, width=16, depth=2, dropout=0.5)).train()


def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.randn(n, 3)
    numbers[::5, 0] = float("nan")
    return numbers, torch.stack([torch.arange(n) % 5, torch.arange(n) % 3], dim=1)


class Straightened(nn.Module):
    """Answers by what the rows hold, which tracing forgets: it keeps the way that it went."""

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers if len(numbers) > 1 else numbers + 1


def test_the_file_answers_as_the_network_to_any_number_of_rows(tmp_path):
    model = network()
    (path,) = exported.write(model, rows(40), tmp_path, "shop", ["torchscript"])
    assert path == tmp_path / "shop.torchscript.pt"
    assert list(tmp_path.iterdir()) == [path]
    loaded = torch.jit.load(path)
    for n in (1, 7, 1000):
        assert torch.allclose(loaded(*rows_of(n)), model.eval()(*rows_of(n)), atol=1e-5)


def rows_of(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(n)
    return rows(n)


def test_a_file_that_answers_otherwise_is_refused_and_the_one_of_before_stays(tmp_path):
    before = tmp_path / "shop.torchscript.pt"
    before.write_bytes(b"of before")
    with pytest.raises(ArtifactError, match=r"shop\.torchscript\.pt answers 1 rows 1 away"):
        exported.write(Straightened(), (torch.randn(9, 3),), tmp_path, "shop", ["torchscript"])
    assert before.read_bytes() == b"of before"
    assert list(tmp_path.iterdir()) == [before]


def test_one_row_is_too_few_to_trace_with(tmp_path):
    with pytest.raises(ValueError, match="2 rows or more"):
        exported.write(network(), rows(1), tmp_path, "shop", ["torchscript"])


def test_nothing_asked_for_nothing_written(tmp_path):
    assert exported.write(network(), rows(9), tmp_path, "shop", []) == []
    assert not list(tmp_path.iterdir())
