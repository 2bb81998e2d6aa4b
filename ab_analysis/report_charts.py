"""Charts of an experiment's report. They show what its tables hold; hovering shows the exact figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ab_analysis.histograms import Histogram
from ab_analysis.reading import Arms, EffectReading
from ab_analysis.results import SegmentResult
from ab_analysis.series import Point
from core.charts import ACCENT, BAD, GOOD, INK, SERIES, SOFT, Chart
from core.page_template import figure, interval, p_cell, percent, share, signed, signed_interval, words

if TYPE_CHECKING:
    import altair as alt

ROW = 30
"""Pixels of a row of a forest plot; ``HEIGHT``: of a chart of days or of a distribution."""
HEIGHT = 200
TONES = {1: GOOD, -1: BAD, 0: SOFT}
PERCENT = "+.1~%"
BAND, ONE_LOOK = "Band: interval of the stopping rule", "Thin lines: interval of one look."
LONGEST = 2.0
"""A lift's interval that is longer says nothing yet and would flatten all others: it is not drawn."""


class _ForestRow(NamedTuple):
    """An effect with its interval, a truth where it is known, a color, and what hovering says."""

    name: str
    variant: str
    segment: str
    middle: float
    bounds: tuple[float, float]
    color: str
    hover: Mapping[str, str]
    truth: float | None = None


def lifts(arms: Arms, readings: Sequence[EffectReading]) -> Chart | None:
    """Lifts with the interval that decides, of one look where the stopping rule allows none yet."""
    rows = [
        _ForestRow(
            _name(arms, r), r.result.variant, "", r.relative.effect, r.relative.bounds or r.result.rel_effect_ci, TONES[r.side],
            {
                "lift": percent(r.relative.effect), "interval": interval(r.relative.bounds or r.result.rel_effect_ci),
                "effect": signed(r.absolute.effect, r.unit), "p": p_cell(r.p_value), "chance to be better": share(r.chance_better, 1),
                **({"true lift": percent(r.result.truth)} if r.result.truth is not None else {}),
            },
            r.result.truth,
        )
        for r in readings
    ]  # fmt: skip
    known = "diamond: true lift; " if arms.truth else ""
    return _forest(
        rows,
        "lift",
        PERCENT,
        "Lifts with intervals",
        f"{known}green: shown to be better, red: worse.".capitalize(),
        "relative",
    )


def effects(arms: Arms, readings: Sequence[EffectReading]) -> list[Chart]:
    """Absolute effects, a chart for each unit."""
    by_unit: dict[str, list[EffectReading]] = {}
    for r in readings:
        by_unit.setdefault(r.unit or r.title, []).append(r)
    charts = [
        _forest(
            [
                _ForestRow(
                    _name(arms, r), r.result.variant, "", r.absolute.effect, r.absolute.bounds or r.result.effect_ci,
                    TONES[r.side],
                    {
                        "effect": signed(r.absolute.effect, r.unit),
                        "interval": signed_interval(r.absolute.bounds or r.result.effect_ci), "lift": percent(r.relative.effect),
                        "p": p_cell(r.p_value), "chance to be better": share(r.chance_better, 1),
                    },
                )
                for r in rows
            ],
            f"effect, {unit} per user" if rows[0].unit else "effect per user", "+.3~g", f"Effects in {unit}", "", "absolute",
        )
        for unit, rows in by_unit.items()
    ]  # fmt: skip
    return [chart for chart in charts if chart]


def segments(rows: Sequence[SegmentResult], titles: Mapping[str, str], *, several: bool) -> Chart | None:
    """Lifts of segments, shrunk toward the common effect; hovering also shows them as measured."""
    return _forest(
        [
            _ForestRow(
                f"{s.value} ({words(s.segment)}), {titles[s.metric]}{f' ({s.variant})' if several else ''}",
                s.variant, s.segment, s.shrunk, s.shrunk_ci, ACCENT,
                {
                    "shrunk lift": percent(s.shrunk), "its interval": interval(s.shrunk_ci), "as measured": percent(s.rel_effect),
                    "interval as measured": interval(s.rel_effect_ci), "users": f"{s.n_control + s.n_treatment:,}",
                    "p": p_cell(s.p_fdr),
                },
            )
            for s in rows
        ],
        "lift, shrunk", PERCENT, "Shrunk lifts by segment", "Drawn toward the common effect, as far as the segments are alike.",
    )  # fmt: skip


def so_far(arms: Arms, points: Sequence[Point], titles: Mapping[str, str]) -> list[Chart]:
    """The cumulative effect after each day of every metric, with the band of the stopping rule."""
    return _by_metric(
        arms, points, titles, lambda p: (p.so_far.rel_effect, *p.so_far.rel_effect_ci), lambda p: p.so_far_ci,
        "effect so far", f"{BAND}, which holds on all days together. {ONE_LOOK}",
    )  # fmt: skip


