"""The running hour's features: what users have done since the hour that the clocks hold for, put online before the hour is over.

Only the online store is written. The sums, the change logs and the recent behaviors on disk stay as of the clocks' hour; when
the hour is over, its refresh computes the same rows from the whole hour, and ``take_back`` writes what it does not: what was
shown of events that turned out to be duplicates.

Whose features were written on top of the clocks of which hour is noted before they are, in the workspace's ``streaming``::

    users-HOUR.txt    their integer ids, one a line
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from core import duck
from core.duck_engine import DuckEngine
from core.errors import DataError
from core.files import append_lines, exclusive_lock, lines_since, write_text
from core.hours import Hour
from core.settings import Settings
from feature_repo.behavior_state import select_behaviors
from feature_repo.computation import ClockComputation, among
from feature_repo.materialization import Materialization
from feature_repo.online import write_rows
from feature_repo.query_builder import PAIR, SumTables
from feature_repo.recent import write_histories
from feature_repo.retrieval import ClockFeatures
from feature_repo.schemas import COUNTS
from feature_repo.sql import columns, summed
from feature_repo.state import StateDescription

log = logging.getLogger("feature_repo.running")

FRESH, NOW = SumTables("fresh"), SumTables("now")
NOTES = "users-*.txt"


@dataclass(frozen=True)
class RunningRows:
    """Users' features with the events of the running hour counted in.

    Attributes:
        as_of: hour that the clocks hold for.
        clocks: the slots in which something happened, in the columns of ``schemas.clock_schema``.
        activity: one row a user, in the columns of the view ``user_activity``.
        behaviors: recent behaviors since ``as_of``: user_id, items, minutes and hours, by user and time.
    """

    as_of: Hour
    clocks: pa.Table
    activity: pa.Table
    behaviors: pa.Table


class RunningHour:
    """Computes and writes users' features of the running hour.

    Args:
        features: of the source.
    """

    def __init__(self, features: ClockFeatures) -> None:
        self.features, self.clock = features, features.clock
        self.online = Materialization(features)
        self.root = features.settings.streaming_dir

    def rows(self, events: pa.Table) -> RunningRows:
        """Features of the users of events.

        Args:
            events: everything that these users have done since the clocks' hour, in the event schema.

        Raises:
            DataError: an event lies before the hour that the clocks hold for: it is in them already, or late.
            NotReadyError: there are no clocks yet.
        """
        state, settings = self.clock.require_state(), self.clock.settings
        with duck.connection(settings) as con:
            running = DuckEngine(con)
            computation = ClockComputation(self.clock, running, state.as_of)
            running.register("arrived", events)
            computation.executor.run(computation.build.read("came", "arrived"))
            early = int(running.scalar(f"SELECT count(*) FROM came WHERE hour < {state.as_of.number}"))
            if early:
                raise DataError(
                    f"{early} events lie before {state.as_of}, the hour that the clocks hold for; ingest them instead"
                )
            clocks = _clocks(computation, state)
            activity = _activity(computation, state)
            behaviors = select_behaviors(running, "arrived", settings)
        return RunningRows(state.as_of, clocks, activity, behaviors)

    def write(self, rows: RunningRows) -> int:
        """Put features of the running hour online; writing the same again changes nothing.

        Returns:
            Rows written: slots, users and histories.
        """
        note = self._note(rows.as_of)
        append_lines(note, map(str, sorted({*rows.activity["user_id"].to_pylist()} - {*_noted(note)})))
        written = self.online.write_clock(rows.clocks, rows.as_of)
        written += write_rows(self.features.store, "user_activity", rows.activity, "user_id")
        if self.online.keeps_histories and rows.behaviors.num_rows:
            users = np.unique(rows.behaviors["user_id"])
            written += write_histories(self.features.store, self.clock, users, rows.as_of, since=rows.behaviors)
        return written

    def _note(self, as_of: Hour) -> Path:
        return self.root / f"users-{as_of.key}.txt"

    def take_back(self, *, keep: Hour | None = None) -> int:
        """Write the clocks' own rows of everybody whose features were written on top of those of an hour.

        A note is removed only if no hour was refreshed meanwhile: an older hour's rows may have been written over its rows.

        Args:
            keep: but not on top of the clocks of this hour.

        Returns:
            Users.
        """
        users = 0
        for note in sorted(self.root.glob(NOTES)):
            if keep is not None and note == self._note(keep):
                continue
            noted = _noted(note)
            while noted and self.restore(noted) != self.clock.require_state().as_of:
                log.info("an hour was refreshed meanwhile; its rows are written")
            note.unlink()
            users += len(noted)
        return users

    def restore(self, users: Sequence[int]) -> Hour:
        """Write users' features as they are at the start of the clocks' hour, without anything of the hours after it.

        Args:
            users: ids; of one whom the clocks do not have, nothing is left.

        Returns:
            The clocks' hour.

        Raises:
            NotReadyError: there are no clocks yet.
        """
        as_of = self.clock.require_state().as_of
        self.online.write_whole_clocks(users, as_of)
        view = "user_activity"
        schema = self.clock.logs[view].schema
        held = self.features.rows_of(view, users, as_of)
        missing = sorted({*users} - {*held["user_id"].to_pylist()})
        nothing = {name: [0] * len(missing) for name in schema.names} | {
            "user_id": missing, "event_timestamp": [as_of.start] * len(missing),
        }  # fmt: skip
        write_rows(self.features.store, view, pa.concat_tables([held, pa.table(nothing, schema=schema)]), "user_id")
        if self.online.keeps_histories:
            write_histories(self.features.store, self.clock, np.array(users, dtype=np.int64), as_of)
        return as_of


def _noted(note: Path) -> list[int]:
    """The users of a note; a line that a crash left half is none."""
    return sorted({int(line) for line in lines_since(note, 0)}) if note.exists() else []


def forget_running(settings: Settings, users: Sequence[int]) -> None:
    """Let nothing of the running hour tell of users: its events are read again, what was trained is gone, they are in no note.

    Args:
        settings: of the workspace.
        users: integer ids, which are on the list of the forgotten already.
    """
    if not settings.streaming_dir.exists():
        return
    with exclusive_lock(running_lock(settings)):
        for folder in (running_events(settings), running_parameters(settings)):
            shutil.rmtree(folder, ignore_errors=True)
        for note in settings.streaming_dir.glob(NOTES):
            write_text(note, "".join(f"{user}\n" for user in _noted(note) if user not in {*users}))


def running_lock(settings: Settings) -> Path:
    """Held by who writes the running hour, and by who removes people from it."""
    return settings.streaming_dir / ".step.lock"


def running_events(settings: Settings) -> Path:
    """The event store of the hours after the clocks' own."""
    return settings.streaming_dir / "events"


