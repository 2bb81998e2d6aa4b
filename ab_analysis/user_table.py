"""The users of an experiment, from exposures and events: metrics from exposure on, covariates from before the start.

It creates these tables in the engine, with the same SQL on DuckDB and on Spark:

=============  ======================================================================================
``seen``       user, variant, ``exposure`` (time from which events count)
``user_day``   day rows of the users (``user_days``); from closed days only if asked for, and of days from the start on
``user_span``  spans of the users (``user_days``)
``users``      one row per user: variant, ``exposure_day``, metrics, ``<metric>_pre``, ``is_new``, segments
=============  ======================================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scipy.stats import chi2_contingency

from ab_analysis.closed_days import ClosedDays, ClosedPart, UnkeptDaysError
from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.metrics import condition_sql, to_sql
from ab_analysis.moments import check_known
from ab_analysis.user_days import (
    counted_sql,
    day_rows_sql,
    events_sql,
    first_days_sql,
    merged_days_sql,
    merged_tastes_sql,
    per_user_sql,
    spans_sql,
    tastes_sql,
)
from ab_analysis.user_segments import create_top_values, range_sql
from core.duck import identifier, quoted
from core.errors import DataError, NotReadyError
from core.hours import Hour, hour_range
from core.sql_engine import Engine
from events.store import EventStore

log = logging.getLogger("ab_analysis.user_table")

FURTHEST_WEST = timedelta(hours=12)
"""A local day is over everywhere this long after it is over in UTC."""


@dataclass(frozen=True)
class Counts:
    """How many users are analyzed, how many were left out, and what is missing.

    Attributes:
        until: hour up to which exposures and events count, exclusive.
        assigned: variant → users in exactly one variant, before trigger and population.
        analyzed: variant → users in the table.
        crossed: users seen in two variants, left out.
        unknown: users seen in variants that the file does not name, left out.
        early: users who were exposed before the start, left out.
        new_users: users in the table without events before the start.
        missing_hours: hours of the experiment and its pre-period that were not ingested.
        met_by_held_out: other experiment → users of a holdout's control who met it; empty for an experiment that is no holdout.
        others: other experiment with users in common → p-value of "its variants are spread evenly over ours".
    """

    until: Hour
    assigned: dict[str, int]
    analyzed: dict[str, int]
    crossed: int
    unknown: int
    early: int
    new_users: int
    missing_hours: tuple[str, ...] = ()
    others: dict[str, float] = field(default_factory=dict)
    met_by_held_out: dict[str, int] = field(default_factory=dict)


def build_user_table(
    db: Engine,
    store: EventStore,
    plan: ExperimentPlan,
    until: Hour,
    *,
    kept: Path | None = None,
    with_days: bool = True,
) -> Counts:
    """Create the tables from a source's partitions.

    Args:
        db: where to create them.
        store: events and exposures of the source.
        plan: the experiment and its metrics.
        until: hour up to which exposures and events count, exclusive.
        kept: the experiment's folder of ``closed_days``, which then only the events of the last day are added to; without
            it all events are read. The tables are the same.
        with_days: whether ``user_day`` is needed.

    Raises:
        NotReadyError: nobody was exposed to the experiment yet.
    """
    first = Hour.of(plan.experiment.start_time - timedelta(days=plan.experiment.pre_days))
    hours = store.digests(first, until)
    if not hours:
        raise _nobody(plan.experiment, until)
    counts = _from_closed_days(db, store, plan, until, hours, kept, with_days=with_days) if kept else None
    if counts is None:
        exposures = store.exposure_files(hours)
        if not exposures:
            raise _nobody(plan.experiment, until)
        events = store.event_files(hours) or [store.partition(min(hours)) / "events.parquet"]
        counts = make_tables(db, plan, until, events=events, exposures=exposures)
    missing = [hour.key for hour in hour_range(max(first, store.first_hour()), until) if hour not in hours]
    return replace(counts, missing_hours=tuple(missing))


def _from_closed_days(
    db: Engine,
    store: EventStore,
    plan: ExperimentPlan,
    until: Hour,
    hours: dict[Hour, str],
    kept: Path,
    *,
    with_days: bool,
) -> Counts | None:
    """The tables from what closed days add and the events of the hours since; None if it is not to be had."""
    name = plan.experiment.name
    try:
        with ClosedDays(db, store, plan, kept).up_to(hours, until, with_days=with_days) as closed:
            if closed is None:
                return None
            since = [hour for hour in hours if hour >= closed.until]
            files = store.event_files(since) or [store.partition(max(hours)) / "events.parquet"]
            exposures = store.exposure_files(since)
            return _make_tables(
                db, plan, until,
                events=events_sql(db, db.files(files), f"timestamp >= {db.instant(closed.until.start)}"),
                exposures=db.files(exposures) if exposures else None, closed=closed,
            )  # fmt: skip
    except UnkeptDaysError as error:
        log.warning("experiment %s is computed from all its events, as its days cannot be kept: %s", name, error)
        return None


def make_tables(
    db: Engine, plan: ExperimentPlan, until: Hour, *, events: Sequence[Path], exposures: Sequence[Path] | str
) -> Counts:
    """Create the tables from Parquet files of events and exposures (columns as in ``events.schema``).

    Args:
        db: where to create them.
        plan: the experiment and its metrics.
        until: hour up to which exposures and events count, exclusive.
        events: files of events.
        exposures: files of exposures, or SQL of a table in the engine.

    Raises:
        NotReadyError: nobody was exposed to the experiment yet.
        DataError: the engine cannot compute one of the experiment's expressions.
    """
    return _make_tables(
        db, plan, until,
        events=events_sql(db, db.files(events), f"timestamp < {db.instant(until.start)}"),
        exposures=exposures if isinstance(exposures, str) else db.files(exposures),
    )  # fmt: skip


def _make_tables(
    db: Engine,
    plan: ExperimentPlan,
    until: Hour,
    *,
    events: str,
    exposures: str | None,
    closed: ClosedPart | None = None,
) -> Counts:
    """``make_tables`` from SQL; of the hours since the closed days, where there are any."""
    experiment = plan.experiment
    columns = "experiment, variant, user_id, timestamp"
    sources = [source for source in (closed and closed.exposures, exposures) if source]
    db.view("exposure_log", " UNION ALL ".join(f"SELECT {columns} FROM {source}" for source in sources))
    db.view("events", events)
    crossed, unknown, early = _assigned(db, experiment, until)
    assigned = _by_variant(db, "assigned", experiment)
    if not sum(assigned.values()):
        raise _nobody(experiment, until)
    try:
        _seen(db, experiment, closed)
        _user_day(db, plan, closed)
        _base(db, plan, until)
        _users(db, plan, closed)
        analyzed = _by_variant(db, "users", experiment)
    except db.errors as error:
        raise DataError(f"experiment '{experiment.name}': {_culprit(db, plan)}: {str(error).splitlines()[0]}") from None
    new_users = int(db.scalar("SELECT count(*) FROM users WHERE is_new"))
    others, met = _others(db, experiment)
    return Counts(until, assigned, analyzed, crossed, unknown, early, new_users, others=others, met_by_held_out=met)


def _nobody(experiment: Experiment, until: Hour) -> NotReadyError:
    return NotReadyError(f"nobody was exposed to '{experiment.name}' before {until}: the log has no such experiment")


def _by_variant(db: Engine, table: str, experiment: Experiment) -> dict[str, int]:
    users = dict(db.rows(f"SELECT variant, count(*) AS n FROM {table} GROUP BY variant"))
    return {variant: int(users.get(variant, 0)) for variant in experiment.variants}


def _assigned(db: Engine, experiment: Experiment, until: Hour) -> tuple[int, int, int]:
    """Create ``assigned``: users of exactly one variant; returns how many are crossed, unknown, early."""
    start = db.instant(experiment.start_time)
    variants = ", ".join(map(quoted, experiment.variants))
    db.table(
        "met",
        f"""SELECT user_id, variant, min(timestamp) AS exposure FROM exposure_log
        WHERE experiment = {quoted(experiment.name)} AND timestamp < {db.instant(until.start)} GROUP BY user_id, variant""",
        by=("user_id",),  # what follows is by user: a cluster then moves the events once, to their users
    )
    db.table(
        "met_users",
        f"""SELECT user_id, min(exposure) AS exposure, count(*) FILTER (WHERE variant IN ({variants})) AS known,
        count(*) AS met, min(variant) FILTER (WHERE variant IN ({variants})) AS variant FROM met GROUP BY user_id""",
    )
    crossed, unknown, early = db.rows(
        f"""SELECT count(*) FILTER (WHERE known > 1), count(*) FILTER (WHERE met > known),
        count(*) FILTER (WHERE known = 1 AND exposure < {start}) FROM met_users"""
    )[0]
    # A user who was also exposed to a variant that the file does not name counts in the one that it names.
    db.table(
        "assigned",
        f"""SELECT u.user_id, u.variant, m.exposure FROM met_users u JOIN met m ON m.user_id = u.user_id
        AND m.variant = u.variant WHERE u.known = 1 AND u.exposure >= {start}""",
    )
    return int(crossed), int(unknown), int(early)


def _culprit(db: Engine, plan: ExperimentPlan) -> str:
    """Which expression of the experiment the engine cannot compute over the events."""
    expressions = {f"metric '{n}'": (m.sum, to_sql) for n, m in plan.additive.items() if m.sum}
    conditions = {f"metric '{n}'": text for n, m in plan.additive.items() if (text := m.count or m.days)}
    if plan.experiment.trigger:
        conditions["trigger"] = plan.experiment.trigger
    for where, (text, sql) in {**expressions, **{w: (t, condition_sql) for w, t in conditions.items()}}.items():
        try:
            db.rows(f"SELECT count({sql(text, db.dialect)}) FROM events")
        except db.errors:
            return f"{where}, '{text}', cannot be computed for an event"
    return (
        f"population, '{plan.experiment.population}', cannot be computed"
        if plan.experiment.population
        else "its events"
    )


def _seen(db: Engine, experiment: Experiment, closed: ClosedPart | None) -> None:
    if experiment.trigger is None:
        db.view("seen", "SELECT * FROM assigned")
        return
    triggered = f"""SELECT a.user_id, min(e.timestamp) AS since FROM events e JOIN assigned a ON a.user_id = e.user_id
        WHERE e.timestamp >= a.exposure AND {condition_sql(experiment.trigger, db.dialect)} GROUP BY a.user_id"""
    if closed:
        triggered += f" UNION ALL SELECT user_id, since FROM {closed.arrivals} WHERE since IS NOT NULL"
    db.table(
        "seen",
        f"""SELECT a.user_id, a.variant, min(t.since) AS exposure FROM ({triggered}) t
        JOIN assigned a ON a.user_id = t.user_id GROUP BY a.user_id, a.variant""",
    )


def _user_day(db: Engine, plan: ExperimentPlan, closed: ClosedPart | None) -> None:
    """Create ``counted``, ``user_day`` (if the closed days have it) and ``user_span``."""
    db.view("counted", counted_sql(db, plan, "events", "seen"))
    additive = ", ".join(plan.additive)
    if closed is None:
        db.table("user_day", day_rows_sql(db, plan, "counted"))
        db.view("user_span", spans_sql(plan, "user_day"))
    else:
        db.table("open_day", day_rows_sql(db, plan, "counted"))
        columns = f"user_id, local_day, phase, {additive}"
        if closed.days:
            rows = f"(SELECT {columns} FROM {closed.days} UNION ALL SELECT {columns} FROM open_day) d"
            _of_seen(db, "user_day", merged_days_sql(plan, rows))
        rows = f"(SELECT {columns} FROM {closed.recent} UNION ALL SELECT {columns} FROM open_day) d"
        recent = spans_sql(plan, f"({merged_days_sql(plan, rows)}) d")
        _of_seen(db, "closed_span", f"SELECT * FROM {closed.spans} UNION ALL {recent}")
        db.view("user_span", "SELECT * FROM closed_span")
    check_known(db, "user_span", [n for n, m in plan.additive.items() if m.sum is not None])


def _of_seen(db: Engine, table: str, rows: str) -> None:
    db.table(table, f"SELECT r.* FROM ({rows}) r JOIN seen s ON s.user_id = r.user_id")


def _base(db: Engine, plan: ExperimentPlan, until: Hour) -> None:
    last_complete_day = (until.start - FURTHEST_WEST - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(days=1) - 1
    db.table("first_days", first_days_sql("user_span"))
    db.table("per_user", per_user_sql(plan, "user_span", "first_days"))
    columns = [f"CAST(coalesce(p.{n}{s}, 0) AS DOUBLE) AS {n}{s}" for s in ("", "_pre") for n in plan.additive]
    day = "coalesce(f.first_day, s.exposure_day)"
    for name, n in plan.retained.items():
        eligible = f"CASE WHEN {day} + {n} <= {last_complete_day} THEN 1.0 ELSE 0.0 END"
        columns += [f"{eligible} AS {name}_eligible", f"coalesce(p.{name}_raw, 0) * {eligible} AS {name}"]
    db.table(
        "base",
        f"""SELECT s.user_id, s.variant, s.exposure_day, coalesce(p.days_before, 0) = 0 AS is_new,
        CASE WHEN coalesce(p.days_before, 0) = 0 THEN 1.0 ELSE 0.0 END AS new_user, {", ".join(columns)}
        FROM (SELECT *, {db.day_number("exposure")} AS exposure_day FROM seen) s
        LEFT JOIN per_user p ON p.user_id = s.user_id LEFT JOIN first_days f ON f.user_id = s.user_id""",
    )


def _users(db: Engine, plan: ExperimentPlan, closed: ClosedPart | None) -> None:
    """Create ``users``: base with capped metrics and segments, without users outside the population."""
    experiment = plan.experiment
    columns = [c for name in plan.metrics for c in _derived(db, plan, name)]
    joins = ""
    if plan.top_facets:
        _tastes(db, plan, closed)
    for name, segment in experiment.segments.items():
        if segment.of is not None:
            columns.append(f"{range_sql(segment)} AS {identifier(name)}")
        else:
            assert segment.top is not None
            create_top_values(db, name, segment.top)
            joins += f" LEFT JOIN {identifier('top_' + name)} ON {identifier('top_' + name)}.user_id = b.user_id"
            columns.append(f"coalesce({identifier('top_' + name)}.top_value, 'none') AS {identifier(name)}")
    selected = ", ".join(["b.*", *columns])
    db.view("everybody", f"SELECT {selected} FROM base b{joins}")
    where = f" WHERE {condition_sql(experiment.population, db.dialect)}" if experiment.population else ""
    db.view("users", f"SELECT * FROM everybody{where}")


def _derived(db: Engine, plan: ExperimentPlan, name: str) -> list[str]:
    metric = plan.metrics[name]
    if metric.kind == "at_least":
        return [
            f"CASE WHEN b.{metric.of}{s} >= {metric.at_least!r} THEN 1.0 ELSE 0.0 END AS {name}{s}"
            for s in ("", "_pre")
        ]
    if metric.kind == "cap":
        return [f"least(b.{metric.of}{s}, {metric.cap!r}) AS {name}{s}" for s in ("", "_pre")]
    if metric.kind == "winsorise":
        caps = db.rows(
            "SELECT "
            + ", ".join(
                f"percentile_cont({metric.winsorise!r}) WITHIN GROUP (ORDER BY {metric.of}{s}) AS q{s}"
                for s in ("", "_pre")
            )
            + " FROM base"
        )[0]
        return [
            f"least(b.{metric.of}{s}, {float(c or 0)!r}) AS {name}{s}" for s, c in zip(("", "_pre"), caps, strict=True)
        ]
    return []


def _tastes(db: Engine, plan: ExperimentPlan, closed: ClosedPart | None) -> None:
    tastes = tastes_sql("counted", plan.top_facets)
    if closed and closed.tastes:
        both = f"(SELECT user_id, facet, top_value, n FROM {closed.tastes} UNION ALL {tastes}) t"
        _of_seen(db, "tastes", merged_tastes_sql(both))
    else:
        db.table("tastes", tastes)


def _others(db: Engine, experiment: Experiment) -> tuple[dict[str, float], dict[str, int]]:
    """For each other experiment with users in common: p-value of its variants being spread evenly; and whom a holdout did not keep."""
    rows = db.rows(
        f"""SELECT o.experiment, o.variant AS theirs, s.variant AS ours, count(*) AS n FROM
        (SELECT DISTINCT experiment, variant, user_id FROM exposure_log WHERE experiment <> {quoted(experiment.name)}) o
        JOIN assigned s ON s.user_id = o.user_id GROUP BY 1, 2, 3"""
    )
    p_values = {}
    for other in sorted({r[0] for r in rows}):
        shared = [r for r in rows if r[0] == other]
        theirs, ours = sorted({r[1] for r in shared}), sorted({r[2] for r in shared})
        if len(theirs) > 1 and len(ours) > 1:
            table = [[sum(r[3] for r in shared if r[1:3] == (t, o)) for o in ours] for t in theirs]
            p_values[other] = float(chi2_contingency(table).pvalue)
    met: dict[str, int] = {}
    for other, _, ours, users in rows if experiment.holdout else ():
        if ours == experiment.control:
            met[other] = met.get(other, 0) + int(users)
    return p_values, dict(sorted(met.items()))
