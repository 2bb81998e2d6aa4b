"""Impressions, and the actions that come after them: the events that all rows told so far add up to.

Rows are kept as facts, in the hour of their time. An hour's events are a function of the set of facts around it, so
neither the order of files nor a repetition changes them:

1. Facts of one event id, user and item are one event, unless the id is used again much later (``events.episodes``). It
   has the time of the earliest of them, and the cells of the earliest impression among them, if there is one; position,
   request id and context are those of the first in this order that has any.
2. An event of actions only goes to the last impression of its user and item in the window before it, or after it by no
   more than the skew of clocks.
3. A behavior is true where any fact of the event says so, false where one denies it and none says so, else unknown.
4. Of events with one id but another user or item, all but the first get their own id.

Facts that come later can take an event away only in favor of another one of its user and item. Every event that an
hour ever had is of a user, item and slot that its facts have: whoever corrects what stands on an hour goes by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from core.duck import file_list, hour_number, identifier, parquet_union
from core.hours import Hour
from events.episodes import SAME_EVENT_HOURS, open_episodes
from events.mapping_rows import Actions
from events.schema import BEHAVIORS
from events.store import EventStore


@dataclass(frozen=True)
class ActionCounts:
    """What became of rows that were not told before.

    Attributes:
        kept: rows that became an event.
        merged: parts of another row's event.
        joined: actions that belong to an impression.
        alone: actions without an impression.
        late: actions that changed an event that existed before.
        conflicting: rows whose event id is another user's or item's.
    """

    kept: int
    merged: int
    joined: int
    alone: int
    late: int
    conflicting: int


class ActionJoin:
    """Events of the hours that an input touches, from its rows and what was told before.

    Leaves the tables ``facts`` (stored and new, each once), ``owners`` (of each fact its event) and ``derived``.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, store: EventStore, rule: Actions) -> None:
        """Derive the events.

        Args:
            con: has the table ``told``: columns of the store's ``fact_schema`` and ``__row``.
            store: holds what was told before.
            rule: how actions are joined.
        """
        self.con, self._names = con, store.event_schema.names
        self._moment = [identifier(name) for name in store.moment_columns]
        self._columns = ", ".join(map(identifier, store.fact_schema.names))
        self._window = f"INTERVAL {rule.window_minutes} MINUTE"
        self._skew = f"INTERVAL {rule.skew_seconds} SECOND"
        self._reach = -(-max(rule.window_minutes * 60, rule.skew_seconds) // 3600)
        self._load(store)
        self._derive()

    def counts(self) -> ActionCounts:
        """Count the facts that are new, by what became of them."""
        row = self.con.execute(
            """SELECT count(*) FILTER (WHERE is_head), count(*) FILTER (WHERE NOT is_head),
            count(*) FILTER (WHERE is_action AND has_impression), count(*) FILTER (WHERE is_action AND NOT has_impression),
            count(*) FILTER (WHERE is_action AND owner_stored AND NOT is_head), count(*) FILTER (WHERE conflicts)
            FROM owners WHERE NOT stored"""
        ).fetchall()[0]
        return ActionCounts(*row)

    def hours(self) -> Iterator[tuple[Hour, pa.Table, pa.Table]]:
        """Each touched hour in order, with all its events and facts; ``EventStore.rewrite`` takes them."""
        here = "fact_hour IN (SELECT hour FROM touched)"
        numbers = self.con.execute(f"SELECT DISTINCT fact_hour FROM facts WHERE {here} ORDER BY 1").fetchall()
        names = ", ".join(map(identifier, self._names))
        for (number,) in numbers:
            events = self.con.sql(f"SELECT {names} FROM derived WHERE hour = {number} ORDER BY timestamp, event_id")
            facts = self.con.sql(
                f"SELECT {self._columns} FROM facts WHERE fact_hour = {number} ORDER BY timestamp, fact"
            )
            yield Hour(number), events.to_arrow_table(), facts.to_arrow_table()

    def _load(self, store: EventStore) -> None:
        """Take from the store what the touched hours' events stand on."""
        con, hour = self.con, hour_number("timestamp")
        told = {int(row[0]) for row in con.execute(f"SELECT DISTINCT {hour} FROM told").fetchall()}
        touched = _around(self._hours_of(store, "SELECT event_id FROM told", told), self._reach)
        con.execute("CREATE TABLE touched AS SELECT unnest(?::BIGINT[]) AS hour", [sorted(touched)])
        base = _around(touched, self._reach)
        con.execute("CREATE TABLE base_ids AS SELECT DISTINCT event_id FROM told")
        if files := store.fact_files(map(Hour, sorted(base))):
            con.execute(f"INSERT INTO base_ids SELECT DISTINCT event_id FROM read_parquet({file_list(files)})")
        con.execute(f"CREATE TABLE stored AS SELECT {self._columns} FROM told LIMIT 0")
        hours = self._hours_of(store, "SELECT event_id FROM base_ids", base)
        if files := store.fact_files(map(Hour, sorted(hours))):
            con.execute(
                f"""INSERT INTO stored BY NAME SELECT * FROM {parquet_union(files)}
                WHERE event_id IN (SELECT event_id FROM base_ids)"""
            )
        con.execute(
            f"""CREATE TABLE facts AS SELECT *, {hour} AS fact_hour FROM (
                SELECT *, true AS stored FROM stored UNION ALL
                SELECT {self._columns}, false FROM told WHERE fact NOT IN (SELECT fact FROM stored)
                QUALIFY row_number() OVER (PARTITION BY fact ORDER BY __row) = 1) ORDER BY timestamp, fact"""
        )

    def _hours_of(self, store: EventStore, ids: str, hours: Iterable[int]) -> set[int]:
        """The hours, and those in which the same events' ids were told: each is near one that holds the id, too."""
        reached, frontier, seen = set(hours), set(hours), set[int]()
        while near := {n for n in _around(frontier, SAME_EVENT_HOURS) - seen if store.has(Hour(n))}:
            seen |= near
            frontier = set()
            if files := store.fact_files(map(Hour, sorted(near))):
                query = f"SELECT DISTINCT {hour_number('timestamp')} FROM read_parquet({file_list(files)}) WHERE event_id IN ({ids})"
                frontier = {int(row[0]) for row in self.con.execute(query).fetchall()}
            reached |= frontier
        return reached

    def _derive(self) -> None:
        con = self.con
        behaviors = [identifier(name) for name in BEHAVIORS]
        requests = [f"first_value({name}) OVER asked AS {name}" for name in self._moment]
        asked = f"{' AND '.join(f'{name} IS NULL' for name in self._moment)}, " if requests else ""
        con.execute("CREATE VIEW fact_times AS SELECT event_id, timestamp AS ts FROM facts")
        open_episodes(con, "fact_times")
        con.execute(
            """CREATE TABLE dated AS SELECT f.*, opened FROM facts f ASOF JOIN episodes e
            ON f.event_id = e.event_id AND f.timestamp >= e.opened"""
        )
        con.execute(
            f"""CREATE TABLE heads AS SELECT *, row_number() OVER (
                PARTITION BY event_id, opened ORDER BY is_action, timestamp, fact) > 1 AS conflicts FROM (
            SELECT * REPLACE (
                first_value(timestamp) OVER told AS timestamp, first_value(local_time) OVER told AS local_time,
                {", ".join(["first_value(fact_hour) OVER told AS fact_hour", *requests])})
            FROM dated WINDOW told AS (PARTITION BY event_id, opened, user_id, item_id ORDER BY timestamp, fact),
                asked AS (PARTITION BY event_id, opened, user_id, item_id ORDER BY {asked}is_action, timestamp, fact)
            QUALIFY row_number() OVER (
                PARTITION BY event_id, opened, user_id, item_id ORDER BY is_action, dated.timestamp, fact) = 1)"""
        )
        con.execute(
            f"""CREATE TABLE joined AS SELECT a.fact, s.owner FROM (SELECT * FROM heads WHERE is_action) a ASOF JOIN (
                SELECT user_id, item_id, timestamp, arg_min(fact, event_id || fact) AS owner
                FROM heads WHERE NOT is_action GROUP BY ALL) s
            ON a.user_id = s.user_id AND a.item_id = s.item_id AND a.timestamp + {self._skew} >= s.timestamp
            WHERE a.timestamp - s.timestamp <= {self._window}"""
        )
        con.execute(
            f"""CREATE TABLE owners AS SELECT f.fact, f.stored, f.is_action, o.fact AS owner, o.stored AS owner_stored,
                f.fact = o.fact AS is_head, NOT o.is_action AS has_impression, h.conflicts,
                {", ".join(f"f.{name}" for name in behaviors)}
            FROM dated f JOIN heads h USING (event_id, opened, user_id, item_id) LEFT JOIN joined j ON j.fact = h.fact
            JOIN heads o ON o.fact = coalesce(j.owner, h.fact)"""
        )
        con.execute(
            f"""CREATE TABLE derived AS SELECT CASE WHEN h.conflicts THEN md5(h.event_id || h.fact) ELSE h.event_id END AS event_id,
                {", ".join(("o." if name in BEHAVIORS else "h.") + identifier(name) for name in self._names[1:])}, h.fact_hour AS hour
            FROM heads h JOIN (SELECT owner, {", ".join(f"bool_or({name}) AS {name}" for name in behaviors)} FROM owners
                GROUP BY owner) o ON o.owner = h.fact ORDER BY h.timestamp, h.event_id"""
        )


def _around(hours: set[int] | list[int], reach: int) -> set[int]:
    """The hours and those up to ``reach`` before and after them.

    >>> sorted(_around([3, 9], 1))
    [2, 3, 4, 8, 9, 10]
    """
    return {hour + shift for hour in hours for shift in range(-reach, reach + 1)}
