"""Time-perception modules: how a ranker knows what time it is for this user.

One interface: a module gets a batch and the ranker's tables, and returns a vector that is concatenated to the
ranker's input. Shapes: B samples, U users, S slots (24 in the paper), F facets, K top values, D the embedding width,
L behaviors of a history.
"""

from __future__ import annotations

from training.config import RankerConfig
from training.perception.base import TimePerception
from training.perception.clocks import AdaptiveClock, GaussianClock, NaiveClock
from training.perception.long_term import LongTermClock
from training.perception.matched import MatchedClock
from training.perception.plain import Cyclic, HourEmbedding, NoTime

MODULES: dict[str, type[TimePerception]] = {
    "none": NoTime,
    "hour_embedding": HourEmbedding,
    "cyclic": Cyclic,
    "naive_clock": NaiveClock,
    "adaptive_clock": AdaptiveClock,
    "gaussian_clock": GaussianClock,
    "long_term_clock": LongTermClock,
    "matched_clock": MatchedClock,
}


def build_time_perception(config: RankerConfig, facets: int) -> TimePerception:
    """The module of a variant."""
    return MODULES[config.variant](config, facets)
