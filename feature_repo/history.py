"""Rows of past hours: what every view said at each moment since a log began, computed in bulk.

A tile of hour h enters the sums at h + 1 and leaves them at h + 1 + window; only at these moments does a row
change. Where a row needs nothing but sums (activity, items) they are running sums over those moments;
the top lists join each moment with the tiles of its window, batch by batch of users.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from core.hours import DAY_HOURS, Hour
from events.schema import BEHAVIORS
from feature_repo.sql import COUNTS, WHOLE_DAY, Recipe, clock_schema, columns, counted, negative, summed, zeros

log = logging.getLogger("feature_repo.history")

BATCH_ROWS = 20_000_000
"""Pairs of moment and tile that a batch may join, about: bounds the memory."""
ITEM_COUNTS = ("day_events", "day_finish", *COUNTS)


@dataclass(frozen=True)
class Period:
    """The moments wanted: every change in (since, as_of], and ``since`` itself where ``opening``."""

    since: Hour
    as_of: Hour
    window: int
    opening: bool = False

    def moments(self, keys: str, seen: str, stays: tuple[int, ...] | None = None) -> str:
        """SELECT of (keys, as_of): when what happened in hour ``hour`` of table ``seen`` came and went.

        Args:
            keys: columns, comma separated.
            seen: table with the keys and ``hour``.
            stays: hours after which an hour's events leave a sum; default the window.
        """
        shifts = ", ".join(f"({n})" for n in (0, *(stays or (self.window,))))
        opening = f"UNION SELECT DISTINCT {keys}, CAST({self.since.number} AS BIGINT) AS as_of FROM {seen}"
        return f"""SELECT DISTINCT {keys}, as_of FROM (
                SELECT {keys}, hour + 1 + shift AS as_of FROM {seen} CROSS JOIN (VALUES {shifts}) AS s(shift)) m
            WHERE as_of > {self.since.number} AND as_of <= {self.as_of.number} {opening if self.opening else ""}"""


@dataclass(frozen=True)
class Sources:
    """The events that each view's rows stand on: views made by ``Recipe.read``, or with the same columns."""

    pairs: str
    users: str
    everyone: str
    items: str


def histories(recipe: Recipe, sources: Sources, period: Period, first_hours: str) -> Iterator[tuple[str, str]]:
    """(view, SELECT of its rows) for every view, the top lists in batches; each holds until the next is asked for.

    Args:
        recipe: its dictionaries cover the events.
        sources: the events.
        period: the moments.
        first_hours: table (item_id, first_hour).
    """
    recipe.engine.view("history_days", by_day(recipe, sources.users))
    recipe.engine.view("history_everyone", of_everyone(recipe, sources.everyone))
    for view, events, keys in (
        ("clock_slots", sources.pairs, ("user_id", "slot")),
        ("user_profile", "history_days", ("user_id",)),
        ("population_clock", "history_everyone", ("slot",)),
    ):
        log.info("history of %s", view)
        for sql in clock_history(recipe, events, period, keys):
            yield view, sql
    yield "user_activity", activity_history(recipe, sources.users, period)
    yield "item_stats", item_history(recipe, sources.items, period, first_hours)


def clock_history(recipe: Recipe, events: str, period: Period, keys: tuple[str, ...]) -> Iterator[str]:
    """SELECTs of clock rows, one a batch of users; each holds until the next is asked for.

    Args:
        recipe: its dictionaries cover the events.
        events: view made by ``Recipe.read``, or one with the same columns.
        period: the moments.
        keys: columns of the rows that are kept, of user_id and slot.
    """
    engine = recipe.engine
    engine.table(
        "batches",
        f"""SELECT user_id, CAST(floor(sum(pairs) OVER (ORDER BY user_id) / {BATCH_ROWS}) AS BIGINT) AS batch FROM (
            SELECT user_id, sum(hours * events) AS pairs FROM (
                SELECT user_id, slot, count(DISTINCT hour) AS hours, count(*) AS events FROM {events}
                GROUP BY user_id, slot) c GROUP BY user_id) u""",
    )
    for (batch,) in engine.rows("SELECT DISTINCT batch FROM batches ORDER BY batch"):
        recipe.encode(
            "part",
            events,
            f"JOIN batches b ON b.user_id = r.user_id AND b.batch = {batch}",
            ("user_id", "slot", "hour"),
        )
        recipe.sums("tile", "part", ("user_id", "slot", "hour"))
        engine.table("moments", period.moments("user_id, slot", "tile_all"))
        recipe.windows("past", "tile", "moments", period.window)
        rows = recipe.clock("past", "moments", ("user_id", "slot", "as_of"), "k.as_of")
        yield f"SELECT {columns(clock_schema(recipe.facets, keys).names)} FROM ({rows}) h"


