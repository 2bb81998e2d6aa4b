"""Everybody's recent behaviors as state: an hour's events are added to the users who made them, nobody else is touched.

Layout below the workspace's ``features``::

    recent/behaviors.db    SQLite: each user's last behaviors, and how far the events' list of changes is in them

A user's row holds the last ``history_length`` behaviors before a day ago, and every one since: enough to tell what a
history was at each hour of that day. Everything changes in one transaction. The file is derived: when it is damaged or
made with other settings, it is written again from the log.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from core.engine import engine
from core.files import digest_json, exclusive_lock
from core.hours import DAY_HOURS, Hour, hour_range
from core.settings import Settings
from core.sql_engine import Engine
from events.change_list import ChangePosition
from feature_repo.sql import event_score_sql
from feature_repo.state import ClockStorage

log = logging.getLogger("feature_repo.recent")

LISTS = ("items", "minutes", "hours")
"""What is known of a behavior: item id, local minutes since 1970, hours since 1970 UTC."""
BYTES = 8 * len(LISTS)
"""Of a behavior in a user's row."""
KEPT_HOURS = DAY_HOURS
"""How many hours before its own hour a state can still tell histories."""
ROWS_AT_ONCE = 20_000_000
"""Events that the first fill sorts at a time, about: bounds its memory."""
USERS_AT_ONCE = 50_000
IN_ORDER = "moment, items, local_time"
"""Columns by which a user's behaviors are in the order of time."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS behaviors (user_id INTEGER PRIMARY KEY, rows BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS reached (as_of INTEGER NOT NULL, settings TEXT NOT NULL, changes TEXT NOT NULL);
DROP TABLE IF EXISTS hours;
DROP TABLE IF EXISTS state;
"""
"""The tables that are dropped are an older platform's; without ``reached`` everything is written again from the log."""


def read_behaviors(
    clock: ClockStorage, running: Engine, hours: Iterable[Hour], where: str = "true", whole_since: Hour | None = None
) -> pa.Table:
    """Behaviors in hours, by user and time: the events whose own score is positive.

    Args:
        clock: the source's clocks, for its events and settings.
        running: reads them.
        hours: in any order; those that were not closed have none.
        where: condition on ``e.user_id``.
        whole_since: of each user's behaviors before this hour only the last ``history_length``; None: all.

    Returns:
        Columns user_id, items, minutes and hours, int64.
    """
    files = clock.store.event_files(sorted(hours))
    if not files:
        return pa.table({name: pa.array([], pa.int64()) for name in ("user_id", *LISTS)})
    return select_behaviors(running, running.files(files), clock.settings, where, whole_since)


def select_behaviors(
    running: Engine, events: str, settings: Settings, where: str = "true", whole_since: Hour | None = None
) -> pa.Table:
    """Behaviors among events, as ``read_behaviors`` gives them.

    Args:
        running: reads them.
        events: what to select them from.
        settings: weights of a score, and the length of a history.
        where: condition on ``e.user_id``.
        whole_since: as ``read_behaviors`` has it.
    """
    rows = behaviors_sql(running, events, settings, where)
    if whole_since is not None:
        old, newest = f"hours < {whole_since.number}", "moment DESC, items DESC, local_time DESC"
        rows = f"""SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY user_id, {old} ORDER BY {newest}) AS number
            FROM ({rows}) r) n WHERE NOT {old} OR number <= {settings.history_length}"""
    table = running.arrow(f"SELECT user_id, items, minutes, hours FROM ({rows}) o ORDER BY user_id, {IN_ORDER}")
    return table.cast(pa.schema([(name, pa.int64()) for name in ("user_id", *LISTS)]))


def behaviors_sql(running: Engine, events: str, settings: Settings, where: str = "true") -> str:
    """SELECT of the behaviors among events, whose order for a user is ``IN_ORDER``.

    Args:
        running: reads them.
        events: what to select them from.
        settings: weights of a score.
        where: condition on ``e.user_id``.
    """
    hour, minute = running.hour_number('e."timestamp"'), running.minute_number("e.local_time")
    return f"""SELECT e.user_id, e.item_id AS items, {minute} AS minutes, {hour} AS hours, e.local_time, e."timestamp" AS moment
        FROM {events} e WHERE {event_score_sql(settings.score_weights, "e.")} > 0 AND {where}"""


