"""The deep part of the ranker: an MLP that all heads share, or experts that each head mixes as it likes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def mlp(width: int, hidden: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU; (B, width) in, (B, last hidden width) out."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers)


class MixtureOfExperts(nn.Module):
    """MMoE (Ma et al. 2018, KDD): ``f_h(x) = Σ_e softmax(W_h x)_e expert_e(x)``, an MLP an expert, a gate a head."""

    def __init__(self, width: int, hidden: Sequence[int], experts: int, heads: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(width, hidden) for _ in range(experts))
        self.gates = nn.Linear(width, heads * experts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) in, (B, heads, last hidden width) out."""
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        weights = self.gates(x).view(len(x), -1, len(self.experts)).softmax(dim=2)
        return torch.einsum("bhe,bed->bhd", weights, outputs)
