"""The tables of the model's page."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from core.page_table import Cell, Column, Row, Table
from core.page_template import UNKNOWN, share, words
from evaluation.gate_decision import GateCheck
from evaluation.metrics import JUDGED
from pages.daily_figures import DayFigure
from pages.gate_checks import SLICE, check_name, plain
from pages.model_history import CalibrationBin, Figure

TITLES = {**JUDGED, "gauc": "GAUC", "logloss": "log loss"}


def overall_table(figures: Sequence[Figure]) -> Table:
    """A row for each variant and metric."""
    columns = [Column("time module"), Column("metric", words=True), *_figure_columns()]
    rows = [Row([words(f.variant), TITLES.get(f.metric, f.metric), *_figure_cells(f)]) for f in figures]
    return Table(columns, rows, name="recent")


def hours_table(figures: Sequence[Figure]) -> Table:
    """A row for each variant, metric and hour of the day."""
    columns = [
        Column("hour of the day"),
        Column("time module", words=True),
        Column("metric", words=True),
        *_figure_columns(),
    ]
    rows = [
        Row([Cell(f"{f.local_hour}", sort=f.local_hour), words(f.variant), TITLES[f.metric], *_figure_cells(f)])
        for f in figures
    ]
    return Table(columns, rows, name="hours")


def days_table(figures: Sequence[DayFigure]) -> Table:
    """A row for each variant, metric and day, the newest first."""
    columns = [Column("day"), Column("time module", words=True), Column("metric", words=True), *_figure_columns()]
    newest_first = sorted(figures, key=lambda figure: figure.day, reverse=True)
    rows = [Row([str(f.day), words(f.variant), TITLES[f.metric], *_figure_cells(f)]) for f in newest_first]
    return Table(columns, rows, name="days")


def calibration_table(bins: Sequence[CalibrationBin]) -> Table:
    """A row for each variant and bin."""
    columns = [
        Column("time module"),
        Column("predicted"),
        Column("came true"),
        Column("95 % interval"),
        Column("predictions"),
    ]
    return Table(
        columns,
        [
            Row(
                [
                    words(b.variant), Cell(share(b.predicted, 1), sort=b.predicted), Cell(share(b.observed, 1), sort=b.observed),
                    Cell(f"{share(b.low, 1)} to {share(b.high, 1)}" if isfinite(b.low) else UNKNOWN, sort=b.low),
                    Cell(f"{b.samples:,}", sort=b.samples),
                ]
            )
            for b in bins
        ],
        name="calibration",
    )  # fmt: skip


def slices_table(checks: Sequence[GateCheck]) -> Table | None:
    """A row for each slice that the last judged decision looked at, which a reader can sort; None where there was none."""
    slices = [check for check in checks if SLICE in check.name]
    if not slices:
        return None
    columns = [Column("slice"), Column("difference"), Column("interval"), Column("limit"), Column("result", words=True)]
    rows = [
        Row(
            [
                check_name(c), Cell(plain(c.value), sort=c.value),
                Cell(f"{plain(c.interval[0])} to {plain(c.interval[1])}", sort=c.interval[0]) if c.interval else "",
                Cell(plain(c.limit, trimmed=True), sort=c.limit), Cell("passed", "good") if c.passed else Cell("failed", "bad"),
            ]
        )
        for c in sorted(slices, key=lambda c: (c.passed, c.value))
    ]  # fmt: skip
    return Table(columns, rows, name="slices")


def _figure_columns() -> list[Column]:
    return [Column("figure"), Column("95 % interval"), Column("predictions")]


def _figure_cells(figure: Figure | DayFigure) -> list[Cell]:
    return [
        Cell(decimals(figure.value), sort=figure.value),
        Cell(bounds((figure.low, figure.high)), sort=figure.low),
        Cell(f"{figure.samples:,}", sort=figure.samples),
    ]


def decimals(value: float, sign: str = "") -> str:
    """A figure with four decimals; ``UNKNOWN`` where it is not a number."""
    return f"{value:{sign}.4f}" if isfinite(value) else UNKNOWN


def bounds(interval: Sequence[float], sign: str = "") -> str:
    """An interval with four decimals; ``UNKNOWN`` where it is not known."""
    low, high = interval
    return f"{decimals(low, sign)} to {decimals(high, sign)}" if isfinite(low) else UNKNOWN
