"""What the report of an experiment shows as tables, and the sentences beside its decision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ab_analysis.analysis import Analysis
from ab_analysis.changes import DEFINED, ExperimentChange
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.reading import PRIOR_SD, Arms, EffectReading, Interval
from ab_analysis.results import MetricResult, SegmentResult
from core.page_table import Cell, Column, Group, Row, Table
from core.page_template import (
    figure,
    interval,
    p_cell,
    p_told,
    p_value,
    percent,
    share,
    signed,
    signed_interval,
    total,
    words,
)

ROLES = {"primary": "Primary", "guardrail": "Guardrails", "secondary": "Secondary", "metric": "Metrics"}
TONES = {1: "good", -1: "bad", 0: ""}
ADJUSTED = "All looks under the stopping rule; among primary metrics all comparisons together"
P_READ = "Of the interval beside it: small exactly where the interval leaves 0 out"
P_ADJUSTED = "Of one look; Holm among primary metrics and among guardrails, Benjamini-Hochberg among the others"
BETTER = (
    "Probability that the true lift is for the better, where lifts are thought to be normal around 0 with a standard deviation of "
    f"{PRIOR_SD:.0%} before the data"
)


def effects(arms: Arms, readings: Sequence[EffectReading], hints: Mapping[str, str], held: str = ADJUSTED) -> Table:
    """The row that decides of every metric and variant: absolute and relative effect, with the interval that fits the p-value.

    Args:
        arms: the variants.
        readings: the rows.
        hints: metric → what it is, in words.
        held: for what the intervals hold.
    """
    several, known = len(arms.treatments) > 1, bool(arms.truth)
    columns = [
        Column("metric"), *([Column("variant")] if several else []), Column(arms.control),
        Column("variant's mean" if several else arms.treatments[0]),
        Column("effect", "Difference of the means, in the metric's unit, per user"), Column("lift", "Relative to the control"),
        Column("interval of the lift", held, scale="relative"), Column("interval of the effect", held, scale="absolute"),
        Column("p", P_READ), Column("chance to be better", BETTER), Column("total", "See below the table"),
        *([Column("true lift")] if known else []),
    ]  # fmt: skip

    def row(e: EffectReading) -> Row:
        r, tone = e.result, TONES[e.side]
        return Row(
            [
                Cell(e.title, hint=hints.get(r.metric, "")), *([r.variant] if several else []),
                Cell(figure(r.control), sort=r.control), Cell(figure(r.treatment), sort=r.treatment),
                Cell(signed(e.absolute.effect), tone, sort=e.absolute.effect),
                Cell(percent(e.relative.effect), tone, sort=e.relative.effect),
                Cell(interval(e.relative.bounds), sort=e.relative.bounds[0] if e.relative.bounds else math.nan),
                Cell(signed_interval(e.absolute.bounds), sort=e.absolute.bounds[0] if e.absolute.bounds else math.nan),
                Cell(p_cell(e.p_value) if e.p_value is not None else "not yet", sort=_or_nan(e.p_value)),
                Cell(share(e.chance_better, 1), sort=_or_nan(e.chance_better)),
                Cell(total(e.total.effect), hint=_total_hint(e.total), sort=e.total.effect) if e.total else Cell("", sort=math.nan),
                *([Cell(percent(r.truth), sort=_or_nan(r.truth))] if known else []),
            ],
            strong=r.role == "primary",
            choices={"variant": r.variant} if several else {},
        )  # fmt: skip

    of_roles = {role: [e for e in readings if e.result.role == role] for role in ROLES}
    rows: list[Row | Group] = []
    for role, of_role in of_roles.items():
        rows += [Group(ROLES[role]), *map(row, of_role)] if of_role else []
    return Table(columns, rows, name="effects")


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _total_hint(reading: Interval) -> str:
    return f"{total(reading.bounds[0])} to {total(reading.bounds[1])}" if reading.bounds else ""


def methods(
    arms: Arms,
    results: Sequence[MetricResult],
    titles: Mapping[str, str],
    *,
    confidence: float,
    power: float,
    minimum_effect: float | None,
    corrected: str = P_ADJUSTED,
) -> Table:
    """Every method's row of every metric and variant: intervals of one look, and what the method saves.

    Args:
        arms: the variants.
        results: the rows.
        titles: metric → title.
        confidence: of the intervals.
        power: of what is detectable; ``minimum_effect``: whose power is shown, None without one.
        corrected: for what p-values are corrected.
    """
    several = len(arms.treatments) > 1
    columns = [
        Column("metric"), *([Column("variant")] if several else []), Column("method"), Column("lift"),
        Column(f"{confidence:.0%} interval", "One look, one comparison"), Column("p", "One look, one comparison"),
        Column("p, corrected", corrected), Column("saved", "Variance taken off by the method"),
        Column("detectable", f"Smallest true effect that would be detected with a chance of {power:.0%}"),
        *([] if minimum_effect is None else [Column("power", f"Chance to find the minimum effect of {minimum_effect:.2%}")]),
    ]  # fmt: skip

    def row(r: MetricResult) -> Row:
        return Row(
            [
                titles[r.metric], *([r.variant] if several else []), words(r.method), Cell(percent(r.rel_effect), sort=r.rel_effect),
                Cell(interval(r.rel_effect_ci), sort=r.rel_effect_ci[0]), Cell(p_cell(r.p_value), sort=r.p_value),
                Cell(p_cell(r.p_adjusted), sort=r.p_adjusted),
                Cell(share(r.variance_reduction), sort=r.variance_reduction), Cell(share(r.detectable, 2), sort=r.detectable),
                *([] if minimum_effect is None else [Cell(share(r.power), sort=r.power)]),
            ],
            strong=r.headline, choices={"variant": r.variant} if several else {},
        )  # fmt: skip

    return Table(columns, _by_role(results, row), "Strong rows decide.", name="methods")


def segments(rows: Sequence[SegmentResult], titles: Mapping[str, str]) -> Table:
    """Lifts of segments: as measured, and shrunk toward the common effect."""
    columns = [
        Column("segment"), Column("metric"), Column("variant"), Column("users"), Column("lift"), Column("interval"),
        Column("p", "Benjamini-Hochberg over all segments and metrics"),
        Column("shrunk lift", "Drawn toward the common effect, as far as the segments are alike"), Column("its interval"),
    ]  # fmt: skip
    table = [
        Row(
            [
                f"{words(s.segment)}: {s.value}", titles[s.metric], s.variant,
                Cell(f"{s.n_control + s.n_treatment:,}", sort=s.n_control + s.n_treatment), Cell(percent(s.rel_effect), sort=s.rel_effect),
                Cell(interval(s.rel_effect_ci), sort=s.rel_effect_ci[0]), Cell(p_cell(s.p_fdr), sort=s.p_fdr),
                Cell(percent(s.shrunk), sort=s.shrunk), Cell(interval(s.shrunk_ci), sort=s.shrunk_ci[0]),
            ],
            choices={"variant": s.variant, "segment": s.segment},
        )
        for s in rows
    ]  # fmt: skip
    return Table(columns, table, name="segments")


def same_in_segments(rows: Sequence[SegmentResult], titles: Mapping[str, str], confidence: float) -> list[str]:
    """A sentence for each metric and variant on whether its segments differ, by Cochran's Q."""
    tests = {(words(s.segment), titles[s.metric], s.variant): s.p_same for s in rows if math.isfinite(s.p_same)}
    return [
        f"{metric} ({variant}) by {segment}: the segments "
        f"{'differ' if p < 1 - confidence else 'may all have the same effect, so their lifts are drawn together'} (p = {p_value(p)})"
        for (segment, metric, variant), p in tests.items()
    ]


