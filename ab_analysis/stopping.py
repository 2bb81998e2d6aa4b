"""Intervals and p-values under the experiment's stopping rule."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from ab_analysis.experiment import Experiment
from stats.sequential import limit_at, mixture_limit, mixture_p_value

LEVELS = (0.0001, 0.001, 0.01, 0.1, 0.3)
"""Errors at which the limits of a plan in groups are computed to read a p-value between them; none below the first is told."""


def comparisons_of(experiment: Experiment, role: str) -> int:
    """Number of comparisons that share the error of a metric of this role."""
    return len(experiment.primary) * len(experiment.treatments) if role == "primary" else 1


def interval_multiplier(experiment: Experiment, elapsed_days: float, comparisons: int) -> float | None:
    """Standard errors on either side so that all looks and comparisons together keep the confidence.

    The share of the planned days that have passed stands for the share of the information: it must not depend on the data.

    Args:
        experiment: its rule, confidence and planned length.
        elapsed_days: from the start to the look.
        comparisons: number of comparisons that share the error (Bonferroni).

    Returns:
        None if the rule allows no look yet: before the first look, or for ``fixed`` before the end.
    """
    alpha = (1 - experiment.confidence) / comparisons
    planned = experiment.planned_days
    rule = experiment.stopping
    if rule.rule == "fixed":
        ended = experiment.end is not None and elapsed_days >= planned - 1e-9
        return NormalDist().inv_cdf(1 - alpha / 2) if ended else None
    if elapsed_days < rule.first_look_days - 1e-9:
        return None
    if rule.rule == "always_valid":
        return mixture_limit(elapsed_days / planned, alpha)
    days = max(math.ceil(planned - 1e-9), rule.first_look_days)  # the last may be a part of one
    look = days if elapsed_days >= planned - 1e-9 else max(math.floor(elapsed_days + 1e-9), 1)
    return limit_at(look, days, rule.first_look_days, alpha)


def p_under_rule(experiment: Experiment, elapsed_days: float, comparisons: int, z: float) -> float | None:
    """P-value that fits the interval: below 1 − confidence exactly where |z| is above ``interval_multiplier``.

    Args:
        experiment: its rule, confidence and planned length.
        elapsed_days: from the start to the look.
        comparisons: number of comparisons that share the error (Bonferroni).
        z: effect in standard errors.

    Returns:
        None if the rule allows no look yet. For ``group_sequential`` it is read between the limits of ``LEVELS``.
    """
    multiplier = interval_multiplier(experiment, elapsed_days, comparisons)
    if multiplier is None:
        return None
    alpha = 1 - experiment.confidence
    if experiment.stopping.rule == "fixed":
        return min(1.0, comparisons * 2 * NormalDist().cdf(-abs(z)))
    if experiment.stopping.rule == "always_valid":
        fraction = elapsed_days / experiment.planned_days
        return min(1.0, comparisons * mixture_p_value(fraction, alpha / comparisons, z))
    limits = {}
    for level in (*LEVELS, alpha):
        limits[level] = interval_multiplier(
            experiment.model_copy(update={"confidence": 1 - level}), elapsed_days, comparisons
        )
    levels = sorted(limits)
    places = [-(limits[level] or 0.0) for level in levels]
    return min(1.0, float(np.exp(np.interp(-abs(z), [*places, 0.0], np.log([*levels, 1.0])))))
