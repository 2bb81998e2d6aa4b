"""Our own module: the candidate is looked up in the clocks, instead of the clock being summarized for all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.hours import DAY_HOURS
from training.batch import DAY_MINUTES, Batch
from training.config import RankerConfig
from training.time_modules.base import Tables, TimeModule, circular_distance, normal_density, slot_weights
from training.time_of_day_counts import MEMORY_HOURS

FEATURES = 4
SCALE = 0.3
"""Brings log ratios near 1."""
SLOTS_PRIOR, DAY_PRIOR = 4.5, 10.0
"""Where the strengths of the priors start, pseudo-events; ``clock features fit`` gave these on a real log."""
SMALLEST_SHARE = 1e-5
WEEK_MINUTES, WEEK_SIGMA_HOURS = 7 * DAY_MINUTES, 2.0
SHORTEST_HOURS, NEVER_HOURS = 0.1, 5000.0


class MatchedClock(TimeModule):
    """``matched_clock``: how much more than usual this user, and everybody, takes *this* candidate at this time.

    For every attribute a of the candidate (each facet's value, and the item itself) four log ratios:

    1. everybody, all day: odds that a sample with a is a positive, against the odds of all samples;
    2. everybody, now: those odds at this time of day against the odds all day, and the same of all samples taken off;
    3. the user, all day: share of a in the user's scores against its share in everybody's positives;
    4. the user, now: its share around this time of day against its share all day.

    And two of the item in the user's recent behaviors: how long ago it was taken last, and how often within hours of
    this time of the week.

    "Now" is a Gaussian window round the 24 h circle whose σ is learned for each attribute. Every ratio is shrunk
    towards the one before it by pseudo-events whose numbers are learned: an empty slot says what the day says, an
    unknown user what everybody says. Facets are looked up in the clock's slots, the item in the user's recent
    behaviors, everybody in ``training.time_of_day_counts``: counts, which an hour of training does not bend towards now.
    """

    needs_clock = True
    needs_recent_behaviors = True
    needs_time_of_day_counts = True

    def __init__(self, config: RankerConfig, facets: int) -> None:
        super().__init__(config, FEATURES * (facets + 1) + 2)
        sigmas = torch.full((2, facets + 1), math.log(config.sigma_hours))
        self.log_sigma = nn.Parameter(sigmas)  # the user's, everybody's
        priors = torch.tensor([DAY_PRIOR, SLOTS_PRIOR, DAY_PRIOR, SLOTS_PRIOR]).log()
        self.log_prior = nn.Parameter(priors[:, None].repeat(1, facets + 1))

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, 4·(F + 1) + 2)."""
        priors, sigmas = self.log_prior.exp(), self.log_sigma.exp()
        day, now, share = self._everybody(batch, tables, sigmas[1], priors)
        scores, events = self._user(batch, sigmas[0])  # (B, A, 2) each: all day, now
        user = (scores[..., 0] + priors[2] * share) / (events[..., 0] + priors[2])
        user_now = (scores[..., 1] + priors[3] * user) / (events[..., 1] + priors[3])
        features = torch.stack([day, now, (user / share).log(), (user_now / user).log()], dim=2)
        return SCALE * torch.cat([features.flatten(1), self._again(batch)], dim=1)

    def _again(self, batch: Batch) -> Tensor:
        """Log of the hours since the user had the item last, and of how often at this time of the week; (B, 2)."""
        minutes = batch.recent_minutes[batch.user_position]
        same = same_item(batch) & (minutes >= 0)
        gap = batch.minutes[:, None] - minutes
        last = torch.where(same, (gap / 60).clamp(min=SHORTEST_HOURS), NEVER_HOURS).amin(dim=1)
        around = torch.remainder(gap, WEEK_MINUTES)
        around = torch.minimum(around, WEEK_MINUTES - around) / 60
        often = (same * torch.exp(-0.5 * (around / WEEK_SIGMA_HOURS) ** 2)).sum(dim=1)
        return torch.stack([last.log(), (often + 0.1).log()], dim=1)

    def _everybody(self, batch: Batch, tables: Tables, sigma: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log odds ratio all day and now, and share of the positives; each (B, A)."""
        read = tables.time_of_day_counts.read
        counts = [read(tables.values, batch.facets), read(tables.items, batch.items[:, None])]
        good = torch.cat([positives for positives, _ in counts], dim=1)  # (B, A, 24)
        both = good + torch.cat([negatives for _, negatives in counts], dim=1)
        all_good, all_bad = tables.time_of_day_counts.totals(tables.items)
        all_both = all_good + all_bad
        rate = (all_good.sum() + 1) / (all_both.sum() + 2)
        centers = torch.arange(DAY_HOURS, device=sigma.device) + 0.5
        window = normal_density(circular_distance(batch.moment.hours[:, None], centers)[:, None], sigma[None, :, None])
        window = window * DAY_HOURS
        day = (good.sum(dim=2) + priors[0] * rate) / (both.sum(dim=2) + priors[0])
        now = ((good * window).sum(dim=2) + priors[1] * day) / ((both * window).sum(dim=2) + priors[1])
        usual = ((all_good * window).sum(dim=2) + priors[1] * rate) / ((all_both * window).sum(dim=2) + priors[1])
        share = good.sum(dim=2) / all_good.sum().clamp(min=1)
        lift = torch.logit(now) - torch.logit(day) - torch.logit(usual) + torch.logit(rate)
        return torch.logit(day) - torch.logit(rate), lift, share.clamp(min=SMALLEST_SHARE)

    def _user(self, batch: Batch, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The user's scores with the candidate's attributes, and events; each (B, A, 2): all day and now."""
        at, moment = batch.user_position, batch.moment
        hit = (batch.clock_values[at] == batch.facets[:, None, :, None]) & (batch.facets > 0)[:, None, :, None]
        scores = (batch.clock_scores[at] * hit).sum(dim=3).transpose(1, 2)  # (B, F, S)
        events = batch.slot_events[at][:, None, :].expand_as(scores)
        window = slot_weights(moment, self.config, sigma[:-1]) * self.config.slots_per_day
        minutes = batch.recent_minutes[at]
        some = (minutes >= 0).float()
        age = (batch.minutes[:, None] - minutes) / 60
        some = some * torch.exp(-age.clamp(min=0) / MEMORY_HOURS)
        same = some * same_item(batch)
        gap = circular_distance(moment.hours[:, None], (minutes % DAY_MINUTES).float() / 60)
        near = normal_density(gap, sigma[-1]) * DAY_HOURS

        def both(facets: Tensor, item: Tensor, near_item: Tensor) -> Tensor:
            day = torch.cat([facets.sum(dim=2), item.sum(dim=1, keepdim=True)], dim=1)
            now = torch.cat([(facets * window).sum(dim=2), (item * near_item).sum(dim=1, keepdim=True)], dim=1)
            return torch.stack([day, now], dim=2)

        return both(scores, same, near), both(events, some, near)


def same_item(batch: Batch) -> Tensor:
    """Which of the user's recent behaviors are of the candidate, shape (B, L)."""
    same: Tensor = batch.recent_items[batch.user_position] == batch.items[:, None]
    return same & (batch.items > 0)[:, None]