def worse_secondary(readings: Sequence[EffectReading]) -> list[str]:
    """Secondary metrics that are significantly worse, in words: they block nothing, and somebody should know.

    The p-value is the one that stands beside the interval in the table of effects.
    """
    return [
        f"{e.title} ({e.result.variant}) {percent(e.relative.effect)}, {p_told(e.p_value)}"
        for e in readings
        if e.result.role == "secondary" and e.side < 0
    ]


@dataclass(frozen=True)
class PowerReading:
    """The chance to find the minimum effect; ``enough`` where every primary metric and variant has the planned one."""

    text: str
    enough: bool


def power(plan: ExperimentPlan, analysis: Analysis, titles: Mapping[str, str]) -> PowerReading | None:
    """For each primary metric and variant, the chance to find the minimum effect; None where none is known."""
    experiment = plan.experiment
    primary = [r for r in analysis.results if r.headline and r.role == "primary" and math.isfinite(r.power)]
    if not primary:
        return None
    chances = ", ".join(f"{titles[r.metric]} ({r.variant}) {share(r.power)}" for r in primary)
    return PowerReading(
        f"Chance to find a true effect of {experiment.minimum_effect:.2%}: {chances}. Planned: {share(experiment.power)}.",
        all(r.power >= experiment.power for r in primary),
    )


def _by_role(rows: Sequence[MetricResult], row: Callable[[MetricResult], Row]) -> list[Row | Group]:
    table: list[Row | Group] = []
    for role, title in ROLES.items():
        if of_role := [r for r in rows if r.role == role]:
            table += [Group(title), *map(row, of_role)]
    return table


def changes(changes: Sequence[ExperimentChange]) -> Table:
    """Who changed the experiment's file, when and why, the newest first; what touches a result that had begun stands out."""
    columns = [
        Column("when (UTC)"),
        Column("who", words=True),
        Column("what", words=True),
        Column("keys from then on", words=True),
        Column("why", words=True),
        Column("while it was", words=True),
    ]

    def row(change: ExperimentChange) -> Row:
        late = change.affects_result
        keys = "" if change.action == DEFINED else "; ".join(f"{key}: {change.told(key)}" for key in change.keys)
        state = f"{change.state}: what was planned is not what is shown" if late else change.state
        when = change.at[:16].replace("T", " ")
        return Row([when, change.who, change.action, keys, change.why, Cell(state, "bad" if late else "")], strong=late)

    return Table(columns, [row(change) for change in reversed(changes)])