def by_day(recipe: Recipe, events: str) -> str:
    """SELECT of the events with the whole day as their slot and the last hour of their UTC day as their hour."""
    last = f"CAST(floor(hour / {DAY_HOURS}) AS BIGINT) * {DAY_HOURS} + {DAY_HOURS - 1}"
    facets = columns([*recipe.facets, *BEHAVIORS])
    return f"SELECT {last} AS hour, CAST({WHOLE_DAY} AS INTEGER) AS slot, user_id, item_id, {facets} FROM {events}"


def of_everyone(recipe: Recipe, events: str) -> str:
    """SELECT of the events as if one user had made them all: the population's clock."""
    facets = columns([*recipe.facets, *BEHAVIORS])
    return f"SELECT hour, slot, CAST(0 AS BIGINT) AS user_id, item_id, {facets} FROM {events}"


def activity_history(recipe: Recipe, events: str, period: Period) -> str:
    """SELECT of activity rows at every moment of change: running sums of what came and what went."""
    recipe.engine.table("user_tiles", f"SELECT user_id, hour, {counted()} FROM {events} GROUP BY user_id, hour")
    signed = [
        f"SELECT user_id, hour + {1 + stay} AS as_of, {negative() if sign else columns(COUNTS)} FROM user_tiles"
        for stay, sign in ((0, False), (period.window, True))
    ]
    return _running(recipe, period, "user_id", "user_tiles", signed, COUNTS, (period.window,))


def item_history(recipe: Recipe, events: str, period: Period, first_hours: str) -> str:
    """SELECT of item rows at every moment of change.

    Args:
        recipe, events, period: as above.
        first_hours: table (item_id, first_hour).
    """
    recipe.engine.table("item_tiles", f"SELECT item_id, hour, {counted()} FROM {events} GROUP BY item_id, hour")
    signed = [
        f"SELECT item_id, hour + 1 AS as_of, events AS day_events, finish AS day_finish, {columns(COUNTS)} FROM item_tiles",
        f"SELECT item_id, hour + {1 + DAY_HOURS} AS as_of, -events AS day_events, -finish AS day_finish, {zeros()} FROM item_tiles",
        f"SELECT item_id, hour + {1 + period.window} AS as_of, {zeros(ITEM_COUNTS[:2])}, {negative()} FROM item_tiles",
    ]
    rows = _running(recipe, period, "item_id", "item_tiles", signed, ITEM_COUNTS, (DAY_HOURS, period.window))
    return item_rows(recipe, f"SELECT r.*, f.first_hour FROM ({rows}) r JOIN {first_hours} f ON f.item_id = r.item_id")


def item_rows(recipe: Recipe, sums: str) -> str:
    """SELECT of item rows from their sums (item_id, first_hour, counts, as_of)."""
    return f"""SELECT item_id, {recipe.engine.hour_start("as_of")} AS event_timestamp, first_hour, {columns(ITEM_COUNTS)},
        CASE WHEN events > 0 THEN CAST(finish AS DOUBLE) / events ELSE CAST(0 AS DOUBLE) END AS finish_rate,
        CAST(as_of AS BIGINT) AS as_of FROM ({sums}) i ORDER BY item_id, as_of"""


def _running(
    recipe: Recipe,
    period: Period,
    key: str,
    seen: str,
    signed: list[str],
    counts: tuple[str, ...],
    stays: tuple[int, ...],
) -> str:
    wanted = period.moments(key, seen, stays)
    over = f"(PARTITION BY {key} ORDER BY as_of ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    running = ", ".join(f'CAST(sum("{c}") OVER {over} AS BIGINT) AS "{c}"' for c in counts)
    deltas = " UNION ALL ".join([*signed, f"SELECT {key}, as_of, {zeros(counts)} FROM ({wanted}) w"])
    recipe.engine.table(
        f"{key}_deltas", f"SELECT {key}, as_of, {summed(counts)} FROM ({deltas}) d GROUP BY {key}, as_of"
    )
    low = period.since.number + (0 if period.opening else 1)
    return f"""SELECT {key}, {recipe.engine.hour_start("as_of")} AS event_timestamp, {columns(counts)}, as_of FROM (
            SELECT {key}, as_of, {running} FROM {key}_deltas) s
        WHERE as_of >= {low} AND as_of <= {period.as_of.number} ORDER BY {key}, as_of"""
