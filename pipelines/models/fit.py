"""The one PyTorch loop: encoded rows in, a fitted network out.

Rows live in memory as tensors and a batch is one index into them: no loader, no Python per row.

Rows of one day share its weather and its disruptions beyond what the columns tell, and a network
that sees few days learns each of them by heart. So a free effect for every day of train is fitted
beside the network, drawn towards 0, and dropped afterwards: a random intercept, as in mixed-effects
networks (Simchoni and Rosset 2021, arXiv:2106.03436).
"""

# B batch, P numbers, C categories, D days

from __future__ import annotations

import copy
import io
import math
import time
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
from pipelines.models.network import Network, Probability, quantile_edges
from pipelines.records import Rows

if TYPE_CHECKING:
    from pipelines import train_params

DAY = 86_400
CHUNK = 8192
"""Rows answered at once; bounds memory."""
OPSET = 18

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Fitted:
    """A fitted network. best: epoch, validation_auc and validation_loss of the weights it kept."""

    network: Network
    best: dict[str, float]
    history: list[dict[str, float]]

    def predict(self, numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """(N,) float32 probability of 1, of numbers (N, P), NaN = missing, and codes (N, C)."""
        return _answer(self.network, numbers, codes)

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


def fit(
    train: Rows,
    validation: Rows,
    cardinalities: Sequence[int],
    settings: train_params.Network,
    seed: int,
    on_epoch: OnEpoch,
) -> Fitted:
    """The same rows, settings, seed and thread count (the caller's to set) give the same weights.

    Raises FloatingPointError, naming epoch and batch, when the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        edges = quantile_edges(train.numbers, settings.bins)
        network = Network(
            edges,
            cardinalities,
            embedding=settings.embedding,
            width=settings.width,
            depth=settings.depth,
            dropout=settings.dropout,
        )
        return _Run(network, train, settings).until_best(validation, on_epoch)


class _Run:
    """The state of one training: network, day effects, optimiser and schedule."""

    def __init__(self, network: Network, train: Rows, settings: train_params.Network) -> None:
        self.network, self.settings = network, settings
        self.numbers, self.codes = torch.tensor(train.numbers), torch.tensor(train.codes)
        self.label = torch.from_numpy(train.label.astype(np.float32))
        days, day = np.unique(train.time // DAY, return_inverse=True)
        self.day = torch.from_numpy(day)
        self.effect_D = nn.Parameter(torch.zeros(len(days)))
        self.batch = min(settings.batch, len(train))
        self.batches = len(train) // self.batch  # the odd rows of an epoch rest; each epoch others
        self.optimizer = torch.optim.AdamW(self._groups(), lr=settings.learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            settings.learning_rate,
            total_steps=self.batches * settings.epochs + 1,
            pct_start=0.2,
        )

    def _groups(self) -> list[dict[str, object]]:
        """Weights decay; biases do not, nor day effects, which have a prior of their own."""
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        biases = [p for p in self.network.parameters() if p.ndim == 1]
        effects = [self.effect_D] if self.settings.day_effect else []
        return [
            {"params": weights, "weight_decay": self.settings.weight_decay},
            {"params": biases + effects, "weight_decay": 0.0},
        ]

    def until_best(self, validation: Rows, on_epoch: OnEpoch) -> Fitted:
        """Train on, keep the epoch that `_worse` lets stand, stop when it stood for `patience`."""
        history: list[dict[str, float]] = []
        best: dict[str, float] = {}
        weights = self.network.state_dict()
        top = -math.inf
        for epoch in range(self.settings.epochs):
            began = time.perf_counter()
            train_loss = self._epoch(epoch)
            speed = self.batches * self.batch / (time.perf_counter() - began)
            found = {"train_loss": train_loss} | _judge(self.network, validation)
            _finite(found["validation_loss"], f"epoch {epoch}: the validation loss")
            history.append({"epoch": float(epoch), **found})
            on_epoch(epoch, {**found, "rows_per_second": speed})
            if not _worse(found["validation_auc"], top, validation.label):
                best = {k: v for k, v in history[-1].items() if k != "train_loss"}
                weights = copy.deepcopy(self.network.state_dict())
            elif epoch - best["epoch"] >= self.settings.patience:
                break
            top = max(top, found["validation_auc"])
        self.network.load_state_dict(weights)
        return Fitted(self.network.eval(), best, history)

    def _epoch(self, epoch: int) -> float:
        """Mean loss of its batches."""
        self.network.train()
        order, total = torch.randperm(len(self.label)), 0.0
        for index in range(self.batches):
            rows_B = order[index * self.batch : (index + 1) * self.batch]
            loss = self._loss(rows_B)
            value = loss.item()
            _finite(value, f"epoch {epoch}, batch {index} of {self.batches}: the loss")
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            total += value
        return total / self.batches

    def _loss(self, rows_B: Tensor) -> Tensor:
        """Cross-entropy, and the day effects' Gaussian prior as its share of one row."""
        logit_B = self.network(self.numbers[rows_B], self.codes[rows_B])
        label_B = self.label[rows_B]
        if not self.settings.day_effect:
            return F.binary_cross_entropy_with_logits(logit_B, label_B)
        prior = self.effect_D.square().sum() / (2 * self.settings.day_effect**2 * len(self.label))
        logit_B = logit_B + self.effect_D[self.day[rows_B]]
        return F.binary_cross_entropy_with_logits(logit_B, label_B) + prior


def _finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"{what} is {loss}. Lower train.network.learning_rate in params.yaml, or look for "
            "infinite numbers in the data"
        )


def _judge(network: Network, rows: Rows) -> dict[str, float]:
    probability = _answer(network, rows.numbers, rows.codes)
    return {
        "validation_loss": metrics.log_loss(rows.label, probability),
        "validation_auc": metrics.auc(rows.label, probability),
    }


def _answer(network: Network, numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N,) float32 probability of label 1. Copied by the chunk: arrays may be read-only."""
    network.eval()
    answer = np.empty(len(numbers), dtype=np.float32)
    with torch.inference_mode():
        for at in range(0, len(numbers), CHUNK):
            rows = slice(at, at + CHUNK)
            logit_B = network(torch.tensor(numbers[rows]), torch.tensor(codes[rows]))
            answer[rows] = torch.sigmoid(logit_B).numpy()
    return answer


def _worse(auc: float, top: float, label: np.ndarray) -> bool:
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
