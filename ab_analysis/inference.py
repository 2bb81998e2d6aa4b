"""Tests of a treatment against the control, from sufficient statistics. The tests are tea-tasting's.

Here is what it lacks: several covariates at once, post-stratification, quantiles, intervals for looking
more than once, shrinkage of segments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import tea_tasting as tt
import tea_tasting.aggr

from ab_analysis.moments import Cells, Moments

NORMAL = NormalDist()
ADJUSTMENT = "__adjustment"


@dataclass(frozen=True)
class MetricSpec:
    """What is compared: a mean, or a ratio of means.

    Attributes:
        metric: its name.
        numerator: column of the users' values.
        denominator: column of a ratio's denominator; None for a mean.
        covariates: columns measured before the experiment.
    """

    metric: str
    numerator: str
    denominator: str | None = None
    covariates: tuple[str, ...] = ()

    @property
    def block(self) -> tuple[str, ...]:
        """Columns whose co-moments the test needs."""
        return (self.numerator, *((self.denominator,) if self.denominator else ()), *self.covariates)


@dataclass(frozen=True)
class Effect:
    """Treatment minus control.

    Attributes:
        control: mean (ratio, quantile) of the control, adjusted where the method adjusts; ``treatment`` likewise.
        effect: their difference, with its standard error ``se`` and interval.
        rel_effect: treatment / control − 1; NaN where the control is 0. Its interval is the delta method's on the
            log scale, or Fieller's where a mean is not above 0 (Fieller 1954, doi:10.1111/j.2517-6161.1954.tb00159.x).
        p_value: two-sided.
    """

    control: float
    treatment: float
    effect: float
    se: float
    effect_ci: tuple[float, float]
    rel_effect: float
    rel_effect_ci: tuple[float, float]
    p_value: float
    confidence: float = 0.95

    @property
    def known(self) -> bool:
        return math.isfinite(self.effect) and math.isfinite(self.se)

    @property
    def z(self) -> float:
        return self.effect / self.se if self.se else math.nan

    def power(self, true_effect: float) -> float:
        """Chance that a two-sided test at this confidence finds a true absolute effect."""
        limit, shift = NORMAL.inv_cdf(0.5 + self.confidence / 2), abs(true_effect) / self.se
        return NORMAL.cdf(shift - limit) + NORMAL.cdf(-shift - limit)

    def detectable(self, power: float = 0.8) -> float:
        """Smallest true absolute effect that is found with the given power."""
        return (NORMAL.inv_cdf(0.5 + self.confidence / 2) + NORMAL.inv_cdf(power)) * self.se

    def widened(self, multiplier: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Absolute and relative interval of ``multiplier`` standard errors either side."""
        absolute = (self.effect - multiplier * self.se, self.effect + multiplier * self.se)
        low, high = self.rel_effect_ci
        if not (math.isfinite(low) and math.isfinite(high) and low > -1 and self.effect_ci[1] > self.effect_ci[0]):
            return absolute, (math.nan, math.nan)
        own = (self.effect_ci[1] - self.effect_ci[0]) / 2 / self.se
        step = math.log((1 + high) / (1 + low)) / 2 / own * multiplier
        middle = math.log((1 + high) * (1 + low)) / 2
        return absolute, (math.expm1(middle - step), math.expm1(middle + step))


NAN = math.nan
UNKNOWN = Effect(NAN, NAN, NAN, NAN, (NAN, NAN), NAN, (NAN, NAN), NAN)


