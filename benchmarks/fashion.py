"""How good are the networks for pictures? Fashion-MNIST, official split: `make bench-fashion`

5,000 of the 60,000 train pictures, drawn once, are validation: what was chosen was chosen on them,
and so is the epoch that a run keeps. The 10,000 test pictures are answered once a run, by the
weights it kept. Needs the four IDX files as distributed, in ../shared/data/fashion_mnist or in the
folder that FASHION_MNIST names. One run alone:

    python -m benchmarks.fashion --network resnet --seeds 0 --epochs 9
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import Figure, close
from pipelines import train_params
from pipelines.images import moments
from pipelines.models.pictures import fit_pictures
from pipelines.records import Pictures

FOLDER = Path(__file__).parent.parent.parent / "shared" / "data" / "fashion_mnist"
CLASSES, VALIDATION = 10, 5_000
REACHED = (0.93, 0.94)
"""Shares of validation whose first epoch is told with its seconds."""
AIMS = {"cnn": 0.935, "resnet": 0.950}


def settings(network: str, seed: int, threads: int, epochs: int) -> train_params.Train:
    """Every epoch is trained: patience would end a one-cycle schedule before its rate has fallen."""
    common: dict[str, Any] = {
        "epochs": epochs, "patience": epochs, "weight_decay": 0.05, "average": 0.99,
        "label_smoothing": 0.05,
    }  # fmt: skip
    loop = (
        train_params.Cnn(batch=256, learning_rate=5e-3, **common)
        if network == "cnn"
        else train_params.Resnet(batch=128, learning_rate=2e-3, **common)
    )
    augment = train_params.Augment(shift=1, flip=True)
    chosen: dict[str, Any] = {"family": network, network: loop, "augment": augment}
    return train_params.Train(seed=seed, threads=threads, precision=precision(), **chosen)


def main() -> None:
    told = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    told.add_argument("--network", choices=tuple(AIMS), action="append", help="both by default")
    told.add_argument("--seeds", type=int, nargs="+", default=range(5))
    told.add_argument("--epochs", type=int, default=16)
    told.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = told.parse_args()
    torch.set_num_threads(asked.threads)
    folder = Path(os.environ.get("FASHION_MNIST", FOLDER))
    if not folder.is_dir():
        sys.exit(f"{folder} does not exist; name the folder of the IDX files by FASHION_MNIST")
    detail: dict[str, Any] = {"on": where()}
    figures = []
    for network in asked.network or AIMS:
        chosen = [settings(network, seed, asked.threads, asked.epochs) for seed in asked.seeds]
        runs = [one(each, folder) for each in chosen]
        test = np.array([run["test_accuracy"] for run in runs])
        mean, spread = float(test.mean()), float(test.std(ddof=1)) if len(test) > 1 else 0.0
        of = chosen[0].model_dump(include={network, "augment", "threads", "precision"})
        detail[network] = {"runs": runs, "mean": mean, "spread": spread, "settings": of}
        print(f"{network}: {mean:.4f}, standard deviation {spread:.4f}, of {len(runs)} seeds")
        figures.append(Figure(f"{network}: test accuracy, mean", mean, AIMS[network], "at least"))
    close("fashion", figures, detail)


def one(chosen: train_params.Train, folder: Path) -> dict[str, float | None]:
    """One training from its seed, and the test pictures once."""
    whole = read(folder, "train")
    order = np.random.default_rng(0).permutation(len(whole))
    train, validation = order[:-VALIDATION], order[-VALIDATION:]
    reached: dict[float, float] = {}

    def on_epoch(epoch: int, found: dict[str, float]) -> None:
        seconds, share = time.perf_counter() - began, found["validation_accuracy"]
        name = f"{chosen.family} seed {chosen.seed} epoch {epoch}"
        print(f"{name}: {share:.4f} of validation after {seconds:.0f} s", flush=True)
        for aim in REACHED:
            if share >= aim:
                reached.setdefault(aim, seconds)

    began = time.perf_counter()
    fitted = fit_pictures(
        of(whole, train), of(whole, validation), *moments(whole.pixels[train]), CLASSES, chosen,
        on_epoch,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    test = read(folder, "t10k")
    said = fitted.predict(test.pixels).argmax(axis=1)
    right = float((said == test.label).mean())
    print(f"{chosen.family} seed {chosen.seed}: {right:.4f} of test", flush=True)
    return {
        "seed": float(chosen.seed),
        "test_accuracy": right,
        "validation_accuracy": fitted.best["validation_accuracy"],
        "seconds": seconds,
        **{f"seconds to {aim} of validation": reached.get(aim) for aim in REACHED},
    }


def read(folder: Path, split: str) -> Pictures:
    """They tell no time, and nothing here asks for it."""
    pixels = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    label = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    of_label = np.frombuffer(label, np.uint8, offset=8).astype(np.int64)
    of_pixels = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28, 1).copy()
    return Pictures(of_pixels, of_label, np.zeros(len(of_label), dtype=np.int64))


def of(whole: Pictures, rows: np.ndarray) -> Pictures:
    return Pictures(whole.pixels[rows], whole.label[rows], whole.time[rows])


def precision() -> Any:
    """bf16 where the processor has instructions for it; without them PyTorch emulates it slowly."""
    fast = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return "bf16" if fast and not torch.cuda.is_available() else "auto"


def where() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.cpu.get_capabilities()['cpu_name']}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
