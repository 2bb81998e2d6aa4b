"""Time-perception modules: how a ranker knows what time it is for this user.

One interface: a module gets the moment and the user's clock, and returns a vector that is
concatenated to the ranker's input. Shapes: B samples, U users, S slots (24 in the paper), F facets, K top
values, D the embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.config import RankerConfig

DAY_HOURS = 24
SATURDAY = 5


@dataclass(frozen=True)
class Moment:
    """When the samples happen, on the user's wall clock.

    Attributes:
        hours: local time of day in hours to the minute, in [0, 24), shape (B,).
        weekday: 0 Monday to 6 Sunday, shape (B,).
    """

    hours: Tensor
    weekday: Tensor

    def slot(self, config: RankerConfig) -> Tensor:
        """Number of the slot that the moment falls into, shape (B,)."""
        number = (self.hours * (60 / config.slot_minutes)).long()
        return number + (self.weekday >= SATURDAY) * config.slots_per_day if config.split_weekend else number


@dataclass(frozen=True)
class Clocks:
    """The users' clocks of a batch.

    Attributes:
        slots: embedding of every slot, facets side by side, shape (U, S, F·D); zero where empty.
        filled: whether a slot has any value, shape (U, S).
        user: position of each sample's user, shape (B,).
    """

    slots: Tensor
    filled: Tensor
    user: Tensor


class TimePerception(nn.Module):
    """Base: maps (moment, clocks) to a time vector of shape (B, width)."""

    needs_clock = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, moment: Moment, clocks: Clocks | None) -> Tensor:
        """Time vector, shape (B, width)."""
        raise NotImplementedError


class NoTime(TimePerception):
    """``none``: no time vector; width 0."""

    def forward(self, moment: Moment, clocks: Clocks | None) -> Tensor:
        """Empty vector, shape (B, 0)."""
        del clocks
        return moment.hours.new_zeros(len(moment.hours), 0)


class HourEmbedding(TimePerception):
    """``hour_embedding``: ``v = [E_hour(h), E_weekday(w)]``.

    In streaming training all samples of the moment share h, so E_hour and all above it fit "now".
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__(2 * config.dim)
        self.hour, self.weekday = nn.Embedding(DAY_HOURS, config.dim), nn.Embedding(7, config.dim)
        for table in (self.hour, self.weekday):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, moment: Moment, clocks: Clocks | None) -> Tensor:
        """Shape (B, 2·D)."""
        del clocks
        return torch.cat([self.hour(moment.hours.long()), self.weekday(moment.weekday)], dim=1)


class NaiveClock(TimePerception):
    """``naive_clock``: the slot of now, ``v = e(⌊t⌋)``."""

    needs_clock = True

    def __init__(self, config: RankerConfig, width: int) -> None:
        super().__init__(width)
        self.config = config

    def forward(self, moment: Moment, clocks: Clocks | None) -> Tensor:
        """Shape (B, F·D)."""
        assert clocks is not None
        return clocks.slots[clocks.user, moment.slot(self.config)]


class AdaptiveClock(TimePerception):
    """``adaptive_clock``: attention over the slots.

    ``v = Σ_s softmax_s((W_q E_slot(⌊t⌋)) · (W_k [e(s), E_slot(s)]) / √D) e(s)`` over non-empty slots.
    """

    needs_clock = True

    def __init__(self, config: RankerConfig, width: int) -> None:
        super().__init__(width)
        self.config = config
        self.hour = nn.Embedding(config.slots, config.dim)
        nn.init.normal_(self.hour.weight, std=0.05)
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(width + config.dim, config.dim, bias=False)

    def forward(self, moment: Moment, clocks: Clocks | None) -> Tensor:
        """Shape (B, F·D)."""
        assert clocks is not None
        places = self.hour.weight.expand(len(clocks.slots), -1, -1)
        keys = self.key(torch.cat([clocks.slots, places], dim=2))[clocks.user]
        logits = torch.einsum("bd,bsd->bs", self.query(self.hour(moment.slot(self.config))), keys) / math.sqrt(
            keys.shape[2]
        )
        filled = clocks.filled[clocks.user]
        weights = torch.softmax(logits.masked_fill(~filled, -1e9), dim=1) * filled
        return torch.einsum("bs,bsv->bv", weights, clocks.slots[clocks.user])


class GaussianClock(TimePerception):
    """``gaussian_clock``, the paper's: ``v = Σ_s g(δ_s) e(s) w``, ``g`` the normal density N(0, σ²).

    ``δ_s`` is the shortest way round the 24 h circle between the local time and the slot's centre, ``w`` the
    slot's width in hours (1 in the paper), so that a finer clock has the same scale. Where the weekend has
    slots of its own, those of the other kind of day weigh nothing. Source: Zhu et al., SIGIR 2024, arXiv 2404.19357.
    """

    needs_clock = True
    centres: Tensor

    def __init__(self, config: RankerConfig, width: int) -> None:
        super().__init__(width)
        self.config = config
        hours = config.slot_minutes / 60
        centres = (torch.arange(config.slots, dtype=torch.float32) % config.slots_per_day + config.slot_centre) * hours
        self.register_buffer("centres", centres, persistent=False)

    def weights(self, moment: Moment) -> Tensor:
        """Weight of every slot at each moment, shape (B, S)."""
        weights = gaussian_weights(moment.hours, self.centres, self.config.sigma_hours)
        if self.config.slot_minutes != 60:
            weights = weights * (self.config.slot_minutes / 60)
        if self.config.split_weekend:
            weekend = torch.arange(self.config.slots) >= self.config.slots_per_day
            weights = weights * (weekend[None, :] == (moment.weekday >= SATURDAY)[:, None])
        return weights

    def forward(self, moment: Moment, clocks: Clocks | None) -> Tensor:
        """Shape (B, F·D)."""
        assert clocks is not None
        return torch.einsum("bs,bsv->bv", self.weights(moment), clocks.slots[clocks.user])


def circular_distance(a: Tensor, b: Tensor) -> Tensor:
    """Shortest way round the 24 h circle, hours in [0, 12]."""
    gap = torch.remainder(a - b, DAY_HOURS)
    return torch.minimum(gap, DAY_HOURS - gap)


def gaussian_weights(hours: Tensor, centres: Tensor, sigma: float) -> Tensor:
    """Normal density of the circular distance of each time (B,) from each centre (S,), shape (B, S)."""
    distance = circular_distance(hours[:, None], centres[None, :])
    return torch.exp(-0.5 * (distance / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))


def build_time_perception(config: RankerConfig, facets: int) -> TimePerception:
    """The module of a variant."""
    width = facets * config.dim
    modules: dict[str, TimePerception] = {
        "none": NoTime(0),
        "hour_embedding": HourEmbedding(config),
        "naive_clock": NaiveClock(config, width),
        "adaptive_clock": AdaptiveClock(config, width),
        "gaussian_clock": GaussianClock(config, width),
    }
    return modules[config.variant]
