"""The loops that `benchmarks/train.py` measures beside ours: one epoch each, rows a second."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pipelines import train_params
from pipelines.models.objective import Objective
from pipelines.models.tables import Table

ANY = torch.Generator()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def loader(objective: Objective, settings: train_params.Loop) -> Any:
    rows = TensorDataset(*objective.rows)
    return DataLoader(rows, batch_size=settings.batch, shuffle=True, drop_last=True)


def dataloader(objective: Objective, settings: train_params.Loop) -> float:
    place = device()
    module = objective.module.to(place).train()
    optimizer = torch.optim.AdamW(
        objective.groups(settings.weight_decay), lr=settings.learning_rate
    )
    batches, seen = loader(objective, settings), 0
    began = time.perf_counter()
    for batch in batches:
        batch = tuple(part.to(place) for part in batch)
        optimizer.zero_grad()
        loss = objective.loss(module, batch, ANY)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
        optimizer.step()
        loss.item()
        seen += len(batch[0])
    return seen / (time.perf_counter() - began)


def lightning(objective: Objective, settings: train_params.Loop) -> float:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.module = objective.module
            self.began = self.took = 0.0
            self.seen = 0

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            self.seen += len(batch[0])
            return objective.loss(self.module, tuple(batch), ANY)

        def configure_optimizers(self) -> Any:
            groups = objective.groups(settings.weight_decay)
            return torch.optim.AdamW(groups, lr=settings.learning_rate)

        def on_train_epoch_start(self) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.took = time.perf_counter() - self.began

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on workers, which would be other processes' cores
        trainer = lightning.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, gradient_clip_val=settings.clip, accelerator="auto", devices=1,
        )  # fmt: skip
        module = Module()
        trainer.fit(module, loader(objective, settings))
    return module.seen / module.took


def limit(objective: Objective, settings: train_params.Loop) -> float:
    """Forward and backward of every batch of an epoch, cut and placed beforehand."""
    place = device()
    module = objective.module.to(place).train()
    whole = len(objective.rows[0]) // settings.batch
    order = torch.randperm(len(objective.rows[0]))[: whole * settings.batch]
    batches = [
        tuple(part[some].to(place) for part in objective.rows)
        for some in order.reshape(whole, settings.batch)
    ]
    began = time.perf_counter()
    for batch in batches:
        module.zero_grad(set_to_none=True)
        objective.loss(module, batch, ANY).backward()
    if place.type == "cuda":
        torch.cuda.synchronize()
    return whole * settings.batch / (time.perf_counter() - began)


def mlp_classifier(objective: Objective, settings: train_params.Network) -> float:
    """On the columns that our network makes of the rows: its ramps and embeddings, as they begin."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    assert isinstance(objective, Table)
    numbers, codes, label = objective.rows[:3]
    network: Any = objective.module
    with torch.inference_mode():
        parts = [*network.encode(numbers)]
        parts += [table(codes[:, c]) for c, table in enumerate(network.embeddings)]
        matrix = torch.cat(parts, dim=1).numpy()
    model = MLPClassifier(
        (settings.width,) * settings.depth, batch_size=settings.batch, max_iter=1, random_state=0
    )
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch is all that is asked
        model.fit(matrix, np.asarray(label))
    return len(matrix) / (time.perf_counter() - began)
