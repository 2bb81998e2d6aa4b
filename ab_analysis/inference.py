"""Tests of a treatment against the control, from sufficient statistics: Welch, CUPED, the delta method, post-stratification.

Only SciPy's t distribution is needed, so that a command or a task is not kept waiting for imports; tests compare the results with
tea-tasting's, statsmodels' and SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from ab_analysis.effect import UNKNOWN, Effect, with_lift
from ab_analysis.moments import Cells, Moments, align

ADJUSTMENT = "\x1fadjustment"
"""A column that is added, under a name that no table's column can have."""

RATIO_NOISE = 1e-13
"""The linearized values of a ratio vary by this share of its square from rounding alone, where the ratio is the same for every user."""

Method = Literal["welch", "cuped", "cupac", "post_stratified", "quantile"]


@dataclass(frozen=True)
class MetricSpec:
    """What is compared, a mean or a ratio of means, and by which methods.

    Attributes:
        metric: its name.
        numerator: column of the users' values.
        denominator: column of a ratio's denominator; None for a mean.
        covariates: columns measured before the experiment.
        model_covariate: column of a model's prediction, for ``cupac``.
        methods: in the order of the report.
        headline: the method whose row decides.
    """

    metric: str
    numerator: str
    denominator: str | None = None
    covariates: tuple[str, ...] = ()
    model_covariate: str | None = None
    methods: tuple[Method, ...] = ("welch",)

    @property
    def headline(self) -> Method:
        """The last method named: the one that takes off the most variance."""
        return self.methods[-1]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns whose co-moments the test needs from the pass over the users."""
        model = (self.model_covariate,) if self.model_covariate else ()
        return (self.numerator, *((self.denominator,) if self.denominator else ()), *self.covariates, *model)

    def with_model(self) -> MetricSpec:
        """The same metric with the model's prediction as one more covariate."""
        extra = (self.model_covariate,) if self.model_covariate else ()
        return replace(self, covariates=(*self.covariates, *extra), model_covariate=None)


def coefficients(spec: MetricSpec, control: Moments, treatment: Moments) -> dict[str, float]:
    """Regression coefficients of the metric on its covariates over the users of both groups together.

    θ = S_xx⁺ S_xy (Deng et al. 2013, doi:10.1145/2433396.2433413); a ratio enters by its
    linearized value (Deng, Knoblich & Lu 2018, doi:10.1145/3219819.3219919). None where no covariate varies, or a ratio's
    denominator is 0 on average.
    """
    pooled = control + treatment
    if spec.denominator and not pooled.mean(spec.denominator):
        return {}
    names = list(spec.covariates)
    products = pooled.block(names, names)
    scale = np.sqrt(np.diag(products))
    varying = scale > 0
    if not varying.any():
        return {}
    with_metric = pooled.block(names, [spec.numerator])[:, 0]
    if spec.denominator:
        denominator = pooled.mean(spec.denominator)
        ratio = pooled.mean(spec.numerator) / denominator
        with_metric = (with_metric - ratio * pooled.block(names, [spec.denominator])[:, 0]) / denominator
    correlation = products[np.ix_(varying, varying)] / np.outer(scale[varying], scale[varying])
    theta = (
        np.linalg.pinv(correlation, rcond=1e-10, hermitian=True)
        @ (with_metric[varying] / scale[varying])
        / scale[varying]
    )
    return dict(zip([n for n, u in zip(names, varying, strict=True) if u], map(float, theta), strict=True))


def compare(spec: MetricSpec, control: Moments, treatment: Moments, confidence: float, *, adjusted: bool) -> Effect:
    """Welch's test; with ``adjusted`` after subtracting what the covariates predict (CUPED).

    Args:
        spec: the metric.
        control, treatment: moments of the two groups.
        confidence: level of the intervals.
        adjusted: whether the covariates adjust the metric.

    Returns:
        ``UNKNOWN`` if a group has fewer than two users, or the metric is the same for all of them.
    """
    if min(control.count, treatment.count) < 2:
        return UNKNOWN
    if spec.denominator and not (control.mean(spec.denominator) and treatment.mean(spec.denominator)):
        return UNKNOWN
    control, treatment = align(control, treatment)
    theta = coefficients(spec, control, treatment) if adjusted else {}
    means = {name: (control + treatment).mean(name) for name in theta}
    first, second = (_estimate(spec, side, theta, means) for side in (control, treatment))
    noise = RATIO_NOISE if spec.denominator else 0.0
    varies = any(side.plain_variance > noise * side.mean**2 for side in (first, second))
    effect = (welch if varies else _of_constants)(first, second, confidence)
    return effect.in_units_of(unit_of(spec, control))


