"""A full rebuild: every clock from the events, and what every row was at each hour before."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from core.duck import identifier
from core.errors import NotReadyError
from core.hours import DAY_HOURS, Hour
from core.sql_engine import Engine
from events.change_list import ChangePosition
from events.schema import BEHAVIORS
from feature_repo.computation import ClockComputation, Refreshed
from feature_repo.history import Period, Sources, histories, item_rows
from feature_repo.query_builder import PAIR, SumTables
from feature_repo.schemas import COUNTS, WHOLE_DAYS
from feature_repo.sql import columns, summed
from feature_repo.state import ClockStorage
from feature_repo.sums import Layer, Sums

log = logging.getLogger("feature_repo.rebuild")

PASS_EVENTS = 7_000_000
"""Events of the slots that a rebuild computes at a time: bounds its memory."""


SLOT_SUMS = SumTables("sum")


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

    def run(self) -> Refreshed:
        """Compute and commit everything.

        Raises:
            NotReadyError: none of the hours has an event.
        """
        self.read()
        self.clock.forget()
        for changes in self.clock.logs.values():
            changes.clear()
        bases: dict[str, Layer] = {}
        for group in self.slots():
            bases |= self.write_slot_bases(SLOT_SUMS, group)
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
        self.executor.read_files("raw", self.clock.store.event_files([h for h in self.hours if h >= self.first]))
        self.executor.read_files("raw_all", everything)
        self.executor.run(self.build.dictionaries("raw_all"))

    def _users(self, slots: Sums) -> dict[str, str]:
        """Queries of the users' sums, from those of the slots: as they were written, unless one pass has them all."""
        queries = {}
        of_users = self.build.base_parts("users")
        for part, of_slot in zip(of_users, self.build.parts(PAIR)[-len(of_users) :], strict=True):
            by = columns(part.keys)
            if self.engine.in_batches:
                rows = slots.rows(self.engine, slots.slots, part.name, columns(part.columns))
                ids = self.build.with_ids(f"({rows})", part)
            else:
                ids = f"SELECT {columns(part.columns)} FROM {SLOT_SUMS.of(of_slot)} s"
            merged = f"(SELECT {by}, {summed(part.counts)} FROM ({ids}) i GROUP BY {by})"
            queries[part.name] = self.build.with_texts(merged, part)
        return queries

    def slots(self) -> Iterator[list[int]]:
        """Some slots at a time: tables ``SLOT_SUMS`` hold their sums until the next are asked for.

        Without history their clock rows are written as well.
        """
        slots = range(self.clock.settings.slots)
        if self.engine.in_batches:
            groups = _groups(slots, dict(self.engine.rows("SELECT slot, count(*) FROM raw GROUP BY slot")))
        else:
            groups = [[*slots]]
        users, everyone = self.build.parts(PAIR)[-1], self.build.parts(("slot",), everyone=True)[-1]
        for number, group in enumerate(groups):
            self.executor.run(
                self.build.encode("part", "raw", f"WHERE r.slot IN ({', '.join(map(str, group))})", by=("user_id",)),
                self.build.sums(SLOT_SUMS, "part", PAIR),
                self.build.everyone(SLOT_SUMS),
            )
            if not self.history:
                as_of = str(self.as_of.number)
                rows = self.build.clock_rows(SLOT_SUMS, SLOT_SUMS.of(users), PAIR, as_of)
                self.write_rows("clock_slots", self.as_of, number, self.executor.prepare(rows))
                rows = self.build.clock_rows(SLOT_SUMS, SLOT_SUMS.of(everyone), ("slot",), as_of, everyone=True)
                self.write_rows("population_clock", self.as_of, number, self.executor.prepare(rows))
            yield group
            log.info("slots %d to %d of %d", group[0], group[-1], self.clock.settings.slots)

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
        source = f"SELECT *, CAST({at} AS BIGINT) AS as_of FROM item_sums i"
        self.write_rows("item_stats", self.as_of, 0, item_rows(self.engine, source))
        if WHOLE_DAYS in self.clock.logs:
            midnight = Hour(at - at % DAY_HOURS)
            profiles = self.executor.prepare(self.profiles(sums, midnight, None))
            self.engine.write(profiles, self.clock.logs[WHOLE_DAYS].span(midnight, self.as_of))


def _groups(slots: range, loads: dict[int, int]) -> list[list[int]]:
    """Neighboring slots together while they have at most ``PASS_EVENTS`` events."""
    groups: list[list[int]] = []
    load = 0
    for slot in slots:
        events = loads.get(slot, 0)
        if groups and load + events <= PASS_EVENTS:
            groups[-1].append(slot)
            load += events
        else:
            groups.append([slot])
            load = events
    return groups
