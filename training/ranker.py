"""The ranker: embeddings, a time vector, a cross network beside an MLP, one head a behavior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from events.schema import AttributeField
from training.ahead import one_ahead
from training.attributes import NUMERIC, NumberBins, of_type
from training.batch import Batch
from training.config import RankerConfig
from training.embedding import GrowingEmbedding
from training.experts import MixtureOfExperts, mlp
from training.sequence import TargetAttention
from training.sightings import SightingFilter
from training.target_statistics import TargetStatistics
from training.time_modules import build_time_module
from training.time_of_day_counts import TOTALS_WIDTH, WIDTH, TimeOfDayCounts

DENSE_FEATURES = 3
USER, ITEM, FACET = 1, 2, 3
PREPARED_AT_ONCE = 4096
"""Samples whose clocks are looked up at once: bounds memory."""


class Ranker(nn.Module):
    """Predicts the probability of each behavior of a user on an item at a moment.

    The input is ``[E_user, E_item, E_facets(item), E_context, attributes, time vector, E_user ∘ E_item, recent behaviors,
    dense]``, where attributes are one vector for each of user, item and moment; the trunk a DCN-v2 cross network (Wang et al.
    2021, arXiv 2008.13535) beside an MLP, or a mixture of experts; the heads are logistic.
    Item facets and clock values share one table, so the clock speaks the item's language; the values of context and
    attributes are in it as well, under their own keys.
    """

    def __init__(
        self,
        config: RankerConfig,
        facets: Sequence[str],
        heads: Sequence[str],
        context: Sequence[str] = (),
        attributes: Sequence[AttributeField] = (),
    ) -> None:
        super().__init__()
        self.config, self.facets, self.heads, self.context = config, tuple(facets), tuple(heads), tuple(context)
        self.attributes, self.numbers = tuple(attributes), NumberBins(attributes)
        self._owners = tuple(dict.fromkeys(field.owner for field in attributes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.time = build_time_module(config, len(self.facets))
            by_hour = WIDTH if self.time.needs_time_of_day_counts else 0
            totals = TOTALS_WIDTH if config.target_statistics else 0
            counted = by_hour or totals
            self.users = _new_table(config, USER, totals, _new_filter(config))
            self.items = _new_table(config, ITEM, counted, _new_filter(config))
            self.values = _new_table(config, FACET, counted)
            self.time_of_day_counts = TimeOfDayCounts()
            self.attention = TargetAttention(config.dim) if config.sequence == "din" else None
            width = config.dim * (3 + len(self.facets) + len(self.context)) + self.time.width + DENSE_FEATURES
            width += config.dim if self.attention else 0
            width += config.dim * len(self._owners)
            counted_values = len(self.facets) + len(self.context) + len(of_type(attributes, "category", *NUMERIC))
            self.target_statistics = TargetStatistics(counted_values) if config.target_statistics else None
            width += self.target_statistics.width if self.target_statistics else 0
            self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
            self.mlp = (
                MixtureOfExperts(width, config.hidden, config.experts, len(self.heads))
                if config.experts
                else mlp(width, config.hidden)
            )
            size = config.hidden[-1] if config.hidden else width
            self.head = nn.Linear(size + (width if config.cross_layers else 0), len(self.heads))

    @property
    def tables(self) -> dict[str, GrowingEmbedding]:
        return {"users": self.users, "items": self.items, "values": self.values}

    @property
    def device(self) -> torch.device:
        """Where its weights and tables lie."""
        return self.head.weight.device

    @property
    def needs_counts(self) -> bool:
        """Whether it reads what is counted after each hour."""
        return self.time.needs_time_of_day_counts or self.target_statistics is not None

    @property
    def needs_recent_behaviors(self) -> bool:
        """Whether it reads the users' recent behaviors."""
        return self.time.needs_recent_behaviors or self.attention is not None

    def squared_embeddings(self) -> Tensor:
        """Sum of the squares of the embeddings that the last ``forward`` used, each row once."""
        return torch.stack([table.squared() for table in self.tables.values()]).sum()

    def named_dense_parameters(self) -> dict[str, nn.Parameter]:
        """Everything trained that is not an embedding table of ids, in a fixed order."""
        return {name: p for name, p in sorted(self.named_parameters()) if p.requires_grad}

    def dense_parameters(self) -> list[nn.Parameter]:
        """Those of ``named_dense_parameters``."""
        return list(self.named_dense_parameters().values())

    def batches(self, samples: Batch, size: int) -> Iterator[Batch]:
        """The samples in order, ``size`` at a time.

        What the time module can prepare is prepared for many batches at once, in another thread while those before are used.
        """

        def prepared(part: Batch) -> Batch:
            return replace(part, prepared=self.time.prepare(part, self))

        for part in one_ahead(prepared, self.parts(samples, size)):
            yield from part.batches(size)

    def parts(self, samples: Batch, size: int) -> Iterator[Batch]:
        """The samples in order, as many batches of ``size`` at a time as are prepared together."""
        return samples.batches(max(PREPARED_AT_ONCE // size, 1) * size)

    def reads(self, batch: Batch) -> dict[str, list[Tensor]]:
        """For each table the rows whose embeddings ``forward`` looks up for a batch, or more; of any shapes."""
        by_time = self.time.reads(batch)
        recent = [batch.compact().recent_items] if self.attention is not None else []
        values = [batch.facets, batch.context, batch.attributes, batch.lists]
        return {
            "users": [batch.users],
            "items": [batch.items, *recent, *by_time.items],
            "values": [*values, *by_time.values],
        }

    def cut(self, samples: Batch, edges: Sequence[int]) -> Iterator[Batch]:
        """The samples in batches that end at ``edges``, ascending, prepared as by ``batches``; some may be empty."""
        start, done = 0, 0
        while done < len(edges):
            until = done + 1
            while until < len(edges) and edges[until] - start <= PREPARED_AT_ONCE:
                until += 1
            part = samples.slice(start, edges[until - 1])
            part = replace(part, prepared=self.time.prepare(part, self) if len(part) else None)
            begins = [start, *edges[done : until - 1]]
            yield from (part.slice(a - start, b - start) for a, b in zip(begins, edges[done:until], strict=True))
            start, done = edges[until - 1], until

    def _attribute_vectors(self, batch: Batch) -> list[Tensor]:
        """For each owner the sum of its attributes' embeddings, (B, dim); of a list the mean of its values'."""
        if not self.attributes:
            return []
        lists = batch.lists
        inside = (lists > 0).float()
        shares = inside / inside.sum(dim=2, keepdim=True).clamp(min=1)
        rows = torch.cat([batch.attributes, lists.flatten(1)], dim=1)
        weights = torch.cat([torch.ones_like(batch.attributes, dtype=shares.dtype), shares.flatten(1)], dim=1)
        return self.values.sums(rows, weights, self._columns_by_owner(lists.shape[2]))

    def _columns_by_owner(self, longest: int) -> list[list[int]]:
        """For each owner its columns among a batch's attributes and, after them, ``longest`` values of each list."""
        single = (*of_type(self.attributes, "category"), *of_type(self.attributes, *NUMERIC))
        owners = [field.owner for field in single]
        owners += [field.owner for field in of_type(self.attributes, "list") for _ in range(longest)]
        return [[n for n, each in enumerate(owners) if each == owner] for owner in self._owners]

    def forward(self, batch: Batch) -> Tensor:
        """Logit of each behavior.

        Args:
            batch: B samples of U users; ids are rows of the ranker's tables.

        Returns:
            Shape (B, heads).
        """
        user, item = self.users(batch.users), self.items(batch.items)
        values = [self.values(rows).flatten(1) for rows in (batch.facets, batch.context) if rows.shape[1]]
        values += self._attribute_vectors(batch)
        parts = [user, item, *values, self.time(batch, self), user * item, batch.dense]
        if self.attention is not None:
            compact = batch.compact()
            parts.append(self.attention(item, self.items(compact.recent_items), compact))
        if self.target_statistics is not None:
            parts.append(self.target_statistics(batch, self.users, self.items, self.values, self.time_of_day_counts))
        x0 = torch.cat(parts, dim=1)
        crossed = x0
        for layer in self.cross:
            crossed = x0 * layer(crossed) + crossed
        deep = self.mlp(x0)
        if not self.config.experts:
            return self.head(torch.cat([deep, crossed], dim=1) if len(self.cross) else deep)
        if len(self.cross):
            deep = torch.cat([deep, crossed[:, None, :].expand(-1, len(self.heads), -1)], dim=2)
        return torch.einsum("bhd,hd->bh", deep, self.head.weight) + self.head.bias


def _new_table(
    config: RankerConfig, kind: int, width: int, sightings: SightingFilter | None = None
) -> GrowingEmbedding:
    """An empty table; ``kind`` lets tables of one ranker begin differently."""
    return GrowingEmbedding(config.dim, config.seed * 10 + kind, width, sightings, config.accumulator_decay)


def _new_filter(config: RankerConfig) -> SightingFilter | None:
    """What decides which ids get a row; None where all do."""
    return SightingFilter(config.admit_after, config.admission_cells) if config.admit_after > 1 else None
