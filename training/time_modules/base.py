"""What every time module has, and distances on the clock."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from core.hours import DAY_HOURS
from training.batch import Batch, Moment, Prepared
from training.config import RankerConfig
from training.embedding import GrowingEmbedding
from training.time_of_day_counts import TimeOfDayCounts


class Tables(Protocol):
    """The ranker's tables, as a module sees them. Item facets and clock values share one table."""

    users: GrowingEmbedding
    items: GrowingEmbedding
    values: GrowingEmbedding
    time_of_day_counts: TimeOfDayCounts


class Reads(NamedTuple):
    """Rows whose embeddings are looked up, of any shapes.

    Attributes:
        items: of the table of items.
        values: of the table of values.
    """

    items: Sequence[Tensor] = ()
    values: Sequence[Tensor] = ()


class TimeModule(nn.Module, ABC):
    """Base: maps a batch to a time vector of shape (B, width).

    Attributes:
        width: of the vector.
        needs_clock, needs_recent_behaviors, needs_time_of_day_counts: which parts of a batch and of the tables it reads.
    """

    needs_clock = False
    needs_recent_behaviors = False
    needs_time_of_day_counts = False

    def __init__(self, config: RankerConfig, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width

    def prepare(self, batch: Batch, tables: Tables) -> Prepared | None:
        """What ``forward`` needs of these samples whatever the weights are; None where there is no gain in computing it before."""
        del batch, tables
        return None

    def reads(self, batch: Batch) -> Reads:
        """The rows whose embeddings ``forward`` looks up for a batch, or more: where they lie elsewhere they are fetched first."""
        del batch
        return Reads()

    @abstractmethod
    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Time vector of each sample.

        Args:
            batch: B samples of U users.
            tables: of the ranker, to embed the batch's values.

        Returns:
            Shape (B, width).
        """


def slot_of(moment: Moment, config: RankerConfig) -> Tensor:
    """Number of the slot that each moment falls into, shape (B,)."""
    number = (moment.hours * (60 / config.slot_minutes)).long()
    return number + moment.weekend * config.slots_per_day if config.split_weekend else number


def slot_centres(config: RankerConfig, device: torch.device | None = None) -> Tensor:
    """Local time of each slot's center in hours, shape (S,)."""
    number = torch.arange(config.slots, dtype=torch.float32, device=device) % config.slots_per_day
    return (number + config.slot_centre) * (config.slot_minutes / 60)


def same_kind_of_day(moment: Moment, config: RankerConfig) -> Tensor | None:
    """Whether each slot is of the moment's kind of day, shape (B, S); None where the weekend has no slots of its own."""
    if not config.split_weekend:
        return None
    weekend = torch.arange(config.slots, device=moment.minutes.device) >= config.slots_per_day
    return weekend[None, :] == moment.weekend[:, None]


def circular_distance(a: Tensor, b: Tensor) -> Tensor:
    """Shortest way round the 24 h circle, hours in [0, 12]."""
    gap = torch.remainder(a - b, DAY_HOURS)
    return torch.minimum(gap, DAY_HOURS - gap)


def normal_density(distance: Tensor, sigma: Tensor | float) -> Tensor:
    """Density of N(0, σ²) at a distance, both in hours."""
    return torch.exp(-0.5 * (distance / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))


def slot_weights(moment: Moment, config: RankerConfig, sigma: Tensor | float) -> Tensor:
    """Gaussian weight of every slot at each moment, times the slot's width in hours.

    Where the weekend has its own slots, those of the other kind of day weigh nothing.

    Args:
        moment: B times.
        config: for the slots.
        sigma: standard deviation in hours: a number, or one for each of G groups, shape (G,).

    Returns:
        Shape (B, S), or (B, G, S) with groups. With a σ well below a day they sum to 1 over the slots.
    """
    distance = circular_distance(moment.hours[:, None], slot_centres(config, moment.minutes.device)[None, :])
    if isinstance(sigma, Tensor):
        distance, sigma = distance[:, None, :], sigma[None, :, None]
    weights = normal_density(distance, sigma) * (config.slot_minutes / 60)
    same = same_kind_of_day(moment, config)
    if same is not None:
        weights = weights * (same[:, None, :] if isinstance(sigma, Tensor) else same)
    return weights