def daily(arms: Arms, points: Sequence[Point], titles: Mapping[str, str]) -> list[Chart]:
    """The effect of each day alone of every metric."""
    return _by_metric(
        arms, points, titles, lambda p: (p.daily.rel_effect, *p.daily.rel_effect_ci), lambda _: (math.nan, math.nan),
        "effect of each day", f"{ONE_LOOK} Users exposed so far; the first and the last day may be incomplete.",
    )  # fmt: skip


def exposures(arms: Arms, points: Sequence[Point]) -> Chart | None:
    """Users exposed so far by day, a line for each arm; None where no day was computed."""
    import altair as alt

    first = [p for p in points if p.metric == points[0].metric]
    rows = [
        {"day": p.day.isoformat(), "arm": arm, "users": users, "text": f"{users:,}"}
        for p in first
        for arm, users in ((arms.control, p.users[0]), (p.variant, p.users[1]))
        if arm != arms.control or p.variant == arms.treatments[0]
    ]
    if not rows:
        return None
    drawing = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=_days(), y=alt.Y("users:Q", title="users so far"), color=_arms(arms),
            tooltip=_hover("day", "arm", users="text"),
        )
        .properties(width="container", height=HEIGHT)
    )  # fmt: skip
    last = max(str(row["day"]) for row in rows)
    text = ", ".join(f"{row['arm']} {row['text']}" for row in rows if row["day"] == last)
    return Chart(drawing, f"Users exposed so far by day. On {last}: {text}")


def distributions(arms: Arms, histograms: Mapping[str, Histogram], titles: Mapping[str, str]) -> list[Chart]:
    """Share of users by value of metrics, a line for each arm."""
    import altair as alt

    charts = []
    for metric, histogram in histograms.items():
        rows = []
        for arm, counts in histogram.users.items():
            total = sum(counts) or 1
            for number, users in enumerate((*counts, 0)):
                low = histogram.start + number * histogram.width
                values = f"{figure(low)} to under {figure(low + histogram.width)}"
                if number >= len(counts) - 1:
                    values = f"{figure(low)} or more"
                elif number == 0 and histogram.start:
                    values = f"under {figure(low + histogram.width)}"
                rows.append(
                    {
                        "arm": arm,
                        "value": low,
                        "share": users / total,
                        "text": share(users / total, 1),
                        "values": values,
                    }
                )
        drawing = (
            alt.Chart(alt.Data(values=rows))
            .mark_line(interpolate="step-after")
            .encode(
                x=alt.X("value:Q", title=titles[metric]), y=alt.Y("share:Q", title="share of users", axis=alt.Axis(format="~%")),
                color=_arms(arms),
            )
        )  # fmt: skip
        dots = drawing.mark_circle(opacity=0, size=200).encode(
            tooltip=_hover("arm", "values", **{"share of users": "text"})
        )
        chart = alt.layer(drawing, dots).properties(width="container", height=HEIGHT)
        charts.append(Chart(chart, f"Distribution of {titles[metric]} by arm", "The last class takes the top 1 %."))
    return charts


def _name(arms: Arms, reading: EffectReading) -> str:
    return f"{reading.title} ({reading.result.variant})" if len(arms.treatments) > 1 else reading.title


def _forest(
    rows: Iterable[_ForestRow], axis: str, number_format: str, title: str, caption: str, scale: str = ""
) -> Chart | None:
    """Effects with their intervals, a row each; None where there is none."""
    import altair as alt

    closed = [row._replace(bounds=_closed(row.middle, row.bounds)) for row in rows]
    drawn = [row for row in closed if all(map(math.isfinite, (row.middle, *row.bounds)))]
    if not drawn:
        return None
    values = [
        {
            "name": row.name, "variant": row.variant, "segment": row.segment, "middle": row.middle, "low": row.bounds[0],
            "high": row.bounds[1], "color": row.color, "truth": row.truth, **row.hover,
        }
        for row in drawn
    ]  # fmt: skip
    base = _chosen(alt.Chart(alt.Data(values=values)), "variant", "segment").encode(
        y=alt.Y(
            "name:N", sort=None, title=None, axis=alt.Axis(labelLimit=170, domain=False, ticks=False, labelColor=INK)
        ),
        color=alt.Color("color:N", scale=None),
        tooltip=_hover("name", *drawn[0].hover),
    )
    x = alt.X("low:Q", title=axis, axis=alt.Axis(format=number_format, tickCount=5))
    layers = [
        alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=INK).encode(x=alt.X("zero:Q", title=axis)),
        base.mark_rule(strokeWidth=3).encode(x=x, x2="high:Q"),
        base.mark_circle(size=90, opacity=1).encode(x="middle:Q"),
    ]
    if any(row.truth is not None for row in drawn):
        truths = base.transform_filter("datum.truth !== null")
        layers.append(truths.mark_point(shape="diamond", size=160).encode(x="truth:Q", color=alt.value(ACCENT)))
    drawing = (
        alt.layer(*layers)
        .add_params(*_params("variant", "segment"))
        .properties(width="container", height=ROW * len(drawn))
    )
    text = "; ".join(f"{row.name}: {next(iter(row.hover.values()))}" for row in drawn)
    return Chart(drawing, f"{title}. {text}", caption, scale)


