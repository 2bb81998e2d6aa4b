"""The user table of an experiment: one row a user, metrics from exposure on, covariates from before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import duckdb
import pyarrow as pa

from ab_analysis.experiment import METRICS, Experiment
from core import duck
from core.duck import quoted, scalar
from core.errors import NotReadyError
from core.hours import Hour, day_hours
from core.settings import Settings
from events.store import EventStore

AGGREGATES = {
    "active_days": "count(DISTINCT CAST(local_time AS DATE))",
    "duration_hours": "coalesce(sum(played_seconds), 0) / 3600",
    "finishes": "count(*) FILTER (WHERE finish)",
    "likes": 'count(*) FILTER (WHERE "like")',
    "skips": "count(*) FILTER (WHERE skip)",
}
"""Definition of every metric over a user's events. Shown in the report."""


@dataclass(frozen=True)
class UserTable:
    """The users of an experiment up to a moment.

    Attributes:
        users: variant, exposure, a column per metric, and ``<metric>_pre`` per covariate.
        crossed: users seen in two variants, left out.
        unknown: exposures to variants that the file does not name, left out.
        daily: cumulative sums a day: day, variant, users, a column per metric.
        until: hour up to which events count.
    """

    users: pa.Table
    crossed: int
    unknown: int
    daily: pa.Table
    until: Hour


def user_table(settings: Settings, store: EventStore, experiment: Experiment, until: Hour) -> UserTable:
    """Compute the user table of an experiment from exposures and events before ``until``.

    Raises:
        NotReadyError: nobody was exposed to the experiment yet.
    """
    if experiment.end is not None:
        until = min(until, day_hours(experiment.end)[-1] + 1)
    first = Hour.of(experiment.start_time - timedelta(days=experiment.pre_days))
    hours = [h for h in store.hours() if first <= h < until]
    exposures = [store.partition(h) / "exposures.parquet" for h in hours if store.manifest(h).exposures]
    with duck.connection(settings, spill_to_file=True) as con:
        if exposures:
            names = ", ".join(quoted(str(f)) for f in exposures)
            con.execute(
                f"""CREATE TABLE seen AS SELECT user_id, variant, min(timestamp) AS exposure
                FROM read_parquet([{names}]) WHERE experiment = {quoted(experiment.name)}
                AND timestamp >= {_instant(experiment)} GROUP BY ALL"""
            )
        if not exposures or not scalar(con, "SELECT count(*) FROM seen"):
            raise NotReadyError(
                f"nobody was exposed to '{experiment.name}' before {until}: the log has no such experiment"
            )
        variants = ", ".join(map(quoted, experiment.variants))
        unknown = scalar(con, f"SELECT count(*) FROM seen WHERE variant NOT IN ({variants})")
        con.execute(f"DELETE FROM seen WHERE variant NOT IN ({variants})")
        con.execute("CREATE TABLE crossed AS SELECT user_id FROM seen GROUP BY user_id HAVING count(*) > 1")
        crossed = scalar(con, "SELECT count(*) FROM crossed")
        con.execute("DELETE FROM seen WHERE user_id IN (SELECT user_id FROM crossed)")
        files = [store.partition(h) / "events.parquet" for h in hours if store.manifest(h).rows]
        names = ", ".join(quoted(str(f)) for f in files)
        con.execute(
            f"""CREATE TABLE log AS SELECT e.user_id, e.timestamp, e.local_time, e.played_seconds, e.finish, e."like", e.skip,
            s.variant, s.exposure FROM read_parquet([{names}]) e JOIN seen s USING (user_id)"""
        )
        users = _users(con, experiment)
        daily = _daily(con)
    return UserTable(users, crossed, unknown, daily, until)


def _instant(experiment: Experiment) -> str:
    return f"TIMESTAMPTZ {quoted(experiment.start_time.isoformat())}"


def _users(con: duckdb.DuckDBPyConnection, experiment: Experiment) -> pa.Table:
    after = ", ".join(f"{sql} AS {name}" for name, sql in AGGREGATES.items())
    before = ", ".join(f"{sql} AS {name}_pre" for name, sql in AGGREGATES.items())
    filled = ", ".join(
        f"CAST(coalesce({side}.{name}, 0) AS DOUBLE) AS {name}"
        for side, suffix in (("a", ""), ("b", "_pre"))
        for name in (f"{metric}{suffix}" for metric in METRICS)
    )
    return con.sql(
        f"""
        WITH a AS (SELECT user_id, {after} FROM log WHERE timestamp >= exposure GROUP BY user_id),
        b AS (SELECT user_id, {before} FROM log WHERE timestamp < {_instant(experiment)} GROUP BY user_id)
        SELECT s.user_id, s.variant, s.exposure, {filled}, b.user_id IS NULL AS is_new
        FROM seen s LEFT JOIN a USING (user_id) LEFT JOIN b USING (user_id) ORDER BY s.user_id"""
    ).to_arrow_table()


def _daily(con: duckdb.DuckDBPyConnection) -> pa.Table:
    """Per day and variant: users exposed so far and sums of that day."""
    sums = ", ".join(f"CAST({sql} AS DOUBLE) AS {name}" for name, sql in AGGREGATES.items() if name != "active_days")
    return con.sql(
        f"""
        WITH days AS (SELECT DISTINCT CAST(timestamp AS DATE) AS day FROM log WHERE timestamp >= exposure),
        grown AS (SELECT day, variant, count(*) AS users FROM days JOIN seen ON CAST(exposure AS DATE) <= day GROUP BY ALL),
        each AS (SELECT CAST(timestamp AS DATE) AS day, variant,
            CAST(count(DISTINCT (user_id, CAST(local_time AS DATE))) AS DOUBLE) AS active_days, {sums}
            FROM log WHERE timestamp >= exposure GROUP BY ALL)
        SELECT * FROM grown JOIN each USING (day, variant) ORDER BY day, variant"""
    ).to_arrow_table()
