"""A user's recent behaviours: the last items that it liked or finished, with the user's local time of each.

A behaviour is an event whose own score is positive. Histories are read from the log itself, offline and
online alike, so both sides give the same: those before an hour's start, of the last ``history_days``, at most
``history_length`` of them. An hour costs one scan of those days' ids; nothing is kept between hours.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from core.engine import engine
from core.hours import Hour, hour_range
from feature_repo.clock import ClockState
from feature_repo.sql import event_score_sql

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64()),
        pa.field("hour", pa.int64()),
        pa.field("items", pa.list_(pa.int64())),
        pa.field("minutes", pa.list_(pa.int64())),
    ]
)
MINUTE_US = 60_000_000


def recent_behaviours(clock: ClockState, keys: pa.Table) -> pa.Table:
    """Histories as of the start of each hour.

    Args:
        clock: the source's clocks, for its events and settings.
        keys: distinct (user_id int64, hour int64 since 1970 UTC).

    Returns:
        ``SCHEMA``, one row for each key that has any behaviour, by user and hour: item ids and local minutes since
        1970, oldest first.
    """
    length, reach = clock.settings.history_length, 24 * clock.settings.history_days
    if not keys.num_rows or not length:
        return SCHEMA.empty_table()
    wanted = np.stack([keys["user_id"].to_numpy(), keys["hour"].to_numpy()], axis=1)
    wanted = wanted[np.lexsort((wanted[:, 1], wanted[:, 0]))]
    log = _behaviours(clock, np.unique(wanted[:, 0]), int(wanted[:, 1].min()) - reach, int(wanted[:, 1].max()))
    users, place = np.unique(log["user_id"].to_numpy(), return_inverse=True)
    # One sortable number for (user, hour): the log is in its order.
    stamps = (place.astype(np.int64) << 32) | log["hour"].to_numpy().astype(np.int64)
    at = np.searchsorted(users, wanted[:, 0])
    known = at < len(users)
    known[known] = users[at[known]] == wanted[known, 0]
    wanted, at = wanted[known], at[known].astype(np.int64) << 32
    end = np.searchsorted(stamps, at | wanted[:, 1])
    begin = np.searchsorted(stamps, at | np.maximum(wanted[:, 1] - reach, 0))
    begin = np.maximum(begin, end - length)
    some = end > begin
    wanted, begin, size = wanted[some], begin[some], (end - begin)[some]
    offsets = np.concatenate([[0], np.cumsum(size)])
    picked = np.repeat(begin - offsets[:-1], size) + np.arange(offsets[-1])
    lists = {
        name: pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), log[name].combine_chunks().take(pa.array(picked)))
        for name in ("items", "minutes")
    }
    return pa.table({"user_id": wanted[:, 0], "hour": wanted[:, 1], **lists}, schema=SCHEMA)


def _behaviours(clock: ClockState, users: np.ndarray, first: int, end: int) -> pa.Table:
    """Behaviours of users in the hours [first, end), by user and time: user_id, hour, items, minutes."""
    hours = list(hour_range(Hour(max(first, 0)), Hour(end)))
    files = clock.events(hours)
    if not files:
        return pa.table({name: pa.array([], pa.int64()) for name in ("user_id", "hour", "items", "minutes")})
    with engine(clock.settings) as running:
        running.register("wanted_users", pa.table({"user_id": users}))
        hour = running.hour_number('e."timestamp"')
        found = running.arrow(
            f"""SELECT e.user_id, {hour} AS hour, e.item_id AS items, e.local_time FROM {running.files(files)} e
            JOIN wanted_users k ON k.user_id = e.user_id WHERE {event_score_sql(clock.settings.score_weights, "e.")} > 0
            ORDER BY e.user_id, e."timestamp", e.item_id, e.local_time"""
        )
    local = found["local_time"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    columns = {name: found[name].cast(pa.int64()) for name in ("user_id", "hour", "items")}
    return pa.table({**columns, "minutes": pa.array(local // MINUTE_US)})
