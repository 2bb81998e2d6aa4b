"""How the users of each variant are spread over a metric's values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.charts import is_drawable
from core.duck import double, identifier
from core.sql_engine import Engine

BINS = 30
ENDS = 0.99
"""Share of the users below the last bin; of those with values below 0, above the first."""


@dataclass(frozen=True)
class Histogram:
    """Users of each variant by bins of a metric.

    Attributes:
        width: of a bin, in the metric's unit.
        users: variant → users in each bin; the last bin takes everything above the 99 % quantile.
        start: of the first bin: 0, or for a metric with values below it their 1 % quantile; the bin takes everything below, too.
    """

    width: float
    users: dict[str, list[int]]
    start: float = field(default=0.0, metadata={"written": False})


def read_histogram(db: Engine, table: str, metric: str, *, whole: bool) -> Histogram | None:
    """Users by bins of a metric; None where the values are so far apart, or so near to each other, that nothing can be drawn.

    Args:
        db: has the table.
        table: one row per user with ``variant``.
        metric: its column.
        whole: whether the values are whole numbers, as the bins' width then is.
    """
    name = identifier(metric)
    ends = (1 - ENDS, ENDS)
    percentiles = ", ".join(
        f"percentile_cont({q!r}) WITHIN GROUP (ORDER BY {name}) AS q{n}" for n, q in enumerate(ends)
    )
    lowest, largest = (float(value or 0) for value in db.rows(f"SELECT {percentiles} FROM {table}")[0])
    start = min(float(math.floor(lowest)) if whole else lowest, 0.0)
    span = largest - start or 1.0
    if not is_drawable(span):
        return None
    width = float(math.ceil(span / (BINS - 1))) if whole else span / (BINS - 1)
    moved = f"{name} - {double(start)}" if start else name
    rows = db.rows(
        f"""SELECT variant, CAST(greatest(least(floor(({moved}) / {width!r}), {BINS - 1}), 0) AS INTEGER) AS bin,
        count(*) AS n FROM {table} GROUP BY 1, 2"""
    )
    users = {v: [0] * BINS for v in sorted({r[0] for r in rows})}
    for variant, bin_number, n in rows:
        users[variant][int(bin_number)] = int(n)
    return Histogram(width, users, start)


def read_histograms(db: Engine, table: str, whole: Mapping[str, bool]) -> dict[str, Histogram]:
    """Histograms of the metrics of which one can be drawn.

    Args:
        db: has the table.
        table: one row per user with ``variant``.
        whole: metric → whether its values are whole numbers.
    """
    read = {metric: read_histogram(db, table, metric, whole=flag) for metric, flag in whole.items()}
    return {metric: histogram for metric, histogram in read.items() if histogram}


def read_table_histograms(db: Engine, metrics: tuple[str, ...]) -> dict[str, Histogram]:
    """Histograms of metrics of ``table_users``, in whole bins where all values are whole.

    Args:
        db: has the table.
        metrics: columns.
    """
    if not metrics:
        return {}
    whole = ", ".join(f"bool_and(floor({identifier(m)}) = {identifier(m)}) AS w{n}" for n, m in enumerate(metrics))
    flags = db.rows(f"SELECT {whole} FROM table_users")[0]
    return read_histograms(db, "table_users", {m: bool(w) for m, w in zip(metrics, flags, strict=True)})
