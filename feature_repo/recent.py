"""A user's recent behaviors: the last items that they liked or finished, with their local time of each.

A behavior is an event whose own score is positive. A history holds those before an hour's start, of the last
``history_days``, at most ``history_length`` of them. Histories of the last day come from the state that each hour's events
update (``feature_repo.behavior_state``), earlier ones from a scan of the log; both give the same.

Online it is one feature, the bytes of a matrix of int64 with the rows items, minutes and hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.engine import engine
from core.hours import DAY_HOURS, Hour, hour_range
from core.lookup import positions
from core.settings import Settings
from feature_repo.behavior_state import KEPT_HOURS, LISTS, BehaviorState, read_behaviors
from feature_repo.online import write_cells
from feature_repo.repository import HISTORY_FEATURE as FEATURE
from feature_repo.repository import HISTORY_VIEW as VIEW
from feature_repo.state import ClockStorage

if TYPE_CHECKING:
    from feast import FeatureStore

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64()),
        pa.field("hour", pa.int64()),
        pa.field("items", pa.list_(pa.int64())),
        pa.field("minutes", pa.list_(pa.int64())),
        pa.field("hours", pa.list_(pa.int64())),
    ]
)
USERS_AT_ONCE = 100_000


def recent_behaviors(clock: ClockStorage, keys: pa.Table, *, from_log: bool = False) -> pa.Table:
    """Histories as of the start of each hour.

    Args:
        clock: the source's clocks, for its events and settings.
        keys: distinct (user_id int64, hour int64 since 1970 UTC).
        from_log: scan the log for histories of the last day, too, and leave the state, which one process keeps, alone.

    Returns:
        ``SCHEMA``, one row for each key that has any behavior, by user and hour: item ids, local minutes since
        1970 and hours since 1970 UTC, oldest first.
    """
    if not keys.num_rows or not clock.settings.history_length:
        return SCHEMA.empty_table()
    hours = keys["hour"]
    log = _behaviors(
        clock, np.unique(keys["user_id"]), Hour(pc.min(hours).as_py()), Hour(pc.max(hours).as_py()), from_log=from_log
    )
    return last_before(log, keys, clock.settings.history_length, DAY_HOURS * clock.settings.history_days)


def last_before(log: pa.Table, keys: pa.Table, length: int, reach: int) -> pa.Table:
    """The last behaviors before the start of each hour.

    Args:
        log: behaviors as ``read_behaviors`` gives them, all that a history can hold.
        keys: distinct (user_id int64, hour int64 since 1970 UTC), any number.
        length: behaviors of a history at most.
        reach: hours that it reaches back.

    Returns:
        As ``recent_behaviors``.
    """
    requests = np.stack([keys["user_id"].to_numpy(), keys["hour"].to_numpy()], axis=1)
    requests = requests[np.lexsort((requests[:, 1], requests[:, 0]))]
    users, place = np.unique(log["user_id"].to_numpy(), return_inverse=True)
    # One sortable number for (user, hour): the log is in its order.
    stamps = (place.astype(np.int64) << 32) | log["hours"].to_numpy().astype(np.int64)
    at, known = positions(users, requests[:, 0])
    requests, at = requests[known], at[known].astype(np.int64) << 32
    end = np.searchsorted(stamps, at | requests[:, 1])
    begin = np.searchsorted(stamps, at | np.maximum(requests[:, 1] - reach, 0))
    begin = np.maximum(begin, end - length)
    any_behavior = end > begin
    requests, begin, size = requests[any_behavior], begin[any_behavior], (end - begin)[any_behavior]
    offsets = np.concatenate([[0], np.cumsum(size)])
    rows = np.repeat(begin - offsets[:-1], size) + np.arange(offsets[-1])
    lists = {
        name: pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), log[name].combine_chunks().take(pa.array(rows)))
        for name in LISTS
    }
    return pa.table({"user_id": requests[:, 0], "hour": requests[:, 1], **lists}, schema=SCHEMA)


def _behaviors(clock: ClockStorage, users: np.ndarray, first: Hour, last: Hour, *, from_log: bool = False) -> pa.Table:
    """What the histories of users at the hours first to last can hold, as ``read_behaviors`` gives it."""
    as_of = clock.as_of
    if not from_log and as_of is not None and as_of - KEPT_HOURS <= first and last <= as_of:
        state = BehaviorState(clock)
        state.bring_to(as_of)
        return state.read(users)
    with engine(clock.settings) as running:
        running.register("wanted_users", pa.table({"user_id": users}))
        hours = hour_range(first - DAY_HOURS * clock.settings.history_days, last)
        return read_behaviors(clock, running, hours, "e.user_id IN (SELECT user_id FROM wanted_users)")


def write_histories(
    store: FeatureStore, clock: ClockStorage, users: np.ndarray, at: Hour, since: pa.Table | None = None
) -> int:
    """Write the recent behaviors of users as of ``at`` to the online store.

    Args:
        store: Feast's.
        clock: the source's clocks.
        users: ids; who has no behaviors gets an empty row.
        at: hour at whose start they hold.
        since: behaviors from that hour on, as ``read_behaviors`` gives them; they count as well.

    Returns:
        Users written.
    """
    for start in range(0, len(users), USERS_AT_ONCE):
        part = users[start : start + USERS_AT_ONCE]
        if since is None:
            histories = recent_behaviors(clock, pa.table({"user_id": part, "hour": np.full(len(part), at.number)}))
        else:
            histories = _with_later(clock, part, at, since)
        held = pc.is_in(pa.array(part), histories["user_id"].combine_chunks())
        nobody = pa.table({"user_id": pa.array(part).filter(pc.invert(held))})
        write_encoded(store, pa.concat_tables([nobody, histories], promote_options="default"), at)
    return len(users)


def write_encoded(store: FeatureStore, histories: pa.Table, at: Hour) -> int:
    """Write histories to the online store.

    Args:
        store: Feast's.
        histories: in the columns of ``SCHEMA``; where the lists are null the user gets an empty row.
        at: hour at whose start they hold.

    Returns:
        Users written.
    """
    filled = pc.is_valid(histories["items"])
    cells = [(user, {FEATURE: b""}) for user in histories["user_id"].filter(pc.invert(filled)).to_pylist()]
    cells += [(user, {FEATURE: blob}) for user, blob in _encoded(histories.filter(filled))]
    return write_cells(store, VIEW, cells, at)


def _with_later(clock: ClockStorage, users: np.ndarray, at: Hour, since: pa.Table) -> pa.Table:
    """The last behaviors of users, those from hour ``at`` on included, as ``recent_behaviors`` gives them."""
    log = pa.concat_tables([_behaviors(clock, users, at, at), since])
    log = log.take(np.argsort(log["user_id"].to_numpy(), kind="stable"))
    end = max(since["hours"].to_numpy().max(initial=at.number), at.number) + 1
    reach = end - at.number + DAY_HOURS * clock.settings.history_days
    return last_before(
        log, pa.table({"user_id": users, "hour": np.full(len(users), end)}), clock.settings.history_length, reach
    )


def _encoded(histories: pa.Table) -> Iterator[tuple[int, bytes]]:
    """User and bytes of every row."""
    if not histories.num_rows:
        return
    ends = np.cumsum(histories["items"].combine_chunks().value_lengths().to_numpy())
    matrix = np.stack([histories[name].combine_chunks().flatten().to_numpy() for name in LISTS])
    for user, begin, end in zip(histories["user_id"].to_pylist(), np.concatenate([[0], ends[:-1]]), ends, strict=True):
        yield user, matrix[:, begin:end].tobytes()


def decode_histories(settings: Settings, users: Sequence[int], values: Sequence[bytes | None], at: Hour) -> pa.Table:
    """Recent behaviors from the online store's values, as ``recent_behaviors`` gives them.

    Args:
        settings: for how far they reach back.
        users: U ids.
        values: of the U users, None where there is none; empty where nothing was read.
        at: hour of the reading.
    """
    held: list[int] = []
    parts = [np.empty((len(LISTS), 0), dtype=np.int64)]
    for user, blob in sorted(zip(users, values, strict=True), key=itemgetter(0)) if values else ():
        matrix = np.frombuffer(blob or b"", dtype=np.int64).reshape(len(LISTS), -1)
        matrix = matrix[:, matrix[2] >= at.number - DAY_HOURS * settings.history_days]
        if matrix.shape[1]:
            held.append(user)
            parts.append(matrix)
    ends = pa.array(np.cumsum([part.shape[1] for part in parts]), pa.int32())
    lists = [pa.ListArray.from_arrays(ends, pa.array(row)) for row in np.concatenate(parts, axis=1)]
    return pa.table([held, [at.number] * len(held), *lists], schema=SCHEMA)
