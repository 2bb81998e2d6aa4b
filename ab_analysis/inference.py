"""Tests of a treatment against the control, from sufficient statistics. The tests are tea-tasting's.

This module adds what it lacks: several covariates at once, post-stratification, intervals for looking more than once,
shrinkage of segments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
import tea_tasting as tt
import tea_tasting.aggr

from ab_analysis.moments import Cells, Moments, align

NORMAL = NormalDist()
ADJUSTMENT = "\x1fadjustment"
"""A column that is added, under a name that no table's column can have."""

Method = Literal["welch", "cuped", "cupac", "post_stratified", "quantile"]
Correction = Literal["holm", "fdr_bh"]


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


@dataclass(frozen=True)
class Effect:
    """Treatment minus control.

    Attributes:
        control: mean (ratio, quantile) of the control, adjusted where the method adjusts; ``treatment`` likewise.
        effect: their difference, with its standard error ``se`` and interval.
        rel_effect: effect / |control|, the lift: it has the effect's sign. NaN (withheld) if the control's own interval
            includes 0. Its interval is the delta method's on the log scale, or Fieller's if a mean is not above 0
            (Fieller 1954, doi:10.1111/j.2517-6161.1954.tb00159.x).
        control_se: standard error of ``control``.
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
    control_se: float = field(default=math.nan, repr=False, metadata={"written": False})

    @property
    def known(self) -> bool:
        """Whether there is an effect at all."""
        return math.isfinite(self.effect) and math.isfinite(self.se)

    @property
    def lift_withheld(self) -> bool:
        """Whether the effect is known but the control may be 0, so that a lift would be meaningless."""
        return self.known and not math.isfinite(self.rel_effect)

    @property
    def z(self) -> float:
        """Effect in standard errors."""
        return self.effect / self.se if self.se else math.nan

    def power(self, true_effect: float) -> float:
        """Probability that a two-sided test at this confidence detects a true absolute effect."""
        if not self.se:
            return float(true_effect != 0)
        limit, shift = NORMAL.inv_cdf(0.5 + self.confidence / 2), abs(true_effect) / self.se
        return NORMAL.cdf(shift - limit) + NORMAL.cdf(-shift - limit)

    def detectable(self, power: float = 0.8) -> float:
        """Smallest true absolute effect that is detected with the given power."""
        return (NORMAL.inv_cdf(0.5 + self.confidence / 2) + NORMAL.inv_cdf(power)) * self.se

    def widened(self, multiplier: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Absolute and relative interval of ``multiplier`` standard errors on either side; the relative one is NaN if withheld."""
        absolute = (self.effect - multiplier * self.se, self.effect + multiplier * self.se)
        low, high = self.rel_effect_ci
        if not (math.isfinite(low) and math.isfinite(high)):
            return absolute, (math.nan, math.nan)
        if not self.effect_ci[1] > self.effect_ci[0]:
            return absolute, (low, high)
        if self.control < 0 or low <= -1:
            return absolute, _lift_interval(self, multiplier)
        one_look = (self.effect_ci[1] - self.effect_ci[0]) / 2 / self.se
        step = math.log((1 + high) / (1 + low)) / 2 / one_look * multiplier
        middle = math.log((1 + high) * (1 + low)) / 2
        return absolute, (math.expm1(middle - step), math.expm1(middle + step))

    def in_units_of(self, unit: float) -> Effect:
        """The effect in the metric's own unit, if the metric was measured in multiples of ``unit``."""
        if unit == 1:
            return self
        low, high = self.effect_ci
        return replace(
            self, control=self.control * unit, treatment=self.treatment * unit, effect=self.effect * unit,
            se=self.se * unit, effect_ci=(low * unit, high * unit), control_se=self.control_se * unit,
        )  # fmt: skip


NAN = math.nan
UNKNOWN = Effect(NAN, NAN, NAN, NAN, (NAN, NAN), NAN, (NAN, NAN), NAN)


