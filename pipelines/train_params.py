"""`tasks.<name>.train` in params.yaml: how one model is fitted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipelines.settings import Settings


class Network(Settings):
    """The PyTorch network: `tasks.<name>.train.network`. What was tried: docs/log.md."""

    epochs: PositiveInt = 4
    """Passes over the train rows; more learn the days of train by heart."""
    patience: PositiveInt = 2
    """Epochs that may pass without a better validation AUC before training stops."""
    batch: PositiveInt = 1024
    """Rows of one step."""
    learning_rate: PositiveFloat = 3e-3
    """Peak of AdamW's one-cycle schedule."""
    weight_decay: float = Field(default=1e-2, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    width: PositiveInt = 128
    """Units of a hidden layer."""
    depth: PositiveInt = 2
    """Hidden layers."""
    embedding: PositiveInt = 8
    """Largest number of values that stand for one category."""
    bins: PositiveInt = 24
    """Quantile bins of each number's piecewise-linear encoding."""
    day_effect: float = Field(default=0.1, ge=0)
    """Standard deviation of the effect each day of train may have of its own; 0 leaves it out."""


class Boosting(Settings):
    """scikit-learn's HistGradientBoosting: `tasks.<name>.train.boosting`."""

    iterations: PositiveInt = 200
    learning_rate: PositiveFloat = 0.05
    min_leaf: PositiveInt = 100
    """Fewest rows of a leaf."""


class Forest(Settings):
    """scikit-learn's random forest: `tasks.<name>.train.forest`."""

    trees: PositiveInt = 100
    min_leaf: PositiveInt = 50


class Train(Settings):
    """How one model is fitted: `tasks.<name>.train`."""

    family: Literal["network", "logistic", "boosting", "forest"] = "network"
    """network is PyTorch; the others are scikit-learn's."""
    seed: NonNegativeInt
    threads: PositiveInt = 1
    """Threads of one training. More than the cores that are free is many times slower, not faster:
    with one other busy process, two threads took 10 to 25 times as long as one."""
    network: Network = Network()
    boosting: Boosting = Boosting()
    forest: Forest = Forest()
