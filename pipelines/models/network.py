"""The network for tables: piecewise-linear numbers, embedded categories, one small MLP.

Boosted trees win on tables because they cut each number at its quantiles and never extrapolate.
The encoding of numbers gives the MLP both: each bin of train quantiles gets a ramp from 0 to 1,
flat outside (Gorishniy et al. 2022, arXiv:2203.05556). It is plain arithmetic on buffers, so the
ONNX graph holds it and serving cannot encode otherwise.
"""

# B batch, P numbers, Q bins, C categories, E embedding, F encoded features, H hidden width

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.models.dropout import Dropout

NARROW = 1e-6
"""Bins narrower than this, in standard deviations, are repeated quantiles and hold nothing."""
GONE = -1e30
"""Stands for a missing number: left of every bin, so its ramps are 0."""
UNSEEN = 0.05
"""Share of train codes turned into 0, so that the code of the unseen has learned an answer."""


def quantile_edges(numbers: np.ndarray, bins: int) -> Tensor:
    """Edges of the bins of each number, (P, Q + 1) float32, ascending; NaN is left out.

    Repeated quantiles are merged, and the row is filled up with its last edge: empty bins.

    >>> quantile_edges(np.array([[0.], [1.], [2.], [np.nan]], dtype=np.float32), bins=2)
    tensor([[0., 1., 2.]])
    """
    edges = np.zeros((numbers.shape[1], bins + 1), dtype=np.float32)
    for row, column in zip(edges, numbers.T, strict=True):
        known = column[np.isfinite(column)]
        if len(known):
            found = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)))
            row[:] = found[-1]
            row[: len(found)] = found
    return torch.from_numpy(edges)


class Network(nn.Module):
    """Logits of label 1 from encoded rows."""

    left_PQ: Tensor
    slope_PQ: Tensor

    def __init__(
        self,
        edges: Tensor,
        cardinalities: Sequence[int],
        *,
        embedding: int,
        width: int,
        depth: int,
        dropout: float,
    ) -> None:
        """edges (P, Q + 1) from `quantile_edges`; cardinalities: codes per category, 0 included."""
        super().__init__()
        width_PQ = edges[:, 1:] - edges[:, :-1]
        empty = width_PQ < NARROW
        self.register_buffer("left_PQ", edges[:, :-1].clone())
        self.register_buffer("slope_PQ", torch.where(empty, 0.0, 1 / width_PQ.clamp_min(NARROW)))
        self.embeddings = nn.ModuleList(
            nn.Embedding(codes, min(embedding, codes)) for codes in cardinalities
        )
        for table in self.embeddings:
            nn.init.normal_(table.weight, std=0.1)
        features = edges.shape[0] * edges.shape[1]  # P * Q ramps and P indicators of missing
        features += sum(table.embedding_dim for table in self.embeddings)
        layers: list[nn.Module] = []
        for inputs in (features, *[width] * (depth - 1)):
            layers += [nn.Linear(inputs, width), nn.ReLU(), Dropout(dropout)]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(width, 1)

    def encode(self, numbers_BP: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P * Q), a ramp per bin; (B, P), 1 where a number is missing and its ramps are 0."""
        missing_BP = torch.isnan(numbers_BP)
        known_BP1 = torch.where(missing_BP, GONE, numbers_BP).unsqueeze(2)
        ramps_BPQ = ((known_BP1 - self.left_PQ) * self.slope_PQ).clamp(0, 1)
        return ramps_BPQ.flatten(1), missing_BP.to(numbers_BP.dtype)

    def forward(self, numbers_BP: Tensor, codes_BC: Tensor) -> Tensor:
        """(B,) logits. numbers float32, NaN = missing; codes int64, 0 = missing, rare or unseen.

        The first layer is two products: ramps learn nothing, and in one product with the embeddings
        they would be sent gradients, a sixth of a step's arithmetic.
        """
        if self.training:
            codes_BC = codes_BC * (torch.rand(codes_BC.shape, device=codes_BC.device) >= UNSEEN)
        parts = [table(codes_BC[:, c]) for c, table in enumerate(self.embeddings)]
        first, weight_HF = self.trunk[0], self.trunk[0].weight
        ramps = self.left_PQ.numel()
        if ramps:
            ramps_BF, missing_BP = self.encode(numbers_BP)
            parts.insert(0, missing_BP)
        hidden_BH = F.linear(torch.cat(parts, dim=1), weight_HF[:, ramps:], first.bias)
        if ramps:
            hidden_BH = hidden_BH + F.linear(ramps_BF, weight_HF[:, :ramps])
        logits_B1: Tensor = self.head(self.trunk[1:](hidden_BH))
        return logits_B1.squeeze(1)


class Probability(nn.Module):
    """What is exported: (B, 1) probability of label 1."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, numbers_BP: Tensor, codes_BC: Tensor) -> Tensor:
        return torch.sigmoid(self.network(numbers_BP, codes_BC)).unsqueeze(1)
