"""Rows of past hours: what every view said at each moment since a log began, computed in bulk.

A tile of hour h enters the sums at h + 1 and leaves them at h + 1 + window; only at these moments does a row
change. Where a row needs nothing but sums (activity, items) they are running sums over those moments;
the top lists join each moment with the tiles of its window, batch by batch of users.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from core.hours import DAY_HOURS, Hour
from core.sql_engine import Engine
from events.schema import BEHAVIORS
from feature_repo.executor import Executor
from feature_repo.query_builder import PAIR, WHOLE_DAY, SumTables
from feature_repo.schemas import COUNTS, ITEM_COUNTS, WHOLE_DAYS, clock_schema
from feature_repo.sql import columns, counted, negative, summed, zeros

log = logging.getLogger("feature_repo.history")

BATCH_ROWS = 20_000_000
"""Pairs of moment and tile that a batch may join, about: bounds the memory."""
TILES, WINDOWS = SumTables("tile"), SumTables("past")


@dataclass(frozen=True)
class Period:
    """The moments wanted: every change in (since, as_of], and ``since`` itself where ``opening``.

    Attributes:
        since: hour after which changes are wanted.
        as_of: last hour of a change.
        window: hours for which an event counts.
        opening: whether rows are wanted at ``since`` too.
    """

    since: Hour
    as_of: Hour
    window: int
    opening: bool = False

    def moments(self, keys: str, tiles: str, stays: tuple[int, ...] | None = None) -> str:
        """SELECT of (keys, as_of): when what happened in hour ``hour`` of table ``tiles`` came and went.

        Args:
            keys: columns, comma separated.
            tiles: table with the keys and ``hour``.
            stays: hours after which an hour's events leave a sum; default the window.
        """
        shifts = ", ".join(f"({n})" for n in (0, *(stays or (self.window,))))
        opening = f"UNION SELECT DISTINCT {keys}, CAST({self.since.number} AS BIGINT) AS as_of FROM {tiles}"
        return f"""SELECT DISTINCT {keys}, as_of FROM (
                SELECT {keys}, hour + 1 + shift AS as_of FROM {tiles} CROSS JOIN (VALUES {shifts}) AS s(shift)) m
            WHERE as_of > {self.since.number} AND as_of <= {self.as_of.number} {opening if self.opening else ""}"""


@dataclass(frozen=True)
class Sources:
    """The events that each view's rows are computed from: views made by ``ClockQueryBuilder.read``, or with the same columns.

    Attributes:
        pairs: for users' slots.
        users: for users' activity and whole day.
        everyone: for the population's clock.
        items: for items.
    """

    pairs: str
    users: str
    everyone: str
    items: str


def histories(
    executor: Executor, sources: Sources, period: Period, first_hours: str, views: Collection[str]
) -> Iterator[tuple[str, str]]:
    """(view, SELECT of its rows) for the views that there are, the top lists in batches; each holds until the next is asked for.

    Args:
        executor: has made the dictionaries of the events.
        sources: the events.
        period: the moments.
        first_hours: table (item_id, first_hour).
        views: which there are; all but users' whole days are always there.
    """
    engine, facets = executor.engine, executor.build.facets
    engine.view("history_days", by_day(facets, sources.users))
    engine.view("history_everyone", of_everyone(facets, sources.everyone))
    for view, events, keys in (
        ("clock_slots", sources.pairs, PAIR),
        (WHOLE_DAYS, "history_days", ("user_id",)),
        ("population_clock", "history_everyone", ("slot",)),
    ):
        if view not in views:
            continue
        log.info("history of %s", view)
        for sql in clock_history(executor, events, period, keys):
            yield view, sql
    yield "user_activity", activity_history(engine, sources.users, period)
    yield "item_stats", item_history(engine, sources.items, period, first_hours)


def clock_history(executor: Executor, events: str, period: Period, keys: tuple[str, ...]) -> Iterator[str]:
    """SELECTs of clock rows, one for each batch of users; each holds until the next is asked for.

    Args:
        executor: has made the dictionaries of the events.
        events: view made by ``ClockQueryBuilder.read``, or one with the same columns.
        period: the moments.
        keys: columns of the rows that are kept, of user_id and slot.
    """
    engine, build = executor.engine, executor.build
    by_hour = (*PAIR, "hour")
    every_event = build.parts(by_hour)[-1]
    by = ("user_id",) if "user_id" in keys else ()  # everybody is one user, whose events fit no single task
    for of_batch in _batches(engine, events):
        executor.run(build.encode("part", events, of_batch, by_hour, by), build.sums(TILES, "part", by_hour))
        engine.table("moments", period.moments("user_id, slot", TILES.of(every_event)))
        executor.run(build.windows(WINDOWS, TILES, "moments", period.window))
        rows = executor.prepare(build.clock_rows(WINDOWS, "moments", (*PAIR, "as_of"), "k.as_of"))
        yield f"SELECT {columns(clock_schema(build.facets, keys).names)} FROM ({rows}) h"


def _batches(engine: Engine, events: str) -> list[str]:
    """JOINs that restrict the events ``r`` to those of some users at a time, where the engine wants batches."""
    if not engine.in_batches:
        return [""]
    engine.table(
        "batches",
        f"""SELECT user_id, CAST(floor(sum(pairs) OVER (ORDER BY user_id) / {BATCH_ROWS}) AS BIGINT) AS batch FROM (
            SELECT user_id, sum(hours * events) AS pairs FROM (
                SELECT user_id, slot, count(DISTINCT hour) AS hours, count(*) AS events FROM {events}
                GROUP BY user_id, slot) c GROUP BY user_id) u""",
    )
    numbers = engine.rows("SELECT DISTINCT batch FROM batches ORDER BY batch")
    return [f"JOIN batches b ON b.user_id = r.user_id AND b.batch = {batch}" for (batch,) in numbers]


def by_day(facets: Sequence[str], events: str) -> str:
    """SELECT of the events with the whole day as their slot and the last hour of their UTC day as their hour."""
    last = f"CAST(floor(hour / {DAY_HOURS}) AS BIGINT) * {DAY_HOURS} + {DAY_HOURS - 1}"
    kept = columns([*facets, *BEHAVIORS])
    return f"SELECT {last} AS hour, CAST({WHOLE_DAY} AS INTEGER) AS slot, user_id, item_id, {kept} FROM {events}"


def of_everyone(facets: Sequence[str], events: str) -> str:
    """SELECT of the events as if one user had made them all: the population's clock."""
    kept = columns([*facets, *BEHAVIORS])
    return f"SELECT hour, slot, CAST(0 AS BIGINT) AS user_id, item_id, {kept} FROM {events}"


