"""Rows whose event was told before, in this input or an earlier one, and what they add to it."""

from __future__ import annotations

from datetime import datetime

import duckdb

from core.duck import identifier, parquet_union, quoted, scalar
from core.hours import Hour, hour_range
from events.episodes import SAME_EVENT_HOURS, open_episodes
from events.schema import BEHAVIORS, REQUEST_COLUMNS
from events.store import EventStore

CONFLICTING = "conflicting_event_id"
"""Reason of a row whose event id is that of an event of another user or item."""


Times = tuple[datetime | None, datetime | None]


def mark_repeated(con: duckdb.DuckDBPyConnection, store: EventStore, span: Times | None = None) -> None:
    """Find rows whose event exists already, and what they add to it.

    Leaves ``marked`` (a row of an event that another row told is a ``duplicate``, or ``adds`` a behavior, or the place
    where the item was shown), ``fresh`` (events to keep) and ``amended`` (stored events with what was added).
    A row whose event id is another user's or item's gets the reason ``CONFLICTING``.

    Args:
        con: has ``staged`` and ``identified``: all rows of the input, or all that have one of some event ids.
        store: holds what was told before.
        span: first and last time of the input's good rows; by default of those in ``con``.
    """
    names = [identifier(name) for name in store.event_schema.names]
    cells = ", ".join(names)
    con.execute(f"CREATE TABLE repeated AS SELECT {cells} FROM identified LIMIT 0")
    begin, end = span or con.execute("SELECT min(ts), max(ts) FROM staged WHERE reason IS NULL").fetchall()[0]
    if begin is not None and end is not None:
        first, last = Hour.of(begin) - SAME_EVENT_HOURS, Hour.of(end) + SAME_EVENT_HOURS
        near = store.event_files(hour_range(first, last + 1))
        if near:
            con.execute(
                f"""INSERT INTO repeated BY NAME SELECT * FROM {parquet_union(near)}
                WHERE event_id IN (SELECT event_id FROM staged WHERE reason IS NULL)"""
            )
    behaviors = [identifier(name) for name in BEHAVIORS]
    requests = [name for name in map(identifier, REQUEST_COLUMNS) if name in names]
    context = [identifier(name) for name in store.source.context]
    added = [*behaviors, *requests, *context]
    listed = ", ".join(added)
    con.execute(
        """CREATE TABLE shared_ids AS SELECT event_id FROM (SELECT event_id FROM staged WHERE reason IS NULL
        UNION ALL SELECT event_id FROM repeated) GROUP BY event_id HAVING count(*) > 1"""
    )
    if not scalar(con, "SELECT count(*) FROM shared_ids"):
        # Every id is new: what follows would leave the same, at length.
        con.execute(
            "CREATE TABLE marked AS SELECT __row, false AS duplicate, false AS adds FROM staged WHERE reason IS NULL"
        )
        con.execute(f"CREATE TABLE fresh AS SELECT {cells} FROM identified")
        con.execute("CREATE TABLE amended AS FROM repeated")
        return
    con.execute(
        """CREATE TABLE shared AS SELECT __row, event_id, ts FROM staged SEMI JOIN shared_ids USING (event_id)
        WHERE reason IS NULL UNION ALL SELECT NULL, event_id, timestamp FROM repeated"""
    )
    open_episodes(con, "shared")
    con.execute(
        """CREATE TABLE placed AS SELECT * FROM (SELECT __row, s.event_id, opened,
            row_number() OVER (PARTITION BY s.event_id, opened ORDER BY __row IS NOT NULL, ts, __row) > 1 AS again
        FROM shared s ASOF JOIN episodes e ON s.event_id = e.event_id AND s.ts >= e.opened) WHERE __row IS NOT NULL
        UNION ALL SELECT __row, event_id, ts, false FROM staged ANTI JOIN shared_ids USING (event_id) WHERE reason IS NULL"""
    )
    con.execute(
        """CREATE TABLE stored_shared AS SELECT r.*, opened FROM repeated r ASOF JOIN episodes e
        ON r.event_id = e.event_id AND r.timestamp >= e.opened"""
    )
    con.execute(
        f"""CREATE TABLE known AS SELECT event_id, opened, user_id, item_id, {listed} FROM stored_shared UNION ALL
        SELECT event_id, opened, user_id, item_id, {listed} FROM identified JOIN placed USING (__row, event_id)
        WHERE NOT again AND (event_id, opened) IN (SELECT (event_id, opened) FROM placed WHERE again)"""
    )
    news = " OR ".join(f"(i.{name} AND k.{name} IS DISTINCT FROM true) OR k.{name} IS NULL AND i.{name} IS NOT NULL"
                       for name in behaviors)  # fmt: skip
    news += "".join(f" OR k.{name} IS NULL AND i.{name} IS NOT NULL" for name in context)
    unplaced = " AND ".join(f"{name} IS NULL" for name in requests)
    if requests:
        k, i = (" AND ".join(f"{row}.{name} IS NULL" for name in requests) for row in "ki")
        news += f" OR {k} AND NOT ({i})"
    con.execute(
        f"""CREATE TABLE additions AS SELECT i.__row, event_id, opened, {", ".join(f"i.{name}" for name in added)}
        FROM identified i JOIN placed p USING (__row, event_id) JOIN known k USING (event_id, opened, user_id, item_id)
        WHERE p.again AND coalesce({news}, false)"""
    )
    con.execute(
        """CREATE TABLE marked AS SELECT __row, again AND NOT adds AS duplicate, adds FROM
        (SELECT *, __row IN (SELECT __row FROM additions) AS adds FROM placed)"""
    )
    con.execute(
        """CREATE TABLE conflicting AS SELECT i.__row FROM identified i JOIN placed p USING (__row, event_id)
        ANTI JOIN known k USING (event_id, opened, user_id, item_id) WHERE p.again"""
    )
    totals = [f"bool_or({name}) AS {name}" for name in behaviors]
    totals += [f"first({name} ORDER BY {name} IS NULL, __row NULLS FIRST) AS {name}" for name in context]
    totals += [f"first({name} ORDER BY {unplaced}, __row NULLS FIRST) AS {name}" for name in requests]
    con.execute(
        f"""CREATE TABLE sums AS SELECT event_id, opened, {", ".join(totals)}
        FROM (FROM additions UNION ALL BY NAME SELECT event_id, opened, {listed} FROM known)
        WHERE (event_id, opened) IN (SELECT (event_id, opened) FROM additions) GROUP BY ALL"""
    )
    chosen = ", ".join(f"coalesce(t.{name}, e.{name}) AS {name}" if name in added else f"e.{name}" for name in names)
    con.execute(
        f"""CREATE TABLE fresh AS SELECT {chosen} FROM identified e JOIN placed p USING (__row)
        LEFT JOIN sums t ON t.event_id = e.event_id AND t.opened = p.opened WHERE NOT p.again"""
    )
    con.execute(
        f"""CREATE TABLE amended AS SELECT {chosen} FROM stored_shared e JOIN sums t
        ON t.event_id = e.event_id AND t.opened = e.opened"""
    )
    con.execute("DELETE FROM marked WHERE __row IN (SELECT __row FROM conflicting)")
    con.execute(f"UPDATE staged SET reason = {quoted(CONFLICTING)} WHERE __row IN (SELECT __row FROM conflicting)")
