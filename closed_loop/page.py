"""The closed loop's page: offline gain, online gain, truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ab_analysis.forest import LIFT_FORMAT, ForestRow, forest
from closed_loop.summary import LoopSummary
from core.charts import BAD, GOOD, SOFT, Chart, chart_scripts
from core.page_table import Cell, Column, Row, Table
from core.page_template import UNKNOWN, interval, number, percent, words, write_page
from core.settings import Settings

SHOWN = ("active_days", "duration_hours", "finishes", "likes", "skips")
PAGE = """
<section class="banner {{ 'calm' if covered_all else 'open' }}"><p class="lead">{{ summary.sentence }}</p>
<p>{{ verdict }}</p></section>
<section><h2>Effects: estimated and true</h2>{% if forest %}{{ forest }}{% endif %}
{{ effects }}</section>
<section><h2>Offline</h2>{{ offline }}
<p class="soft">Progressive: every prediction was made before training on it, on all users' impressions, whichever arm
showed them.</p></section>
<section><h2>How</h2><p>{{ summary.users }} users from {{ summary.hours[0] }} to {{ summary.hours[1] }} UTC.
Answers {{ "over HTTP" if summary.traffic.over_http else "in process" }}:
{% for what, count in summary.traffic.answers|dictsort %}{{ what }} {{ "{:,}".format(count) }}{{ ", " if not loop.last }}{% endfor %};
{{ summary.traffic.versions_served }} model versions were served.
{% if report %}<a href="{{ report }}">The A/B report</a>.{% endif %}</p>
<p class="soft">Truth: every user is simulated once in every arm, with the same draws and the models of the same hour, but with
that arm's own log and clocks; the models learn from the real world only. The figure is the relative difference of the means over
all exposed users.</p></section>
"""


@dataclass(frozen=True)
class EffectRow:
    """An arm's relative effect on a metric: as estimated, and as it is."""

    arm: str
    metric: str
    estimate: float
    low: float
    high: float
    truth: float | None
    covered: bool | None


def write_loop_page(settings: Settings, summary: LoopSummary) -> Path:
    """Write ``reports/loop.html``; returns its path."""
    rows = [
        EffectRow(
            arm, metric, metrics[metric].rel_effect, *metrics[metric].rel_effect_ci,
            truth=summary.true_lift(arm, metric), covered=summary.covers_truth(arm, metric),
        )
        for arm, metrics in summary.ab.items()
        for metric in SHOWN
        if metric in metrics
    ]  # fmt: skip
    with_truth = [r for r in rows if r.covered is not None]
    covered = sum(bool(r.covered) for r in with_truth)
    verdict = (
        f"{covered} of {len(with_truth)} intervals cover the truth."
        if with_truth
        else "The truth was not simulated in this run."
    )
    chart = _forest(rows)
    path = settings.reports_dir / "loop.html"
    report = Path(summary.report).relative_to(settings.reports_dir) if summary.report else None
    write_page(
        path, "Closed loop: offline gain, online gain, truth", PAGE, home="index.html", summary=summary, effects=_effects(rows),
        offline=_offline(summary),
        verdict=verdict, covered_all=bool(with_truth) and covered == len(with_truth), report=report,
        forest=chart, scripts=(chart_scripts(settings.var),) if chart else (),
    )  # fmt: skip
    return path


_TONES = {None: SOFT, True: GOOD, False: BAD}
"""Color of an estimate by whether its interval covers the truth."""


def _effects(rows: list[EffectRow]) -> Table:
    columns = [
        Column("arm"),
        Column("metric"),
        Column("A/B estimate"),
        Column("95 % interval"),
        Column("truth"),
        Column("covered"),
    ]
    covered = {None: Cell(UNKNOWN), True: Cell("yes", "good"), False: Cell("no", "bad")}
    return Table(
        columns,
        [
            Row(
                [
                    r.arm,
                    words(r.metric),
                    percent(r.estimate),
                    interval((r.low, r.high)),
                    percent(r.truth),
                    covered[r.covered],
                ]
            )
            for r in rows
        ],
    )


def _offline(summary: LoopSummary) -> Table:
    columns = [Column("arm"), Column("AUC"), Column("interval"), Column("UAUC"), Column("log-loss")]
    rows = []
    for place, arm in enumerate(summary.arms):
        metrics = summary.offline[arm]
        low, high = metrics["auc"].ci95
        figures = (number(metrics["auc"].value), f"{number(low)} to {number(high)}", number(metrics["uauc"].value))
        rows.append(Row([f"{arm} (control)" if place == 0 else arm, *figures, number(metrics["logloss"].value)]))
    return Table(columns, rows)


def _forest(rows: Sequence[EffectRow]) -> Chart | None:
    """Estimated effects with their intervals, and the true ones."""
    several = len({row.arm for row in rows}) > 1
    drawn = [
        ForestRow(
            name=f"{words(row.metric)} ({row.arm})" if several else words(row.metric),
            variant=row.arm,
            segment="",
            middle=row.estimate,
            bounds=(row.low, row.high),
            color=_TONES[row.covered],
            hover={
                "A/B estimate": percent(row.estimate), "interval": interval((row.low, row.high)), "true effect": percent(row.truth),
            },
            truth=row.truth,
        )
        for row in rows
    ]  # fmt: skip
    known = any(row.truth is not None for row in rows)
    caption = "Diamond: the true effect; green: the interval covers it, red: it does not." if known else ""
    title = "Estimated effects of the arms, relative to the control, with 95 % intervals"
    return forest(drawn, "lift", LIFT_FORMAT, title, caption)
