"""The paper's modules: a user's clock summarized for the moment (Zhu et al., SIGIR 2024, arXiv 2404.19357)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.batch import Batch, shares
from training.config import RankerConfig
from training.embedding import NO_WEIGHT
from training.time_modules.base import Tables, TimeModule, slot_of, slot_weights


class Clock(TimeModule):
    """Base: ``e_f(s)`` is the score-weighted mean of the embeddings of the slot's top values of facet f."""

    needs_clock = True

    def __init__(self, config: RankerConfig, facets: int) -> None:
        super().__init__(config, facets * config.dim)
        self.facets = facets

    def mixed(self, batch: Batch, tables: Tables, weights: Tensor) -> Tensor:
        """``Σ_s w(s) e(s)`` for weights (B, F, S); shape (B, F·D)."""
        near = (weights > NO_WEIGHT).any(dim=1).any(dim=0).nonzero().ravel()  # the batch's hours are few in a stream
        at = batch.user_position[:, None], near
        inside = weights[..., near, None] * shares(batch.clock_scores[at]).transpose(1, 2)  # (B, F, near S, K)
        values = batch.clock_values[at].transpose(1, 2)
        count = len(batch) * self.facets
        return tables.values.bag(values.reshape(count, -1), inside.reshape(count, -1)).view(len(batch), -1)


class NaiveClock(Clock):
    """``naive_clock``: the slot of now, ``v = e(⌊t⌋)``."""

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, F·D)."""
        slot = slot_of(batch.moment, self.config)
        values = tables.values(batch.clock_values[batch.user_position, slot])  # (B, F, K, D)
        weights = shares(batch.clock_scores[batch.user_position, slot])
        return (values * weights[..., None]).sum(dim=2).flatten(1)


class AdaptiveClock(Clock):
    """``adaptive_clock``: attention over the slots.

    ``v = Σ_s softmax_s((W_q E_slot(⌊t⌋)) · (W_k [e(s), E_slot(s)]) / √D) e(s)`` over non-empty slots.
    """

    def __init__(self, config: RankerConfig, facets: int) -> None:
        super().__init__(config, facets)
        self.hour = nn.Embedding(config.slots, config.dim)
        nn.init.normal_(self.hour.weight, std=0.05)
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(self.width + config.dim, config.dim, bias=False)

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, F·D)."""
        batch = batch.compact()
        vectors = tables.values(batch.clock_values)  # (U, S, F, K, D)
        slots = (vectors * shares(batch.clock_scores)[..., None]).sum(dim=3).flatten(2)  # (U, S, F·D)
        places = self.hour.weight.expand(len(slots), -1, -1)
        keys = self.key(torch.cat([slots, places], dim=2))[batch.user_position]
        queries = self.query(self.hour(slot_of(batch.moment, self.config)))
        logits = torch.einsum("bd,bsd->bs", queries, keys) / math.sqrt(keys.shape[2])
        filled = (batch.clock_scores.sum(dim=(2, 3)) > 0)[batch.user_position]
        weights = torch.softmax(logits.masked_fill(~filled, -1e9), dim=1) * filled
        return torch.einsum("bs,bsv->bv", weights, slots[batch.user_position])


class GaussianClock(Clock):
    """``gaussian_clock``, the paper's: ``v = Σ_s g(δ_s) e(s) w``, ``g`` the normal density N(0, σ²).

    ``δ_s`` is the shortest way round the 24 h circle between the local time and the slot's center, ``w`` the
    slot's width in hours (1 in the paper), so that a finer clock has the same scale. With ``learn_sigma`` each facet
    has its own σ, which starts at ``sigma_hours`` and is trained like any weight.
    """

    def __init__(self, config: RankerConfig, facets: int) -> None:
        super().__init__(config, facets)
        start = torch.full((facets,), math.log(config.sigma_hours))
        self.log_sigma = nn.Parameter(start, requires_grad=config.learn_sigma)

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, F·D)."""
        return self.mixed(batch, tables, slot_weights(batch.moment, self.config, self.log_sigma.exp()))
