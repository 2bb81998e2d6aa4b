"""The page of a plain table's analysis: the parts of an experiment's report that a table can fill."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ab_analysis import report_charts, report_tables
from ab_analysis.checks import ExperimentCheck, UntestedSegment, untested_segments
from ab_analysis.comparisons import TableResult
from ab_analysis.histograms import Histogram
from ab_analysis.reading import PRIOR_SD, EffectReading, Interval, chance_to_be_better
from ab_analysis.results import MetricResult
from ab_analysis.segments import MeasuredSegment, shrink_segments
from ab_analysis.table_spec import TableSpec
from ab_analysis.table_text import told_reading
from core.charts import chart_scripts
from core.errors import ConfigError
from core.files import write_output
from core.page_template import INTERACTIVE, interval, p_told, percent, render_page, words

TEMPLATE = Path(__file__).with_name("table.html")


@dataclass(frozen=True)
class TableArms:
    """The variants of a table."""

    control: str
    treatments: tuple[str, ...]
    truth: Mapping[str, float] = field(default_factory=dict)


def write_table_page(
    path: Path,
    table: Path,
    spec: TableSpec,
    rows: Sequence[TableResult],
    checks: Sequence[ExperimentCheck],
    lower_is_better: Collection[str] = (),
    histograms: Mapping[str, Histogram] | None = None,
    *,
    var: Path,
) -> None:
    """Write the page.

    Args:
        path: of the page.
        table: that was analyzed.
        spec: what was asked; with a power.
        rows: the result.
        checks: of the table.
        lower_is_better: metrics that should go down.
        histograms: metric → its distribution, where it is to be shown.
        var: folder of the workspaces, which need not exist.

    Raises:
        ConfigError: ``lower_is_better`` names something that was not analyzed, or the page cannot be written.
    """
    assert spec.power is not None
    whole = [r for r in rows if not r.segment]
    metrics = list(dict.fromkeys(r.metric for r in whole))
    if unknown := [m for m in lower_is_better if m not in metrics]:
        raise ConfigError(f"--lower-is-better {unknown[0]}: it is none of {', '.join(metrics)}")
    arms = TableArms(spec.control, tuple(dict.fromkeys(r.variant for r in whole)))
    users = {arms.control: whole[0].n_control, **{r.variant: r.n_treatment for r in whole}}
    results = [_result(spec, r, rows) for r in whole]
    readings = [
        _read(spec, row, result, sum(users.values()), -1 if row.metric in lower_is_better else 1)
        for row, result in zip(whole, results, strict=True)
        if result.headline
    ]
    titles = {m: words(m) for m in metrics}
    segments = [
        MeasuredSegment(
            r.segment[0], r.segment[1] or "(no value)", r.metric, r.variant, r.n_control, r.n_treatment, r.effect
        )
        for r in rows
        if r.segment
    ]
    without_lift = [
        UntestedSegment(s.segment, s.value, s.variant, s.n_control, s.n_treatment, s.metric)
        for s in segments
        if not s.has_lift
    ]
    checks = [*checks, *untested_segments(without_lift, "ok")]
    held = told_reading(spec, rows) or "One look, one comparison"
    shrunk = shrink_segments([s for s in segments if s.has_lift])
    context: dict[str, Any] = {
        "table": table.name, "spec": spec, "users": users, "everybody": sum(users.values()), "prior": PRIOR_SD,
        "findings": findings(readings), "failed": [c for c in checks if c.level == "fail"],
        "warnings": [c for c in checks if c.warns], "passed": [c for c in checks if not c.warns],
        "several": len(arms.treatments) > 1, "treatments": arms.treatments, "reading": told_reading(spec, rows),
        "lifts": report_charts.lifts(arms, readings), "absolute": report_charts.effects(arms, readings),
        "effects": report_tables.effects(arms, readings, definitions(spec), held),
        "methods": report_tables.methods(
            arms, results, titles, confidence=spec.confidence, power=spec.power,
            minimum_effect=spec.minimum_effect, corrected=held,
        ),
        "segment_chart": report_charts.segments(shrunk, titles, several=len(arms.treatments) > 1),
        "segments": report_tables.segments(shrunk, titles) if shrunk else None,
        "segment_names": list(dict.fromkeys(s.segment for s in shrunk)),
        "same": report_tables.same_in_segments(shrunk, titles, spec.confidence),
        "distributions": report_charts.distributions(arms, histograms or {}, titles),
        "definitions": {m: text for m, text in definitions(spec).items() if m in metrics}, "titles": titles,
    }  # fmt: skip
    title = f"Experiment in {table.name}"
    page = render_page(
        title, TEMPLATE.read_text(encoding="utf-8"), style=".close { color: var(--second); font-weight: 600 }",
        scripts=(INTERACTIVE, chart_scripts(var)), **context,
    )  # fmt: skip
    write_output(path, page)


def findings(readings: Sequence[EffectReading]) -> dict[str, list[str]]:
    """What was shown, in words: better, worse, not shown to differ."""
    by_verdict: dict[str, list[str]] = {"Better": [], "Worse": [], "Not shown to differ": []}
    for e in readings:
        name = f"{e.title} ({e.result.variant})"
        if not math.isfinite(e.result.effect):
            continue
        effect = percent(e.relative.effect) if math.isfinite(e.relative.effect) else f"by {e.absolute.effect:+.4g}"
        bounds = f"{interval(e.relative.bounds)}, " if math.isfinite(e.relative.effect) else ""
        state = {1: "Better", -1: "Worse", 0: "Not shown to differ"}[e.side]
        by_verdict[state].append(f"{name} {effect} ({bounds}{p_told(e.p_value)})")
    return {state: texts for state, texts in by_verdict.items() if texts}


def definitions(spec: TableSpec) -> dict[str, str]:
    """Metric → what it is, in words; metrics of a summary are not among them."""
    limits = {
        column: f", at most {'the quantile' if limit.of_users else ''} {limit.value:g}{' of all users' if limit.of_users else ''}"
        for column, limit in spec.limits.items()
    }
    texts = {m: f"mean of {m}{limits.get(m, '')} per user" for m in spec.metrics}
    for name, (top, bottom) in (spec.ratios or {}).items():
        texts[name] = f"sum of {top}{limits.get(top, '')} over sum of {bottom}{limits.get(bottom, '')}"
    texts |= {name: f"quantile {q.share:g} of {q.column} over the users" for name, q in spec.quantiles.items()}
    for name in texts:
        if columns := spec.covariates_of(name):
            texts[name] += f"; adjusted by {', '.join(columns)}"
    return texts


def _result(spec: TableSpec, row: TableResult, rows: Sequence[TableResult]) -> MetricResult:
    """The row as a report has it."""
    of_metric = [r for r in rows if not r.segment and (r.metric, r.variant) == (row.metric, row.variant)]
    welch, e = next((r.effect for r in of_metric if r.method == "welch"), row.effect), row.effect
    shown = row.reading(spec)
    return MetricResult(
        metric=row.metric, variant=row.variant, role="metric", method=row.method, headline=row is of_metric[-1],
        n_control=row.n_control, n_treatment=row.n_treatment, control=e.control, treatment=e.treatment, effect=e.effect,
        effect_ci=e.effect_ci, rel_effect=e.rel_effect, rel_effect_ci=e.rel_effect_ci,
        adjusted_ci=shown.rel_effect_ci, adjusted_effect_ci=shown.effect_ci,
        p_value=e.p_value, p_adjusted=row.adjusted.p_value if row.adjusted else math.nan,
        variance_reduction=1 - (e.se / welch.se) ** 2 if e.known and welch.known and welch.se else 0.0,
        detectable=row.power.detectable if row.power else math.nan, power=row.power.power if row.power else math.nan,
    )  # fmt: skip


def _read(spec: TableSpec, row: TableResult, result: MetricResult, users: int, better: int) -> EffectReading:
    shown = row.reading(spec)
    bounds = shown.effect_ci
    direction = 1 if bounds[0] > 0 else -1 if bounds[1] < 0 else 0
    additive = row.additive and math.isfinite(result.effect)
    return EffectReading(
        result=result, title=words(row.metric), unit="", side=direction * better,
        relative=Interval(result.rel_effect, result.adjusted_ci), absolute=Interval(result.effect, bounds),
        p_value=shown.p_value,
        chance_better=chance_to_be_better(
            result.rel_effect, result.rel_effect_ci, spec.confidence, "up" if better > 0 else "down"
        ),
        total=Interval(result.effect * users, (bounds[0] * users, bounds[1] * users)) if additive else None,
    )  # fmt: skip
