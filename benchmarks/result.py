"""A figure beside its peer's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Result:
    """A figure and its peer's; ``ratio`` is the peer's value over ours (above 1: we are faster)."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds."""
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return float(np.median(took))
