"""The closed loop's page: offline gain, online gain, truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from closed_loop.summary import LoopSummary
from core.page_table import Cell, Column, Row, Table
from core.page_template import UNKNOWN, interval, number, percent, svg, words, write_page
from core.settings import Settings

if TYPE_CHECKING:
    from markupsafe import Markup

SHOWN = ("active_days", "duration_hours", "finishes", "likes", "skips")
PAGE = """
<section class="banner {{ 'calm' if covered_all else 'open' }}"><p class="lead">{{ summary.sentence }}</p>
<p>{{ verdict }}</p></section>
<section><h2>Effects: estimated and true</h2>{{ forest }}
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
    path = settings.reports_dir / "loop.html"
    report = Path(summary.report).relative_to(settings.reports_dir) if summary.report else None
    write_page(
        path, "Closed loop: offline gain, online gain, truth", PAGE, home="index.html", summary=summary, effects=_effects(rows),
        offline=_offline(summary),
        verdict=verdict, covered_all=bool(with_truth) and covered == len(with_truth), report=report,
        forest=_forest(rows) if rows else "",
    )  # fmt: skip
    return path


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


def _forest(rows: list[EffectRow]) -> Markup:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.42 * len(rows) + 1.2))
    for n, row in enumerate(rows):
        y = len(rows) - n
        axes.plot([row.low * 100, row.high * 100], [y, y], color="#1f5fa8", linewidth=2)
        axes.plot(row.estimate * 100, y, "o", color="#1f5fa8", label="A/B estimate, 95 %" if n == 0 else None)
        if row.truth is not None:
            axes.plot(row.truth * 100, y, "D", color="#a4262c", markersize=6, label="truth" if n == 0 else None)
    axes.axvline(0, color="#5a6675", linewidth=0.8)
    axes.set_yticks(range(len(rows), 0, -1), [f"{r.arm}  {r.metric.replace('_', ' ')}" for r in rows])
    axes.set_xlabel("relative effect on the control, %")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.25 if len(rows) < 4 else 1.15), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure, "Estimated and true effects of the arms", "Relative effects on the control.")
