"""The charts of a clock's page beside its dials: events by time of day, which value leads each hour, items' scores over the day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.charts import ACCENT, INK, Chart
from core.page_template import words
from pages.clock_colors import color_scale
from pages.clock_dial import CLOCK_TIME
from pages.clock_values import NO_INTEREST, OTHERS, ClockSlot, FacetClock, ItemScores, time_of
from training.config import RankerConfig

if TYPE_CHECKING:
    from core.vega import alt

STRIP, GAP = 26, 0.06
"""Pixels of a clock among others below each other; ``GAP``: share of an hour that is left free."""


@dataclass(frozen=True)
class LeadersView:
    """Which value leads each hour of several clocks.

    Attributes:
        title: of the chart.
        key: values that lead somewhere, with the numbers of their colors.
        chart: a row for each clock.
    """

    title: str
    key: list[tuple[str, int]]
    chart: Chart


def events_by_time(events: np.ndarray, names: Sequence[str]) -> Chart:
    """Events of each slot of a day, as bars without axes: the time of day stands below them.

    Args:
        events: of each slot.
        names: of the slots.
    """
    from core.vega import alt, inline_data

    rows = [{"at": name, "events": int(count)} for name, count in zip(names, events, strict=True)]
    drawing = (
        alt.Chart(inline_data(rows))
        .mark_bar(color=ACCENT, opacity=0.55)
        .encode(
            x=alt.X("at:O", axis=None, scale=alt.Scale(paddingInner=0.15, paddingOuter=0.07)), y=alt.Y("events:Q", axis=None),
            tooltip=[alt.Tooltip("at:O", title="from"), alt.Tooltip("events:Q", format=",")],
        )
        .properties(width="container", height=52, padding=0)
    )  # fmt: skip
    busiest = int(events.argmax())
    return Chart(drawing, f"Events by time of day: most at {names[busiest]}, {int(events[busiest]):,}")


def leaders(
    facet: FacetClock, day: int, title: str, clocks: Sequence[tuple[str, Sequence[ClockSlot]]], config: RankerConfig
) -> LeadersView:
    """The value that leads each hour, of several clocks below each other.

    Args:
        facet: gives the colors.
        day: number of the kind of day: 1 for weekends that have slots of their own.
        title: of the chart.
        clocks: names and slots, from above.
        config: for the slots.
    """
    from core.vega import alt, inline_data

    hours = config.slot_minutes / 60
    rows = []
    for name, slots in clocks:
        tops = {slot.number: slot.tops[facet.name] for slot in slots}
        for number in range(config.slots_per_day):
            top = tops.get(day * config.slots_per_day + number) or []
            value = top[0][0] if top else NO_INTEREST
            text = ", ".join(f"{each} ({score:g})" for each, score in top) or NO_INTEREST
            rows.append(
                {"clock": name, "slot": number, "value": value if value in facet.values else OTHERS, "text": text}
            )
    names = [name for name, _ in clocks]
    leading = {row["value"] for row in rows}
    key = [(value, color) for value, color in zip(facet.values, facet.colors, strict=True) if value in leading]
    labels = alt.Axis(labelLimit=130, ticks=False, domain=False)
    drawing = (
        alt.Chart(inline_data(rows))
        .transform_calculate(start=f"datum.slot * {hours}", end=f"(datum.slot + {1 - GAP}) * {hours}")
        .transform_calculate(at=CLOCK_TIME)
        .mark_rect()
        .encode(
            x=alt.X("start:Q", title="hour of the day", scale=alt.Scale(domain=[0, 24], nice=False), axis=_hours(grid=False)), x2="end:Q",
            y=alt.Y("clock:N", title=None, sort=names, axis=labels, scale=alt.Scale(padding=GAP)),
            color=alt.Color("value:N", scale=color_scale([value for value, _ in key], [color for _, color in key]), legend=None),
            tooltip=[
                alt.Tooltip("clock:N", title="clock"), alt.Tooltip("at:N", title="from"), alt.Tooltip("text:N", title=words(facet.name)),
            ],
        )
        .properties(width="container", height=STRIP * len(names))
    )  # fmt: skip
    description = f"{title} that leads each hour of {', '.join(names)}; the table says where they differ."
    return LeadersView(title, key, Chart(drawing, description))


def scores_by_time(items: Sequence[ItemScores], minutes: int) -> Chart:
    """Scores of items over the day, a line for each, and where the hand stands.

    The page's script tells it the time, and the item that the pointer is on, by the signals ``minutes`` and ``chosen``.

    Args:
        items: with scores at the same times of day.
        minutes: after local midnight at which the hand stands first.
    """
    from core.vega import alt, inline_data

    points = [
        {
            "item": item.name,
            "is": ", ".join(item.values),
            "hour": 24 * n / len(item.scores),
            "at": time_of(n, len(item.scores)),
            "score": round(score, 4),
        }
        for item in items
        for n, score in enumerate(item.scores)
    ]
    names = [item.name for item in items]
    strength = alt.condition("chosen == '' || datum.item == chosen", alt.value(1), alt.value(0.12))
    base = alt.Chart(inline_data(points)).encode(
        x=alt.X("hour:Q", title="hour of the day", scale=alt.Scale(domain=[0, 24], nice=False), axis=_hours()),
        y=alt.Y("score:Q", title="score", scale=alt.Scale(zero=False)),
        color=alt.Color("item:N", scale=color_scale(names, range(len(names))), legend=None), opacity=strength,
    )  # fmt: skip
    tooltip = [
        alt.Tooltip("item:N"), alt.Tooltip("is:N"), alt.Tooltip("at:N"), alt.Tooltip("score:Q", format=".3f"),
    ]  # fmt: skip
    now = alt.Chart(inline_data([{}])).transform_calculate(hour="minutes / 60")
    drawing = (
        alt.layer(
            now.mark_rule(color=INK, strokeDash=[4, 3]).encode(x="hour:Q"),
            base.mark_line(strokeWidth=2),
            base.mark_circle(size=80).encode(opacity=alt.value(0), tooltip=tooltip),
        )
        .add_params(alt.param(name="minutes", value=minutes), alt.param(name="chosen", value=""))
        .properties(width="container", height=260)
    )
    return Chart(
        drawing, "Scores of the items over the day; the table says which is best at the chosen time.",
        "The dashed line is the time of the hand. A row of the table shows its line alone.",
    )  # fmt: skip


def _hours(*, grid: bool = True) -> alt.Axis:
    from core.vega import alt

    return alt.Axis(values=list(range(0, 25, 3)), grid=grid)
