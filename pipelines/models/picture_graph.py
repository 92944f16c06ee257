"""A network for pictures as ONNX: uint8 pixels in, probability of each class and embedding out."""

# B batch, H height, W width, C channels, E embedding, K classes

from __future__ import annotations

import io
import warnings

import onnx
import torch
from torch import Tensor, nn

from pipelines.models.picture import Picture

OPSET = 18
OUTPUTS = ("probability", "embedding")


class Answers(nn.Module):
    """What is exported: (B, K) float32, rows that sum to 1, and the (B, E) they are made from."""

    def __init__(self, network: Picture) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        embedding_BE = self.network.embed(pixels_BHWC)
        return torch.softmax(self.network.head(embedding_BE), dim=1), embedding_BE


def to_onnx(network: Picture, size: tuple[int, int], channels: int) -> onnx.ModelProto:
    """Input `pixels` uint8 (rows, H, W, C); outputs `probability` (rows, K), `embedding` (rows, E).

    Every weight keeps its name in the network, after "network.", so that a later training can
    start from the artifact (`pretrained.weights`). For that nothing is folded, and equal weights
    of two layers stay two, which the exporter grants what is in training: the wrapper alone is.
    onnxruntime folds BatchNorm into convolutions as it loads, so answers are as fast.
    """
    was = network.training
    wrapper = Answers(network.eval()).train()
    network.eval()
    out = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # The TorchScript exporter is deprecated; it takes 0.1 s, its successor 7 s.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                wrapper,
                (torch.zeros(2, *size, channels, dtype=torch.uint8, device=network.mean.device),),
                out,
                input_names=["pixels"],
                output_names=list(OUTPUTS),
                dynamic_axes={name: {0: "rows"} for name in ("pixels", *OUTPUTS)},
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                dynamo=False,
            )
    finally:
        network.train(was)
    return onnx.load_from_string(out.getvalue())
