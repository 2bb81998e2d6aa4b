"""The rows of each user that an experiment's metrics are made of: no row here depends on another user.

So the users of an experiment can be divided, and each part computed alone. The tables are the engine's::

    exposure_log, events   views of what they are made from
    assigned               user, variant, first ``exposure`` to it
    seen                   the same, ``exposure`` being the time from which events count
    user_day, user_span    see ``user_days``
    base                   one row per user: variant, ``exposure_day``, additive and retained metrics, ``<metric>_pre``, ``is_new``
    favorites              user, facet, most frequent value before the start, for segments by facet
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ab_analysis.closed_days import ClosedPart
from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.metrics import condition_sql, to_sql
from ab_analysis.moments import unknown_values
from ab_analysis.source_files import SourceFiles
from ab_analysis.user_days import (
    EXPOSURE_COLUMNS,
    TASTE_COLUMNS,
    counted_sql,
    day_columns,
    day_rows_sql,
    event_columns,
    events_sql,
    first_days_sql,
    merged_days_sql,
    merged_tastes_sql,
    per_user_sql,
    span_columns,
    spans_sql,
    tastes_sql,
)
from core.duck import day_number, instant, quoted
from core.errors import DataError
from core.hours import Hour
from core.sql_engine import Engine

FURTHEST_WEST = timedelta(hours=12)
"""A local day is over everywhere this long after it is over in UTC."""


@dataclass
class UserTally:
    """How many users there are of each kind; those of parts of the users add up.

    Attributes:
        crossed: users seen in two variants.
        unknown: users seen in variants that the file does not name.
        early: users who were exposed before the start.
        assigned: variant → users in exactly one variant.
        others: (other experiment, its variant, our variant) → users.
        unmeasured: metric → users whose value is not a finite number.
    """

    crossed: int = 0
    unknown: int = 0
    early: int = 0
    assigned: Counter[str] = field(default_factory=Counter)
    others: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unmeasured: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: UserTally) -> UserTally:
        return UserTally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def source_files(
    plan: ExperimentPlan,
    until: Hour,
    events: Sequence[Path],
    exposures: Sequence[Path],
    closed: ClosedPart | None = None,
) -> dict[str, SourceFiles]:
    """Name → what the rows of users are made from; names without files are left out.

    Args:
        plan: the experiment and its metrics.
        until: hour up to which events count, exclusive.
        events: files of those that closed days do not have.
        exposures: the same.
        closed: what closed days have.
    """
    since = f" AND timestamp >= {instant(closed.until.start)}" if closed else ""
    sources = {
        "events": SourceFiles(events, event_columns(plan), f"timestamp < {instant(until.start)}{since}"),
        "exposures": SourceFiles(exposures, EXPOSURE_COLUMNS),
    }
    if closed:
        sources |= {
            "closed_exposures": SourceFiles(closed.exposures, EXPOSURE_COLUMNS),
            "arrivals": SourceFiles(closed.arrivals, ["user_id", "since"]),
            "spans": SourceFiles(closed.spans, span_columns(plan)),
            "recent": SourceFiles(closed.recent, day_columns(plan)),
            "tastes": SourceFiles(closed.tastes, TASTE_COLUMNS),
            "days": SourceFiles(closed.days or (), day_columns(plan)),
        }
    return {name: source for name, source in sources.items() if source.files}


def assign_users(db: Engine, experiment: Experiment, until: Hour, sources: Mapping[str, str]) -> UserTally:
    """Create ``exposure_log`` and ``assigned``.

    Args:
        db: where to create them.
        experiment: content of the experiment file.
        until: hour up to which exposures count, exclusive.
        sources: SQL to select what ``source_files`` names from. Without exposures everybody is exposed to the control by their first
            event since the start, as for planning.

    Returns:
        The number of users of each kind; ``unmeasured`` is empty.
    """
    start = instant(experiment.start_time)
    exposures = [sources[name] for name in ("closed_exposures", "exposures") if name in sources]
    if not exposures:
        control = f"{quoted(experiment.name)} AS experiment, {quoted(experiment.control)} AS variant"
        exposures.append(
            f"""(SELECT {control}, user_id, min(timestamp) AS timestamp FROM {sources["events"]} WHERE timestamp >= {start}
            GROUP BY user_id) first_events"""
        )
    columns = "experiment, variant, user_id, timestamp"
    db.view("exposure_log", " UNION ALL ".join(f"SELECT {columns} FROM {source}" for source in exposures))
    variants = ", ".join(map(quoted, experiment.variants))
    db.table(
        "met",
        f"""SELECT user_id, variant, min(timestamp) AS exposure FROM exposure_log
        WHERE experiment = {quoted(experiment.name)} AND timestamp < {instant(until.start)} GROUP BY user_id, variant""",
    )
    db.table(
        "met_users",
        f"""SELECT user_id, min(exposure) AS exposure, count(*) FILTER (WHERE variant IN ({variants})) AS known,
        count(*) AS met, min(variant) FILTER (WHERE variant IN ({variants})) AS variant FROM met GROUP BY user_id""",
    )
    # A user who was also exposed to a variant that the file does not name counts in the one that it names.
    db.table(
        "assigned",
        f"""SELECT u.user_id, u.variant, m.exposure FROM met_users u JOIN met m ON m.user_id = u.user_id
        AND m.variant = u.variant WHERE u.known = 1 AND u.exposure >= {start}""",
    )
    crossed, unknown, early = db.rows(
        f"""SELECT count(*) FILTER (WHERE known > 1), count(*) FILTER (WHERE met > known),
        count(*) FILTER (WHERE known = 1 AND exposure < {start}) FROM met_users"""
    )[0]
    assigned = db.rows("SELECT variant, count(*) FROM assigned GROUP BY variant")
    others = db.rows(
        f"""SELECT o.experiment, o.variant AS theirs, s.variant AS ours, count(*) AS n FROM
        (SELECT DISTINCT experiment, variant, user_id FROM exposure_log WHERE experiment <> {quoted(experiment.name)}) o
        JOIN assigned s ON s.user_id = o.user_id GROUP BY 1, 2, 3"""
    )
    return UserTally(
        int(crossed),
        int(unknown),
        int(early),
        Counter({variant: int(n) for variant, n in assigned}),
        Counter({(experiment, theirs, ours): int(n) for experiment, theirs, ours, n in others}),
    )


def create_user_rows(
    db: Engine, plan: ExperimentPlan, until: Hour, sources: Mapping[str, str], *, with_days: bool = True
) -> Counter[str]:
    """Create the other tables.

    Args:
        db: has ``assigned``.
        plan: the experiment and its metrics.
        until: hour up to which events count, exclusive.
        sources: SQL to select what ``source_files`` names from.
        with_days: whether ``user_day`` is needed where there are closed days; of days from the start on.

    Returns:
        Metric → users whose value is not a finite number.

    Raises:
        DataError: the engine cannot compute one of the experiment's expressions.
    """
    db.view("events", events_sql(sources["events"]))
    try:
        _seen(db, plan.experiment, sources.get("arrivals"))
        _user_day(db, plan, sources, with_days=with_days)
        unmeasured = unknown_values(db, "user_span", [n for n, m in plan.additive.items() if m.sum is not None])
        _base(db, plan, until)
        if plan.top_facets:
            _favorites(db, plan, sources.get("tastes"))
    except db.errors as error:
        reason = f"{_culprit(db, plan)}: {str(error).splitlines()[0]}"
        raise DataError(f"experiment '{plan.experiment.name}': {reason}") from None
    return Counter(unmeasured)


def _culprit(db: Engine, plan: ExperimentPlan) -> str:
    """Which expression of the experiment the engine cannot compute over the events."""
    expressions = {f"metric '{n}'": (m.sum, to_sql) for n, m in plan.additive.items() if m.sum}
    conditions = {f"metric '{n}'": text for n, m in plan.additive.items() if (text := m.count or m.days)}
    if plan.experiment.trigger:
        conditions["trigger"] = plan.experiment.trigger
    for where, (text, sql) in {**expressions, **{w: (t, condition_sql) for w, t in conditions.items()}}.items():
        try:
            db.rows(f"SELECT count({sql(text)}) FROM events")
        except db.errors:
            return f"{where}, '{text}', cannot be computed for an event"
    return "its events"


def _seen(db: Engine, experiment: Experiment, arrivals: str | None) -> None:
    if experiment.trigger is None:
        db.view("seen", "SELECT * FROM assigned")
        return
    triggered = f"""SELECT a.user_id, min(e.timestamp) AS since FROM events e JOIN assigned a ON a.user_id = e.user_id
        WHERE e.timestamp >= a.exposure AND {condition_sql(experiment.trigger)} GROUP BY a.user_id"""
    if arrivals:
        triggered += f" UNION ALL SELECT user_id, since FROM {arrivals} WHERE since IS NOT NULL"
    db.table(
        "seen",
        f"""SELECT a.user_id, a.variant, min(t.since) AS exposure FROM ({triggered}) t
        JOIN assigned a ON a.user_id = t.user_id GROUP BY a.user_id, a.variant""",
    )


def _user_day(db: Engine, plan: ExperimentPlan, sources: Mapping[str, str], *, with_days: bool) -> None:
    """Create ``counted``, ``user_day`` (if the closed days have it) and ``user_span``."""
    db.view("counted", counted_sql(plan, "events", "seen"))
    additive = ", ".join(plan.additive)
    if "spans" not in sources:
        db.table("user_day", day_rows_sql(plan, "counted"))
        db.view("user_span", spans_sql(plan, "user_day"))
        return
    db.table("open_day", day_rows_sql(plan, "counted"))
    columns = f"user_id, local_day, phase, {additive}"

    def with_open_day(closed: str) -> str:
        return merged_days_sql(plan, f"(SELECT {columns} FROM {closed} UNION ALL SELECT {columns} FROM open_day) d")

    if with_days:
        db.table(
            "user_day",
            _of_seen(with_open_day(sources["days"]) if "days" in sources else f"SELECT {columns} FROM open_day"),
        )
    recent = spans_sql(plan, f"({with_open_day(sources['recent'])}) d")
    db.table("closed_span", _of_seen(f"SELECT * FROM {sources['spans']} UNION ALL {recent}"))
    db.view("user_span", "SELECT * FROM closed_span")


def _of_seen(rows: str) -> str:
    return f"SELECT r.* FROM ({rows}) r JOIN seen s ON s.user_id = r.user_id"


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
        FROM (SELECT *, {day_number("exposure")} AS exposure_day FROM seen) s
        LEFT JOIN per_user p ON p.user_id = s.user_id LEFT JOIN first_days f ON f.user_id = s.user_id""",
    )


def _favorites(db: Engine, plan: ExperimentPlan, closed: str | None) -> None:
    tastes = tastes_sql("counted", plan.top_facets)
    if closed:
        both = f"(SELECT user_id, facet, top_value, n FROM {closed} UNION ALL {tastes}) t"
        tastes = _of_seen(merged_tastes_sql(both))
    db.table(
        "favorites",
        f"""SELECT user_id, facet, top_value FROM (SELECT user_id, facet, top_value,
        row_number() OVER (PARTITION BY user_id, facet ORDER BY n DESC, top_value) AS place FROM ({tastes}) t) ranked
        WHERE place = 1""",
    )