def activity_history(engine: Engine, events: str, period: Period) -> str:
    """SELECT of activity rows at every moment of change: running sums of what came and what went.

    Args:
        engine: in which the tables are made.
        events: view of the events.
        period: the moments.
    """
    engine.table("user_tiles", f"SELECT user_id, hour, {counted()} FROM {events} GROUP BY user_id, hour")
    signed = [
        f"SELECT user_id, hour + {1 + stay} AS as_of, {negative() if leaving else columns(COUNTS)} FROM user_tiles"
        for stay, leaving in ((0, False), (period.window, True))
    ]
    return _running(engine, period, "user_id", "user_tiles", signed, COUNTS, (period.window,))


def item_history(engine: Engine, events: str, period: Period, first_hours: str) -> str:
    """SELECT of item rows at every moment of change.

    Args:
        engine: in which the tables are made.
        events: view of the events.
        period: the moments.
        first_hours: table (item_id, first_hour).
    """
    engine.table("item_tiles", f"SELECT item_id, hour, {counted()} FROM {events} GROUP BY item_id, hour")
    signed = [
        f"SELECT item_id, hour + 1 AS as_of, events AS day_events, finish AS day_finish, {columns(COUNTS)} FROM item_tiles",
        f"SELECT item_id, hour + {1 + DAY_HOURS} AS as_of, -events AS day_events, -finish AS day_finish, {zeros()} FROM item_tiles",
        f"SELECT item_id, hour + {1 + period.window} AS as_of, {zeros(ITEM_COUNTS[:2])}, {negative()} FROM item_tiles",
    ]
    rows = _running(engine, period, "item_id", "item_tiles", signed, ITEM_COUNTS, (DAY_HOURS, period.window))
    return item_rows(engine, f"SELECT r.*, f.first_hour FROM ({rows}) r JOIN {first_hours} f ON f.item_id = r.item_id")


def item_rows(engine: Engine, sums: str) -> str:
    """SELECT of item rows from their sums (item_id, first_hour, counts, as_of)."""
    return f"""SELECT item_id, {engine.hour_start("as_of")} AS event_timestamp, first_hour, {columns(ITEM_COUNTS)},
        CASE WHEN events > 0 THEN CAST(finish AS DOUBLE) / events ELSE CAST(0 AS DOUBLE) END AS finish_rate,
        CAST(as_of AS BIGINT) AS as_of FROM ({sums}) i {engine.sorted_by("item_id, as_of")}"""


def _running(
    engine: Engine,
    period: Period,
    key: str,
    tiles: str,
    signed: list[str],
    counts: tuple[str, ...],
    stays: tuple[int, ...],
) -> str:
    moments = period.moments(key, tiles, stays)
    over = f"(PARTITION BY {key} ORDER BY as_of ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    running = ", ".join(f'CAST(sum("{c}") OVER {over} AS BIGINT) AS "{c}"' for c in counts)
    deltas = " UNION ALL ".join([*signed, f"SELECT {key}, as_of, {zeros(counts)} FROM ({moments}) w"])
    engine.table(f"{key}_deltas", f"SELECT {key}, as_of, {summed(counts)} FROM ({deltas}) d GROUP BY {key}, as_of")
    low = period.since.number + (0 if period.opening else 1)
    return f"""SELECT {key}, {engine.hour_start("as_of")} AS event_timestamp, {columns(counts)}, as_of FROM (
            SELECT {key}, as_of, {running} FROM {key}_deltas) s
        WHERE as_of >= {low} AND as_of <= {period.as_of.number} {engine.sorted_by(f"{key}, as_of")}"""
