"""Time modules: how a ranker knows what time it is for this user.

One interface: a module gets a batch and the ranker's tables, and returns a vector that is concatenated to the
ranker's input. Shapes: B samples, U users, S slots (24 in the paper), F facets, K top values, D the embedding width,
L recent behaviors.
"""

from __future__ import annotations

from training.config import RankerConfig
from training.time_modules.base import TimeModule
from training.time_modules.clocks import AdaptiveClock, GaussianClock, NaiveClock
from training.time_modules.long_term import LongTermClock
from training.time_modules.matched import MatchedClock
from training.time_modules.plain import Cyclic, HourEmbedding, NoTime

MODULES: dict[str, type[TimeModule]] = {
    "none": NoTime,
    "hour_embedding": HourEmbedding,
    "cyclic": Cyclic,
    "naive_clock": NaiveClock,
    "adaptive_clock": AdaptiveClock,
    "gaussian_clock": GaussianClock,
    "long_term_clock": LongTermClock,
    "matched_clock": MatchedClock,
}


def build_time_module(config: RankerConfig, facets: int) -> TimeModule:
    """The module of a variant."""
    return MODULES[config.variant](config, facets)