def unit_of(spec: MetricSpec, moments: Moments) -> float:
    """What 1 of a metric's means stands for."""
    return moments.unit(spec.numerator) / (moments.unit(spec.denominator) if spec.denominator else 1.0)


@dataclass(frozen=True)
class Estimate:
    """A group's mean, or ratio of means.

    Attributes:
        count: users.
        mean: adjusted, where covariates adjust it.
        variance: of a user's value, for a ratio of its linearized value, adjusted likewise.
        plain_variance: without the adjustment.
    """

    count: int
    mean: float
    variance: float
    plain_variance: float


def _estimate(
    spec: MetricSpec, moments: Moments, theta: Mapping[str, float], covariate_means: Mapping[str, float]
) -> Estimate:
    """The estimate of a group; a ratio by the delta method."""
    mean, weights = moments.mean(spec.numerator), {spec.numerator: 1.0}
    if spec.denominator:
        denominator = moments.mean(spec.denominator)
        mean /= denominator
        weights = {spec.numerator: 1 / denominator, spec.denominator: -mean / denominator}
    taken_off = sum(t * (moments.mean(name) - covariate_means[name]) for name, t in theta.items())
    plain = moments.combined_variance(weights)
    for name, t in theta.items():  # a cluster's users are a denominator and a covariate
        weights[name] = weights.get(name, 0.0) - t
    variance = moments.combined_variance(weights) if theta else plain
    return Estimate(moments.count, mean - taken_off, variance, plain)


def welch(control: Estimate, treatment: Estimate, confidence: float) -> Effect:
    """Welch's test of the difference; the lift's interval by the delta method on the log scale where both means are above 0.

    Args:
        control, treatment: the two groups.
        confidence: level of the intervals.

    Returns:
        ``UNKNOWN`` where nothing varies.
    """
    counts, means = (control.count, treatment.count), (control.mean, treatment.mean)
    squares = [side.variance / side.count for side in (control, treatment)]
    effect = treatment.mean - control.mean
    if not (0 < sum(squares) < math.inf and math.isfinite(effect)):
        return UNKNOWN
    se, df = math.sqrt(sum(squares)), _degrees_of_freedom(squares, counts)
    half = float(stdtrit(df, 0.5 + confidence / 2)) * se
    lift, lift_ci = math.nan, (math.nan, math.nan)
    if min(means) > 0:
        relative = [square / mean / mean for square, mean in zip(squares, means, strict=True)]
        log_df = _degrees_of_freedom(relative, counts)
        log_half = float(stdtrit(log_df, 0.5 + confidence / 2)) * math.sqrt(sum(relative))
        ratio = treatment.mean / control.mean
        with np.errstate(over="ignore"):  # of a mean that may as well be 0: its lift is withheld
            lift, lift_ci = ratio - 1, (ratio * float(np.exp(-log_half)) - 1, _or_nan(ratio * np.exp(log_half) - 1))
    return with_lift(
        Effect(
            control=control.mean, treatment=treatment.mean, effect=effect, se=se, effect_ci=(effect - half, effect + half),
            rel_effect=lift, rel_effect_ci=lift_ci, p_value=2 * float(stdtr(df, -abs(effect) / se)), confidence=confidence,
            control_se=math.sqrt(max(control.plain_variance, 0.0) / control.count),
        )
    )  # fmt: skip


def _degrees_of_freedom(squares: Sequence[float], counts: Sequence[int]) -> float:
    """Welch's and Satterthwaite's, of squared standard errors."""
    total = sum(squares)
    return 1 / sum((square / total) ** 2 / (count - 1) for square, count in zip(squares, counts, strict=True))


