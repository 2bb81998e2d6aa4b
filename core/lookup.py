"""Places of values in a sorted array."""

from __future__ import annotations

import numpy as np


def positions(ascending: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each value in an array, and whether it is there; the position of one that is not means nothing.

    >>> positions(np.array([2, 5]), np.array([5, 3]))
    (array([1, 1]), array([ True, False]))

    Args:
        ascending: distinct, possibly none.
        values: of any shape.

    Returns:
        Two arrays in the shape of ``values``.
    """
    if not len(ascending):
        return np.zeros(values.shape, dtype=np.int64), np.zeros(values.shape, dtype=bool)
    at = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return at, ascending[at] == values
