"""Several comparisons at once: p-values corrected for their number, and the error at which each one's interval agrees with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

Correction = Literal["bonferroni", "holm", "fdr_bh"]


def adjust(p_values: Mapping[str, float], method: Correction) -> dict[str, float]:
    """Adjust p-values for their number.

    Args:
        p_values: name → p-value.
        method: ``bonferroni`` or ``holm`` (family-wise error: Holm 1979), or ``fdr_bh`` (false discovery rate: Benjamini & Hochberg
            1995, doi:10.1111/j.2517-6161.1995.tb02031.x).

    Returns:
        Name → adjusted p-value; NaN stays NaN.
    """
    tested = _ordered(p_values)
    ordered, count = np.array([p_values[k] for k in tested], float), len(tested)
    # The bits of statsmodels' multipletests, whose Holm has Python look for garbage in all of a process at each call.
    if method == "bonferroni":
        adjusted = ordered * count
    elif method == "holm":
        adjusted = np.maximum.accumulate(ordered * np.arange(count, 0, -1))
    else:
        adjusted = np.minimum.accumulate((ordered / (np.arange(1, count + 1) / count))[::-1])[::-1]
    return {**p_values, **dict(zip(tested, np.minimum(adjusted, 1.0).tolist(), strict=True))}


def error_levels(p_values: Mapping[str, float], method: Correction, error: float) -> dict[str, float]:
    """Errors of intervals that agree with the adjusted p-values: one leaves 0 out exactly where its p-value is below ``error``.

    ``bonferroni``: simultaneous intervals. ``holm``: the level at which each comparison is tested, so that together they are not
    simultaneous. ``fdr_bh``: the intervals of those that are found cover falsely at most as often as the rate allows (Benjamini &
    Yekutieli 2005, doi:10.1198/016214504000001907).

    Args:
        p_values: name → p-value of one comparison.
        method: as of ``adjust``.
        error: of all comparisons together.

    Returns:
        Name → two-sided error of its interval; ``error`` itself where the p-value is NaN.
    """
    tested, adjusted = _ordered(p_values), adjust(p_values, method)
    count, rejected = len(tested), sum(adjusted[name] < error for name in tested)
    levels = dict.fromkeys(p_values, error)
    for rank, name in enumerate(tested):
        if method == "bonferroni":
            levels[name] = error / count
        elif method == "holm":
            levels[name] = error / (count - min(rank, rejected))
        else:
            levels[name] = error * max(rejected, 1) / count
    return levels


def _ordered(p_values: Mapping[str, float]) -> list[str]:
    """Names of the p-values that are numbers, the smallest first."""
    return sorted((name for name, p in p_values.items() if math.isfinite(p)), key=lambda name: p_values[name])