def running_parameters(settings: Settings) -> Path:
    """What rankers learned from the events of the clocks' hour (``training.running``)."""
    return settings.streaming_dir / "parameters"


def _clocks(computation: ClockComputation, state: StateDescription) -> pa.Table:
    """Rows of the pairs of user and slot of the view ``came``; leaves the tables ``FRESH``."""
    build, executor, running = computation.build, computation.executor, computation.engine
    running.table("pairs", "SELECT DISTINCT user_id, slot FROM came")
    touched = [str(slot) for (slot,) in running.rows("SELECT DISTINCT slot FROM pairs ORDER BY slot")]
    sums, touching = computation.clock.sums(state), among("pairs", *PAIR)
    stored = {part: f"({computation.merged(sums, touched, part, touching)})" for part in build.parts(PAIR)}
    texts = {part.facet: f"{sql} t" for part, sql in stored.items() if part.facet is not None}
    executor.run(
        build.dictionaries("came", texts),
        build.encode("arrived_ids", "came"),
        build.sums(FRESH, "arrived_ids", PAIR),
    )
    for part, sql in stored.items():
        by = columns(part.keys)
        running.table(
            NOW.of(part),
            f"""SELECT {by}, {summed(part.counts)} FROM ({build.with_ids(sql, part)}
                UNION ALL SELECT {columns(part.columns)} FROM {FRESH.of(part)}) u GROUP BY {by}""",
        )
    return executor.arrow(build.clock_rows(NOW, "pairs", PAIR, str(state.as_of.number)))


def _activity(computation: ClockComputation, state: StateDescription) -> pa.Table:
    """Rows of the users of ``FRESH``."""
    build, running, schema = computation.build, computation.engine, computation.clock.logs["user_activity"].schema
    running.table("active_users", "SELECT DISTINCT user_id FROM pairs")
    fresh, at = FRESH.of(build.parts(PAIR)[-1]), state.as_of.number
    stored = computation.merged(
        computation.clock.sums(state), ["users"], build.base_parts("users")[-1], among("active_users", "user_id")
    )
    counts = columns(["user_id", *COUNTS])
    rows = running.arrow(
        f"""SELECT user_id, {running.hour_start(str(at))} AS event_timestamp, {summed(COUNTS)}, CAST({at} AS BIGINT) AS as_of
        FROM (SELECT {counts} FROM ({stored}) s UNION ALL SELECT {counts} FROM {fresh}) u GROUP BY user_id ORDER BY user_id"""
    )
    return rows.select(schema.names).cast(schema)
