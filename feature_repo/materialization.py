"""Filling the online store: the rows that an hour changed, or all of them; the hour's step that brings the clocks forward."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from core import duck
from core.duck_engine import DuckEngine
from core.engine import engine, on_spark
from core.hours import Hour, hour_range
from core.logs import log_context
from core.settings import Settings
from core.spark import SparkEngine
from core.state_version import check_state_version
from events.store import EventStore
from feature_repo.behavior_state import BehaviorState
from feature_repo.clock import ClockState
from feature_repo.online import empty_clock, encode_cells, write_cells, write_rows
from feature_repo.online_progress import OnlineAttributes, OnlineProgress
from feature_repo.recent import write_histories
from feature_repo.repository import ATTRIBUTE_VIEWS, HISTORY_VARIANTS
from feature_repo.retrieval import FILLED_AT_ONCE, ClockFeatures
from feature_repo.schemas import WHOLE_DAYS
from feature_repo.spark_online import SparkMaterialization

log = logging.getLogger("feature_repo.materialization")

LAST_VIEW = "population_clock"
"""Its few rows are written after all others, so that a store which has them has what was written before."""


@dataclass(frozen=True)
class Advanced:
    """What it took to bring the clocks to an hour.

    Attributes:
        as_of: key of the hour at whose start they now hold.
        refreshed: hours refreshed.
        rebuilt: whether they were rebuilt instead.
        online_rows: rows written to the online store.
    """

    as_of: str
    refreshed: int
    rebuilt: bool
    online_rows: int


class Materialization:
    """Writes what the offline views say to the online store.

    Args:
        features: of the source.
    """

    def __init__(self, features: ClockFeatures) -> None:
        self.features, self.settings, self.events = features, features.settings, features.events
        self.facets, self.clock, self.store = features.facets, features.clock, features.store
        self.progress = OnlineProgress(self.settings)
        self.attributes = OnlineAttributes(self.settings, self.events)
        self._plain_views = ["user_activity", *([WHOLE_DAYS] if self.settings.shrinkage else [])]
        """Views whose rows go online as they are; those of ``clock_slots`` become cells of ``clock``.

        So do those of ``LAST_VIEW``, after all others.
        """

    @log_context(hour="hour")
    def materialize(self, hour: Hour) -> int:
        """Write the rows that changed at the start of an hour to the online store.

        The window is explicit, so repeating an hour writes the same rows again and nothing else.

        Args:
            hour: as of which the clocks hold.

        Returns:
            Rows written.
        """
        if self._by_executors([hour - 1, hour - self.clock.window - 1]):
            with self._spark() as spark:
                rows = sum(spark.write_changed(view, hour) for view in ["clock_slots", *self._plain_views])
                rows += spark.write_changed_histories(hour) if self.keeps_histories else 0
                rows += self._write_attributes(hour, spark) + spark.write_changed(LAST_VIEW, hour)
        else:
            rows = self.write_clock(self.features.changed("clock_slots", hour), hour)
            rows += sum(self._write_changed(view, hour) for view in self._plain_views)
            if self.keeps_histories:
                changed = self.features.changed("user_activity", hour)["user_id"].to_numpy()
                rows += write_histories(self.store, self.clock, changed, hour)
            rows += self._write_attributes(hour) + self._write_changed(LAST_VIEW, hour)
        if self.progress.as_of == hour - 1:
            self.progress.note(hour)
        log.info("materialized %s: %d rows", hour, rows)
        return rows

    def materialize_all(self, as_of: Hour) -> int:
        """Fill the online store with every row as of an hour, a part at a time.

        Returns:
            Rows written.
        """
        if self._by_executors(hour_range(as_of - self.clock.window, as_of)):
            with self._spark() as spark:
                rows = sum(spark.write_latest(view, as_of) for view in ["clock_slots", *self._plain_views])
                rows += spark.write_all_histories(as_of) if self.keeps_histories else 0
                rows += self._write_attributes(as_of, spark, whole=True) + spark.write_latest(LAST_VIEW, as_of)
        else:
            rows = self._write_all(as_of)
        self.progress.note(as_of)
        log.info("online store filled as of %s: %d rows", as_of, rows)
        return rows

    def _by_executors(self, hours: Iterable[Hour]) -> bool:
        """Whether Spark writes what the events of some hours changed: to a store that its executors reach."""
        return self.settings.online_store == "redis" and on_spark(self.settings, partial(self.events.count, hours))

    @contextmanager
    def _spark(self) -> Iterator[SparkMaterialization]:
        with engine(self.settings) as running:
            assert isinstance(running, SparkEngine)
            yield SparkMaterialization(self.features, running)

    def _write_all(self, as_of: Hour) -> int:
        """Put every row as of an hour online from this process; returns the rows."""
        rows = 0
        empty = empty_clock(self.settings)
        for table in self.features.latest("clock_slots", as_of):
            cells = ((user, {**empty, **filled}) for user, filled in encode_cells(table, self.facets, self.settings))
            write_cells(self.store, "clock", cells, as_of)
            rows += table.num_rows
            log.info("online store: %d slots written", rows)
        rows += sum(self._write_latest(view, as_of) for view in self._plain_views)
        if self.keeps_histories:
            behaviors = BehaviorState(self.clock)
            behaviors.bring_to(as_of)
            rows += write_histories(self.store, self.clock, behaviors.users(), as_of)
        return rows + self._write_attributes(as_of, whole=True) + self._write_latest(LAST_VIEW, as_of)

    def catch_up(self, as_of: Hour, since: Hour) -> int:
        """Write what a run that was interrupted, or had no online store, left out; everything where the store has lost rows.

        Args:
            as_of: hour as of which the clocks hold.
            since: first hour whose changes the clocks still tell.

        Returns:
            Rows written.
        """
        done = self.progress.as_of
        if done is None or done + 1 < since:
            log.info("how far the online store is filled is not known, or too long ago: it is filled as of %s", as_of)
            return self.materialize_all(as_of)
        if not self.progress.changing and not self._has_last_rows(done):
            log.warning("the online store has lost rows that were written: it is filled as of %s", as_of)
            return self.materialize_all(as_of)
        return sum(self.materialize(hour) for hour in hour_range(done + 1, as_of + 1))

    def _has_last_rows(self, done: Hour) -> bool:
        """Whether the online store has the rows that were written last, as of the hour that it was filled to."""
        online, told = self.features.population(done), self.features.rows_at(LAST_VIEW, done)
        told = told.filter(pc.greater(told["events"], 0))
        return all(online[name].to_pylist() == told[name].to_pylist() for name in ("slot", "as_of"))

    def expect(self, hour: Hour) -> None:
        """Note that rows of an hour are about to change, also if it has been written already: late events change it again."""
        if (done := self.progress.as_of) is not None and done >= hour:
            self.progress.note(hour - 1, changing=True)

    def _write_changed(self, view: str, hour: Hour) -> int:
        """Put the rows of a view that changed at an hour's start online; returns the rows."""
        return write_rows(self.store, view, self.features.changed(view, hour), *self.clock.logs[view].keys)

    def _write_latest(self, view: str, as_of: Hour) -> int:
        """Put every row of a view as of an hour online; returns the rows."""
        return sum(
            write_rows(self.store, view, table, *self.clock.logs[view].keys)
            for table in self.features.latest(view, as_of)
        )

    def _write_attributes(self, as_of: Hour, spark: SparkMaterialization | None = None, *, whole: bool = False) -> int:
        """Put the users' attributes online that are not those written last, or everybody's; returns the rows."""
        attributes = self.attributes
        due = attributes.due(as_of, whole=whole)
        if due is None:
            return 0
        if spark is not None:
            missing = attributes.missing(spark.engine, due, whole=whole)
            rows = spark.write_attributes(missing, attributes.columns, due)
            attributes.note(due)
            return rows
        rows, schema = 0, attributes.schema
        with duck.connection(self.settings) as con:
            running = DuckEngine(con)
            missing = attributes.missing(running, due, whole=whole)
            for batch in con.sql(f"{missing} ORDER BY user_id").to_arrow_reader(FILLED_AT_ONCE):
                table = pa.Table.from_batches([batch])
                for field in schema:
                    if field.name not in table.column_names:
                        table = table.append_column(field, pa.nulls(len(table), field.type))
                rows += write_rows(
                    self.store, ATTRIBUTE_VIEWS["user"], table.select(schema.names).cast(schema), "user_id"
                )
            attributes.note(due)
        return rows

    @property
    def keeps_histories(self) -> bool:
        """Whether a variant reads the recent behaviors at serving."""
        return bool(self.settings.history_length and HISTORY_VARIANTS & set(self.settings.variants))

    def write_whole_clocks(self, users: Sequence[int], as_of: Hour) -> None:
        """Put every slot of users online as of an hour, empty ones too."""
        rows = self.features.rows_of("clock_slots", users, as_of)
        filled, empty = dict(encode_cells(rows, self.facets, self.settings)), empty_clock(self.settings)
        write_cells(self.store, "clock", ((user, {**empty, **filled.get(user, {})}) for user in users), as_of)

    def write_clock(self, changed: pa.Table, hour: Hour) -> int:
        """Put slots that changed online; returns how many cells were written."""
        return (
            write_cells(self.store, "clock", encode_cells(changed, self.facets, self.settings), hour)
            if changed.num_rows
            else 0
        )


