"""Pictures, or any rows that are one tensor, as an objective: K classes, softmax cross-entropy."""

# B batch, N rows, H height, W width, C channels, K classes

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines import images, metrics
from pipelines.models import distributed
from pipelines.models.objective import Groups, decaying
from pipelines.models.tables import class_weights

if TYPE_CHECKING:
    from pipelines import train_params

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Classes:
    """The objective of `module`, which gives (B, K) logits of rows as they are stored."""

    def __init__(
        self,
        module: nn.Module,
        train: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor],
        classes: int,
        settings: train_params.Loop,
        augment: Augment | None = None,
        groups: Callable[[float], Groups] | None = None,
        begin: Callable[[int], None] | None = None,
    ) -> None:
        """train, validation: rows, such as uint8 (N, H, W, C), and labels, int64 (N,).

        augment: what a batch of train rows goes through before `module`, on its device.
        groups: of weight decay, the parameter groups; without, all learn at one rate.
        begin: called before each epoch, to freeze layers or to let them learn.
        """
        self.module, self.rows, self.validation = module, train, validation
        self.classes, self.settings, self.augment = classes, settings, augment
        self._groups, self._begin = groups, begin
        self.weights: Tensor | None = None
        if settings.class_weights != "none":
            self.weights = torch.tensor(class_weights(train[1].numpy(), classes))

    def groups(self, weight_decay: float) -> Groups:
        if self._groups is not None:
            return self._groups(weight_decay)
        return decaying([p for p in self.module.parameters() if p.requires_grad], weight_decay)

    def begin(self, epoch: int) -> None:
        if self._begin is not None:
            self._begin(epoch)

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...], random: torch.Generator) -> Tensor:
        """Divided by B, not by the weights of its labels, or parts of a batch would not average."""
        inputs, label_B = batch
        if self.augment is not None:
            with torch.no_grad():
                inputs = self.augment(inputs, random)
        logits_BK = module(inputs)
        smoothing = self.settings.label_smoothing
        if self.weights is None:
            return F.cross_entropy(logits_BK, label_B, label_smoothing=smoothing)
        loss_B = F.cross_entropy(logits_BK, label_B, label_smoothing=smoothing, reduction="none")
        return (loss_B * self.weights.to(label_B.device)[label_B]).mean()

    def judge(self, device: torch.device) -> dict[str, float]:
        inputs, label_N = self.validation
        mine = distributed.share(len(label_N))
        probability = distributed.joined(answer(self.module, inputs[mine], device), len(label_N))
        label = label_N.numpy()
        chosen = np.clip(probability[np.arange(len(label)), label].astype(np.float64), 1e-12, 1)
        return {
            "validation_loss": float(-np.log(chosen).mean()),
            "validation_accuracy": float((probability.argmax(axis=1) == label).mean()),
            "validation_auc": metrics.auc(label, probability),
        }

    def worse(self, found: dict[str, float], top: dict[str, float]) -> bool:
        """By more than the standard error of the top one's share of right answers."""
        share = self.score(top)
        error = math.sqrt(share * (1 - share) / len(self.validation[1]))
        return self.score(found) < share - error

    def score(self, found: dict[str, float]) -> float:
        return found["validation_accuracy"]


def answer(module: nn.Module, inputs: Tensor, device: torch.device) -> np.ndarray:
    """(N, K) float32 probabilities."""
    module.eval()
    with torch.inference_mode():
        parts = [
            torch.softmax(module(chunk.to(device)).float(), dim=1).cpu()
            for chunk in inputs.split(images.together(inputs.shape[1:3]))
        ]
        found: np.ndarray = torch.cat(parts).numpy()
    return found
