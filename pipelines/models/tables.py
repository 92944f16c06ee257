"""Encoded rows of a table as an objective: a 0/1 label, with an effect for every day of train.

Rows of one day share its weather and its disruptions beyond what the columns tell, and a network
that sees few days learns each of them by heart. So a free effect for every day of train is fitted
beside the network, drawn towards 0, and dropped afterwards: a random intercept, as in mixed-effects
networks (Simchoni and Rosset 2021, arXiv:2106.03436).
"""

# B batch, N rows, P numbers, C categories, D days

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines import metrics
from pipelines.models import distributed
from pipelines.models.initial import start
from pipelines.models.network import Network, Probability, quantile_edges
from pipelines.models.objective import Groups, decaying
from pipelines.records import Rows

if TYPE_CHECKING:
    from pipelines import train_params

DAY = 86_400
CHUNK = 8192
"""Rows answered at once; bounds memory."""
OPSET = 18


@dataclass(frozen=True)
class Fitted:
    """A fitted network. best: epoch, validation_auc and validation_loss of the weights it kept. forget:
    as of `loop.Trained`."""

    network: Network
    best: dict[str, float]
    history: list[dict[str, float]]
    forget: Callable[[], None]

    def predict(self, numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """(N,) float32 probability of 1, of numbers (N, P), NaN = missing, and codes (N, C)."""
        return answer(self.network, numbers, codes, torch.device("cpu"))

    def to_onnx(self) -> onnx.ModelProto:
        """Inputs numbers (N, P), codes (N, C), one without columns left out; probability (N, 1)."""
        numbers = torch.zeros(2, len(self.network.left_PQ))
        codes = torch.zeros(2, len(self.network.embeddings), dtype=torch.int64)
        out = io.BytesIO()
        with warnings.catch_warnings():
            # The TorchScript exporter is deprecated; it takes 0.1 s here, its successor 7 s.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Probability(self.network).eval(),
                (numbers, codes),
                out,
                input_names=["numbers", "codes"],
                output_names=["probability"],
                dynamic_axes={name: {0: "rows"} for name in ("numbers", "codes", "probability")},
                opset_version=OPSET,
                dynamo=False,
            )
        return onnx.load_from_string(out.getvalue())


def table(
    train: Rows, validation: Rows, cardinalities: Sequence[int], settings: train_params.Network
) -> Table:
    """The objective with a network of first weights."""
    network = Network(
        quantile_edges(train.numbers, settings.bins),
        cardinalities,
        embedding=settings.embedding,
        width=settings.width,
        depth=settings.depth,
        dropout=settings.dropout,
    )
    if settings.initial != "default":
        start(network, settings.initial)
    return Table(network, train, validation, settings)


class Table:
    """The objective of `network` on `train`."""

    def __init__(
        self, network: Network, train: Rows, validation: Rows, settings: train_params.Network
    ) -> None:
        self.module, self.settings, self.held = network, settings, validation
        days, day = np.unique(train.time // DAY, return_inverse=True)
        label = torch.from_numpy(train.label.astype(np.float32))
        self.rows = (
            torch.tensor(train.numbers), torch.tensor(train.codes), label, torch.from_numpy(day),
        )  # fmt: skip
        self.validation = (
            torch.tensor(validation.numbers), torch.tensor(validation.codes),
            torch.tensor(validation.label),
        )  # fmt: skip
        self.effect_D = nn.Parameter(torch.zeros(len(days)))
        self.weights = class_weights(train.label, 2) if settings.class_weights != "none" else None

    def groups(self, weight_decay: float) -> Groups:
        """Day effects do not decay: they have a prior of their own."""
        weights, others = decaying(list(self.module.parameters()), weight_decay)
        if self.settings.day_effect:
            others["params"].append(self.effect_D)
        return [weights, others]

    def begin(self, epoch: int) -> None:
        """Every layer learns from the start."""

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...], random: torch.Generator) -> Tensor:
        """Cross-entropy, and the day effects' Gaussian prior as its share of one row."""
        numbers_BP, codes_BC, label_B, day_B = batch
        logit_B = module(numbers_BP, codes_BC)
        if self.settings.day_effect:
            logit_B = logit_B + self.effect_D[day_B]
        weight_B = None
        if self.weights is not None:
            weight_B = torch.where(label_B == 1, self.weights[1], self.weights[0])
        if smooth := self.settings.label_smoothing:
            label_B = label_B * (1 - smooth) + smooth / 2
        loss = F.binary_cross_entropy_with_logits(logit_B, label_B, weight=weight_B)
        if not self.settings.day_effect:
            return loss
        share = 2 * self.settings.day_effect**2 * len(self.rows[0])
        return loss + self.effect_D.square().sum() / share

    def judge(self, device: torch.device) -> dict[str, float]:
        label = self.held.label
        numbers, codes = self.held.numbers, self.held.codes
        mine = distributed.share(len(label))
        probability = distributed.joined(
            answer(self.module, numbers[mine], codes[mine], device), len(label)
        )
        return {
            "validation_loss": metrics.log_loss(label, probability),
            "validation_auc": metrics.auc(label, probability),
        }

    def worse(self, found: dict[str, float], top: dict[str, float]) -> bool:
        return worse(found["validation_auc"], top["validation_auc"], self.held.label)

    def score(self, found: dict[str, float]) -> float:
        return found["validation_auc"]


def answer(
    network: nn.Module, numbers: np.ndarray, codes: np.ndarray, device: torch.device
) -> np.ndarray:
    """(N,) float32 probability of label 1. Copied by the chunk: arrays may be read-only."""
    network.eval()
    found = np.empty(len(numbers), dtype=np.float32)
    with torch.inference_mode():
        for at in range(0, len(numbers), CHUNK):
            rows = slice(at, at + CHUNK)
            numbers_BP = torch.tensor(numbers[rows]).to(device)
            logit_B = network(numbers_BP, torch.tensor(codes[rows]).to(device))
            found[rows] = torch.sigmoid(logit_B).cpu().numpy()
    return found


def class_weights(label: np.ndarray, classes: int) -> list[float]:
    """Of each class, so that all weigh the same and the mean over these rows is 1; 0 for one that
    has no row.

    >>> class_weights(np.array([0, 0, 0, 1]), 2)
    [0.6666666666666666, 2.0]
    """
    counts = np.bincount(label, minlength=classes)
    present = int((counts > 0).sum())
    return [len(label) / (present * count) if count else 0.0 for count in counts.tolist()]


def worse(auc: float, top: float, label: np.ndarray) -> bool:
    """Is an epoch worse than the top one by more than the validation rows' own standard error?

    Validation is a few days, and days differ: following its every wiggle stops too early, at a cost
    of 0.001 to 0.002 AUC on the next month. The error is Hanley and McNeil's (1982,
    doi:10.1148/radiology.143.1.7063747). An AUC that is NaN (one class only) is never worse.
    """
    ones = int(label.sum())
    zeros = len(label) - ones
    if not math.isfinite(top) or not ones or not zeros:
        return False
    q1, q2 = top / (2 - top), 2 * top**2 / (1 + top)
    variance = top * (1 - top) + (ones - 1) * (q1 - top**2) + (zeros - 1) * (q2 - top**2)
    return auc < top - math.sqrt(max(variance, 0.0) / (ones * zeros))
