"""How an effect is read on the page: the p-value that fits its interval, the chance that it is better, what it adds up to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, Protocol

from ab_analysis.analysis import Analysis
from ab_analysis.decision import side
from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.metrics import Metric
from ab_analysis.results import MetricResult
from ab_analysis.stopping import comparisons_of, interval_multiplier, p_under_rule

NORMAL = NormalDist()
PRIOR_SD = 0.1
"""Standard deviation of the prior of a lift: normal around 0, so that two of three lifts are expected within ±10 %."""
ROLES = ("primary", "guardrail", "secondary")
"""In the order in which a person asks for them."""
UNITS = {"days": "days", "retained": "share of users", "at_least": "share of users"}


class Arms(Protocol):
    """The variants of a page: those of an experiment file, or of a table."""

    @property
    def control(self) -> str: ...

    @property
    def treatments(self) -> tuple[str, ...]: ...

    @property
    def truth(self) -> Mapping[str, float]:
        """Metric → true relative effect, where it is known."""
        ...


@dataclass(frozen=True)
class Interval:
    """An effect with its interval, in one scale; an interval is None where the stopping rule allows no look yet."""

    effect: float
    bounds: tuple[float, float] | None


@dataclass(frozen=True)
class EffectReading:
    """The row that decides of a metric and a variant, with what the page says of it.

    Attributes:
        title: of the metric, with its unit; ``unit``: of a user's value.
        side: 1: shown to be better, −1: shown to be worse, 0: neither.
        relative, absolute: the effect with the interval for all looks, and among primary metrics all comparisons together.
        p_value: below 1 − confidence exactly where that interval leaves 0 out; None before the first look that the rule allows.
        chance_better: posterior probability that the variant is better, see ``chance_to_be_better``; None where no lift is given.
        total: the absolute effect and its interval times all users of the experiment; None for metrics that cannot be added up.
    """

    result: MetricResult
    title: str
    unit: str
    side: int
    relative: Interval
    absolute: Interval
    p_value: float | None
    chance_better: float | None
    total: Interval | None


def read_effects(plan: ExperimentPlan, analysis: Analysis, titles: Mapping[str, str]) -> list[EffectReading]:
    """Read the rows that decide: primary metrics, guardrails, secondary metrics.

    Args:
        plan: the experiment and its metrics.
        analysis: its results.
        titles: metric → title.
    """
    headlines = sorted((r for r in analysis.results if r.headline), key=lambda r: ROLES.index(r.role))
    return [_read(plan, analysis, r, titles[r.metric]) for r in headlines]


def _read(plan: ExperimentPlan, analysis: Analysis, result: MetricResult, title: str) -> EffectReading:
    experiment, metric = plan.experiment, plan.metrics[result.metric]
    unit = unit_of(metric, plan)
    users = sum(analysis.users.values())
    bounds = result.adjusted_effect_ci
    total = Interval(result.effect * users, (bounds[0] * users, bounds[1] * users) if bounds else None)
    return EffectReading(
        result=result, title=f"{title}, {unit}" if unit and unit not in title else title, unit=unit, side=side(plan, result),
        relative=Interval(result.rel_effect, result.adjusted_ci), absolute=Interval(result.effect, bounds),
        p_value=_p_value(experiment, analysis, result),
        chance_better=chance_to_be_better(result.rel_effect, result.rel_effect_ci, experiment.confidence, metric.better),
        total=total if metric.additive and math.isfinite(result.effect) else None,
    )  # fmt: skip


def unit_of(metric: Metric, plan: ExperimentPlan) -> str:
    """The unit of a user's value of a metric; empty where it is a number of what the metric's title says."""
    if metric.unit or metric.kind in UNITS:
        return metric.unit or UNITS[metric.kind]
    return unit_of(plan.metrics[metric.of], plan) if metric.of else ""


def _p_value(experiment: Experiment, analysis: Analysis, result: MetricResult) -> float | None:
    comparisons = comparisons_of(experiment, result.role)
    multiplier = interval_multiplier(experiment, analysis.elapsed_days, comparisons)
    if multiplier is None or result.adjusted_effect_ci is None:
        return None
    low, high = result.adjusted_effect_ci
    if not high > low:
        return None
    return p_under_rule(experiment, analysis.elapsed_days, comparisons, result.effect / ((high - low) / 2 / multiplier))


def chance_to_be_better(
    lift: float, lift_ci: tuple[float, float], confidence: float, better: Literal["up", "down"] = "up"
) -> float | None:
    """Posterior probability that the true lift has the sign that is good, None where no lift is given.

    The prior of the lift is normal around 0 with the standard deviation ``PRIOR_SD``; the data enter as a normal likelihood with
    the lift and the standard error of the interval of one look. The prior is the same at every look, so looking early or often
    needs no correction, and the reading holds only as far as one shares the prior.

    Args:
        lift: as measured.
        lift_ci: its two-sided interval of one look; ``confidence``: the interval's level.
        better: the sign that is good.
    """
    low, high = lift_ci
    error = (high - low) / 2 / NORMAL.inv_cdf(0.5 + confidence / 2)
    if not (math.isfinite(lift) and error > 0 and math.isfinite(error)):
        return None
    z = lift / error * (PRIOR_SD / math.hypot(PRIOR_SD, error))  # without squares, for which a number can be too large
    return NORMAL.cdf(z if better == "up" else -z)
