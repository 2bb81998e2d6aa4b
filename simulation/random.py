"""Counter-based random numbers: a draw depends on its keys alone, never on the draws before it.

So any hour of the log can be written on its own, and two arms of an experiment share every draw
that the treatment does not affect (common random numbers). The mixer is SplitMix64 (Steele, Lea,
Flood 2014, doi:10.1145/2660193.2660195).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

Keys = np.ndarray | int


def _mix(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def bits(*keys: Keys) -> np.ndarray:
    """64 random bits for each combination of keys, which broadcast against each other."""
    with np.errstate(over="ignore"):
        state = np.asarray(0x9E3779B97F4A7C15, dtype=np.uint64)
        for key in keys:
            state = _mix(state + np.asarray(key).astype(np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
            state = state + np.uint64(0x9E3779B97F4A7C15)
        return _mix(state)


def uniform(*keys: Keys) -> np.ndarray:
    """Uniform numbers in (0, 1), one for each combination of keys, which broadcast against each other."""
    return ((bits(*keys) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


def normal(*keys: Keys) -> np.ndarray:
    """Standard normal numbers, one for each combination of keys, which broadcast against each other."""
    return ndtri(uniform(*keys))
