"""The online store filled by Spark: executors encode the rows and write them, as ``Materialization`` does in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from core.hours import DAY_HOURS, Hour, hour_range
from core.settings import Settings
from core.spark import SparkEngine
from events.store import EventStore
from feature_repo.behavior_state import KEPT_HOURS, behaviors_sql
from feature_repo.clock import ClockState
from feature_repo.online import empty_clock, encode_cells, write_cells, write_rows
from feature_repo.recent import write_encoded
from feature_repo.repository import ATTRIBUTE_VIEWS, HISTORY_VIEW, open_store
from feature_repo.retrieval import ClockFeatures
from feature_repo.spark_retrieval import SparkRetrieval, cast_columns
from feature_repo.sql import columns

if TYPE_CHECKING:
    from feast import FeatureStore

ROWS_AT_ONCE = 50_000
"""Rows that an executor's process encodes at a time, about."""


@dataclass(frozen=True)
class OnlineWriter:
    """A task of an executor: writes the rows of a view to the online store.

    Attributes:
        settings: of the workspace.
        view: whose rows come: ``clock_slots``, the view of histories, or one whose rows go online as they are.
        key: column that identifies an entity.
        hour: from whose start cells and histories hold.
        whole: whether slots without a row are written as empty; rows are counted then, and not the cells.
    """

    settings: Settings
    view: str
    key: str
    hour: Hour
    whole: bool = False

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write a partition, sorted by the key; gives one batch that tells how much."""
        written, store = 0, None
        for table in whole_entities(batches, self.key):
            store = store or open_store(self.settings, EventStore(self.settings.events_dir))
            written += self._write(store, table)
        yield pa.RecordBatch.from_pydict({"written": pa.array([written], pa.int64())})

    def _write(self, store: FeatureStore, table: pa.Table) -> int:
        events = EventStore(self.settings.events_dir)
        if self.view == HISTORY_VIEW:
            return write_encoded(store, table, self.hour)
        if self.view == ATTRIBUTE_VIEWS["user"]:
            schema = events.attribute_schema("user")
            return write_rows(store, self.view, table.select(schema.names).cast(schema), self.key)
        schema = ClockState(self.settings, events).logs[self.view].schema
        rows = table.select(schema.names).cast(schema)
        if self.view != "clock_slots":
            return write_rows(store, self.view, rows, self.key)
        empty = empty_clock(self.settings) if self.whole else {}
        cells = encode_cells(rows, events.facets, self.settings)
        written = write_cells(store, "clock", ((user, {**empty, **filled}) for user, filled in cells), self.hour)
        return rows.num_rows if self.whole else written


def whole_entities(batches: Iterator[pa.RecordBatch], key: str) -> Iterator[pa.Table]:
    """Tables of some ten thousand rows, none of which ends between two rows of one entity.

    >>> batches = [pa.record_batch({"user": [1, 1, 2]}), pa.record_batch({"user": [2, 3]})]
    >>> [table["user"].to_pylist() for table in whole_entities(iter(batches), "user")]
    [[1, 1, 2, 2, 3]]

    Args:
        batches: sorted by the key.
        key: column.
    """
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        pending.append(batch)
        if sum(part.num_rows for part in pending) < ROWS_AT_ONCE:
            continue
        table = pa.Table.from_batches(pending)
        last = pc.sum(pc.not_equal(table[key], table[key][-1])).as_py()
        if last:
            yield table.slice(0, last)
            pending = table.slice(last).to_batches()
    if pending:
        yield pa.Table.from_batches(pending)


class SparkMaterialization:
    """Writes what the offline views say to an online store that executors reach.

    Args:
        features: of the source.
        running: Spark.
    """

    def __init__(self, features: ClockFeatures, running: SparkEngine) -> None:
        self.features, self.engine = features, running
        self.settings, self.events, self.clock = features.settings, features.events, features.clock

    def write_changed(self, view: str, hour: Hour) -> int:
        """Write the rows of a view that hold from an hour on; returns the values or rows written."""
        changes = self.clock.logs[view]
        parts = changes.parts(hour)
        if not parts:
            return 0
        rows = f"SELECT {columns(changes.schema.names)} FROM {self.engine.files(parts)} r WHERE as_of = {hour.number}"
        return self._write(view, changes.keys[0], rows, hour)

    def write_latest(self, view: str, as_of: Hour) -> int:
        """Write every entity's row of a view as of an hour; returns the rows."""
        changes = self.clock.logs[view]
        rows = changes.newest(self.engine, Hour(0), as_of, "1 = 1")
        return self._write(view, changes.keys[0], rows, as_of, whole=True)

    def write_changed_histories(self, hour: Hour) -> int:
        """Write the recent behaviors of the users whose activity changed at an hour; returns the users."""
        parts = self.clock.logs["user_activity"].parts(hour)
        if not parts:
            return 0
        return self._write_histories(
            f"SELECT DISTINCT user_id FROM {self.engine.files(parts)} r WHERE as_of = {hour.number}", hour
        )

    def write_all_histories(self, as_of: Hour) -> int:
        """Write everybody's recent behaviors as of an hour; returns the users."""
        reach = DAY_HOURS * self.settings.history_days + KEPT_HOURS
        files = self.events.event_files(list(hour_range(as_of - reach, as_of)))
        log = behaviors_sql(self.engine, self.engine.files(files), self.settings)
        return self._write_histories(f"SELECT DISTINCT user_id FROM ({log}) l", as_of)

    def _write_histories(self, users: str, hour: Hour) -> int:
        with_hour = f"SELECT user_id, CAST({hour.number} AS BIGINT) AS hour FROM ({users}) u"
        self.engine.table("history_users", with_hour, by=("user_id",))
        histories = SparkRetrieval(self.features, self.engine, hour, hour).histories("history_users").sql
        rows = f"""SELECT u.user_id, h.items, h.minutes, h.hours FROM history_users u
            LEFT JOIN ({histories}) h ON h.user_id = u.user_id"""
        return self._write(HISTORY_VIEW, "user_id", rows, hour)

    def write_attributes(self, rows: str, known: Sequence[str], hour: Hour) -> int:
        """Write attributes of users.

        Args:
            rows: query of them.
            known: its columns; what else the source knows is missing.
            hour: at whose start they hold.

        Returns:
            The rows.
        """
        schema = self.events.attribute_schema("user")
        query = f"SELECT {cast_columns(schema, known)} FROM ({rows}) a"
        return self._write(ATTRIBUTE_VIEWS["user"], "user_id", query, hour)

    def _write(self, view: str, key: str, rows: str, hour: Hour, *, whole: bool = False) -> int:
        return self.engine.hand_over(rows, key, OnlineWriter(self.settings, view, key, hour, whole))
