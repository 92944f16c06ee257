"""Small graphs to make smaller: a network for a table behind its encoder, and one for pictures."""

from __future__ import annotations

import functools
import io
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from pipelines import contract
from pipelines.adapters import onnx_variants
from pipelines.adapters.onnx import raw_to_probability
from pipelines.encoder import fit_encoder
from pipelines.graph import open_graph, raw_inputs
from pipelines.models import fit
from pipelines.records import Rows
from pipelines.variant_params import Variants
from tests.conftest import shop
from tests.test_models import NETWORK
from tests.test_sources import SHOP

NAMES = ("fp16", "int8_dynamic", "int8_static", "pruned")
LOOSE = Variants(
    make=NAMES, max_auc_loss=1, max_log_loss_rise=9, max_parity=1, min_gain=1, max_slowdown=99
)
KNOWN = contract.parse(SHOP)
TABLE = shop(days=30)


@dataclass(frozen=True)
class Case:
    graph: bytes
    feeds: dict[str, np.ndarray]
    label: np.ndarray

    @property
    def half(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """What calibrates, what tests and its label."""
        cut = len(self.label) // 2
        return (
            {n: v[:cut] for n, v in self.feeds.items()},
            {n: v[cut:] for n, v in self.feeds.items()},
            self.label[cut:],
        )


def encoded() -> tuple[Rows, object]:
    encoder = fit_encoder(TABLE, KNOWN, ("hour", "weekday"), min_category=50)
    numbers, codes = encoder.encode(TABLE, KNOWN)
    random = np.random.default_rng(0)
    score = np.nan_to_num(numbers[:, 0]) + 2 * (codes[:, 0] == 2) - 1
    label = (score + random.normal(scale=0.5, size=len(TABLE)) > 0).astype(np.int8)
    return Rows(numbers, codes, label, np.arange(len(TABLE)) * 600), encoder


def table() -> Case:
    rows, encoder = encoded()
    wide = SimpleNamespace(**(vars(NETWORK) | {"width": 128}))
    model = fit.fit(rows, rows, encoder.cardinalities, wide, 7, lambda *_: None)
    graph = raw_to_probability(encoder, model.to_onnx())
    return Case(graph, raw_inputs(TABLE, KNOWN, KNOWN.inputs), rows.label)


class Small(nn.Module):
    """What networks for pictures are made of: BatchNorm behind a convolution and behind a maximum,
    a residual block, an embedding that is told as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.second, self.behind = nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32)
        self.third, self.last = nn.Conv2d(32, 32, 3, padding=1, groups=2), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, pixels_BHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = (pixels_BHWC.float() - 70.0).permute(0, 3, 1, 2) / 90.0
        x = F.relu(self.norm(F.max_pool2d(self.first(x), 2)))
        x = F.relu(self.behind(self.second(x)))
        x = F.relu(x + self.last(self.third(x)))
        embedding = x.mean(dim=(2, 3))
        return torch.softmax(self.head(embedding), dim=1), embedding


def pictures() -> Case:
    digits = load_digits()
    pixels = (digits.images * 15).astype(np.uint8)[..., None]
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for part in np.array_split(np.arange(1100), 35):
        answer, _ = model(torch.tensor(pixels[part]))
        loss = F.nll_loss(answer.log(), torch.tensor(digits.target[part]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    out, outputs = io.BytesIO(), ["probability", "embedding"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            # In training, as far as the exporter knows: it then folds no BatchNorm.
            Exported(model.eval()).train(), (torch.tensor(pixels[:2]),), out,
            input_names=["pixels"], output_names=outputs,
            dynamic_axes={name: {0: "rows"} for name in ("pixels", *outputs)}, opset_version=18,
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, dynamo=False,
        )  # fmt: skip
    return Case(out.getvalue(), {"pixels": pixels[-600:]}, digits.target[-600:])


class Exported(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> Exported:
        self.training = mode
        return self

    def forward(self, pixels_BHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network(pixels_BHWC)


CASES = {"table": table, "pictures": pictures}


@functools.cache
def case_of(name: str) -> Case:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = CASES[name]()
    torch.set_num_threads(threads)
    return found


def made(case: Case, name: str) -> bytes:
    return onnx_variants.make(name, case.graph, case.half[0], LOOSE)


def run(graph: bytes, feeds: dict[str, np.ndarray], *outputs: str) -> list[np.ndarray]:
    session = open_graph(graph)
    return session.run(list(outputs), {i.name: feeds[i.name] for i in session.get_inputs()})
