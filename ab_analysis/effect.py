"""The effect of a treatment on a metric: its difference and its lift, with intervals, p-value and power."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal

NORMAL = NormalDist()
Alternative = Literal["two-sided", "greater", "less"]


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
        p_value: two-sided, unless ``one_sided`` made it another.
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
    return with_lift(compared)


def one_sided(effect: Effect, alternative: Alternative) -> Effect:
    """The effect tested on one side, with intervals that are open to the other.

    A bound of an interval with the error α on either side is that of a one-sided interval with the error α.

    Args:
        effect: with two-sided intervals of the confidence 1 − 2α.
        alternative: ``greater``: the treatment's value is, so that the intervals have lower bounds only; ``less``: upper bounds only.
    """
    if alternative == "two-sided" or not effect.known:
        return effect
    greater = alternative == "greater"

    def opened(bounds: tuple[float, float]) -> tuple[float, float]:
        return (bounds[0], math.inf) if greater else (-math.inf, bounds[1])

    half = effect.p_value / 2
    return replace(
        effect, effect_ci=opened(effect.effect_ci), rel_effect_ci=opened(effect.rel_effect_ci), confidence=(1 + effect.confidence) / 2,
        p_value=half if (effect.effect > 0) == greater else 1 - half,
    )  # fmt: skip


def with_lift(effect: Effect) -> Effect:
    """The effect with its lift relative to |control|; it is withheld if the control's interval includes 0.

    Args:
        effect: where both means are above 0, with the lift's interval already; it is kept.
    """
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
