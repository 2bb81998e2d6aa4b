"""What a test on users like these could find: the smallest effect, the users that an effect takes, the power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tea_tasting as tt
import tea_tasting.aggr

from ab_analysis.inference import ADJUSTMENT, RATIO_NOISE, MetricSpec, coefficients
from ab_analysis.moments import Moments, no_users

if TYPE_CHECKING:
    from ab_analysis.experiment import Experiment

FEWEST = 4
"""Users of a control and a treatment together that a plan asks for at least."""


@dataclass(frozen=True)
class Design:
    """What a test is planned for.

    Attributes:
        shares: variant → share of the users; they need not sum to 1.
        control: one of the variants.
        minimum_effect: smallest relative effect worth finding.
        power: probability of finding it.
        confidence: of the test.
        taken: share of the users whom the experiment takes.
    """

    shares: Mapping[str, float]
    control: str
    minimum_effect: float
    power: float = 0.8
    confidence: float = 0.95
    taken: float = 1.0

    @classmethod
    def of(cls, experiment: Experiment, held_out: float = 0.0) -> Design:
        """The design of an experiment file.

        Args:
            experiment: content of the file.
            held_out: share of all users whom holdouts keep from it.
        """
        layer = experiment.layer
        return cls(
            experiment.variants, experiment.control, experiment.minimum_effect, experiment.power, experiment.confidence,
            (1.0 if layer is None else layer.end - layer.start) * (1 - held_out),
        )  # fmt: skip


@dataclass(frozen=True)
class PlanRow:
    """What an experiment of a given length could detect.

    Attributes:
        days: length; 0: it is not known.
        users: number of users that would be in it, all variants together: those in its share of its layer.
        mean, sd: of the metric; for ``cuped`` the sd is that after the adjustment.
        detectable: smallest true relative effect of one treatment that is detected with the experiment's power.
        users_needed: number of users that detecting the experiment's minimum effect takes.
        power: probability of detecting the minimum effect.
        variance_reduction: by the covariates, 1 − ρ².
    """

    metric: str
    method: str
    days: int
    users: int
    mean: float
    sd: float
    variance_reduction: float
    detectable: float
    users_needed: int
    power: float


def plan_row(design: Design, spec: MetricSpec, moments: Moments, days: int = 0, *, adjusted: bool) -> PlanRow | None:
    """Power of one metric on users like these.

    None where the metric does not vary, also after the adjustment, where its mean is as good as 0, and without a denominator.

    Solved by tea-tasting, with the normal distribution: its noncentral t has no value for the users of a real app.

    Args:
        design: what the test is planned for.
        spec: the metric.
        moments: of all users together.
        days: that the users were counted in, for the row; 0: it is not known.
        adjusted: whether the covariates adjust the metric.
    """
    if not all(moments.mean(name) for name in (spec.numerator, spec.denominator) if name):
        return None
    covariate = None
    if adjusted:
        theta = coefficients(spec, no_users(moments.columns), moments)
        if not theta:
            return None
        moments, covariate = moments.with_combination(ADJUSTMENT, theta), ADJUSTMENT
    names = [n for n in (spec.numerator, spec.denominator, covariate) if n]
    aggregates = _aggregates(moments, names)
    mean = float(aggregates.mean(spec.numerator) / aggregates.mean(spec.denominator))
    variance = float(aggregates.ratio_var(spec.numerator, spec.denominator))
    residual_variance = variance
    if covariate:
        residual_variance -= float(aggregates.ratio_cov(spec.numerator, spec.denominator, covariate, None))
    noise = RATIO_NOISE * mean * mean if spec.denominator else 0.0
    if not (variance > noise and residual_variance > RATIO_NOISE * variance):
        return None
    share = min(share for variant, share in design.shares.items() if variant != design.control)
    control, total = design.shares[design.control], sum(design.shares.values())
    users = round(moments.count * design.taken)
    in_pair = users * (share + control) / total

    def metric(effect: float | None = None, users: int = max(int(in_pair), FEWEST)) -> tt.RatioOfMeans:
        return tt.RatioOfMeans(
            spec.numerator, spec.denominator, covariate, alpha=1 - design.confidence, ratio=share / control,
            power=design.power, use_t=False, rel_effect_size=effect, n_obs=users,
        )  # fmt: skip

    try:
        smallest = metric().solve_power_from_aggregates(aggregates, "rel_effect_size")[0]
        power = metric(design.minimum_effect).solve_power_from_aggregates(aggregates, "power")[0]
        of_fewest = metric(design.minimum_effect, FEWEST).solve_power_from_aggregates(aggregates, "power")[0]
        needed = FEWEST
        if of_fewest.power < design.power:  # else the solver, which looks at no fewer users, has no solution
            needed = metric(design.minimum_effect).solve_power_from_aggregates(aggregates, "n_obs")[0].n_obs
    except RuntimeError:  # the solver finds no number that is large enough
        return None
    unit = moments.unit(spec.numerator) / (moments.unit(spec.denominator) if spec.denominator else 1.0)
    return PlanRow(
        spec.metric, "cuped" if adjusted else "welch", days, users, mean * unit,
        math.sqrt(max(residual_variance, 0.0)) * unit,
        1 - residual_variance / variance, abs(float(smallest.rel_effect_size)), math.ceil(needed * total / (share + control)),
        float(power.power),
    )  # fmt: skip


def _aggregates(moments: Moments, names: Sequence[str]) -> tea_tasting.aggr.Aggregates:
    """The moments of some columns in tea-tasting's form."""
    return tt.aggr.Aggregates(
        count_=moments.count,
        mean_={a: moments.mean(a) for a in names},
        var_={a: moments.variance(a) for a in names},
        cov_={
            (a, b): float(moments.block([a], [b])[0, 0]) / max(moments.count - 1, 1)
            for a in names
            for b in names
            if a < b
        },
    )
