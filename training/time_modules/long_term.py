"""The Long-term Interest Clock (WWW 2025, arXiv 2501.15817): the time of day inside attention over a long history."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.batch import DAY_MINUTES, Batch
from training.config import RankerConfig
from training.time_modules.base import Reads, Tables, TimeModule, circular_distance

GAP_WIDTH = 8


class LongTermClock(TimeModule):
    """``long_term_clock``: Clock-GSU picks the K most relevant behaviors, Clock-ESU attends to them.

    Relevance of behavior b to the candidate q is ``α = (W_b b)·(W_q q)/√d + s(Δt)``, ``Δt`` the gap of their
    times of day and ``s`` a two-layer network. Clock-ESU is multi-head attention with the same α a head; the K
    are those with the largest mean α over the heads, so that picking and attending agree and both are trained
    (as in TWIN, arXiv 2302.02352; the paper trains its GSU apart).
    """

    needs_recent_behaviors = True

    def __init__(self, config: RankerConfig, facets: int) -> None:
        del facets
        super().__init__(config, config.dim)
        self.heads = config.attention_heads
        self.behavior = nn.Linear(config.dim, config.dim, bias=False)
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.value = nn.Linear(config.dim, config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.gap = nn.Sequential(nn.Linear(2, GAP_WIDTH), nn.ReLU(), nn.Linear(GAP_WIDTH, self.heads))

    def reads(self, batch: Batch) -> Reads:
        """The users' recent behaviors."""
        return Reads(items=[batch.compact().recent_items])

    def relevance(self, batch: Batch, candidates: Tensor, behaviors: Tensor) -> Tensor:
        """α of every behavior.

        Args:
            batch: B samples of U users.
            candidates: embeddings of the candidates, shape (B, D).
            behaviors: embeddings of the users' recent behaviors, shape (U, L, D).

        Returns:
            Shape (B, L, heads); −1e9 where there is no behavior.
        """
        size, at = self.width // self.heads, batch.user_position
        keys = self.behavior(behaviors).unflatten(2, (self.heads, size))[at]  # (B, L, heads, size)
        queries = self.query(candidates).unflatten(1, (self.heads, size))
        minutes = batch.recent_minutes[at]
        then = (minutes % DAY_MINUTES).float() / 60
        gaps = circular_distance(batch.moment.hours[:, None], then)
        alpha = torch.einsum("bhd,blhd->blh", queries, keys) / math.sqrt(size)
        alpha = alpha + self.gap(torch.stack([gaps / 12, torch.exp(-gaps)], dim=2))
        return alpha.masked_fill((minutes < 0)[..., None], -1e9)

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, D); 0 for a user without recent behaviors."""
        batch = batch.compact()
        candidates, behaviors = tables.items(batch.items), tables.items(batch.recent_items)
        alpha = self.relevance(batch, candidates, behaviors)
        count = min(self.config.picked, alpha.shape[1])
        picked = alpha.mean(dim=2).topk(count, dim=1).indices  # (B, K)
        weights = torch.softmax(alpha.gather(1, picked[..., None].expand(-1, -1, self.heads)), dim=1)
        chosen = self.value(behaviors)[batch.user_position[:, None], picked]  # (B, K, D)
        mixed = torch.einsum("bkh,bkhd->bhd", weights, chosen.unflatten(2, (self.heads, -1))).flatten(1)
        some = (batch.recent_minutes >= 0).any(dim=1)[batch.user_position]
        return self.out(mixed) * some[:, None]