def _closed(middle: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """An interval that is open to a side, as it is drawn: from its bound to the effect."""
    low, high = (middle if math.isinf(bound) else bound for bound in bounds)
    return low, high


def _by_metric(
    arms: Arms,
    points: Sequence[Point],
    titles: Mapping[str, str],
    value: Callable[[Point], tuple[float, float, float]],
    band: Callable[[Point], tuple[float, float]],
    title: str,
    caption: str,
) -> list[Chart]:
    import altair as alt

    charts = []
    for metric in dict.fromkeys(p.metric for p in points):
        rows: list[dict[str, Any]] = []
        for p in points:
            middle, low, high = value(p)
            if p.metric != metric or not math.isfinite(low) or high - low > LONGEST:
                continue
            lower, upper = band(p)
            known = math.isfinite(lower)
            rows.append(
                {
                    "day": p.day.isoformat(), "variant": p.variant, "middle": middle, "low": low, "high": high,
                    "lower": lower if known else None, "upper": upper if known else None,
                    "lift": percent(middle), "one look": interval((low, high)),
                    "stopping rule": interval((lower, upper)) if known else "no look yet", "users": f"{sum(p.users):,}",
                }
            )  # fmt: skip
        if not rows:
            continue
        base = _chosen(alt.Chart(alt.Data(values=rows)), "variant").encode(x=_days(), color=_arms(arms, "variant"))
        banded = any(row["lower"] is not None for row in rows)
        hover = ("day", "variant", "lift", "one look", *(["stopping rule"] if banded else []), "users")
        y = alt.Y("middle:Q", title="lift", axis=alt.Axis(format=PERCENT))
        layers = [
            alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=INK).encode(y="zero:Q"),
            *([base.mark_area(opacity=0.2).encode(y=alt.Y("lower:Q", title="lift"), y2="upper:Q")] if banded else []),
            *(base.mark_line(strokeWidth=1, opacity=0.7).encode(y=alt.Y(f"{edge}:Q", title="lift")) for edge in ("low", "high")),
            base.mark_line(strokeWidth=2.5).encode(y=y),
            base.mark_circle(size=80, opacity=1).encode(y=y, tooltip=_hover(*hover)),
        ]  # fmt: skip
        drawing = alt.layer(*layers).add_params(*_params("variant")).properties(
            width="container", height=HEIGHT, title=titles[metric]
        )  # fmt: skip
        text = "; ".join(f"{row['day']} {row['variant']} {row['lift']} ({row['one look']})" for row in rows)
        charts.append(
            Chart(
                drawing,
                f"{titles[metric]}, {title}. {text}",
                caption if banded or not caption.startswith(BAND) else ONE_LOOK,
            )
        )
    return charts


def _params(*names: str) -> list[alt.Parameter]:
    """Choices of the reader that the page sets; empty: all."""
    import altair as alt

    return [alt.param(name=name, value="") for name in names]


def _chosen(chart: alt.Chart, *names: str) -> alt.Chart:
    for name in names:
        chart = chart.transform_filter(f"{name} === '' || datum.{name} === {name}")
    return chart


def _days() -> alt.X:
    """Local days as categories: a day has no zone that a reader's browser could move it to."""
    import altair as alt

    return alt.X("day:O", title=None, axis=alt.Axis(labelAngle=-45, labelOverlap="greedy"))


def _arms(arms: Arms, field: str = "arm") -> alt.Color:
    """Each arm in its color, which is the same in every chart; a legend where a chart shows several."""
    import altair as alt

    names = (arms.control, *arms.treatments)
    colors = [SOFT, *(SERIES[n % len(SERIES)] for n in range(len(arms.treatments)))]
    shown = names if field == "arm" else arms.treatments
    legend = alt.Legend(values=list(shown)) if len(shown) > 1 else None
    return alt.Color(
        field, type="nominal", scale=alt.Scale(domain=list(names), range=colors), title=None, legend=legend
    )


def _hover(*fields: str, **named: str) -> list[alt.Tooltip]:
    """Texts shown by hovering: fields by their name, or title = field."""
    import altair as alt

    titles = {**{name: name for name in fields}, **named}
    return [alt.Tooltip(field=field, type="nominal", title=title) for title, field in titles.items()]
