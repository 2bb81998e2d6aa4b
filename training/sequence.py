"""Attention over a user's recent behaviors, without the time of day."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.batch import Batch

HIDDEN = 16


class TargetAttention(nn.Module):
    """DIN (Zhou et al. 2018, arXiv 1706.06978): ``v = Σ_j a(b_j, q) b_j``, q the candidate.

    ``a`` is a two-layer network of ``[b, q, b − q, b ∘ q]``; the weights are not normalised, as in the paper, but
    divided by the length of the history, so that a long one does not drown the rest of the input.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(4 * dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, candidates: Tensor, behaviors: Tensor, batch: Batch) -> Tensor:
        """Attend to the recent behaviors of each sample's user.

        Args:
            candidates: embeddings of the candidates, shape (B, D).
            behaviors: embeddings of the users' recent behaviors, shape (U, L, D).
            batch: whose ``user_position`` leads from samples to users.

        Returns:
            Weighted sum of the behaviors, shape (B, D).
        """
        recent = behaviors[batch.user_position]  # (B, L, D)
        query = candidates[:, None, :].expand_as(recent)
        weights = self.score(torch.cat([recent, query, recent - query, recent * query], dim=2))[..., 0]
        some = (batch.recent_minutes >= 0).float()[batch.user_position]
        weights = weights * some / some.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.einsum("bl,bld->bd", weights, recent)
