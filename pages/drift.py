"""The page of a day's drift: which columns differ from the days before, by how much, at which hours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.charts import ACCENT, BAD, INK, LINE, Chart, chart_scripts
from core.page_table import Cell, Column, Row, Table
from core.page_template import INTERACTIVE, figure, share, words, write_page
from evaluation.drift import ColumnDrift, DriftComparison

HEIGHT, ROW = 170, 24
"""Pixels of the chart of a column; ``ROW``: of a row of hours."""
TEMPLATE = """
<section class="banner {{ tone }}"><p class="lead">{{ sentence }}</p>
<p class="soft">{{ how }}</p></section>
<section><h2>Columns</h2>{{ table }}
<p class="soft">The tests are Evidently's, chosen by the kind of a column and the number of rows. A distance drifts above its limit, a
p-value below it.</p></section>
{% if hours %}<section><h2>Within hours of the day</h2>{{ hours }}
<p class="soft">An hour is compared with the same hour of the days before, so that a change at night is seen that the whole day
hides.</p></section>{% endif %}
{% if drifted %}<section><h2>Columns that drifted</h2><div class="pair">{% for chart in drifted %}<div>{{ chart }}</div>{% endfor %}</div>
</section>{% endif %}
{% if others %}<section><h2>Columns that did not drift</h2><details><summary>{{ others|length }} distributions</summary>
<div class="pair">{% for chart in others %}<div>{{ chart }}</div>{% endfor %}</div></details></section>{% endif %}
"""


def write_drift_page(comparison: DriftComparison, before: str, limit: float, var: Path) -> Path:
    """Write the page at ``comparison.drift.html``; returns its path.

    Args:
        comparison: of the day.
        before: the hours that the day is compared with, in words.
        limit: share of the columns above which the gate asks a person.
        var: folder of the workspaces.
    """
    drift, columns = comparison
    path = Path(drift.html)
    write_page(
        path, f"Drift on {drift.day}", TEMPLATE, home="../index.html", scripts=(INTERACTIVE, chart_scripts(var)),
        tone="calm" if not drift.drifted else "open" if drift.share <= limit else "", sentence=_sentence(comparison, limit),
        how=f"{drift.rows:,} rows of the day against {drift.reference_rows:,} of {before}.", table=columns_table(columns),
        hours=by_hour(columns, list(drift.hours)), **_distributions(columns),
    )  # fmt: skip
    return path


def _sentence(comparison: DriftComparison, limit: float) -> str:
    drift = comparison.drift
    names = f": {', '.join(map(words, drift.drifted))}" if drift.drifted else ""
    told = f"{len(drift.drifted)} of {drift.columns} columns drifted{names}."
    asked = f" That is {share(drift.share)}; above {share(limit)} the gate asks a person before it promotes."
    return told + (asked if drift.drifted else "")


def columns_table(columns: Sequence[ColumnDrift]) -> Table:
    """A row for each column, those that drifted first."""
    heads = [
        Column("column"), Column("kind", words=True), Column("test", words=True), Column("value"), Column("limit"), Column("drifted"),
        Column("hours of the day", "Local hours within which it drifted", words=True),
    ]  # fmt: skip
    rows = [
        Row(
            [
                words(column.name), column.kind, words(column.test), Cell(figure(column.value), sort=column.value), figure(column.limit),
                Cell("yes", "bad") if column.drifted else Cell("no", "good"), ", ".join(column.hours),
            ],
            strong=column.drifted,
        )
        for column in columns
    ]  # fmt: skip
    return Table(heads, rows, name="columns")


def by_hour(columns: Sequence[ColumnDrift], hours: Sequence[str]) -> Chart | None:
    """A square for each column and hour of the day that was compared; None where no column drifted within an hour.

    Args:
        columns: of the day.
        hours: local hours that were compared.
    """
    from core.vega import alt, inline_data

    shown = [column for column in columns if column.hours]
    if not shown:
        return None
    squares = [
        {"column": words(column.name), "hour": hour, "drifted": "yes" if hour in column.hours else "no"}
        for column in shown
        for hour in hours
    ]
    drawing = (
        alt.Chart(inline_data(squares))
        .mark_rect(stroke="var(--paper)", strokeWidth=1)
        .encode(
            x=alt.X("hour:O", title="hour of the day (users' clocks)", axis=alt.Axis(labelAngle=0, labelOverlap="greedy")),
            y=alt.Y("column:N", title=None, sort=None),
            color=alt.Color("drifted:N", title="drifted", scale=alt.Scale(domain=["yes", "no"], range=[BAD, LINE])),
            tooltip=["column:N", "hour:O", "drifted:N"],
        )
        .properties(width="container", height=ROW * len(shown))
    )  # fmt: skip
    told = "; ".join(f"{words(column.name)} at {', '.join(column.hours)}" for column in shown)
    return Chart(drawing, f"Hours of the day within which columns drifted: {told}")


def _distributions(columns: Sequence[ColumnDrift]) -> dict[str, Any]:
    """Charts of the columns under the template's names for them."""
    return {
        "drifted": [distribution(column) for column in columns if column.drifted],
        "others": [distribution(column) for column in columns if not column.drifted],
    }


def distribution(column: ColumnDrift) -> Chart:
    """Shares of a column's values on the day, as bars, and before, as lines across them."""
    from core.vega import alt, inline_data

    # of a range the axis shows where it begins
    label = "split(datum.label, ' to ')[0]" if column.kind == "number" else "datum.label"
    rows = [
        {"value": name, "day": day, "before": before, "of day": share(day, 1), "of before": share(before, 1)}
        for name, day, before in zip(column.bins, column.current, column.reference, strict=True)
    ]
    base = alt.Chart(inline_data(rows)).encode(
        x=alt.X("value:O", sort=None, title=None, axis=alt.Axis(labelAngle=-45, labelOverlap="greedy", labelLimit=90, labelExpr=label)),
        tooltip=[
            alt.Tooltip("value:O"), alt.Tooltip("of day:N", title="this day"), alt.Tooltip("of before:N", title="the days before"),
        ],
    )  # fmt: skip
    axis = alt.Axis(format="~%", tickCount=4)
    drawing = alt.layer(
        base.mark_bar(color=ACCENT, opacity=0.6).encode(y=alt.Y("day:Q", title="share of rows", axis=axis)),
        base.mark_tick(color=INK, thickness=2, opacity=1).encode(y=alt.Y("before:Q", title="share of rows", axis=axis)),
    ).properties(width="container", height=HEIGHT, title=words(column.name))
    told = "; ".join(f"{row['value']} {row['of day']} ({row['of before']})" for row in rows)
    return Chart(
        drawing,
        f"{words(column.name)}, share of rows on the day (and before): {told}",
        "Bars: this day. Lines: the days before.",
    )
