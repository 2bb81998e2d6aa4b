"""The 24 h circle and the Gaussian on it, in NumPy: how every reader of a clock weighs hours.

``training.time_modules`` has the same in torch, because it needs gradients; a test checks that the two are equal.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

DAY = 24.0
Hours = TypeVar("Hours", float, np.ndarray)


def circular_distance(gap: Hours) -> Hours:
    """Shortest distance on the 24 h circle.

    Args:
        gap: difference between two local times, hours, of any sign and size.

    Returns:
        Hours in [0, 12].

    >>> float(circular_distance(23.0 - 1.0))
    2.0
    """
    turned = abs(gap) % DAY
    return np.minimum(turned, DAY - turned)


def gaussian(distance: Hours, sigma: float = 1.0) -> Hours:
    """The Gaussian kernel ``exp(−½ (d/σ)²)``, 1 at distance 0.

    Args:
        distance: hours.
        sigma: standard deviation σ, hours; the paper uses 1.

    Returns:
        Weights in (0, 1].

    >>> round(float(gaussian(1.0)), 4), round(float(gaussian(1.0, sigma=2.0)), 4)
    (0.6065, 0.8825)
    """
    return np.exp(-0.5 * (distance / sigma) ** 2)


def normal_density(distance: Hours, sigma: float = 1.0) -> Hours:
    """Density of N(0, σ²) at a distance: the kernel divided by ``σ √(2π)``.

    Args:
        distance: hours.
        sigma: standard deviation σ, hours.

    >>> round(float(normal_density(0.0)), 4)
    0.3989
    """
    return gaussian(distance, sigma) / (sigma * math.sqrt(2 * math.pi))
