"""A forest plot: effects with their intervals below each other, and where they are known, the true effects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from core.charts import ACCENT, INK, Chart, is_drawable

if TYPE_CHECKING:
    from core.vega import alt

ROW = 30
"""Pixels of a row."""
LABEL = 200
"""Pixels of a row's name."""
LIFT_FORMAT = "+.1~%"
"""Of an axis of relative effects."""


class ForestRow(NamedTuple):
    """An effect with its interval, a truth where it is known, a color, and what hovering says."""

    name: str
    variant: str
    segment: str
    middle: float
    bounds: tuple[float, float]
    color: str
    hover: Mapping[str, str]
    truth: float | None = None


def forest(
    rows: Iterable[ForestRow], axis: str, number_format: str, title: str, caption: str, scale: str = ""
) -> Chart | None:
    """Effects with their intervals, a row each; None where there is none.

    Args:
        rows: in their order from above.
        axis: title of the axis of effects.
        number_format: of its labels, as d3-format writes it.
        title: what the chart shows, before its figures in words.
        caption: shown below it.
        scale: of the chart.
    """
    from core.vega import alt, inline_data

    closed = [row._replace(bounds=_closed(row.middle, row.bounds)) for row in rows]
    drawn = [row for row in closed if all(map(is_drawable, (row.middle, *row.bounds)))]
    if not drawn:
        return None
    values = [
        {
            **row.hover, "name": row.name, "variant": row.variant, "segment": row.segment, "middle": row.middle, "low": row.bounds[0],
            "high": row.bounds[1], "color": row.color, "truth": row.truth,
        }
        for row in drawn
    ]  # fmt: skip
    base = chosen(alt.Chart(inline_data(values)), "variant", "segment").encode(
        y=alt.Y(
            "name:N", sort=None, title=None, axis=alt.Axis(labelLimit=LABEL, domain=False, ticks=False, labelColor=INK)
        ),
        color=alt.Color("color:N", scale=None),
        tooltip=hover("name", *drawn[0].hover),
    )
    x = alt.X("low:Q", title=axis, axis=alt.Axis(format=number_format, tickCount=5))
    layers = [
        alt.Chart(inline_data([{"zero": 0}])).mark_rule(color=INK).encode(x=alt.X("zero:Q", title=axis)),
        base.mark_rule(strokeWidth=3).encode(x=x, x2="high:Q"),
        base.mark_circle(size=90, opacity=1).encode(x="middle:Q"),
    ]
    if any(row.truth is not None for row in drawn):
        truths = base.transform_filter("datum.truth !== null")
        layers.append(truths.mark_point(shape="diamond", size=160).encode(x="truth:Q", color=alt.value(ACCENT)))
    drawing = (
        alt.layer(*layers)
        .add_params(*params("variant", "segment"))
        .properties(width="container", height=ROW * len(drawn))
    )
    text = "; ".join(f"{row.name}: {next(iter(row.hover.values()))}" for row in drawn)
    return Chart(drawing, f"{title}. {text}", caption, scale)


def _closed(middle: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """An interval that is open to a side, as it is drawn: from its bound to the effect."""
    low, high = (middle if math.isinf(bound) else bound for bound in bounds)
    return low, high


def params(*names: str) -> list[alt.Parameter]:
    """Choices of the reader that the page sets; empty: all."""
    from core.vega import alt

    return [alt.param(name=name, value="") for name in names]


def chosen(chart: alt.Chart, *names: str) -> alt.Chart:
    """A chart that shows what the reader chose, by the fields with the names of ``params``."""
    for name in names:
        chart = chart.transform_filter(f"{name} === '' || datum.{name} === {name}")
    return chart


def hover(*fields: str, **named: str) -> list[alt.Tooltip]:
    """Texts shown by hovering: fields by their name, or title = field."""
    from core.vega import alt

    titles = {**{name: name for name in fields}, **named}
    return [alt.Tooltip(field=field, type="nominal", title=title) for title, field in titles.items()]