def coefficients(spec: MetricSpec, control: Moments, treatment: Moments) -> dict[str, float]:
    """Regression coefficients of the metric on its covariates over the users of both groups together.

    θ = S_xx⁺ S_xy (Deng et al. 2013, doi:10.1145/2433396.2433413); a ratio enters by its
    linearized value (Deng, Knoblich & Lu 2018, doi:10.1145/3219819.3219919).
    """
    pooled = control + treatment
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
    covariate = None
    if adjusted and (theta := coefficients(spec, control, treatment)):
        control, treatment = (m.with_combination(ADJUSTMENT, theta) for m in (control, treatment))
        if (control + treatment).variance(ADJUSTMENT) > 0:
            covariate = ADJUSTMENT
    test = tt.RatioOfMeans(spec.numerator, spec.denominator, covariate, confidence_level=confidence)
    names = [n for n in (spec.numerator, spec.denominator, covariate) if n]
    effect = _welch(test, control.aggregates(*names), treatment.aggregates(*names), confidence)
    return effect.in_units_of(_unit(spec, control))


def _unit(spec: MetricSpec, moments: Moments) -> float:
    return moments.unit(spec.numerator) / (moments.unit(spec.denominator) if spec.denominator else 1.0)


def _welch(
    test: tt.RatioOfMeans,
    control: tea_tasting.aggr.Aggregates,
    treatment: tea_tasting.aggr.Aggregates,
    confidence: float,
) -> Effect:
    if not control.var(test.numer) + treatment.var(test.numer) > 0:
        return _of_constants(test, control, treatment, confidence)
    shift = 0.0
    try:
        # Where a covariate explains everything, nothing varies: SciPy says NaN, and warns.
        with np.errstate(invalid="ignore"):
            result = test.analyze_aggregates(control, treatment)
    except (
        ValueError,
        OverflowError,
        ZeroDivisionError,
    ):  # no logarithm of a ratio to a mean at 0: test it away from 0
        ratios = [float(side.mean(test.numer) / side.mean(test.denom)) for side in (control, treatment)]
        shift = max(map(abs, ratios)) + math.sqrt(
            max(float(side.ratio_var(test.numer, test.denom)) for side in (control, treatment))
        )
        try:
            result = test.analyze_aggregates(*(_moved(test, side, shift) for side in (control, treatment)))
        except (ValueError, OverflowError, ZeroDivisionError):
            return UNKNOWN
    se = result.effect_size / result.statistic if result.statistic else _half(result) / _quantile(confidence)
    effect = Effect(
        control=float(result.control) - shift, treatment=float(result.treatment) - shift,
        effect=float(result.effect_size), se=abs(float(se)),
        effect_ci=(float(result.effect_size_ci_lower), float(result.effect_size_ci_upper)),
        rel_effect=float(result.rel_effect_size),
        rel_effect_ci=(float(result.rel_effect_size_ci_lower), float(result.rel_effect_size_ci_upper)),
        p_value=float(result.pvalue), confidence=confidence,
        control_se=math.sqrt(max(float(control.ratio_var(test.numer, test.denom)), 0.0) / control.count()),
    )  # fmt: skip
    return _with_lift(effect)


def _with_lift(effect: Effect) -> Effect:
    """Add the lift relative to |control|; it is withheld if the control's interval includes 0."""
    z = _quantile(effect.confidence)
    if not abs(effect.control) > z * effect.control_se:
        return replace(effect, rel_effect=math.nan, rel_effect_ci=(math.nan, math.nan))
    if effect.control > 0 and effect.treatment > 0 and math.isfinite(effect.rel_effect_ci[0]):
        return effect
    return replace(effect, rel_effect=effect.effect / abs(effect.control), rel_effect_ci=_lift_interval(effect, z))


def _lift_interval(effect: Effect, multiplier: float) -> tuple[float, float]:
    """Fieller's interval of the lift, ``multiplier`` standard errors on either side; NaN if it is unbounded."""
    low, high = fieller(effect, multiplier=multiplier)
    if not (math.isfinite(low) and math.isfinite(high)):
        return math.nan, math.nan
    return (low, high) if effect.control > 0 else (-high, -low)


