"""A network by torch.export: `pytest -m slow tests/slow/test_exported.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.errors import ArtifactError
from pipelines.models import exported
from tests.test_exported import network, rows_of

pytestmark = pytest.mark.slow


def test_both_files_answer_as_the_network_to_any_number_of_rows(tmp_path):
    model = network()
    paths = exported.write(model, rows_of(40), tmp_path, "shop", ["torchscript", "torch_export"])
    assert [p.name for p in paths] == ["shop.torchscript.pt", "shop.pt2"]
    loaded = torch.export.load(paths[1]).module()
    for n in (1, 7, 1000):
        assert torch.allclose(loaded(*rows_of(n)), model.eval()(*rows_of(n)), atol=1e-5)


class Noisy(nn.Module):
    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers + torch.rand(())


def test_a_file_that_answers_otherwise_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"shop\.pt2 answers 9 rows"):
        exported.write(Noisy(), (torch.randn(9, 3),), tmp_path, "shop", ["torch_export"])
    assert not list(tmp_path.iterdir())
