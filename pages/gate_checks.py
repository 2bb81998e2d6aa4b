"""The gate's checks as a table: figure, limit, and on one scale how far the figure is on the right side of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from core.page_table import Cell, Column, Row, Table
from core.page_template import UNKNOWN, words
from evaluation.gate_decision import GateCheck
from evaluation.metrics import JUDGED

SLICE = " where "
"""Stands in the name of a check of a slice."""
LOWEST, HIGHEST = -1.0, 1.0
"""Ends of the scale of margins; one beyond is drawn at the end."""
STYLE = """
.margin { display: block; position: relative; height: 1rem; min-width: 9rem; background: linear-gradient(to right,
  color-mix(in srgb, var(--bad) 12%, transparent) 50%, color-mix(in srgb, var(--good) 12%, transparent) 50%) }
.margin::before { content: ""; position: absolute; left: 50%; top: -.15rem; bottom: -.15rem; border-left: 2px solid var(--ink) }
.margin i { position: absolute; top: .4rem; height: .2rem; background: currentColor }
.margin b { position: absolute; top: .2rem; width: .6rem; height: .6rem; margin-left: -.3rem; border-radius: 50%; background: currentColor }
@media print { details::details-content { content-visibility: visible; block-size: auto }
  .margin, .margin * { print-color-adjust: exact } }
"""


@dataclass(frozen=True)
class Margin:
    """How far a check is from its limit, on a scale from ``LOWEST`` to ``HIGHEST``; above 0 is the right side of it.

    Attributes:
        value: of the figure.
        interval: of the figure's interval, from left to right; None where it has none.
    """

    value: float
    interval: tuple[float, float] | None


def margins(checks: Sequence[GateCheck]) -> list[Margin]:
    """Each check's margin.

    Differences, which have intervals, share one unit: the largest distance from a limit among them. Other figures, which may
    be too small or too large, are measured in their limits: 0.5 is half a limit on the right side.
    """
    distances = [abs(bound - c.limit) for c in checks if c.interval for bound in (c.value, *c.interval)]
    unit = max(filter(isfinite, distances), default=0.0) or 1.0
    return [_margin(check, unit) for check in checks]


def _margin(check: GateCheck, unit: float) -> Margin:
    if not all(map(isfinite, (check.value, *(check.interval or ())))):  # it fails
        return Margin(LOWEST, None)
    if check.interval is None:
        distance = abs(check.value - check.limit) / (abs(check.limit) or 1.0)
        return Margin(_within(distance if check.passed else -distance), None)
    low, value, high = (
        _within((bound - check.limit) / unit) for bound in (check.interval[0], check.value, check.interval[1])
    )
    return Margin(value, (low, high))


def _within(margin: float) -> float:
    return min(max(margin, LOWEST), HIGHEST)


def checks_table(checks: Sequence[GateCheck]) -> Table:
    """Checks, those that failed first, then those nearest to their limits."""
    columns = [
        Column("check"), Column("figure"), Column("interval"), Column("limit"),
        Column("margin", "The dot is the figure, the bar its interval, the line the limit; left of it is the wrong side"), Column("result"),
    ]  # fmt: skip
    pairs = sorted(zip(checks, margins(checks), strict=True), key=lambda pair: (pair[0].passed, pair[1].value))
    rows = [
        Row(
            [
                check_name(check),
                plain(check.value),
                f"{plain(check.interval[0])} to {plain(check.interval[1])}" if check.interval else "",
                plain(check.limit, trimmed=True),
                Cell(_strip(margin, passed=check.passed)),
                Cell("passed", "good") if check.passed else Cell("failed", "bad"),
            ],
            strong=not check.passed,
        )
        for check, margin in pairs
    ]
    return Table(columns, rows)


def check_name(check: GateCheck) -> str:
    """A check's name for people: ``session AUC difference``, ``AUC where local hour = 3``."""
    metric = next((m for m in sorted(JUDGED, key=len, reverse=True) if check.name.startswith((f"{m}_", f"{m} "))), "")
    return words(f"{JUDGED[metric]}{check.name.removeprefix(metric)}" if metric else check.name)


def plain(value: float, *, trimmed: bool = False) -> str:
    """A figure with decimals only where it has any: ``8,023``, ``0.0390``; trimmed ``0.039``; ``UNKNOWN`` where it is none."""
    if not isfinite(value):
        return UNKNOWN
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4f}"
    return text.rstrip("0").rstrip(".") if trimmed and "." in text else text


def _strip(margin: Margin, *, passed: bool) -> Markup:
    def percent(figure: float) -> str:
        return f"{4 + 92 * (figure - LOWEST) / (HIGHEST - LOWEST):.1f}%"

    bar = Markup("")
    if margin.interval:
        low, high = margin.interval
        bar = Markup('<i style="left: {}; width: {}"></i>').format(
            percent(low), f"{92 * (high - low) / (HIGHEST - LOWEST):.1f}%"
        )
    return Markup('<span class="margin {}" aria-hidden="true">{}<b style="left: {}"></b></span>').format(
        "good" if passed else "bad", bar, percent(margin.value)
    )
