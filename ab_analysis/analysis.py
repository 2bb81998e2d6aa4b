"""Tests on a user table: Welch and CUPED for every metric, and the sample-ratio check. By tea-tasting."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import tea_tasting as tt

from ab_analysis.experiment import Experiment
from ab_analysis.user_table import UserTable
from core.errors import NotReadyError

SAMPLE_RATIO_ALARM = 0.001
"""A sample-ratio p-value below this says that assignment or logging is broken (Fabijan et al. 2019)."""


@dataclass(frozen=True)
class MetricResult:
    """One metric of one variant against the control.

    Attributes:
        method: ``welch`` or ``cuped`` (covariate: the same metric before the experiment;
            Deng et al. 2013, doi:10.1145/2433396.2433413).
        effect: difference of the means, in the metric's unit; ``rel_effect`` relative to the control's.
        variance_reduction: 1 − (width of CUPED's interval / width of Welch's)²; 0 for ``welch``.
        truth: known relative effect, where the experiment is simulated.
    """

    metric: str
    variant: str
    method: str
    n_control: int
    n_treatment: int
    control: float
    treatment: float
    effect: float
    effect_ci: tuple[float, float]
    rel_effect: float
    rel_effect_ci: tuple[float, float]
    p_value: float
    variance_reduction: float = 0.0
    truth: float | None = None


@dataclass(frozen=True)
class Analysis:
    """What is known about an experiment up to an hour."""

    experiment: str
    until: str
    users: dict[str, int]
    sample_ratio_p_value: float
    crossed_users: int
    unknown_exposures: int
    new_users: int
    results: tuple[MetricResult, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def of(self, metric: str, method: str = "cuped") -> list[MetricResult]:
        """Results of a metric, one a treatment variant."""
        return [r for r in self.results if r.metric == metric and r.method == method]


def analyze(experiment: Experiment, table: UserTable) -> Analysis:
    """Test every metric of every variant against the control.

    Raises:
        NotReadyError: a variant has fewer than two users.
    """
    counts = {str(v["values"]): int(v["counts"]) for v in pc.value_counts(table.users["variant"]).to_pylist()}
    few = [name for name in experiment.variants if counts.get(name, 0) < 2]
    if few:
        raise NotReadyError(f"variant {few} of '{experiment.name}' has fewer than two users before {table.until}")
    has_pre = {m: bool(pc.max(table.users[f"{m}_pre"]).as_py() or 0) for m in experiment.metrics}
    metrics: dict[str, Any] = {}
    for metric in experiment.metrics:
        metrics[f"{metric}/welch"] = tt.Mean(metric, confidence_level=experiment.confidence)
        if has_pre[metric]:
            metrics[f"{metric}/cuped"] = tt.Mean(metric, f"{metric}_pre", confidence_level=experiment.confidence)
    treatments = [v for v in experiment.variants if v != experiment.control]
    results: list[MetricResult] = []
    for variant in treatments:
        pair = table.users.filter(pc.is_in(table.users["variant"], pa.array([experiment.control, variant])))
        found = tt.Experiment(metrics).analyze(pair, control=experiment.control)
        results += _rows(experiment, variant, found, counts)
    ratio = tt.SampleRatio(dict(experiment.variants)) if len(treatments) == 1 else None
    p_value = (
        float(tt.Experiment({"srm": ratio}).analyze(table.users, control=experiment.control)["srm"].pvalue)
        if ratio
        else _chi_square(experiment, counts)
    )
    return Analysis(
        experiment=experiment.name, until=table.until.key, users=counts, sample_ratio_p_value=p_value,
        crossed_users=table.crossed, unknown_exposures=table.unknown, new_users=int(pc.sum(table.users["is_new"]).as_py() or 0),
        results=tuple(results), warnings=tuple(_warnings(table, p_value, has_pre)),
    )  # fmt: skip


def _rows(experiment: Experiment, variant: str, found: Any, counts: dict[str, int]) -> list[MetricResult]:
    rows = []
    widths: dict[str, float] = {}
    for key, result in found.items():
        metric, method = key.split("/")
        effect_ci = (result.effect_size_ci_lower, result.effect_size_ci_upper)
        width = effect_ci[1] - effect_ci[0]
        widths.setdefault(metric, width)
        rows.append(
            MetricResult(
                metric=metric, variant=variant, method=method, n_control=counts[experiment.control],
                n_treatment=counts[variant], control=result.control, treatment=result.treatment, effect=result.effect_size,
                effect_ci=effect_ci, rel_effect=result.rel_effect_size,
                rel_effect_ci=(result.rel_effect_size_ci_lower, result.rel_effect_size_ci_upper), p_value=result.pvalue,
                variance_reduction=1 - (width / widths[metric]) ** 2 if widths[metric] > 0 else 0.0,
                truth=experiment.truth.get(metric),
            )
        )  # fmt: skip
    return rows


def _chi_square(experiment: Experiment, counts: dict[str, int]) -> float:
    from scipy.stats import chisquare

    total, shares = sum(counts.values()), sum(experiment.variants.values())
    expected = [total * share / shares for share in experiment.variants.values()]
    return float(chisquare([counts[v] for v in experiment.variants], expected).pvalue)


def _warnings(table: UserTable, p_value: float, has_pre: dict[str, bool]) -> list[str]:
    found = []
    if p_value < SAMPLE_RATIO_ALARM:
        found.append(
            f"Sample-ratio mismatch (p = {p_value:.2g}): the variants do not have the shares they should. "
            "Do not read the effects; look for lost or doubled exposures first."
        )
    if table.crossed:
        found.append(f"{table.crossed} users were seen in more than one variant and are left out.")
    if table.unknown:
        found.append(
            f"{table.unknown} exposures name a variant that the experiment file does not have; they are left out."
        )
    if missing := [m for m, there in has_pre.items() if not there]:
        found.append(f"No pre-period for {', '.join(missing)}: shown without CUPED.")
    return found


def verdict(experiment: Experiment, analysis: Analysis) -> str:
    """One sentence about the primary metrics."""
    if analysis.sample_ratio_p_value < SAMPLE_RATIO_ALARM:
        return "No conclusion: the sample ratio is broken."
    parts = []
    for metric in experiment.primary:
        for result in analysis.of(metric) or analysis.of(metric, "welch"):
            low, high = result.rel_effect_ci
            word = "up" if low > 0 else "down" if high < 0 else "not shown to change"
            interval = f"{experiment.confidence:.0%} interval {low:+.2%} to {high:+.2%}"
            text = f"{metric.replace('_', ' ')} {word} ({result.rel_effect:+.2%}, {interval})"
            parts.append(f"{result.variant}: {text}" if len(experiment.variants) > 2 else text)
    return (
        "; ".join(parts) + "." if parts and not any(math.isnan(r.effect) for r in analysis.results) else "No data yet."
    )