def _moved(test: tt.RatioOfMeans, side: tea_tasting.aggr.Aggregates, shift: float) -> tea_tasting.aggr.Aggregates:
    """Aggregates of a metric shifted by a constant in every group; effect and standard error stay the same."""
    means, variances, covariances = dict(side.mean_), dict(side.var_), dict(side.cov_)
    if test.denom is None:
        means[test.numer] += shift
        return tt.aggr.Aggregates(side.count_, means, variances, covariances)
    means[test.numer] += shift * means[test.denom]
    variances[test.numer] += 2 * shift * side.cov(test.numer, test.denom) + shift**2 * variances[test.denom]
    for pair in covariances:
        if test.numer in pair:
            other = next((name for name in pair if name != test.numer), test.numer)
            covariances[pair] += shift * (
                variances[test.denom] if other == test.denom else float(side.cov(test.denom, other))
            )
    return tt.aggr.Aggregates(side.count_, means, variances, covariances)


def _of_constants(
    test: tt.RatioOfMeans,
    control: tea_tasting.aggr.Aggregates,
    treatment: tea_tasting.aggr.Aggregates,
    confidence: float,
) -> Effect:
    """Every user of a group has the same value: an effect without error, with the p-value of a permutation test."""
    control_value, treatment_value = (
        float(side.mean(test.numer) / side.mean(test.denom)) for side in (control, treatment)
    )
    if not (math.isfinite(control_value) and math.isfinite(treatment_value)) or math.isclose(
        control_value, treatment_value, rel_tol=1e-9
    ):
        return UNKNOWN
    a, b = control.count(), treatment.count()
    chance = math.exp(math.log(2) + math.lgamma(a + 1) + math.lgamma(b + 1) - math.lgamma(a + b + 1))
    effect = treatment_value - control_value
    lift = effect / abs(control_value) if control_value else math.nan
    return Effect(
        control_value,
        treatment_value,
        effect,
        0.0,
        (effect, effect),
        lift,
        (lift, lift),
        min(chance, 1.0),
        confidence,
        control_se=0.0,
    )


def _half(result: tt.metrics.mean.MeanResult) -> float:
    return float(result.effect_size_ci_upper - result.effect_size_ci_lower) / 2


def _quantile(confidence: float) -> float:
    return NORMAL.inv_cdf(0.5 + confidence / 2)


def fieller(effect: Effect, confidence: float = 0.95, *, multiplier: float | None = None) -> tuple[float, float]:
    """Fieller's interval of treatment / control − 1 for independent means; infinite if the control may be 0.

    Args:
        effect: the comparison; ``se``² is the sum of both means' variances.
        confidence: level of the interval.
        multiplier: standard errors on either side; default: those of the confidence.
    """
    if not effect.control:
        return (-math.inf, math.inf)
    z2 = (multiplier or _quantile(confidence)) ** 2
    ratio = effect.treatment / effect.control  # everything relative to the control: squares of large values overflow
    control_error, error = effect.control_se / effect.control, effect.se / effect.control
    treatment_variance = max(error * error - control_error * control_error, 0.0)
    a = 1 - z2 * control_error * control_error
    discriminant = ratio * ratio - a * (ratio * ratio - z2 * treatment_variance)
    if a <= 0 or not discriminant >= 0:
        return (-math.inf, math.inf)
    ends = sorted(((ratio - math.sqrt(discriminant)) / a - 1, (ratio + math.sqrt(discriminant)) / a - 1))
    return ends[0], ends[1]


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
        sides.append(tt.aggr.Aggregates(count_=count, mean_={"value": mean}, var_={"value": variance * count}))
    effect = _welch(tt.RatioOfMeans("value", confidence_level=confidence), sides[0], sides[1], confidence)
    return effect.in_units_of(_unit(spec, groups[0][0]))


