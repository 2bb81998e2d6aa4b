"""Charts of an experiment's report. They show what its tables hold; hovering shows the exact figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ab_analysis.forest import LIFT_FORMAT, ForestRow, chosen, forest, hover, params
from ab_analysis.histograms import Histogram
from ab_analysis.reading import Arms, EffectReading
from ab_analysis.results import SegmentResult
from ab_analysis.series import Point
from core.charts import ACCENT, BAD, GOOD, INK, SERIES, SOFT, Chart
from core.page_template import figure, interval, p_cell, percent, share, signed, signed_interval, words

if TYPE_CHECKING:
    from core.vega import alt

HEIGHT = 200
"""Pixels of a chart of days or of a distribution."""
TONES = {1: GOOD, -1: BAD, 0: SOFT}
BAND, ONE_LOOK = "Band: interval of the stopping rule", "Thin lines: interval of one look."
LONGEST = 2.0
"""A lift's interval that is longer says nothing yet and would flatten all others: it is not drawn."""


def lifts(arms: Arms, readings: Sequence[EffectReading]) -> Chart | None:
    """Lifts with the interval that decides, of one look where the stopping rule allows none yet."""
    rows = [
        ForestRow(
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
    return forest(
        rows,
        "lift",
        LIFT_FORMAT,
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
        forest(
            [
                ForestRow(
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
    return forest(
        [
            ForestRow(
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
        "lift, shrunk", LIFT_FORMAT, "Shrunk lifts by segment", "Drawn toward the common effect, as far as the segments are alike.",
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
    from core.vega import alt, inline_data

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
        alt.Chart(inline_data(rows))
        .mark_line(point=True)
        .encode(
            x=_days(), y=alt.Y("users:Q", title="users so far"), color=_arms(arms),
            tooltip=hover("day", "arm", users="text"),
        )
        .properties(width="container", height=HEIGHT)
    )  # fmt: skip
    last = max(str(row["day"]) for row in rows)
    text = ", ".join(f"{row['arm']} {row['text']}" for row in rows if row["day"] == last)
    return Chart(drawing, f"Users exposed so far by day. On {last}: {text}")


def distributions(arms: Arms, histograms: Mapping[str, Histogram], titles: Mapping[str, str]) -> list[Chart]:
    """Share of users by value of metrics, a line for each arm."""
    from core.vega import alt, inline_data

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
            alt.Chart(inline_data(rows))
            .mark_line(interpolate="step-after")
            .encode(
                x=alt.X("value:Q", title=titles[metric]), y=alt.Y("share:Q", title="share of users", axis=alt.Axis(format="~%")),
                color=_arms(arms),
            )
        )  # fmt: skip
        dots = drawing.mark_circle(opacity=0, size=200).encode(
            tooltip=hover("arm", "values", **{"share of users": "text"})
        )
        chart = alt.layer(drawing, dots).properties(width="container", height=HEIGHT)
        charts.append(Chart(chart, f"Distribution of {titles[metric]} by arm", "The last class takes the top 1 %."))
    return charts


def _name(arms: Arms, reading: EffectReading) -> str:
    return f"{reading.title} ({reading.result.variant})" if len(arms.treatments) > 1 else reading.title


def _by_metric(
    arms: Arms,
    points: Sequence[Point],
    titles: Mapping[str, str],
    value: Callable[[Point], tuple[float, float, float]],
    band: Callable[[Point], tuple[float, float]],
    title: str,
    caption: str,
) -> list[Chart]:
    from core.vega import alt, inline_data

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
        base = chosen(alt.Chart(inline_data(rows)), "variant").encode(x=_days(), color=_arms(arms, "variant"))
        banded = any(row["lower"] is not None for row in rows)
        shown = ("day", "variant", "lift", "one look", *(["stopping rule"] if banded else []), "users")
        y = alt.Y("middle:Q", title="lift", axis=alt.Axis(format=LIFT_FORMAT))
        layers = [
            alt.Chart(inline_data([{"zero": 0}])).mark_rule(color=INK).encode(y="zero:Q"),
            *([base.mark_area(opacity=0.2).encode(y=alt.Y("lower:Q", title="lift"), y2="upper:Q")] if banded else []),
            *(base.mark_line(strokeWidth=1, opacity=0.7).encode(y=alt.Y(f"{edge}:Q", title="lift")) for edge in ("low", "high")),
            base.mark_line(strokeWidth=2.5).encode(y=y),
            base.mark_circle(size=80, opacity=1).encode(y=y, tooltip=hover(*shown)),
        ]  # fmt: skip
        drawing = alt.layer(*layers).add_params(*params("variant")).properties(
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


def _days() -> alt.X:
    """Local days as categories: a day has no zone that a reader's browser could move it to."""
    from core.vega import alt

    return alt.X("day:O", title=None, axis=alt.Axis(labelAngle=-45, labelOverlap="greedy"))


def _arms(arms: Arms, field: str = "arm") -> alt.Color:
    """Each arm in its color, which is the same in every chart; a legend where a chart shows several."""
    from core.vega import alt

    names = (arms.control, *arms.treatments)
    colors = [SOFT, *(SERIES[n % len(SERIES)] for n in range(len(arms.treatments)))]
    shown = names if field == "arm" else arms.treatments
    legend = alt.Legend(values=list(shown)) if len(shown) > 1 else None
    return alt.Color(
        field, type="nominal", scale=alt.Scale(domain=list(names), range=colors), title=None, legend=legend
    )
