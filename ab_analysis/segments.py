"""Effects in segments: drawn toward each other as far as they are alike, and corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ab_analysis.effect import NORMAL, Effect
from ab_analysis.multiplicity import adjust
from ab_analysis.results import SegmentResult


@dataclass(frozen=True)
class MeasuredSegment:
    """A metric's effect in one segment, as it was measured."""

    segment: str
    value: str
    metric: str
    variant: str
    n_control: int
    n_treatment: int
    effect: Effect

    @property
    def has_lift(self) -> bool:
        """Whether there is a lift with an interval, which may be open to a side."""
        return self.effect.known and bool(self.effect.se) and math.isfinite(self.half_width)

    @property
    def one_sided(self) -> bool:
        """Whether the interval is open to a side."""
        return any(map(math.isinf, self.effect.rel_effect_ci))

    @property
    def half_width(self) -> float:
        """From the lift to a bound of its interval, the mean of both where there are two."""
        low, high = self.effect.rel_effect_ci
        if self.one_sided:
            return min(self.effect.rel_effect - low, high - self.effect.rel_effect)
        return (high - low) / 2

    @property
    def relative_se(self) -> float:
        """Standard error of the lift."""
        confidence = self.effect.confidence
        return self.half_width / NORMAL.inv_cdf(confidence if self.one_sided else 0.5 + confidence / 2)


def shrink_segments(rows: Sequence[MeasuredSegment]) -> list[SegmentResult]:
    """Results of segments; those of one metric, variant and column are shrunk toward each other.

    Args:
        rows: that have a lift.
    """
    fdr = adjust({str(n): row.effect.p_value for n, row in enumerate(rows)}, "fdr_bh")
    results = []
    for family in dict.fromkeys((r.segment, r.metric, r.variant) for r in rows):
        members = [(n, r) for n, r in enumerate(rows) if (r.segment, r.metric, r.variant) == family]
        shrunk, p_same = shrink([r.effect.rel_effect for _, r in members], [r.relative_se for _, r in members])
        for (n, r), s in zip(members, shrunk, strict=True):
            e = r.effect
            half = r.half_width / r.relative_se * s.se
            low, high = e.rel_effect_ci
            shrunk_ci = (low if math.isinf(low) else s.effect - half, high if math.isinf(high) else s.effect + half)
            results.append(
                SegmentResult(
                    r.segment, r.value, r.metric, r.variant, r.n_control, r.n_treatment, e.rel_effect, e.rel_effect_ci,
                    e.p_value, fdr[str(n)], s.effect, shrunk_ci, p_same,
                )
            )  # fmt: skip
    return results


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