def from_estimates(
    control: float, treatment: float, control_se: float, treatment_se: float, confidence: float
) -> Effect:
    """A comparison of two independent estimates with normal errors.

    Args:
        control, treatment: the estimates.
        control_se, treatment_se: their standard errors.
        confidence: level of the intervals.
    """
    se = math.hypot(control_se, treatment_se)
    if not (math.isfinite(se) and se > 0):
        return UNKNOWN
    z, effect = _quantile(confidence), treatment - control
    compared = Effect(
        control, treatment, effect, se, (effect - z * se, effect + z * se), math.nan, (math.nan, math.nan),
        2 * NORMAL.cdf(-abs(effect) / se), confidence, control_se,
    )  # fmt: skip
    return _with_lift(compared)


def measure(
    spec: MetricSpec, cells: Cells, control: str, treatment: str, confidence: float, strata: Sequence[str] = ()
) -> list[tuple[Method, Effect]]:
    """The effect of a treatment on a metric, by each of the metric's methods that uses moments.

    Args:
        spec: the metric.
        cells: moments of its columns by variant (and strata).
        control, treatment: names of the two variants.
        confidence: level of the intervals.
        strata: group columns for ``post_stratified``.
    """
    sides = cells.of(variant=control), cells.of(variant=treatment)
    effects: list[tuple[Method, Effect]] = []
    for method in spec.methods:
        if method == "post_stratified":
            effects.append((method, post_stratified(spec, cells, strata, control, treatment, confidence)))
        elif method == "cupac":
            effects.append((method, compare(spec.with_model(), *sides, confidence, adjusted=True)))
        elif method in {"welch", "cuped"}:
            effects.append((method, compare(spec, *sides, confidence, adjusted=method == "cuped")))
    return effects


@dataclass(frozen=True)
class Shrunk:
    """A segment's effect, shrunk toward the effect of all segments."""

    effect: float
    se: float


def shrink(effects: Sequence[float], ses: Sequence[float]) -> tuple[list[Shrunk], float]:
    """Empirical-Bayes estimates of segments' effects, and the p-value of "all segments have the same effect".

    Normal-normal model, variance between segments by Paule & Mandel (1982), homogeneity by Cochran's Q, both from
    statsmodels. The shrunk standard error is the posterior's and includes the uncertainty of the common mean.

    Args:
        effects: one per segment.
        ses: their standard errors.
    """
    from statsmodels.stats.meta_analysis import combine_effects

    e, v = np.asarray(effects, float), np.asarray(ses, float) ** 2
    if len(e) < 2:
        return [Shrunk(float(x), float(s)) for x, s in zip(e, ses, strict=True)], math.nan
    combined = combine_effects(e, v, method_re="iterated")
    tau2 = max(float(combined.tau2), 0.0)
    weights = 1 / (v + tau2)
    common = float((weights * e).sum() / weights.sum())
    keep = tau2 / (tau2 + v)
    posterior = keep * v + (1 - keep) ** 2 / weights.sum()
    shrunk = [Shrunk(float(x), float(s)) for x, s in zip(common + keep * (e - common), np.sqrt(posterior), strict=True)]
    return shrunk, float(combined.test_homogeneity().pvalue)


def adjust(p_values: Mapping[str, float], method: Correction) -> dict[str, float]:
    """Adjust p-values for their number.

    Args:
        p_values: name → p-value.
        method: ``holm`` (family-wise error: Holm 1979) or ``fdr_bh`` (false discovery rate: Benjamini & Hochberg 1995).

    Returns:
        Name → adjusted p-value; NaN stays NaN.
    """
    tested = sorted((k for k, p in p_values.items() if math.isfinite(p)), key=lambda k: p_values[k])
    ordered, count = np.array([p_values[k] for k in tested], float), len(tested)
    # The bits of statsmodels' multipletests, whose Holm has Python look for garbage in all of a process at each call.
    if method == "holm":
        adjusted = np.maximum.accumulate(ordered * np.arange(count, 0, -1))
    else:
        adjusted = np.minimum.accumulate((ordered / (np.arange(1, count + 1) / count))[::-1])[::-1]
    return {**p_values, **dict(zip(tested, np.minimum(adjusted, 1.0).tolist(), strict=True))}