class BehaviorState:
    """Users' recent behaviors as of an hour, on disk.

    Args:
        clock: the source's clocks, for its events and settings.
    """

    def __init__(self, clock: ClockStorage) -> None:
        self.clock = clock
        self.root = clock.root / "recent"
        self.path = self.root / "behaviors.db"
        self.length = clock.settings.history_length
        self.reach = DAY_HOURS * clock.settings.history_days + KEPT_HOURS  # of the earliest hour that it tells

    def bring_to(self, as_of: Hour) -> None:
        """Let the state hold at the start of an hour, late events included; a second call changes nothing."""
        with exclusive_lock(self.root / ".lock"):
            try:
                self._bring_to(as_of)
            except sqlite3.DatabaseError as error:
                log.warning("%s is damaged (%s); written again from the log", self.path, error)
                self.path.unlink(missing_ok=True)
                self._bring_to(as_of)

    def _bring_to(self, as_of: Hour) -> None:
        store = self.clock.store
        changes = store.changes.position()
        with self._transaction() as con:
            reached, late = self._reached(con, as_of)
            came = store.closed_between(reached, as_of) if reached is not None else []
            if reached == as_of and not late:
                return
            with engine(self.clock.settings) as running:
                if reached is None:
                    self._fill(con, running, as_of)
                elif came or late:
                    self._replace(con, running, as_of, came, late)
            con.execute("DELETE FROM reached")
            con.execute("INSERT INTO reached VALUES (?, ?, ?)", (as_of.number, self._settings, str(changes)))

    def _reached(self, con: sqlite3.Connection, as_of: Hour) -> tuple[Hour | None, list[Hour]]:
        """Hour as of which the state holds, and the hours before it that changed since; None if it cannot be gone on from."""
        row = con.execute("SELECT as_of, settings, changes FROM reached").fetchone()
        if row is None or row[1] != self._settings or row[0] > as_of.number:
            return None, []
        changed = self.clock.store.changes.since(ChangePosition.parse(row[2]))
        if changed is None:
            return None, []
        hours = [hour for hour in changed if as_of - self.reach <= hour < Hour(row[0]) and self.clock.store.has(hour)]
        return Hour(row[0]), sorted(hours)

    @property
    def _settings(self) -> str:
        """Digest of what the rows depend on besides the events."""
        return digest_json([self.length, self.reach, self.clock.settings.score_weights])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path)) as con, con:
            con.executescript(SCHEMA)
            con.execute("BEGIN IMMEDIATE")
            yield con

    def _fill(self, con: sqlite3.Connection, running: Engine, as_of: Hour) -> None:
        """Everybody's rows from the log."""
        con.execute("DELETE FROM behaviors")
        hours = list(hour_range(as_of - self.reach, as_of))
        pieces = max(1, -(-self.clock.store.count(hours) // ROWS_AT_ONCE))
        for piece in range(pieces):
            table = read_behaviors(self.clock, running, hours, f"e.user_id % {pieces} = {piece}", as_of - KEPT_HOURS)
            con.executemany("INSERT INTO behaviors VALUES (?, ?)", _packed(table))
            log.info("recent behaviors: %d of %d parts of the users", piece + 1, pieces)

    def _replace(
        self, con: sqlite3.Connection, running: Engine, as_of: Hour, came: Sequence[Hour], late: Sequence[Hour]
    ) -> None:
        """Put what some hours hold now in the place of what they held.

        A row lacks what is older than it: where an hour has fewer behaviors than before, the user's are read from the log again.

        Args:
            con: of the state.
            running: reads the log.
            as_of: hour at whose start the state shall hold.
            came: hours that the state did not reach.
            late: hours that it stood on already, or passed over as not closed.
        """
        changed = [*late, *came]
        replaced = np.array([hour.number for hour in changed])
        arrived = dict.fromkeys(self._users_of(running, late), b"")
        arrived |= dict(_packed(read_behaviors(self.clock, running, changed)))
        incomplete = []
        for users in _pieces(sorted(arrived)):
            stored = self._stored(con, users)
            merged = []
            for user in users:
                rows, fewer = _merge(stored.get(user, b""), arrived[user], replaced)
                if fewer:
                    incomplete.append(user)
                merged.append((user, self._trim(rows, as_of)))
            con.executemany("INSERT OR REPLACE INTO behaviors VALUES (?, ?)", merged)
        for users in _pieces(incomplete):
            hours = hour_range(as_of - self.reach, as_of)
            table = read_behaviors(self.clock, running, hours, f"e.user_id IN ({', '.join(map(str, users))})")
            con.executemany(
                "INSERT OR REPLACE INTO behaviors VALUES (?, ?)",
                [(user, self._trim(rows, as_of)) for user, rows in _packed(table)],
            )

    def _users_of(self, running: Engine, hours: Sequence[Hour]) -> list[int]:
        """Everybody who has an event in some hours, whatever its score is now, or had one."""
        store = self.clock.store
        sources = [running.files(files) for files in (store.event_files(hours), store.fact_files(hours)) if files]
        if not sources:
            return []
        rows = running.rows(" UNION ".join(f"SELECT user_id FROM {files} f" for files in sources))
        return [int(user) for (user,) in rows]

    def _trim(self, rows: bytes, as_of: Hour) -> bytes:
        """Without those that no history of the last hours can hold."""
        if len(rows) <= self.length * BYTES:
            return rows
        old = int(np.searchsorted(np.frombuffer(rows, np.int64)[2::3], as_of.number - KEPT_HOURS))
        return rows[max(old - self.length, 0) * BYTES :]

    @staticmethod
    def _stored(con: sqlite3.Connection, users: Sequence[int]) -> dict[int, bytes]:
        chosen = "SELECT user_id, rows FROM behaviors WHERE user_id IN (SELECT value FROM json_each(?))"
        return dict(con.execute(chosen, (json.dumps(users),)))

    def read(self, users: np.ndarray) -> pa.Table:
        """Behaviors of users, in the columns and the order of ``read_behaviors``.

        Args:
            users: U distinct ids in ascending order.
        """
        ids: list[np.ndarray] = []
        blobs: list[bytes] = []
        with closing(sqlite3.connect(self.path)) as con:
            for part in _pieces(users.tolist()):
                stored = self._stored(con, part)
                present = np.array([user for user in part if user in stored], np.int64)
                blobs += [stored[user] for user in present.tolist()]
                ids.append(np.repeat(present, [len(stored[user]) // BYTES for user in present.tolist()]))
        rows = np.frombuffer(b"".join(blobs), np.int64).reshape(-1, len(LISTS))
        columns = {name: rows[:, n] for n, name in enumerate(LISTS)}
        return pa.table({"user_id": np.concatenate(ids) if ids else np.empty(0, np.int64), **columns})

    def users(self) -> np.ndarray:
        """Ids of everybody who has any, in ascending order."""
        with closing(sqlite3.connect(self.path)) as con:
            return np.array(
                [user for (user,) in con.execute("SELECT user_id FROM behaviors ORDER BY user_id")], np.int64
            )


def last_behaviors(path: Path, length: int) -> tuple[int, dict[int, bytes]]:
    """The histories in a state's file as of its own hour, however much more it keeps.

    Args:
        path: the file.
        length: behaviors of a history at most.

    Returns:
        The hour, since 1970 UTC, and by user the bytes of their last behaviors.
    """
    with closing(sqlite3.connect(path)) as con:
        rows = con.execute("SELECT user_id, rows FROM behaviors ORDER BY user_id").fetchall()
        ((as_of,),) = con.execute("SELECT as_of FROM reached").fetchall()
    return as_of, {user: stored[-length * BYTES :] for user, stored in rows}


def _pieces(users: Sequence[int]) -> Iterator[Sequence[int]]:
    return (users[n : n + USERS_AT_ONCE] for n in range(0, len(users), USERS_AT_ONCE))


def _packed(table: pa.Table) -> Iterator[tuple[int, bytes]]:
    """User and bytes of their behaviors, one after the other, each as int64 in the order of ``LISTS``."""
    users, begins = np.unique(table["user_id"].to_numpy(), return_index=True)
    rows = np.stack([table[name].to_numpy() for name in LISTS], axis=1).tobytes()
    bounds = [*begins.tolist(), table.num_rows]
    for n, user in enumerate(users.tolist()):
        yield user, rows[bounds[n] * BYTES : bounds[n + 1] * BYTES]


def _merge(before: bytes, arrived: bytes, replaced: np.ndarray) -> tuple[bytes, bool]:
    """A user's behaviors with those of the replaced hours, in the order of the hours, and whether an hour has fewer now.

    >>> row = lambda item, hour: np.array([item, 0, hour]).tobytes()
    >>> merged, fewer = _merge(row(1, 5) + row(2, 7) + row(3, 9), row(4, 7) + row(5, 8), np.array([7, 8]))
    >>> np.frombuffer(merged, np.int64)[::3].tolist(), fewer
    ([1, 4, 5, 3], False)
    """
    last = int.from_bytes(before[-8:], "little", signed=True) if before else -1
    if last < replaced[0]:
        return before + arrived, False
    rows, fresh = (np.frombuffer(part, np.int64).reshape(-1, len(LISTS)) for part in (before, arrived))
    gone = np.isin(rows[:, 2], replaced)
    merged = np.concatenate([rows[~gone], fresh])
    fewer = bool(Counter(rows[gone, 2].tolist()) - Counter(fresh[:, 2].tolist()))
    return merged[np.argsort(merged[:, 2], kind="stable")].tobytes(), fewer
