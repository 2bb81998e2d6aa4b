"""Time modules without a user's clock: none, the classic hour embedding, and sine and cosine."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.hours import DAY_HOURS
from training.batch import Batch
from training.config import RankerConfig
from training.time_modules.base import Tables, TimeModule

WEEK_DAYS = 7


class NoTime(TimeModule):
    """``none``: no time vector; width 0."""

    def __init__(self, config: RankerConfig, facets: int) -> None:
        del facets
        super().__init__(config, 0)

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Empty vector, shape (B, 0)."""
        del tables
        return batch.dense.new_zeros(len(batch), 0)


class HourEmbedding(TimeModule):
    """``hour_embedding``: ``v = [E_hour(h), E_weekday(w)]``.

    In streaming training all samples of the moment share h, so E_hour and all above it fit "now".
    """

    def __init__(self, config: RankerConfig, facets: int) -> None:
        del facets
        super().__init__(config, 2 * config.dim)
        self.hour, self.weekday = nn.Embedding(DAY_HOURS, config.dim), nn.Embedding(WEEK_DAYS, config.dim)
        for table in (self.hour, self.weekday):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, 2·D)."""
        del tables
        return torch.cat([self.hour(batch.moment.hours.long()), self.weekday(batch.moment.weekday)], dim=1)


class Cyclic(TimeModule):
    """``cyclic``: ``v = [sin 2πt/24, cos 2πt/24, sin 2πw/7, cos 2πw/7]``, w the weekday with its fraction."""

    def __init__(self, config: RankerConfig, facets: int) -> None:
        del facets
        super().__init__(config, 4)

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, 4)."""
        del tables
        day = batch.moment.hours / DAY_HOURS
        angles = 2 * math.pi * torch.stack([day, (batch.moment.weekday + day) / WEEK_DAYS], dim=1)
        return torch.cat([angles.sin(), angles.cos()], dim=1)
