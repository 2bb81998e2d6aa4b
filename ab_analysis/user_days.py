"""What events add to an experiment's users, day by day: the SQL that a whole log, a closed day and a running hour share.

==============  ====================================================================================================
day rows        user, ``local_day``, ``phase`` (1 from exposure on, 0 before the start), every additive metric
spans           the same of any number of local days: user, ``phase``, ``first_day_raw``, ``days_raw`` (number of local
                days), every additive metric, ``<retained metric>_raw`` (whether the day that it asks for is among them)
tastes          user, facet, value, number of events before the start
==============  ====================================================================================================

Rows of disjoint days add up to those of all days together: sums are decimals or whole numbers, so their order is free.
A value that is null is unknown, and so is every sum that it is part of.
"""

from __future__ import annotations

from collections.abc import Sequence

from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.metrics import columns_of
from core.duck import day_number, identifier, instant, quoted

EXPOSURE_COLUMNS = ("experiment", "variant", "user_id", "timestamp")
TASTE_COLUMNS = ("user_id", "facet", "top_value", "n")


def event_columns(plan: ExperimentPlan) -> list[str]:
    """Columns of events that the experiment needs."""
    texts = [text for metric in plan.additive.values() if (text := metric.sum or metric.count or metric.days)]
    read = {column for text in [*texts, plan.experiment.trigger or "true"] for column in columns_of(text)}
    return sorted({"user_id", "timestamp", "local_time", *plan.top_facets, *(read - {"local_hour"})})


def day_columns(plan: ExperimentPlan) -> list[str]:
    """Columns of day rows."""
    return ["user_id", "local_day", "phase", *plan.additive]


def span_columns(plan: ExperimentPlan) -> list[str]:
    """Columns of spans."""
    return ["user_id", "phase", "first_day_raw", "days_raw", *plan.additive, *(f"{name}_raw" for name in plan.retained)]


def events_sql(source: str) -> str:
    """Events with ``local_hour`` and ``local_day``.

    Args:
        source: SQL to select from.
    """
    local_day = f"CAST({day_number('local_time')} AS INTEGER)"
    return f"SELECT *, hour(local_time) AS local_hour, {local_day} AS local_day FROM {source}"


def counted_sql(plan: ExperimentPlan, events: str, starts: str, *, everybody: bool = False) -> str:
    """Events that count, with their ``phase``.

    Args:
        plan: the experiment and its metrics.
        events: table of events.
        starts: table of users and their ``exposure``, from which on events count.
        everybody: whether events before the start count also for users who are not in ``starts``.
    """
    join = "LEFT JOIN" if everybody else "JOIN"
    return f"""SELECT e.*, CASE WHEN e.timestamp >= s.exposure THEN 1 ELSE 0 END AS phase
        FROM {events} e {join} {starts} s ON s.user_id = e.user_id
        WHERE e.timestamp >= s.exposure OR e.timestamp < {instant(plan.experiment.start_time)}"""


def day_rows_sql(plan: ExperimentPlan, counted: str) -> str:
    """Day rows of events that count."""
    metrics = ", ".join(f"{m.per_day()} AS {n}" for n, m in plan.additive.items())
    return f"SELECT user_id, local_day, phase, {metrics} FROM {counted} GROUP BY user_id, local_day, phase"


def merged_days_sql(plan: ExperimentPlan, rows: str) -> str:
    """Day rows, one per user, local day and phase, of those of hours apart: a local day begins and ends in several UTC days."""
    metrics = ", ".join(f"{m.merged(n)} AS {n}" for n, m in plan.additive.items())
    return f"SELECT user_id, local_day, phase, {metrics} FROM {rows} GROUP BY user_id, local_day, phase"


def spans_sql(plan: ExperimentPlan, rows: str) -> str:
    """Spans of one day each."""
    columns = ["user_id", "phase", "local_day AS first_day_raw", "1 AS days_raw", *plan.additive]
    return f"SELECT {', '.join([*columns, *(f'0 AS {name}_raw' for name in plan.retained)])} FROM {rows}"


def merged_spans_sql(plan: ExperimentPlan, spans: str) -> str:
    """Spans, one per user and phase, of disjoint ones that hold all of a user's first days."""
    columns = [
        "d.user_id", "d.phase", "min(d.first_day_raw) AS first_day_raw", "CAST(sum(d.days_raw) AS BIGINT) AS days_raw",
        *(f"{m.total(f'd.{n}')} AS {n}" for n, m in plan.additive.items()),
        *(f"max({_returned(n, days)}) AS {n}_raw" for n, days in plan.retained.items()),
    ]  # fmt: skip
    return f"""SELECT {", ".join(columns)}
        FROM {spans} d LEFT JOIN ({first_days_sql(spans)}) f ON f.user_id = d.user_id GROUP BY d.user_id, d.phase"""


def first_days_sql(spans: str) -> str:
    """Each user's first local day with an event that counts from exposure on."""
    return f"SELECT user_id, min(first_day_raw) AS first_day FROM {spans} WHERE phase = 1 GROUP BY user_id"


def per_user_sql(plan: ExperimentPlan, spans: str, first_days: str) -> str:
    """Each user's additive metrics and, with ``_pre``, those before the start; ``days_before``; ``<retained metric>_raw``."""
    sums = [
        f"coalesce(sum(d.{name}) FILTER (WHERE d.phase = {phase}), 0) AS {name}{suffix}"
        for phase, suffix in ((1, ""), (0, "_pre"))
        for name in plan.additive
    ]
    returned = [f"max({_returned(name, days)}) AS {name}_raw" for name, days in plan.retained.items()]
    join = f" LEFT JOIN {first_days} f ON f.user_id = d.user_id" if returned else ""
    return f"""SELECT d.user_id, coalesce(sum(d.days_raw) FILTER (WHERE d.phase = 0), 0) AS days_before,
        {", ".join([*sums, *returned])} FROM {spans} d{join} GROUP BY d.user_id"""


def _returned(name: str, days: int) -> str:
    return f"CASE WHEN d.phase = 1 AND d.first_day_raw = f.first_day + {days} THEN 1 ELSE d.{name}_raw END"


def tastes_sql(counted: str, facets: Sequence[str]) -> str:
    """Tastes of events that count."""
    parts = [
        f"""SELECT user_id, {quoted(facet)} AS facet, {identifier(facet)} AS top_value, count(*) AS n FROM {counted}
        WHERE phase = 0 AND {identifier(facet)} IS NOT NULL GROUP BY user_id, {identifier(facet)}"""
        for facet in facets
    ]
    return " UNION ALL ".join(parts)


def merged_tastes_sql(tastes: str) -> str:
    """Tastes of disjoint ones."""
    return f"""SELECT user_id, facet, top_value, CAST(sum(n) AS BIGINT) AS n FROM {tastes}
        GROUP BY user_id, facet, top_value"""
