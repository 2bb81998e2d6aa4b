"""The refresh of one hour: what came, what went, and what late events touch."""

from __future__ import annotations

from dataclasses import replace

from core.hours import DAY_HOURS, Hour, hour_range
from core.sql_engine import Engine
from events.change_list import ChangePosition
from events.schema import BEHAVIORS
from feature_repo.computation import ClockComputation, Refreshed, among
from feature_repo.history import Period, Sources, histories, item_rows
from feature_repo.query_builder import ITEMS, PAIR, Part, SumTables
from feature_repo.schemas import COUNTS, ITEM_COUNTS, WHOLE_DAYS
from feature_repo.sql import columns, counted, negative, summed, zeros
from feature_repo.state import ClockStorage, StateDescription
from feature_repo.statements import Query
from feature_repo.sums import Layer

STORED, BEFORE, DELTA, NOW = map(SumTables, ("stored", "before", "delta", "now"))
"""Sums of what the refresh touches: as they lie on disk, with value ids, what changes, and as they become."""
CAME, WENT, INSIDE = map(SumTables, ("s_came", "s_went", "s_inside"))
"""Sums of the events that entered the window, of those that left it, and of all those in it for keys with late events."""


class Refresh(ClockComputation):
    """One hour: what came, what went, and what late events touch.

    Args:
        clock: where the clocks lie.
        running: computes them.
        state: the state before.
        as_of: hour at whose start they shall hold: the state's, or the one after.
        changes: how far the events' list of changes is, taken before any event is read.
        late: hours before the state's whose events changed.
    """

    def __init__(
        self,
        clock: ClockStorage,
        running: Engine,
        state: StateDescription,
        as_of: Hour,
        changes: ChangePosition,
        late: list[Hour],
    ) -> None:
        super().__init__(clock, running, as_of)
        self.changes = changes
        self.old, self.late = state, late
        self.generation = state.generation + 1
        self.sums = clock.sums(state)
        forward = state.as_of < as_of
        self.came = [as_of - 1] if forward else []
        self.went = list(hour_range(state.as_of - clock.window, self.first)) if forward else []

    def run(self) -> Refreshed:
        """Compute and commit what changes.

        Raises:
            CorruptStateError: sums on disk are damaged.
        """
        self._read()
        touched = [str(slot) for (slot,) in self.engine.rows("SELECT DISTINCT slot FROM pairs ORDER BY slot")]
        self.sums = self.sums.checked([*touched, "users", "items"], self.engine.digests)
        self._slots(touched)
        rows = {"population_clock": "rows_everyone", "clock_slots": "rows_slots"}
        rows |= {"user_activity": self._users(), "item_stats": self._items()}
        self.sums = self.fold(self.sums.with_delta(self._delta()))
        if WHOLE_DAYS in self.clock.logs and (self.late or self._day_ended):
            rows[WHOLE_DAYS] = self._profiles()
        if self.late:
            self._correct()
        for view, table in rows.items():
            self.clock.logs[view].put(self.engine, self.as_of, table)
        for changes in self.clock.logs.values():
            changes.tidy(self.engine, self.as_of)
        self.clock.commit(self.describe(self.changes, self.sums, self.old.history_from))
        slots, users = (int(self.engine.scalar(f"SELECT count(*) FROM {keys}")) for keys in ("pairs", "users"))
        return Refreshed(self.as_of.key, slots, users, len(self.late), full=False)

    def _read(self) -> None:
        """Views ``came``, ``went``, ``raw_late`` of events; tables of the keys that they touch."""
        window = list(hour_range(self.first, self.as_of))
        for name, hours in (
            ("came", self.came), ("went", self.went), ("raw_late", self.late),
            ("inside", window if self.late else []),
        ):  # fmt: skip
            self.executor.read_files(name, self.clock.store.event_files(hours))
        # A late impression takes over the action that was an event before: the hour's facts still have its keys.
        self.executor.read_files("told_late", self.clock.store.fact_files(self.late))
        for name, key in (
            ("late_pairs", "user_id, slot"), ("late_users", "user_id"), ("late_items", "item_id"), ("late_slots", "slot"),
        ):  # fmt: skip
            make = (
                self.engine.table if self.late else self.engine.view
            )  # an empty view costs nothing wherever it is used
            make(name, f"SELECT {key} FROM raw_late UNION SELECT {key} FROM told_late")
        day = self.as_of.number - DAY_HOURS - 1
        self.executor.read_files("yesterday", self.clock.store.event_files([Hour(day)] if self.came else []))
        for name, key, sources in (
            ("pairs", "user_id, slot", ("came", "went", "late_pairs")),
            ("users", "user_id", ("came", "went", "late_users")),
            ("items", "item_id", ("came", "went", "late_items", "yesterday")),
        ):
            self.engine.table(name, " UNION ".join(f"SELECT {key} FROM {source}" for source in sources))

    def _slots(self, touched: list[str]) -> None:
        """Tables ``DELTA`` of what changes; ``rows_slots`` of the touched pairs, ``rows_everyone`` of their slots."""
        touching, pairs = among("pairs", *PAIR), self.build.parts(PAIR)
        together = self.build.parts(("slot",), everyone=True)
        self.engine.tables(
            {
                STORED.of(part): self.merged(self.sums, touched, part, "" if part.everyone else touching)
                for part in self.build.slot_parts()
            }
        )
        moved = "(SELECT * FROM came UNION ALL SELECT * FROM went UNION ALL SELECT * FROM inside) m"
        texts = {
            ours.facet: f"(SELECT value FROM {STORED.of(ours)} UNION ALL SELECT value FROM {STORED.of(everyone)}) t"
            for ours, everyone in zip(pairs, together, strict=True)
            if ours.facet is not None
        }
        self.executor.run(self.build.dictionaries(moved, texts))
        of_late = "JOIN late_pairs k ON k.user_id = r.user_id AND k.slot = r.slot"
        for tables, events, join in ((CAME, "came", ""), (WENT, "went", ""), (INSIDE, "inside", of_late)):
            encoded = f"e_{events}"
            self.executor.run(self.build.encode(encoded, events, join))
            self.executor.run(replace(sums, view=True) for sums in self.build.sums(tables, encoded, PAIR))  # used once
        for part in self.build.slot_parts():
            self.engine.view(BEFORE.of(part), self.build.with_ids(STORED.of(part), part))
        self.engine.tables({DELTA.of(part): self._changes(part, self._changes_of_pairs(part)) for part in pairs})
        summed_up = {
            DELTA.of(everyone): self._changes(everyone, f"SELECT {columns(everyone.columns)} FROM {DELTA.of(ours)} s")
            for ours, everyone in zip(pairs, together, strict=True)
        }
        self.engine.tables(summed_up)
        self.engine.tables({NOW.of(part): self._becomes(part) for part in self.build.slot_parts()})
        as_of, slots = str(self.as_of.number), "(SELECT DISTINCT slot FROM pairs)"
        self._table("rows_everyone", self.build.clock_rows(NOW, slots, ("slot",), as_of, everyone=True))
        self._table("rows_slots", self.build.clock_rows(NOW, "pairs", PAIR, as_of))

    def _table(self, name: str, query: Query) -> str:
        """Compute rows, to be written when all are computed; returns the table's name."""
        self.engine.table(name, self.executor.prepare(query))
        return name

    def _changes_of_pairs(self, part: Part) -> str:
        """SELECT of what is added to the sums of pairs; a pair with late events is counted again."""
        same, minus = columns(part.columns), f"{columns(part.keys)}, {negative(part.counts)}"
        late = among("late_pairs", *PAIR)
        return f"""SELECT {same} FROM {CAME.of(part)} s WHERE NOT {late}
            UNION ALL SELECT {minus} FROM {WENT.of(part)} s WHERE NOT {late}
            UNION ALL SELECT {same} FROM {INSIDE.of(part)} s
            UNION ALL SELECT {minus} FROM {BEFORE.of(part)} s WHERE {late}"""

    @staticmethod
    def _changes(part: Part, changes: str) -> str:
        """SELECT of a part's sums that change, from what is added to them."""
        by = columns(part.keys)
        changed = " OR ".join(f"sum({c}) <> 0" for c in columns(part.counts).split(", "))
        return f"SELECT {by}, {summed(part.counts)} FROM ({changes}) u GROUP BY {by} HAVING {changed}"

    @staticmethod
    def _becomes(part: Part) -> str:
        """SELECT of a part's sums as they become, from tables ``BEFORE`` and ``DELTA``."""
        by, same = columns(part.keys), columns(part.columns)
        return f"""SELECT {by}, {summed(part.counts)} FROM (SELECT {same} FROM {BEFORE.of(part)}
                UNION ALL SELECT {same} FROM {DELTA.of(part)}) u GROUP BY {by} HAVING sum(events) <> 0"""

    def _users(self) -> str:
        """Table of the touched users' rows."""
        stored = self.merged(self.sums, ["users"], self.build.base_parts("users")[-1], among("users", "user_id"))
        counts, every_event = columns(["user_id", *COUNTS]), self.build.parts(PAIR)[-1]
        self.engine.table(
            "users_now",
            f"""SELECT user_id, {summed()} FROM (SELECT {counts} FROM ({stored}) s
                UNION ALL SELECT {counts} FROM {DELTA.of(every_event)}) u GROUP BY user_id""",
        )
        filled = ", ".join(f"coalesce(n.{columns([c])}, 0) AS {columns([c])}" for c in COUNTS)
        start, at = self.engine.hour_start(str(self.as_of.number)), f"CAST({self.as_of.number} AS BIGINT)"
        return self._table(
            "rows_users",
            Query(
                f"""SELECT k.user_id, {start} AS event_timestamp, {filled}, {at} AS as_of
                FROM users k LEFT JOIN users_now n ON n.user_id = k.user_id"""
            ),
        )

    def _items(self) -> str:
        """Table ``delta_items`` of what changes, ``items_now`` of the touched items; returns the table of their rows."""
        late = among("late_items", "item_id")
        self.engine.table("stored_items", self.merged(self.sums, ["items"], ITEMS, among("items", "item_id")))
        never = f"CAST({self.as_of.number} AS BIGINT) AS first_hour"  # later than any hour: only another one counts
        no_day, nothing = zeros(ITEM_COUNTS[:2]), zeros()
        day = "count(CASE WHEN {0} THEN 1 END) AS day_events, count(CASE WHEN {0} AND finish THEN 1 END) AS day_finish"
        recent = day.format(f"hour >= {self.as_of.number - DAY_HOURS}")
        changes = [
            f"SELECT item_id, min(hour) AS first_hour, {no_day}, {nothing} FROM raw_late GROUP BY item_id",
            f"SELECT item_id, min(hour), {recent}, {counted()} FROM came s WHERE NOT {late} GROUP BY item_id",
            f"""SELECT item_id, {never}, -day_events, -day_finish, {nothing} FROM (
                SELECT item_id, {day.format("1 = 1")} FROM yesterday s WHERE NOT {late} GROUP BY item_id) y""",
            f"""SELECT item_id, {never}, {no_day}, {negative()} FROM (
                SELECT item_id, {counted()} FROM went s WHERE NOT {late} GROUP BY item_id) w""",
            # an item with late events is counted again
            f"SELECT item_id, min(hour), {recent}, {counted()} FROM inside s WHERE {late} GROUP BY item_id",
            f"SELECT item_id, {never}, {negative(ITEM_COUNTS)} FROM stored_items s WHERE {late}",
        ]  # fmt: skip
        names = columns(["item_id", "first_hour", *ITEM_COUNTS])
        for table, source in (
            ("delta_items", " UNION ALL ".join(changes)),
            ("items_now", f"SELECT {names} FROM stored_items UNION ALL SELECT {names} FROM delta_items"),
        ):
            self.engine.table(
                table,
                f"""SELECT item_id, min(first_hour) AS first_hour, {summed(ITEM_COUNTS)} FROM ({source}) i
                GROUP BY item_id""",
            )
        touched = f"SELECT n.*, CAST({self.as_of.number} AS BIGINT) AS as_of FROM items_now n"
        return self._table("rows_items", Query(item_rows(self.engine, touched)))

    def _delta(self) -> Layer:
        """Write what changes; ``users`` shares the slots' delta."""
        each = " UNION ALL ".join(f"SELECT slot FROM {DELTA.of(part)}" for part in self.build.parts(PAIR))
        rows = {
            str(slot): int(n) for slot, n in self.engine.rows(f"SELECT slot, count(*) FROM ({each}) d GROUP BY slot")
        }
        rows |= {"users": sum(rows.values()), "items": int(self.engine.scalar("SELECT count(*) FROM delta_items"))}
        rows = {name: n for name, n in sorted(rows.items()) if n}
        items = {"items": f"SELECT * FROM delta_items {self.engine.sorted_by('item_id')}"}
        slots = {part.name: self.build.slot_sums(DELTA, part) for part in self.build.slot_parts()}
        return self.write_delta({**slots, **items}, rows)

    @property
    def _day_ended(self) -> bool:
        """Whether the hour that ended is a UTC day's last one."""
        return bool(self.came) and self.as_of.number % DAY_HOURS == 0

    def _profiles(self) -> str:
        """Table of the whole-day rows of users whose day came or went at this midnight, and of those with late events.

        The latter hold from this hour on with what is known of the last midnight now, so that the online store learns of them.
        """
        days = [
            *hour_range(self.as_of - DAY_HOURS, self.as_of),
            *hour_range(self.first - DAY_HOURS, self.first),
        ]
        self.executor.read_files("days", self.clock.store.event_files(days if self._day_ended else []))
        self.engine.table("day_users", "SELECT user_id FROM days UNION SELECT user_id FROM late_users")
        midnight = Hour.of_day(self.as_of.day)
        return self._table("rows_profiles", self.profiles(self.sums, midnight, "day_users", self.as_of))

    def _correct(self) -> None:
        """Write the rows of past hours again that late events change."""
        since = max(min(self.late) + 1, self.old.history_from)
        opening = since == self.old.history_from and since - 1 > self.clock.store.first_hour()
        period = Period(since - (0 if opening else 1), self.as_of, self.clock.window, opening=opening)
        files = self.clock.store.event_files(hour_range(since - self.clock.window - DAY_HOURS, self.as_of))
        self.executor.read_files("past_events", files)
        names = columns(["hour", "slot", "user_id", "item_id", *self.clock.facets, *BEHAVIORS])
        for name, key in (
            ("late_pairs", ("user_id", "slot")),
            ("late_users", ("user_id",)),
            ("late_slots", ("slot",)),
            ("late_items", ("item_id",)),
        ):
            same = " AND ".join(f"k.{k} = r.{k}" for k in key)
            self.engine.view(
                f"past_of_{name}",
                f"SELECT {names} FROM past_events r WHERE EXISTS (SELECT 1 FROM {name} k WHERE {same})",
            )
        self.executor.run(self.build.dictionaries("past_events"))
        firsts = "SELECT n.item_id, n.first_hour FROM items_now n JOIN late_items k ON k.item_id = n.item_id"
        self.engine.table("first_hours", firsts)
        sources = Sources(*(f"past_of_{name}" for name in ("late_pairs", "late_users", "late_slots", "late_items")))
        pieces: dict[str, list[str]] = {view: [] for view in self.clock.logs}
        for view, sql in histories(self.executor, sources, period, "first_hours", [*self.clock.logs]):
            piece = f"corrected_{view}_{len(pieces[view])}"
            self.engine.table(piece, sql)
            pieces[view].append(piece)
        keys = {
            "clock_slots": "late_pairs",
            WHOLE_DAYS: "late_users",
            "population_clock": "late_slots",
            "user_activity": "late_users",
            "item_stats": "late_items",
        }
        for view, tables in pieces.items():
            if not tables:
                self.engine.register("no_rows", self.clock.logs[view].schema.empty_table())
                tables.append("no_rows")
            self.engine.view("corrected", " UNION ALL ".join(f"SELECT * FROM {table}" for table in tables))
            self.clock.logs[view].replace(self.engine, keys[view], "corrected", since)
