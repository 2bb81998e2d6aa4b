"""The paper's modules: a user's clock summarized for the moment (Zhu et al., SIGIR 2024, arXiv 2404.19357)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.batch import Batch, shares
from training.config import RankerConfig
from training.time_modules.base import Reads, Tables, TimeModule, slot_of, slot_weights
from training.time_modules.runs import Entries, Runs

NO_WEIGHT = 1e-7
"""Slots that weigh less are left out."""


class Clock(TimeModule):
    """Base: ``e_f(s)`` is the score-weighted mean of the embeddings of the slot's top values of facet f."""

    needs_clock = True

    def __init__(self, config: RankerConfig, facets: int) -> None:
        super().__init__(config, facets * config.dim)
        self.facets = facets

    def reads(self, batch: Batch) -> Reads:
        """All values of the users' clocks, unless it is known which of them weigh anything."""
        if isinstance(batch.prepared, SlotMix):
            return Reads(values=[batch.prepared.entries.columns[0]])
        return Reads(values=[batch.compact().clock_values])

    def mixed(self, mix: SlotMix, tables: Tables) -> Tensor:
        """``Σ_s w(s) e(s)`` of each sample, shape (B, F·D)."""
        rows, weights = mix.entries.columns
        summed = tables.values.bag(rows, weights, mix.entries.offsets).view(len(mix.runs), self.width)
        return mix.runs.per_sample(summed)

    def mix(self, runs: Runs, batch: Batch, weights: Tensor) -> SlotMix:
        """The values that ``Σ_s w(s) e(s)`` is a sum over, for the weights (R, F, S) of runs; small ones are left out."""
        near = (weights > NO_WEIGHT).any(dim=1).any(dim=0).nonzero().ravel()  # the batch's hours are few in a stream
        slots, (facets, top) = batch.clock_scores.shape[1], batch.clock_scores.shape[2:]
        at = (runs.user_position[:, None] * slots + near).reshape(-1)
        scores = batch.clock_scores.reshape(-1, facets * top).index_select(0, at).view(len(runs), -1, facets, top)
        run, facet, place, rank = (scores != 0).transpose(1, 2).nonzero().unbind(dim=1)  # most slots are empty
        slot, score = near[place], scores[run, place, facet, rank]
        group = (run * facets + facet) * len(near) + place
        totals = score.new_zeros(len(runs) * facets * len(near)).index_add_(0, group, score)
        weight = weights[run, facet, slot] * (score / totals[group].clamp(min=1e-9))
        rows = batch.clock_values[runs.user_position[run], slot, facet, rank]
        large = weight > NO_WEIGHT
        owner = (run * facets + facet)[large]
        return SlotMix(runs, Entries.of(owner, len(runs) * facets, rows[large], weight[large]), facets)


@dataclass(frozen=True)
class SlotMix:
    """What the clock of each of R runs is mixed of: rows of the values' table and their weights, owned by (run, facet)."""

    runs: Runs
    entries: Entries
    facets: int

    def slice(self, start: int, stop: int) -> SlotMix:
        """That of the samples [start, stop)."""
        first, last = self.runs.range_of(start, stop)
        entries = self.entries.slice(first * self.facets, last * self.facets)
        return SlotMix(self.runs.slice(start, stop), entries, self.facets)


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

    def _mix(self, batch: Batch) -> SlotMix:
        runs = Runs.of(batch)
        return self.mix(runs, batch, slot_weights(runs.moment, self.config, self.log_sigma.exp()))

    def prepare(self, batch: Batch, tables: Tables) -> SlotMix | None:
        """The weights of the slots, unless σ is learned: then they change with each step."""
        del tables
        return None if self.log_sigma.requires_grad else self._mix(batch)

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, F·D)."""
        mix = batch.prepared if isinstance(batch.prepared, SlotMix) else self._mix(batch)
        return self.mixed(mix, tables)
