"""How fast is the training loop, and beside what? `make bench-train`

The same network, the same rows and the same number of threads (one) in every loop, which take turns:

- ours: `fit.run` as `perennial train` calls it;
- DataLoader: the loop of PyTorch's own tutorial, over a TensorDataset, shuffled;
- Lightning: its Trainer over the same DataLoader, with logger, checkpoints and bar off;
- MLPClassifier (tables only): scikit-learn's, with the same layers, batch and encoded columns;
- the limit: forward and backward alone, on batches that lie ready. No optimiser, no shuffling.

Tables have the shape of the flights (columns, categories, three months of rows), pictures that of
Fashion-MNIST; what is in them does not matter for the time. Rows a second of whole epochs; a figure
is the median over the rounds of the ratio within a round. Of the ResNet the share of the device's
peak is told beside them, with no aim (`train_peak.py`).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.figures import Figure, close
from benchmarks.train_peak import share_of_peak
from benchmarks.train_rivals import dataloader, lightning, limit, mlp_classifier
from pipelines import train_params
from pipelines.models import fit
from pipelines.models.classes import Classes
from pipelines.models.objective import Objective
from pipelines.models.picture import Cnn
from pipelines.models.tables import table
from pipelines.records import Rows

ROUNDS = 11
TABLE_ROWS, PICTURES = 60_000, 3_000
CARDINALITIES = (5, 17, 4, 106, 16, 128, 8)
NUMBERS = 15
MACHINE = train_params.Machine(device="auto", precision="fp32", compile="never", checkpoint=0)

Contender = Callable[[], float]
"""One epoch or more; rows a second."""


def main() -> None:
    torch.set_num_threads(1)
    detail: dict[str, Any] = {"on": where(), "threads": 1, "rounds": ROUNDS}
    figures = []
    for name, contenders in {"tables": tables(), "pictures": pictures()}.items():
        speeds = in_turns(contenders)
        detail[name] = {rival: [round(s) for s in found] for rival, found in speeds.items()}
        for rival, found in speeds.items():
            print(f"{name:<9} {rival:<14} {statistics.median(found):>10,.0f} rows a second")
        figures += [
            Figure(f"{name}: of the limit", ratio(speeds, "limit"), 0.9, "at least"),
            Figure(f"{name}: over DataLoader", ratio(speeds, "DataLoader"), AIMS[name], "at least"),
            Figure(f"{name}: over Lightning", ratio(speeds, "Lightning"), 1, "at least"),
        ]
        if "MLPClassifier" in speeds:
            figures.append(
                Figure(f"{name}: over MLPClassifier", ratio(speeds, "MLPClassifier"), 1, "at least")
            )
    detail["ResNet"] = share_of_peak()
    for name, value in detail["ResNet"].items():
        print(f"ResNet    {name}: {value if isinstance(value, str) else f'{value:,.3g}'}")
    share = logging_share()
    detail["share of an epoch that MLflow takes"] = share
    figures.append(Figure("tables: share of an epoch for MLflow", share, 0.02, "at most"))
    close("train", figures, detail)


def logging_share() -> float:
    """Seconds in which the loop waits while an epoch's measures are told, of all its seconds.

    Told as `perennial train` tells them, to a database of MLflow's own that is new; what is sent in
    a thread beside the loop costs it no waiting and is not counted.
    """
    import mlflow

    from pipelines.adapters.tracking import TrainingRun

    with tempfile.TemporaryDirectory() as home:
        uri = f"sqlite:///{home}/mlflow.db"
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient()
        run = client.create_run(client.create_experiment("bench"))
        logged = TrainingRun(uri, run.info.run_id, run.info.experiment_id, {})
        waited: list[float] = []

        def told(epoch: int, found: dict[str, float]) -> None:
            began = time.perf_counter()
            logged.epoch(epoch, found)
            waited.append(time.perf_counter() - began)

        settings = train_params.Network(epochs=LOGGED_EPOCHS, patience=LOGGED_EPOCHS)
        train, validation = rows(TABLE_ROWS, 0), rows(256, 1)
        began = time.perf_counter()
        fit.fit(train, validation, CARDINALITIES, settings, 7, told, machine=MACHINE)
        return sum(waited) / (time.perf_counter() - began)


LOGGED_EPOCHS = 5
AIMS = {"tables": 5.0, "pictures": 1.0}
"""Pictures spend their time in convolutions, whoever feeds them; there the aim is to lose nothing."""


def ratio(speeds: dict[str, list[float]], rival: str) -> float:
    pairs = zip(speeds["ours"], speeds[rival], strict=True)
    return statistics.median(ours / other for ours, other in pairs)


def in_turns(contenders: dict[str, Contender]) -> dict[str, list[float]]:
    """The first round warms up and does not count; who begins changes from round to round."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(ROUNDS + 1):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            speed = contenders[name]()
            if turn:
                speeds[name].append(speed)
    return speeds


def tables() -> dict[str, Contender]:
    train, validation = rows(TABLE_ROWS, 0), rows(256, 1)
    settings = train_params.Network(epochs=1, day_effect=0.0)

    def objective() -> Objective:
        return table(train, validation, CARDINALITIES, settings)

    return contenders(objective, settings) | {
        "MLPClassifier": lambda: mlp_classifier(objective(), settings),
    }


def pictures() -> dict[str, Contender]:
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (PICTURES, 28, 28, 1), dtype=np.uint8))
    label = torch.from_numpy(random.integers(0, 10, PICTURES))
    settings = train_params.Cnn(epochs=1, batch=256)

    def objective() -> Objective:
        network = Cnn(
            (0.5,), (0.3,), 10, channels=settings.channels, convolutions=settings.convolutions,
            dropout=settings.dropout, initial=settings.initial,
        )  # fmt: skip
        return Classes(network, (pixels, label), (pixels[:64], label[:64]), 10, settings)

    return contenders(objective, settings)


def contenders(
    objective: Callable[[], Objective], settings: train_params.Loop
) -> dict[str, Contender]:
    return {
        "ours": lambda: ours(objective, settings),
        "DataLoader": lambda: dataloader(objective(), settings),
        "Lightning": lambda: lightning(objective(), settings),
        "limit": lambda: limit(objective(), settings),
    }


def ours(objective: Callable[[], Objective], settings: train_params.Loop) -> float:
    told: list[float] = []
    fit.run(
        objective, settings, 7, lambda epoch, found: told.append(found["rows_per_second"]),
        machine=MACHINE,
    )  # fmt: skip
    return statistics.fmean(told)


def rows(n: int, seed: int) -> Rows:
    random = np.random.default_rng(seed)
    return Rows(
        numbers=random.normal(size=(n, NUMBERS)).astype(np.float32),
        codes=np.column_stack([random.integers(0, c, n) for c in CARDINALITIES]),
        label=random.integers(0, 2, n).astype(np.int8),
        time=np.sort(random.integers(0, 90 * 86_400, n)),
    )


def where() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return str(torch.cpu.get_capabilities()["cpu_name"])


if __name__ == "__main__":
    main()
