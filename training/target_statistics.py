"""Target statistics: how often samples with the user, the item or a value of theirs were positives, as of the hour's start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.embedding import GrowingEmbedding
from training.time_of_day_counts import TimeOfDayCounts, log_odds

FEATURES = 2
FIRST_PRIOR = 10.0
"""Pseudo-samples at the log's own rate that a rate starts with; how many is learned for each attribute."""
COUNT_SCALE = 5.0
"""Divides the log of a count, to bring it near 1."""


class TargetStatistics(nn.Module):
    """Two numbers for the user, the item, each facet, each part of the context and each attribute; lists are left out.

    1. Log odds that a sample with this value is a positive, shrunk towards the odds of all samples, less those.
    2. Log of how many samples it had.

    They are read from ``training.time_of_day_counts``: brought up to date after an hour was trained on, decaying, and not
    fitted to the present. (Micci-Barreca 2001, doi:10.1145/507533.507538, with the prior learned.)

    Args:
        values: facets, parts of the context, and attributes.
    """

    def __init__(self, values: int) -> None:
        super().__init__()
        self.width = FEATURES * (values + 2)
        self.log_prior = nn.Parameter(torch.full((values + 2,), math.log(FIRST_PRIOR)))

    def forward(
        self,
        batch: Batch,
        users: GrowingEmbedding,
        items: GrowingEmbedding,
        values: GrowingEmbedding,
        counts: TimeOfDayCounts,
    ) -> Tensor:
        """Shape (B, ``width``)."""
        looked_up = [(users, batch.users[:, None]), (items, batch.items[:, None])]
        looked_up += [(values, rows) for rows in (batch.facets, batch.context, batch.attributes) if rows.shape[1]]
        read = [counts.read(table, rows) for table, rows in looked_up]
        good = torch.cat([positives.sum(dim=2) for positives, _ in read], dim=1)  # (B, A)
        both = good + torch.cat([negatives.sum(dim=2) for _, negatives in read], dim=1)
        all_good, all_bad = (total.sum() for total in counts.totals(items))
        usual, prior = (all_good + 1) / (all_good + all_bad + 2), self.log_prior.exp()
        odds = log_odds((good + prior * usual) / (both + prior)) - log_odds(usual)
        return torch.cat([odds, torch.log1p(both) / COUNT_SCALE], dim=1)
