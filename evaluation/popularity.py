"""Popularity of items: the gate's baseline, and what serving falls back on."""

from __future__ import annotations

import numpy as np


def popularity(
    shown: np.ndarray, finished: np.ndarray, *, positives_only: bool, prior_events: float = 0.0
) -> np.ndarray:
    """How popular each item is, in [0, 1].

    Where the log knows impressions that were not finished, this is the finish rate; each item starts with
    ``prior_events`` events at the rate of all items, so that a few lucky events make nothing popular. Where the log has
    positives only, every item's finish rate is 1, and this is its share of the events.

    Args:
        shown: events of each item, shape (items,).
        finished: finished ones among them, shape (items,).
        positives_only: whether the log has positives only.
        prior_events: weight of the rate of all items; with 0 the rate is the item's own, and NaN for an item without events.

    Returns:
        Shape (items,).

    >>> popularity(np.array([2, 8]), np.array([2, 3]), positives_only=False).tolist()
    [1.0, 0.375]
    >>> popularity(np.array([2, 8]), np.array([2, 3]), positives_only=False, prior_events=20).tolist()
    [0.5454545454545454, 0.4642857142857143]
    >>> popularity(np.array([2, 8]), np.array([2, 8]), positives_only=True).tolist()
    [0.2, 0.8]
    """
    total = max(shown.sum(), 1)
    if positives_only:
        return shown / total
    usual = float(finished.sum() / total)
    with np.errstate(invalid="ignore"):
        return (finished + usual * prior_events) / (shown + prior_events)
