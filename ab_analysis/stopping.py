"""The width of an interval, in standard errors, under the experiment's stopping rule."""

from __future__ import annotations

import math
from statistics import NormalDist

from ab_analysis.experiment import Experiment
from stats.sequential import limit_at, mixture_limit


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
    days = max(math.ceil(planned - 1e-9), rule.first_look_days)
    return limit_at(max(min(math.floor(elapsed_days + 1e-9), days), 1), days, rule.first_look_days, alpha)
