"""Charts of the studies' pages; every figure in them is in a table of the page or in ``results.json``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ab_analysis.forest import ForestRow
from ab_analysis.forest import forest as rows_with_intervals
from core.charts import ACCENT, SERIES, Chart
from core.page_template import words
from studies.paired import Figure

if TYPE_CHECKING:
    from core.vega import alt

HEIGHT = 260
"""Pixels of a chart of lines."""
DASHES = ([1, 0], [6, 3], [2, 2])
"""Lines beyond the number of colors are dashed."""


def curves(
    lines: Mapping[str, Sequence[tuple[float, Figure]]], x: str, y: str, description: str, *, log: bool = False
) -> Chart:
    """One line per name, with its intervals.

    Args:
        lines: name → places on the axis and figures.
        x, y: titles of the axes.
        description: what the chart shows.
        log: whether the places lie on a logarithmic axis.
    """
    from core.vega import alt, inline_data

    rows = [
        {"name": words(name), "x": place, "value": f.value, "low": f.interval[0], "high": f.interval[1], "text": f.text}
        for name, points in lines.items()
        for place, f in points
    ]  # fmt: skip
    places = sorted({float(str(row["x"])) for row in rows})
    across = alt.X(
        "x:Q", title=x, scale=alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False),
        axis=alt.Axis(values=places, format="~g") if log else alt.Axis(),
    )  # fmt: skip
    scale = alt.Scale(zero=False)
    base = alt.Chart(inline_data(rows)).encode(x=across, color=_colors([words(name) for name in lines]))
    drawing = alt.layer(
        base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q", title=y, scale=scale), y2="high:Q"),
        base.mark_line().encode(
            y=alt.Y("value:Q", title=y, scale=scale), strokeDash=_dashes([words(name) for name in lines])
        ),
        base.mark_circle(size=40, opacity=1).encode(
            y=alt.Y("value:Q", title=y, scale=scale),
            tooltip=[alt.Tooltip("name:N", title="of"), alt.Tooltip("x:Q", title=x), alt.Tooltip("text:N", title=y)],
        ),
    ).properties(width="container", height=HEIGHT)
    return Chart(drawing, description, f"{description}.")


def forest(sides: Mapping[str, Mapping[str, Figure]], description: str) -> list[Chart]:
    """Differences with their intervals, one row per name, and one chart per kind of difference."""
    charts = [
        rows_with_intervals(
            [
                ForestRow(words(name), "", "", gap.value, gap.interval, ACCENT, {"difference": gap.signed})
                for name, gap in gaps.items()
            ],
            title, "~g", f"{description}; {title}", "",
        )
        for title, gaps in sides.items()
    ]  # fmt: skip
    return [chart for chart in charts if chart]


def dots(points: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, description: str, caption: str) -> Chart:
    """A dot for each pair of figures, in the color of its name."""
    from core.vega import alt, inline_data

    rows = [{"name": words(name), "x": a, "y": b} for name, pairs in points.items() for a, b in pairs]
    drawing = (
        alt.Chart(inline_data(rows))
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=alt.X("x:Q", title=x, scale=alt.Scale(zero=False)), y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=False)),
            color=_colors([words(name) for name in points]), shape=_shapes([words(name) for name in points]),
            tooltip=[
                alt.Tooltip("name:N", title="of"), alt.Tooltip("x:Q", title=x, format=".4f"), alt.Tooltip("y:Q", title=y, format=".4f"),
            ],
        )
        .properties(width="container", height=HEIGHT)
    )  # fmt: skip
    return Chart(drawing, description, caption)


def steps(lines: Mapping[str, Sequence[float | None]], x: str, y: str, description: str) -> Chart:
    """One line per name over the numbers from 1 on; None leaves a place out.

    Args:
        lines: name → value at each place.
        x, y: titles of the axes.
        description: what the chart shows.
    """
    from core.vega import alt, inline_data

    rows = [
        {"name": words(name), "x": place, "value": value}
        for name, values in lines.items()
        for place, value in enumerate(values, 1)
        if value is not None and math.isfinite(value)
    ]
    base = alt.Chart(inline_data(rows)).encode(
        x=alt.X("x:Q", title=x), y=alt.Y("value:Q", title=y), color=_colors([words(name) for name in lines])
    )
    drawing = alt.layer(
        base.mark_line().encode(strokeDash=_dashes([words(name) for name in lines])),
        base.mark_circle(size=40, opacity=1).encode(
            tooltip=[alt.Tooltip("name:N", title="of"), alt.Tooltip("x:Q", title=x), alt.Tooltip("value:Q", title=y, format=".3f")]
        ),
    ).properties(width="container", height=HEIGHT)  # fmt: skip
    return Chart(drawing, description, f"{description}.")


def _cycled(values: Sequence[Any], names: Sequence[str], each: int = 1) -> Iterator[Any]:
    return (values[n // each % len(values)] for n in range(len(names)))


def _legend() -> alt.Legend:
    from core.vega import alt

    return alt.Legend(columns=2, symbolOpacity=1)


def _colors(names: Sequence[str]) -> alt.Color:
    from core.vega import alt

    scale = alt.Scale(domain=list(names), range=list(_cycled(SERIES, names)))
    return alt.Color("name:N", title=None, scale=scale, legend=_legend())


def _dashes(names: Sequence[str]) -> alt.StrokeDash:
    from core.vega import alt

    scale = alt.Scale(domain=list(names), range=list(_cycled(DASHES, names, len(SERIES))))
    return alt.StrokeDash("name:N", title=None, scale=scale, legend=_legend())


def _shapes(names: Sequence[str]) -> alt.Shape:
    from core.vega import alt

    scale = alt.Scale(
        domain=list(names), range=list(_cycled(("circle", "square", "triangle-up", "diamond"), names, len(SERIES)))
    )
    return alt.Shape("name:N", title=None, scale=scale, legend=_legend())
