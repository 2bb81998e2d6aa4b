"""Clocks of segments: groups of users by how active they are, and by what tables beside the log tell of them.

A segment's clock is everybody's clock, of its users only: the same sums, the same top lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import duck
from core.duck_engine import DuckEngine
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.executor import Executor
from feature_repo.query_builder import SumTables
from feature_repo.sql import columns, newest_rows, summed
from feature_repo.statements import Statement
from feature_repo.sums import Sums

EVERYBODY = "everybody"
KEYS = ("segment", "slot")
SUMS, SUMS_OF_TEXTS = SumTables("segments"), SumTables("segment_texts")
LIGHT, HEAVY = 0.5, 0.9
"""Share of users, by their events in the window, up to which they are light, and above which they are heavy."""
FEWEST_USERS = 5
"""A segment of fewer users is left out: it would tell of single persons."""
MOST_ATTRIBUTES, MOST_VALUES = 2, 5
"""Attributes of users by which there are segments, the first of the source with 2 to so many values."""


@dataclass(frozen=True)
class SegmentClock:
    """The clock of a segment.

    Attributes:
        name: of the segment, such as ``heavy users`` or ``device: phone``.
        users: with events in the window.
        rows: one for each slot with events: top values, scores and counts of each facet, ``events`` and ``as_of``.
    """

    name: str
    users: int
    rows: pa.Table


def segment_clocks(settings: Settings, events: EventStore) -> list[SegmentClock]:
    """Clocks of everybody, of the segments by activity, and of those by attributes, as of the clocks' hour.

    It reads the sums of all users once for each facet, in this process, whichever engine computes the clocks.

    Args:
        settings: of the workspace.
        events: the source's.

    Raises:
        NotReadyError: the clocks have not been computed yet.
        CorruptStateError: sums on disk are damaged.
    """
    clock = ClockState(settings, events)
    state = clock.require_state()
    sums = clock.sums(state).checked([*clock.sums(state).slots, "users"])
    with duck.connection(settings) as con:
        running = DuckEngine(con)
        executor = Executor(running, settings, clock.facets)
        users = sums.rows(running, ["users"], "all", "user_id, events")
        activity = running.arrow(f"SELECT user_id, {summed(['events'])} FROM ({users}) u GROUP BY user_id")
        segments = list(_segments(settings, events, state.as_of, activity.filter(pc.field("events") > 0)))
        numbers = [np.full(len(members), number) for number, (_, members) in enumerate(segments)]
        members = [members for _, members in segments]
        running.register("members", pa.table({"user_id": _joined(members), "segment": _joined(numbers)}))
        _sum_up(executor, sums)
        total = SUMS.of(executor.build.parts(KEYS)[-1])
        rows = executor.arrow(executor.build.clock_rows(SUMS, total, KEYS, str(state.as_of.number)))
    return [
        SegmentClock(name, len(members), rows.filter(pc.field("segment") == number))
        for number, (name, members) in enumerate(segments)
    ]


def _sum_up(executor: Executor, sums: Sums) -> None:
    """Tables ``SUMS`` of the segments of table ``members`` (user_id, segment)."""
    parts = executor.build.parts(KEYS)
    for part in parts:
        of_users = sums.rows(executor.engine, sums.slots, part.name, f"user_id, {columns(part.columns[1:])}")
        by = ", ".join(["m.segment", *(f"s.{key}" for key in part.keys[1:])])
        sql = f"""SELECT {by}, {summed(part.counts, "s.")} FROM ({of_users}) s JOIN members m ON m.user_id = s.user_id
            GROUP BY {by} HAVING sum(s.events) > 0"""
        executor.run(Statement(SUMS_OF_TEXTS.of(part), sql))
    executor.read_files("no_events", [])
    texts = {part.facet: f"{SUMS_OF_TEXTS.of(part)} t" for part in parts if part.facet is not None}
    executor.run(executor.build.dictionaries("no_events", texts))
    executor.run(Statement(SUMS.of(part), executor.build.with_ids(SUMS_OF_TEXTS.of(part), part)) for part in parts)


def _joined(parts: list[np.ndarray]) -> pa.Array:
    return pa.array(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64), pa.int64())


def _segments(
    settings: Settings, events: EventStore, as_of: Hour, activity: pa.Table
) -> Iterator[tuple[str, np.ndarray]]:
    """Names of segments with the ids of their users, everybody first."""
    users, counts = activity["user_id"].to_numpy(), activity["events"].to_numpy()
    light, heavy = (np.quantile(counts, share, method="lower") if len(counts) else 0 for share in (LIGHT, HEAVY))
    if len(users):
        yield EVERYBODY, users
    for name, chosen in (
        ("light users", counts <= light),
        ("regular users", (counts > light) & (counts <= heavy)),
        ("heavy users", counts > max(heavy, light)),
    ):
        if np.count_nonzero(chosen) >= FEWEST_USERS:
            yield name, users[chosen]
    attributes = _attributes(settings, events, as_of)
    used = 0
    for column in attributes.column_names[1:]:
        told = attributes.filter(pc.is_in(attributes["user_id"], pa.array(users, pa.int64())))
        values = sorted(value for value in pc.unique(told[column]).to_pylist() if value is not None)
        if not 2 <= len(values) <= MOST_VALUES:
            continue
        for value in values:
            having = told.filter(pc.field(column) == value)["user_id"].to_numpy()
            if len(having) >= FEWEST_USERS:
                yield f"{column.removeprefix('user_')}: {value}", having
        used += 1
        if used == MOST_ATTRIBUTES:
            return


def _attributes(settings: Settings, events: EventStore, as_of: Hour) -> pa.Table:
    """What is known of every user at an hour's start that is a category, in the source's order; only ``user_id`` where nothing is."""
    path = events.attribute_file("user")
    names = [f.column for f in events.attribute_fields("user") if f.type == "category"]
    written = {*pq.read_schema(path).names} if path.exists() else set()
    names = [name for name in names if name in written]
    if not names:
        return pa.table({"user_id": pa.array([], pa.int64())})
    with duck.connection(settings) as con:
        condition = f"event_timestamp <= {duck.hour_start(as_of.number)}"
        rows = f"read_parquet({duck.file_list([path])})"
        newest = newest_rows(rows, "user_id", "event_timestamp", condition, columns(["user_id", *names]))
        return con.sql(f"{newest} ORDER BY user_id").to_arrow_table()
