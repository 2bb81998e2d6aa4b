"""A metric's value with the influence of every user on it, which gives its interval and that of any difference."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Array = np.ndarray
CONFIDENCE = 0.95


def clustered_error(users: Array | int, squares: Array | float) -> Array:
    """Standard error of a metric from the sum of its users' squared influence; also of several metrics, one by one."""
    error: Array = np.sqrt(users / (users - 1) * squares)
    return error


@dataclass(frozen=True)
class Estimate:
    """A metric's value with the influence of each user.

    Attributes:
        value: the metric; NaN where it is undefined (only one label, no user with both).
        influence: shape (users,), users in ascending order of their id; sums to 0. The standard error
            is the root of ``U / (U − 1) · Σ influence²``. NaN where the metric is of one user alone, whose error nobody knows.
    """

    value: float
    influence: Array

    @property
    def standard_error(self) -> float:
        users = int(np.count_nonzero(self.influence)) or len(self.influence)
        if users < 2 or np.isnan(self.value):
            return float("nan")
        return float(clustered_error(users, np.square(self.influence).sum()))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Normal interval of the value."""
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * self.standard_error
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """Two-sided p-value of "the value is 0", for differences; NaN where the error is not known."""
        error = self.standard_error
        if not error > 0:
            return float("nan") if np.isnan(error) else float(self.value == 0)
        return 2 * (1 - NormalDist().cdf(abs(self.value) / error))

    def __sub__(self, other: Estimate) -> Estimate:
        """Paired difference: both were taken on the same users."""
        return Estimate(self.value - other.value, self.influence - other.influence)
