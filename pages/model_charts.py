"""The charts of the model's page, drawn by Vega-Altair from its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from core.charts import BAD, GOOD, INK, LINE, SERIES, SOFT, Chart
from core.numbers import finite
from core.page_template import words
from pages.daily_figures import DayFigure
from pages.model_history import CalibrationBin, Figure, Timeline

if TYPE_CHECKING:
    from core.vega import alt

ROWS = ("champion", "challenger", "candidate", "trained", "drift")
"""Rows of the time axis, from above."""
KINDS = {
    "promotion": ("triangle-up", GOOD),
    "rollback": ("triangle-down", BAD),
    "by hand": ("diamond", INK),
    "drift": ("circle", SOFT),
}
"""Kind of a mark → shape and color."""
HEIGHT = 230
DIGITS = 5
"""Of figures that the page holds by the hundred, after the point: tables show four."""
LEGEND_COLUMNS = 2
"""Of a legend with every variant, which has to fit a narrow screen."""


def lineages(timeline: Timeline) -> Chart | None:
    """Who stood behind each alias when, with promotions, rollbacks, moves by hand and days of drift; None without any."""
    from core.vega import alt, inline_data

    if not timeline.spans:
        return None
    spans = [
        {"row": s.row, "start": f"{s.start}:00:00Z", "end": f"{s.end}:00:00Z", "what": s.what, "variant": words(s.variant) or "not known"}
        for s in timeline.spans
    ]  # fmt: skip
    marks = [{"row": m.row, "at": f"{m.at}:00:00Z", "kind": m.kind, "text": m.text} for m in timeline.marks]
    variants = list(dict.fromkeys(str(span["variant"]) for span in spans))
    rows = [row for row in ROWS if any(each["row"] == row for each in (*spans, *marks))]
    y = alt.Y("row:N", title=None, sort=None, scale=alt.Scale(domain=rows))
    x = alt.X(
        "start:T", title="UTC", scale=alt.Scale(type="utc"), axis=alt.Axis(format="%m-%d %H:%M", labelOverlap=True)
    )
    bars = (
        alt.Chart(inline_data(spans))
        .mark_bar(height=16, stroke="var(--paper)", strokeWidth=1)
        .encode(
            y=y, x=x, x2="end:T", color=alt.Color("variant:N", title="time module", scale=_colors(variants)),
            tooltip=[
                alt.Tooltip("what:N", title="what"), alt.Tooltip("start:T", title="from (UTC)", format="%Y-%m-%d %H:%M"),
                alt.Tooltip("end:T", title="to (UTC)", format="%Y-%m-%d %H:%M"),
            ],
        )
    )  # fmt: skip
    layers: list[Any] = [bars]
    if marks:
        kinds = [kind for kind in KINDS if any(mark["kind"] == kind for mark in marks)]
        layers.append(
            alt.Chart(inline_data(marks))
            .mark_point(filled=True, size=90, opacity=1, yOffset=-13)
            .encode(
                y=y, x=alt.X("at:T", scale=alt.Scale(type="utc")),
                shape=alt.Shape("kind:N", title="moves", scale=alt.Scale(domain=kinds, range=[KINDS[k][0] for k in kinds])),
                fill=alt.Fill("kind:N", title="moves", scale=alt.Scale(domain=kinds, range=[KINDS[k][1] for k in kinds])),
                tooltip=[alt.Tooltip("kind:N"), alt.Tooltip("text:N"), alt.Tooltip("at:T", title="at (UTC)", format="%Y-%m-%d %H:%M")],
            )
        )  # fmt: skip
    drawing = (
        alt.layer(*layers)
        .resolve_scale(color="independent", fill="independent", shape="independent")
        .properties(width="container", height=38 * len(rows))
    )
    return Chart(
        drawing,
        "Which version stood behind each alias when, which hours were trained, and what moved the champion; the tables of moves and of "
        "drift say the same.",
        "Above a bar: a promotion, a rollback, or a move by hand of the champion. A gap in the row trained is an hour that was not.",
    )


def by_hour(figures: Sequence[Figure], metric: str, title: str) -> Chart | None:
    """A metric by hour of the day, a line for each variant in its 95 % interval; None where no hour has one."""
    from core.vega import alt, inline_data

    points = [
        {"variant": words(f.variant), "hour": f.local_hour, "value": f.value, "low": f.low, "high": f.high, "samples": f.samples}
        for f in figures
        if f.metric == metric and f.local_hour is not None
    ]  # fmt: skip
    if not points:
        return None
    variants = list(dict.fromkeys(str(point["variant"]) for point in points))
    base = alt.Chart(inline_data(points)).encode(
        x=alt.X(
            "hour:Q", title="hour of the day (users' clocks)", scale=alt.Scale(domain=[0, 23]),
            axis=alt.Axis(values=list(range(0, 24, 3))),
        ),
        color=alt.Color("variant:N", title=None, scale=_colors(variants), legend=alt.Legend(symbolOpacity=1)),
    )  # fmt: skip
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    drawing = alt.layer(
        base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)), y2="high:Q"),
        base.mark_line().encode(y=value),
        base.mark_circle(size=35, opacity=1).encode(y=value, tooltip=_tooltips("hour:Q")),
    ).properties(width="container", height=HEIGHT)
    return Chart(
        drawing,
        f"{title} by hour of the day of each variant; the figures are in the table below.",
        f"{title} by hour of the day, with 95 % intervals.",
    )


def hour_by_hour(hourly: Mapping[str, tuple[float, float]], reference: str) -> Chart | None:
    """AUC of a candidate and what it is compared with in every hour compared, for a page without scripts; None without hours.

    Args:
        hourly: key of an hour → AUC of the candidate, of the reference; NaN where all labels were alike.
        reference: name of what it is compared with.
    """
    from core.vega import alt, inline_data

    sides = ("candidate", reference)
    points = [
        {"side": side, "hour": f"{hour}:00:00Z", "auc": value}
        for hour, pair in hourly.items()
        for side, value in zip(sides, pair, strict=True)
        if isfinite(value)
    ]
    if not points:
        return None
    drawing = (
        alt.Chart(inline_data(points))
        .mark_line(point=alt.OverlayMarkDef(size=40))
        .encode(
            x=alt.X(
                "hour:T", title="UTC", scale=alt.Scale(type="utc"), axis=alt.Axis(format="%m-%d %H:%M", labelOverlap=True, tickCount=5)
            ),
            y=alt.Y("auc:Q", title="AUC", scale=alt.Scale(zero=False)), color=alt.Color("side:N", title=None, scale=_colors(sides)),
            strokeDash=alt.StrokeDash("side:N", title=None, scale=alt.Scale(domain=list(sides), range=[[1, 0], [5, 3]])),
        )
        .properties(width="container", height=HEIGHT)
    )  # fmt: skip
    return Chart(
        drawing,
        f"AUC of candidate and {reference} in every hour compared; the figures are in the table beside it.",
        still=True,
    )


def calibration(bins: Sequence[CalibrationBin]) -> Chart | None:
    """Predicted against observed shares in bins of equal numbers; None without predictions."""
    from core.vega import alt, inline_data

    if not bins:
        return None
    points = [
        {
            "variant": words(b.variant), "predicted": b.predicted, "value": b.observed, "low": finite(b.low), "high": finite(b.high),
            "samples": b.samples,
        }
        for b in bins
    ]  # fmt: skip
    variants = list(dict.fromkeys(str(point["variant"]) for point in points))
    most = max(bound for b in bins for bound in (b.predicted, b.observed, b.high) if isfinite(bound))
    right = alt.Chart(inline_data([{"x": 0, "y": 0}, {"x": most, "y": most}])).mark_line(color=SOFT, strokeDash=[4, 3])
    base = alt.Chart(inline_data(points)).encode(
        x=alt.X("predicted:Q", title="predicted", axis=alt.Axis(format="%")),
        color=alt.Color("variant:N", title=None, scale=_colors(variants)),
    )
    axis = alt.Axis(format="%")
    drawing = alt.layer(
        right.encode(x=alt.X("x:Q"), y=alt.Y("y:Q", axis=axis)),
        base.mark_rule().encode(y=alt.Y("low:Q", title="came true", axis=axis), y2="high:Q"),
        base.mark_circle(size=50, opacity=1).encode(
            y=alt.Y("value:Q", title="came true", axis=axis), tooltip=_tooltips("predicted:Q", ".2%")
        ),
    ).properties(width="container", height=HEIGHT)
    return Chart(
        drawing,
        "Predicted share against the share that came true, in bins of equal numbers of predictions; the figures are in the table below.",
        "Dots on the dashed line are calibrated; bars are 95 % intervals, clustered by user.",
    )


def daily(figures: Sequence[DayFigure], moves: Sequence[str], title: str) -> Chart | None:
    """A metric of every variant a day in its interval, with the hours at which the champion moved; None without figures.

    Args:
        figures: of one metric.
        moves: keys of the hours at which the champion moved.
        title: of the metric.
    """
    from core.vega import alt, inline_data

    if not figures:
        return None
    points = [
        {
            "variant": words(f.variant), "day": f"{f.day}T00:00:00Z", "samples": f.samples,
            **{name: round(bound, DIGITS) for name, bound in (("value", f.value), ("low", f.low), ("high", f.high))},
        }
        for f in figures
    ]  # fmt: skip
    variants = list(dict.fromkeys(words(f.variant) for f in figures))
    first = str(min(f.day for f in figures))
    pick = alt.selection_point(fields=["variant"], bind="legend")
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    days = alt.Axis(format="%m-%d", tickCount="day", labelOverlap=True)
    base = alt.Chart().encode(
        x=alt.X("day:T", title=None, scale=alt.Scale(type="utc"), axis=days),
        color=alt.Color(
            "variant:N", title=None, scale=_colors(variants), legend=alt.Legend(columns=LEGEND_COLUMNS, symbolOpacity=1)
        ),
    )
    lines = base.mark_line().encode(
        y=value, strokeDash=alt.StrokeDash("variant:N", title=None, scale=_dashes(variants)),
        opacity=alt.condition(pick, alt.value(1), alt.value(0.15)),
    )  # fmt: skip
    dots = base.mark_circle(size=35).encode(
        y=value, opacity=alt.condition(pick, alt.value(1), alt.value(0.15)), tooltip=_tooltips("day:T", "%Y-%m-%d"),
    )  # fmt: skip
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)), y2="high:Q", opacity=alt.condition(pick, alt.value(0.13), alt.value(0)),
    )  # fmt: skip
    layers: list[Any] = [band, lines, dots]
    moved = [{"at": f"{hour}:00:00Z"} for hour in moves if hour >= first]
    if moved:
        rule = alt.Chart(inline_data(moved)).mark_rule(color=LINE, strokeWidth=2)
        layers.insert(
            0, rule.encode(x="at:T", tooltip=alt.Tooltip("at:T", title="the champion moved", format="%Y-%m-%d %H:%M"))
        )
    drawing = alt.layer(*layers, data=inline_data(points)).add_params(pick).properties(width="container", height=HEIGHT)
    return Chart(
        drawing,
        f"{title} of every variant a day with 95 % intervals; vertical lines: the champion moved. The figures are in the table below.",
        f"{title[:1].upper()}{title[1:]}, with 95 % intervals clustered by user. A click on a name in the legend shows it "
        "alone. Vertical lines: the champion moved.",
    )


def _colors(variants: Sequence[str]) -> alt.Scale:
    from core.vega import alt

    return alt.Scale(domain=list(variants), range=[SERIES[n % len(SERIES)] for n in range(len(variants))])


def _dashes(variants: Sequence[str]) -> alt.Scale:
    """Lines beyond the number of colors are dashed."""
    from core.vega import alt

    return alt.Scale(domain=list(variants), range=[[1, 0] if n < len(SERIES) else [5, 3] for n in range(len(variants))])


def _tooltips(x: str, form: str = "d") -> list[alt.Tooltip]:
    from core.vega import alt

    return [
        alt.Tooltip("variant:N"), alt.Tooltip(x, format=form), alt.Tooltip("value:Q", format=".4f"), alt.Tooltip("low:Q", format=".4f"),
        alt.Tooltip("high:Q", format=".4f"), alt.Tooltip("samples:Q", format=","),
    ]  # fmt: skip
