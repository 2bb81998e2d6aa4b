"""Our own module: the candidate is looked up in the clocks, instead of the clock being summarized for all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.config import RankerConfig
from training.time_modules.base import Tables, TimeModule
from training.time_modules.matches import Matches
from training.time_of_day_counts import log_odds

FEATURES = 4
SCALE = 0.3
"""Brings log ratios near 1."""
SLOTS_PRIOR, DAY_PRIOR = 4.5, 10.0
"""Where the strengths of the priors start, pseudo-events; ``clock features fit`` gave these on a real log."""
SMALLEST_SHARE = 1e-5


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

    def prepare(self, batch: Batch, tables: Tables) -> Matches:
        """All that is looked up."""
        return Matches.of(batch, tables, self.config)

    def forward(self, batch: Batch, tables: Tables) -> Tensor:
        """Shape (B, 4·(F + 1) + 2)."""
        matches = batch.prepared if isinstance(batch.prepared, Matches) else self.prepare(batch, tables)
        priors, sigmas = self.log_prior.exp(), self.log_sigma.exp()
        slopes = torch.is_grad_enabled()
        day, now, share = self._everybody(matches, sigmas[1], priors, slopes=slopes)
        scores_now = matches.scores.now(sigmas[0], slopes=slopes).of_sigma(sigmas[0])
        events_now = matches.events.now(sigmas[0], slopes=slopes).per_sample(matches.runs).of_sigma(sigmas[0])
        events = matches.runs.per_sample(matches.events.all_day)
        user = (matches.scores.all_day + priors[2] * share) / (events + priors[2])
        user_now = (scores_now + priors[3] * user) / (events_now + priors[3])
        features = torch.stack([day, now, (user / share).log(), (user_now / user).log()], dim=2)
        return SCALE * torch.cat([features.flatten(1), matches.again], dim=1)

    def _everybody(
        self, matches: Matches, sigma: Tensor, priors: Tensor, *, slopes: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log odds ratio all day and now, and share of the positives; each (B, A)."""
        all_day, (all_good, all_both) = matches.everybody_all_day, matches.totals.sum(dim=1)
        rate = (all_good + 1) / (all_both + 2)
        counts, totals = matches.everybody_now(sigma, slopes=slopes)
        near, all_near = counts.of_sigma(sigma[:, None]), totals.of_sigma(sigma[:, None])  # (B, A, 2)
        day = (all_day[..., 0] + priors[0] * rate) / (all_day[..., 1] + priors[0])
        now = (near[..., 0] + priors[1] * day) / (near[..., 1] + priors[1])
        usual = (all_near[..., 0] + priors[1] * rate) / (all_near[..., 1] + priors[1])
        share = all_day[..., 0] / all_good.clamp(min=1)
        odds, usual_odds = log_odds(day), log_odds(rate)
        lift = log_odds(now) - odds - log_odds(usual) + usual_odds
        return odds - usual_odds, lift, share.clamp(min=SMALLEST_SHARE)
