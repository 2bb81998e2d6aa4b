"""A full rebuild: every clock from the events, and what every row was at each hour before."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

from core.duck import identifier
from core.errors import NotReadyError
from core.hours import DAY_HOURS, Hour
from core.spark import SparkEngine
from core.sql_engine import Engine
from events.change_list import ChangePosition
from events.schema import BEHAVIORS
from feature_repo.computation import ClockComputation, Refreshed
from feature_repo.history import Period, Sources, histories, item_rows
from feature_repo.schemas import COUNTS, WHOLE_DAYS
from feature_repo.slot_passes import PASS_EVENTS, ExecutorPasses, SlotComputation, slot_passes, write_population
from feature_repo.sql import columns, summed
from feature_repo.state import ClockStorage
from feature_repo.sums import Sums

log = logging.getLogger("feature_repo.rebuild")


class Rebuild(ClockComputation):
    """Everything from the events, slot by slot in a few passes over them.

    Args:
        clock: where the clocks lie.
        running: computes them.
        as_of: hour at whose start they shall hold.
        changes: how far the events' list of changes is, taken before any event is read.
        hours: with events, before ``as_of``.
        history: also write what every row was at each hour before.
    """

    def __init__(
        self,
        clock: ClockStorage,
        running: Engine,
        as_of: Hour,
        changes: ChangePosition,
        hours: list[Hour],
        *,
        history: bool,
    ) -> None:
        super().__init__(clock, running, as_of)
        self.changes = changes
        self.hours, self.history = hours, history
        self.passes = SlotComputation(clock, running, as_of)

    def run(self) -> Refreshed:
        """Compute and commit everything.

        Raises:
            NotReadyError: none of the hours has an event.
        """
        self.read()
        self.clock.forget()
        for changes in self.clock.logs.values():
            changes.clear()
        self.write_slots()
        bases = self.slot_bases(range(self.clock.settings.slots))
        bases |= self.write_bases({"users": self._users(Sums(self.clock.sums_folder, bases))})
        self.engine.table("item_sums", self._items())
        self.engine.view("first_hours", "SELECT item_id, first_hour FROM item_sums")
        bases |= self.write_bases({"items": {"items": f"SELECT * FROM item_sums {self.engine.sorted_by('item_id')}"}})
        sums = Sums(self.clock.sums_folder, bases)
        if self.history:
            self._histories()
            since = self.hours[0] + 1
        else:
            self._snapshots(sums)
            since = self.as_of
        for changes in self.clock.logs.values():
            changes.tidy(self.engine, self.as_of)
        self.clock.commit(self.describe(self.changes, sums, since))
        pairs = sum(self.stored_rows(bases[slot].folder, "all") for slot in sums.slots)
        return Refreshed(self.as_of.key, pairs, self.stored_rows(bases["users"].folder, "all"), 0, full=True)

    def read(self) -> None:
        """Make the views ``raw`` of the window's events and ``raw_all`` of all, and the dictionaries.

        Raises:
            NotReadyError: none of the hours has an event.
        """
        everything = self.clock.store.event_files(self.hours)
        if not everything:
            raise NotReadyError(f"no events before {self.as_of}; every closed hour is empty")
        self.executor.read_files("raw", self.files)
        self.executor.read_files("raw_all", everything)
        if self.engine.in_batches or self.history or self.clock.settings.shrinkage:  # tasks make their own
            self.executor.run(self.build.dictionaries("raw_all"))

    @cached_property
    def files(self) -> list[Path]:
        """Of the window's events, by hour."""
        return self.clock.store.event_files([hour for hour in self.hours if hour >= self.first])

    def _users(self, slots: Sums) -> dict[str, str]:
        """Queries of the users' sums, from those of the slots."""
        queries = {}
        for part in self.build.base_parts("users"):
            by = columns(part.keys)
            rows = slots.rows(self.engine, slots.slots, part.name, columns(part.columns))
            ids = self.build.with_ids(f"({rows})", part)
            merged = f"(SELECT {by}, {summed(part.counts)} FROM ({ids}) i GROUP BY {by})"
            queries[part.name] = self.build.with_texts(merged, part)
        return queries

    def write_slots(self) -> None:
        """Write the sums of all slots to the folders of their bases; without history their users' clock rows as well."""
        if isinstance(self.engine, SparkEngine):
            ExecutorPasses(self.passes, self.engine, self.files, rows=not self.history).run()
            return
        loads = dict(self.engine.rows("SELECT slot, count(*) FROM raw GROUP BY slot"))
        for each in slot_passes(range(self.clock.settings.slots), loads, PASS_EVENTS):
            rows = None if self.history else self.passes.rows_folder(each)
            self.passes.compute(each, self.clock.sums_folder, rows)
            log.info("slots %d to %d of %d", each.slots[0], each.slots[-1], self.clock.settings.slots)

    def _items(self) -> str:
        """SELECT of the items' sums: a first hour however long ago, counts of the window and of the last day."""
        window, day = f"hour >= {self.first.number}", f"hour >= {self.as_of.number - DAY_HOURS}"
        inside = "count(CASE WHEN {} THEN 1 END) AS {}".format
        counts = [inside(day, "day_events"), inside(f"{day} AND finish", "day_finish"), inside(window, "events")]
        counts += [inside(f"{window} AND {identifier(b)}", identifier(b)) for b in BEHAVIORS]
        return f"SELECT item_id, min(hour) AS first_hour, {', '.join(counts)} FROM raw_all GROUP BY item_id"

    def _histories(self) -> None:
        first = self.hours[0]
        period = Period(first, self.as_of, self.clock.window)
        sources = Sources(pairs="raw_all", users="raw_all", everyone="raw_all", items="raw_all")
        for number, (view, sql) in enumerate(
            histories(self.executor, sources, period, "first_hours", [*self.clock.logs])
        ):
            self.write_rows(view, first + 1, number, sql)

    def _snapshots(self, sums: Sums) -> None:
        start, at = self.engine.hour_start(str(self.as_of.number)), self.as_of.number
        users = self.merged(sums, ["users"], self.build.base_parts("users")[-1])
        users = f"SELECT user_id, {start} AS event_timestamp, {columns(COUNTS)}, CAST({at} AS BIGINT) AS as_of FROM ({users}) u"
        self.write_rows("user_activity", self.as_of, 0, f"{users} {self.engine.sorted_by('user_id')}")
        write_population(self.clock, self.as_of, sums)
        source = f"SELECT *, CAST({at} AS BIGINT) AS as_of FROM item_sums i"
        self.write_rows("item_stats", self.as_of, 0, item_rows(self.engine, source))
        if WHOLE_DAYS in self.clock.logs:
            midnight = Hour(at - at % DAY_HOURS)
            profiles = self.executor.prepare(self.profiles(sums, midnight, None))
            self.engine.write(profiles, self.clock.logs[WHOLE_DAYS].span(midnight, self.as_of))