def coefficients(tested: MetricSpec, control: Moments, treatment: Moments) -> dict[str, float]:
    """Regression coefficients of the metric on its covariates over the users of both groups together.

    θ = S_xx⁺ S_xy (Deng et al. 2013, doi:10.1145/2433396.2433413); a ratio enters by its
    linearized value (Deng, Knoblich & Lu 2018, doi:10.1145/3219819.3219919).
    """
    both = control + treatment
    names = list(tested.covariates)
    inside = both.block(names, names)
    scale = np.sqrt(np.diag(inside))
    used = scale > 0
    if not used.any():
        return {}
    across = both.block(names, [tested.numerator])[:, 0]
    if tested.denominator:
        bottom = both.mean(tested.denominator)
        ratio = both.mean(tested.numerator) / bottom
        across = (across - ratio * both.block(names, [tested.denominator])[:, 0]) / bottom
    correlation = inside[np.ix_(used, used)] / np.outer(scale[used], scale[used])
    theta = np.linalg.pinv(correlation, rcond=1e-10, hermitian=True) @ (across[used] / scale[used]) / scale[used]
    return dict(zip([n for n, u in zip(names, used, strict=True) if u], map(float, theta), strict=True))


def compare(tested: MetricSpec, control: Moments, treatment: Moments, confidence: float, *, adjusted: bool) -> Effect:
    """Welch's test (``adjusted=False``), or the same after what covariates predict is taken off (CUPED).

    Returns:
        ``UNKNOWN`` where a group has fewer than two users, or the metric is the same for all of them.
    """
    if min(control.count, treatment.count) < 2:
        return UNKNOWN
    if tested.denominator and not (control.mean(tested.denominator) and treatment.mean(tested.denominator)):
        return UNKNOWN
    covariate = None
    if adjusted and (theta := coefficients(tested, control, treatment)):
        control, treatment = (m.with_combination(ADJUSTMENT, theta) for m in (control, treatment))
        if (control + treatment).variance(ADJUSTMENT) > 0:
            covariate = ADJUSTMENT
    test = tt.RatioOfMeans(tested.numerator, tested.denominator, covariate, confidence_level=confidence)
    names = [n for n in (tested.numerator, tested.denominator, covariate) if n]
    return _welch(test, control.aggregates(*names), treatment.aggregates(*names), confidence)


def _welch(
    test: tt.RatioOfMeans,
    control: tea_tasting.aggr.Aggregates,
    treatment: tea_tasting.aggr.Aggregates,
    confidence: float,
) -> Effect:
    spread = control.var(test.numer) + treatment.var(test.numer)
    if not spread > 0:
        return UNKNOWN
    try:
        found = test.analyze_aggregates(control, treatment)
    except (ValueError, OverflowError, ZeroDivisionError):  # a relative effect without meaning: means at 0
        return UNKNOWN
    se = found.effect_size / found.statistic if found.statistic else _half(found) / _quantile(confidence)
    effect = Effect(
        control=float(found.control), treatment=float(found.treatment), effect=float(found.effect_size), se=abs(float(se)),
        effect_ci=(float(found.effect_size_ci_lower), float(found.effect_size_ci_upper)),
        rel_effect=float(found.rel_effect_size),
        rel_effect_ci=(float(found.rel_effect_size_ci_lower), float(found.rel_effect_size_ci_upper)),
        p_value=float(found.pvalue), confidence=confidence,
    )  # fmt: skip
    if effect.control > 0 and effect.treatment > 0:
        return effect
    own = control.var(test.numer) / control.count()
    return replace(effect, rel_effect_ci=fieller(effect, own, confidence))


def _half(found: tt.metrics.mean.MeanResult) -> float:
    return float(found.effect_size_ci_upper - found.effect_size_ci_lower) / 2


def _quantile(confidence: float) -> float:
    return NORMAL.inv_cdf(0.5 + confidence / 2)


def fieller(effect: Effect, control_variance: float, confidence: float) -> tuple[float, float]:
    """Fieller's interval of treatment / control − 1 for independent means; infinite where the control may be 0.

    Args:
        effect: the comparison; ``se``² is the sum of both means' variances.
        control_variance: variance of the control's mean.
    """
    z2 = _quantile(confidence) ** 2
    other = max(effect.se**2 - control_variance, 0.0)
    a = effect.control**2 - z2 * control_variance
    b = effect.control * effect.treatment
    c = effect.treatment**2 - z2 * other
    inside = b**2 - a * c
    if a <= 0 or inside < 0:
        return (-math.inf, math.inf)
    ends = sorted(((b - math.sqrt(inside)) / a - 1, (b + math.sqrt(inside)) / a - 1))
    return ends[0], ends[1]