def advance(settings: Settings, as_of: Hour) -> Advanced:
    """Bring clocks and online store to an hour: by refreshes where the state allows, else by a rebuild.

    Running it again writes the same rows again.

    Args:
        settings: of the workspace.
        as_of: hour at whose start the clocks shall hold.

    Raises:
        NotReadyError: an hour before ``as_of`` is not closed.
        CorruptStateError: sums on disk are damaged.
    """
    check_state_version(settings)
    state = ClockState(settings, EventStore(settings.events_dir))
    current = state.read()
    if current is None or not current.serves(state.config) or not state.knows_events(current):
        state.rebuild(as_of)
        rows = Materialization(ClockFeatures(settings, state.store)).materialize_all(as_of)
        return Advanced(as_of.key, refreshed=0, rebuilt=True, online_rows=rows)
    online = Materialization(ClockFeatures(settings, state.store))
    rows = online.catch_up(current.as_of, current.history_from)
    if as_of < current.as_of:
        return Advanced(current.as_of.key, refreshed=0, rebuilt=False, online_rows=rows)
    hours = list(hour_range(current.as_of + 1, as_of + 1)) or [as_of]
    for hour in hours:
        online.expect(hour)
        state.refresh(hour)
        rows += online.materialize(hour)
    return Advanced(as_of.key, refreshed=len(hours), rebuilt=False, online_rows=rows)
