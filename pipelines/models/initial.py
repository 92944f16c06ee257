"""First weights by name, for any network."""

from __future__ import annotations

from torch import nn

from pipelines.train_params import Initial


def start(network: nn.Module, initial: Initial) -> None:
    """Of its convolutions and linear layers; their biases are 0."""
    fill = {
        "kaiming": lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
        "xavier": nn.init.xavier_uniform_,
        "orthogonal": nn.init.orthogonal_,
    }[initial]
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
