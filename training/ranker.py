"""The ranker: embeddings, a time vector, a cross network beside an MLP, one head a behaviour."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.config import RankerConfig
from training.embedding import GrowingEmbedding
from training.tensors import Batch
from training.time_perception import Clocks, build_time_perception

DENSE_FEATURES = 3
USER, ITEM, FACET = 1, 2, 3


class Ranker(nn.Module):
    """Predicts the probability of each behaviour of a user on an item at a moment.

    The input is ``[E_user, E_item, E_facets(item), time vector, E_user ∘ E_item, dense]``; the trunk a
    DCN-v2 cross network (Wang et al. 2021, arXiv 2008.13535) beside an MLP; the heads are logistic.
    Item facets and clock values share one table, so the clock speaks the item's language.
    """

    def __init__(self, config: RankerConfig, facets: Sequence[str], heads: Sequence[str]) -> None:
        super().__init__()
        self.config, self.facets, self.heads = config, tuple(facets), tuple(heads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.users = GrowingEmbedding(config.dim, config.seed * 10 + USER)
            self.items = GrowingEmbedding(config.dim, config.seed * 10 + ITEM)
            self.values = GrowingEmbedding(config.dim, config.seed * 10 + FACET)
            self.time = build_time_perception(config, len(self.facets))
            width = config.dim * (3 + len(self.facets)) + self.time.width + DENSE_FEATURES
            self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
            layers: list[nn.Module] = []
            size = width
            for hidden in config.hidden:
                layers += [nn.Linear(size, hidden), nn.ReLU()]
                size = hidden
            self.mlp = nn.Sequential(*layers)
            self.head = nn.Linear(size + (width if config.cross_layers else 0), len(self.heads))

    @property
    def tables(self) -> dict[str, GrowingEmbedding]:
        return {"users": self.users, "items": self.items, "values": self.values}

    def dense_parameters(self) -> list[nn.Parameter]:
        """Parameters that are not embedding tables of ids, in a fixed order."""
        sparse = {id(table.weight) for table in self.tables.values()}
        return [p for _, p in sorted(self.named_parameters()) if id(p) not in sparse]

    def slot_embeddings(self, batch: Batch) -> Clocks | None:
        """``e_facet(s)``: the score-weighted mean of the embeddings of the slot's top values."""
        if not self.time.needs_clock:
            return None
        vectors = self.values(batch.clock_values)  # (U, 24, F, K, D)
        mean = (vectors * batch.clock_weights[..., None]).sum(dim=3)
        return Clocks(mean.flatten(2), batch.clock_weights.sum(dim=(2, 3)) > 0, batch.user_position)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, shape (B, heads)."""
        user, item = self.users(batch.users), self.items(batch.items)
        facets = self.values(batch.facets).flatten(1)
        time = self.time(batch.moment, self.slot_embeddings(batch))
        x0 = torch.cat([user, item, facets, time, user * item, batch.dense], dim=1)
        crossed = x0
        for layer in self.cross:
            crossed = x0 * layer(crossed) + crossed
        deep = self.mlp(x0)
        return self.head(torch.cat([deep, crossed], dim=1) if len(self.cross) else deep)