def _or_nan(value: float) -> float:
    return float(value) if math.isfinite(value) else math.nan


def _of_constants(control: Estimate, treatment: Estimate, confidence: float) -> Effect:
    """Every user of a group has the same value: an effect without error, with the p-value of a permutation test."""
    if not (math.isfinite(control.mean) and math.isfinite(treatment.mean)) or math.isclose(
        control.mean, treatment.mean, rel_tol=1e-9
    ):
        return UNKNOWN
    a, b = control.count, treatment.count
    chance = math.exp(math.log(2) + math.lgamma(a + 1) + math.lgamma(b + 1) - math.lgamma(a + b + 1))
    effect = treatment.mean - control.mean
    lift = effect / abs(control.mean) if control.mean else math.nan
    return Effect(
        control.mean, treatment.mean, effect, 0.0, (effect, effect), lift, (lift, lift), min(chance, 1.0), confidence,
        control_se=0.0,
    )  # fmt: skip


def post_stratified(
    spec: MetricSpec, cells: Cells, strata: Sequence[str], control: str, treatment: str, confidence: float
) -> Effect:
    """Means of strata weighted by all users' shares (Miratrix, Sekhon & Yu 2013, doi:10.1111/j.1467-9868.2012.01048.x).

    Covariates adjust within the strata by one common θ. A stratum with fewer than two users in a group is left out,
    together with its users. For means only.
    """
    if spec.denominator is not None:
        raise ValueError(f"'{spec.metric}' is a ratio: only means can be post-stratified")
    names: list[tuple[str, ...]] = sorted({tuple(key[cells.by.index(s)] for s in strata) for key in cells.cells})
    groups = [
        [cells.of(**{cells.by[0]: variant}, **dict(zip(strata, name, strict=True))) for name in names]
        for variant in (control, treatment)
    ]
    kept = [n for n in range(len(names)) if min(groups[0][n].count, groups[1][n].count) >= 2]
    if not kept:
        return UNKNOWN
    aligned = align(*(side[n] for side in groups for n in kept))
    groups = [aligned[: len(kept)], aligned[len(kept) :]]
    theta = coefficients(spec, *(sum(side[1:], side[0]) for side in groups)) if spec.covariates else {}
    weights = {spec.numerator: 1.0, **{name: -t for name, t in theta.items()}}
    groups = [[m.with_combination(ADJUSTMENT, weights) for m in side] for side in groups]
    sizes = np.array([a.count + b.count for a, b in zip(*groups, strict=True)], dtype=float)
    shares = sizes / sizes.sum()
    taken_off = sum(
        t * sum(side.mean(n) * side.count for group in groups for side in group) / sizes.sum() for n, t in theta.items()
    )
    sides = []
    for side in groups:
        count = sum(m.count for m in side)
        mean = float(sum(w * m.mean(ADJUSTMENT) for w, m in zip(shares, side, strict=True))) + float(taken_off)
        variance = float(sum(w**2 * m.variance(ADJUSTMENT) / m.count for w, m in zip(shares, side, strict=True)))
        sides.append(Estimate(count, mean, variance * count, variance * count))
    varies = any(side.variance > 0 for side in sides)
    effect = (welch if varies else _of_constants)(sides[0], sides[1], confidence)
    return effect.in_units_of(unit_of(spec, groups[0][0]))


def measure(
    spec: MetricSpec,
    method: Method,
    cells: Cells,
    control: str,
    treatment: str,
    confidence: float,
    strata: Sequence[str] = (),
) -> Effect:
    """The effect of a treatment on a metric by one method that uses moments.

    Args:
        spec: the metric.
        method: not ``quantile``.
        cells: moments of its columns by variant (and strata).
        control, treatment: names of the two variants.
        confidence: level of the intervals.
        strata: group columns for ``post_stratified``.
    """
    if method == "post_stratified":
        return post_stratified(spec, cells, strata, control, treatment, confidence)
    sides = cells.of(variant=control), cells.of(variant=treatment)
    spec = spec.with_model() if method == "cupac" else spec
    return compare(spec, *sides, confidence, adjusted=method != "welch")
