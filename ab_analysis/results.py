"""The results of an analysis: one row per metric, variant and method, segments, novelty; and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from typing import Any

SIGNIFICANT_DIGITS = 12
"""Significant digits of figures in files."""


@dataclass(frozen=True)
class MetricResult:
    """One metric of one variant against the control, by one method.

    Attributes:
        role: ``primary``, ``secondary`` or ``guardrail``.
        method: ``welch``, ``cuped``, ``cupac`` (CUPED with a model's prediction), ``post_stratified``, ``quantile``.
        headline: whether decisions use this row; one method per metric.
        effect: treatment − control, in the metric's unit; ``rel_effect`` relative to the control's.
        effect_ci: interval of one look, one comparison; ``rel_effect_ci`` likewise.
        adjusted_ci: relative interval for all planned looks and, among primary metrics, all comparisons together; None
            before the first look that the stopping rule allows. ``adjusted_effect_ci``: the same in the metric's unit.
        p_value: two-sided, of one look and comparison; ``p_adjusted`` by Holm (primary) or Benjamini-Hochberg
            (secondary) over the headline rows of the role, NaN for others.
        variance_reduction: 1 − (standard error / Welch's)².
        detectable: smallest true relative effect that such a test detects with the experiment's power; ``power``:
            probability of detecting ``minimum_effect``.
        truth: true relative effect, if the experiment is simulated.
    """

    metric: str
    variant: str
    role: str
    method: str
    headline: bool
    n_control: int
    n_treatment: int
    control: float
    treatment: float
    effect: float
    effect_ci: tuple[float, float]
    rel_effect: float
    rel_effect_ci: tuple[float, float]
    adjusted_ci: tuple[float, float] | None
    adjusted_effect_ci: tuple[float, float] | None
    p_value: float
    p_adjusted: float
    variance_reduction: float
    detectable: float
    power: float
    truth: float | None = None


@dataclass(frozen=True)
class SegmentResult:
    """A metric's effect in one segment.

    Attributes:
        p_fdr: Benjamini-Hochberg over all segments, metrics and variants.
        shrunk: effect shrunk toward that of all segments (empirical Bayes); ``shrunk_ci``: its interval.
        p_same: of "all segments have the same effect" (Cochran's Q).
    """

    segment: str
    value: str
    metric: str
    variant: str
    n_control: int
    n_treatment: int
    rel_effect: float
    rel_effect_ci: tuple[float, float]
    p_value: float
    p_fdr: float
    shrunk: float
    shrunk_ci: tuple[float, float]
    p_same: float


@dataclass(frozen=True)
class Novelty:
    """How the daily effect changed from the first half to the second: above 0 it grows, below 0 it fades."""

    metric: str
    variant: str
    change: float
    change_ci: tuple[float, float]
    p_value: float


def plain(value: Any) -> Any:
    """A value in JSON's types: figures to 12 significant digits, NaN and infinity as None."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS - 1}e}") if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.metadata.get("written", True)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.isoformat() if isinstance(value, date) else value
