"""What the report of an experiment shows as tables, and the sentences beside its decision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ab_analysis.analysis import Analysis
from ab_analysis.decision import side
from ab_analysis.experiment import ExperimentPlan
from ab_analysis.results import MetricResult, SegmentResult
from core.page_table import Cell, Column, Group, Row, Table
from core.page_template import UNKNOWN, figure, interval, p_value, percent, share, words

ROLES = {"primary": "Primary", "guardrail": "Guardrails", "secondary": "Secondary"}
TONES = {1: "good", -1: "bad", 0: ""}
ADJUSTED = "All looks under the stopping rule; among primary metrics all comparisons together"
P_ADJUSTED = "Holm among primary metrics and among guardrails, Benjamini-Hochberg among the others"


def effects(plan: ExperimentPlan, analysis: Analysis, titles: Mapping[str, str]) -> Table:
    """The row that decides of every metric and variant: absolute and relative effect, with the interval that fits the p-value."""
    experiment = plan.experiment
    several, known = len(experiment.treatments) > 1, bool(experiment.truth)
    columns = [
        Column("metric"), *([Column("variant")] if several else []), Column(experiment.control),
        Column("variant's mean" if several else "variant"),
        Column("effect", "Difference of the means, in the metric's unit"), Column("lift", "Relative to the control"),
        Column("interval of the lift", ADJUSTED), Column("p", P_ADJUSTED), *([Column("true lift")] if known else []),
    ]  # fmt: skip

    def row(r: MetricResult) -> Row:
        tone = TONES[side(plan, r)]
        return Row(
            [
                Cell(titles[r.metric], hint=plan.metrics[r.metric].definition), *([r.variant] if several else []), figure(r.control),
                figure(r.treatment), figure(r.effect), Cell(percent(r.rel_effect), tone), interval(r.adjusted_ci), p_value(r.p_adjusted),
                *([percent(r.truth) if r.truth is not None else UNKNOWN] if known else []),
            ],
            strong=r.role == "primary",
        )  # fmt: skip

    return Table(columns, _by_role([r for r in analysis.results if r.headline], row))


def methods(plan: ExperimentPlan, analysis: Analysis, titles: Mapping[str, str]) -> Table:
    """Every method's row of every metric and variant: intervals of one look, and what the method saves."""
    experiment = plan.experiment
    several = len(experiment.treatments) > 1
    columns = [
        Column("metric"), *([Column("variant")] if several else []), Column("method"), Column("lift"),
        Column(f"{experiment.confidence:.0%} interval", "One look, one comparison"), Column("p", "One look, one comparison"),
        Column("saved", "Variance taken off by the method"),
        Column("detectable", f"Smallest true effect that would be detected with a chance of {experiment.power:.0%}"),
        Column("power", f"Chance to find the minimum effect of {experiment.minimum_effect:.2%}"),
    ]  # fmt: skip

    def row(r: MetricResult) -> Row:
        return Row(
            [
                titles[r.metric], *([r.variant] if several else []), words(r.method), percent(r.rel_effect), interval(r.rel_effect_ci),
                p_value(r.p_value), share(r.variance_reduction), share(r.detectable, 2), share(r.power),
            ],
            strong=r.headline,
        )  # fmt: skip

    return Table(columns, _by_role(analysis.results, row), "Strong rows decide.")


def segments(rows: Sequence[SegmentResult], titles: Mapping[str, str]) -> Table:
    """Lifts of segments: as measured, and shrunk toward the common effect."""
    columns = [
        Column("segment"), Column("metric"), Column("variant"), Column("users"), Column("lift"), Column("interval"),
        Column("p", "Benjamini-Hochberg over all segments and metrics"),
        Column("shrunk lift", "Drawn toward the common effect, as far as the segments are alike"), Column("its interval"),
    ]  # fmt: skip
    return Table(
        columns,
        [
            Row(
                [
                    f"{words(s.segment)}: {s.value}", titles[s.metric], s.variant, f"{s.n_control + s.n_treatment:,}",
                    percent(s.rel_effect), interval(s.rel_effect_ci), p_value(s.p_fdr), percent(s.shrunk), interval(s.shrunk_ci),
                ]
            )
            for s in rows
        ],
    )  # fmt: skip


def same_in_segments(rows: Sequence[SegmentResult], titles: Mapping[str, str], confidence: float) -> list[str]:
    """A sentence for each metric and variant on whether its segments differ, by Cochran's Q."""
    tests = {(words(s.segment), titles[s.metric], s.variant): s.p_same for s in rows if math.isfinite(s.p_same)}
    return [
        f"{metric} ({variant}) by {segment}: the segments "
        f"{'differ' if p < 1 - confidence else 'may all have the same effect, so their lifts are drawn together'} (p = {p_value(p)})"
        for (segment, metric, variant), p in tests.items()
    ]


def worse_secondary(plan: ExperimentPlan, analysis: Analysis, titles: Mapping[str, str]) -> list[str]:
    """Secondary metrics that are significantly worse, in words: they block nothing, and somebody should know."""
    return [
        f"{titles[r.metric]} ({r.variant}) {percent(r.rel_effect)}, p = {p_value(r.p_adjusted)}"
        for r in analysis.results
        if r.headline and r.role == "secondary" and side(plan, r) < 0
    ]


def powers(analysis: Analysis, titles: Mapping[str, str]) -> list[str]:
    """For each primary metric and variant, the chance to find the minimum effect."""
    primary = [r for r in analysis.results if r.headline and r.role == "primary" and math.isfinite(r.power)]
    return [f"{titles[r.metric]} ({r.variant}) {share(r.power)}" for r in primary]


def _by_role(rows: Sequence[MetricResult], row: Callable[[MetricResult], Row]) -> list[Row | Group]:
    table: list[Row | Group] = []
    for role, title in ROLES.items():
        if of_role := [r for r in rows if r.role == role]:
            table += [Group(title), *map(row, of_role)]
    return table