def post_stratified(
    tested: MetricSpec, cells: Cells, strata: Sequence[str], control: str, treatment: str, confidence: float
) -> Effect:
    """Means of strata weighted by all users' shares (Miratrix, Sekhon & Yu 2013, doi:10.1111/j.1467-9868.2012.01048.x).

    Covariates adjust within the strata by one common θ. A stratum without two users on each side is left out, together
    with its users. Only for means.
    """
    assert tested.denominator is None
    names: list[tuple[str, ...]] = sorted({tuple(key[cells.by.index(s)] for s in strata) for key in cells.cells})
    groups = [
        [cells.of(**{cells.by[0]: variant}, **dict(zip(strata, name, strict=True))) for name in names]
        for variant in (control, treatment)
    ]
    kept = [n for n in range(len(names)) if min(groups[0][n].count, groups[1][n].count) >= 2]
    if not kept:
        return UNKNOWN
    groups = [[side[n] for n in kept] for side in groups]
    theta = coefficients(tested, *(sum(side[1:], side[0]) for side in groups)) if tested.covariates else {}
    weights = {tested.numerator: 1.0, **{name: -t for name, t in theta.items()}}
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
        sides.append(tt.aggr.Aggregates(count_=count, mean_={"value": mean}, var_={"value": variance * count}))
    return _welch(tt.RatioOfMeans("value", confidence_level=confidence), sides[0], sides[1], confidence)


def from_estimates(
    control: float, treatment: float, control_se: float, treatment_se: float, confidence: float
) -> Effect:
    """A comparison of two independent estimates with normal errors."""
    se = math.hypot(control_se, treatment_se)
    if not (math.isfinite(se) and se > 0):
        return UNKNOWN
    z, effect = _quantile(confidence), treatment - control
    found = Effect(
        control, treatment, effect, se, (effect - z * se, effect + z * se),
        treatment / control - 1 if control else math.nan, (math.nan, math.nan),
        2 * NORMAL.cdf(-abs(effect) / se), confidence,
    )  # fmt: skip
    return replace(found, rel_effect_ci=fieller(found, control_se**2, confidence))


@dataclass(frozen=True)
class Shrunk:
    """A segment's effect, drawn towards the effect of all segments."""

    effect: float
    se: float


def shrink(effects: Sequence[float], ses: Sequence[float]) -> tuple[list[Shrunk], float]:
    """Empirical-Bayes estimates of segments' effects, and the p-value of "all segments have the same effect".

    Normal-normal model, variance between segments by Paule & Mandel (1982), homogeneity by Cochran's Q; both by
    statsmodels. The shrunk standard error is the posterior's, with the common mean's uncertainty in it.
    """
    from statsmodels.stats.meta_analysis import combine_effects

    e, v = np.asarray(effects, float), np.asarray(ses, float) ** 2
    if len(e) < 2:
        return [Shrunk(float(x), float(s)) for x, s in zip(e, ses, strict=True)], math.nan
    found = combine_effects(e, v, method_re="iterated")
    tau2 = max(float(found.tau2), 0.0)
    weights = 1 / (v + tau2)
    common = float((weights * e).sum() / weights.sum())
    keep = tau2 / (tau2 + v)
    posterior = keep * v + (1 - keep) ** 2 / weights.sum()
    shrunk = [Shrunk(float(x), float(s)) for x, s in zip(common + keep * (e - common), np.sqrt(posterior), strict=True)]
    return shrunk, float(found.test_homogeneity().pvalue)


def adjust(p_values: Mapping[str, float], method: str) -> dict[str, float]:
    """Adjusted p-values: ``holm`` (family-wise error) or ``fdr_bh`` (false discoveries). NaN stays NaN."""
    from statsmodels.stats.multitest import multipletests

    known = [k for k, p in p_values.items() if math.isfinite(p)]
    if not known:
        return dict(p_values)
    adjusted = multipletests([p_values[k] for k in known], method=method)[1]
    return {**p_values, **dict(zip(known, map(float, adjusted), strict=True))}
