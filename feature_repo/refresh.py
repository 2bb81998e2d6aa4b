"""The refresh of one hour: what came, what went, and what late events touch."""

from __future__ import annotations

import pyarrow as pa

from core.engine import Engine
from core.hours import DAY_HOURS, Hour, hour_range
from events.change_list import ChangePosition
from events.schema import BEHAVIORS
from feature_repo.computation import ClockComputation, Refreshed, among
from feature_repo.history import Period, Sources, histories, item_rows
from feature_repo.query_builder import ITEMS, PAIR, Part, SumTables
from feature_repo.schemas import COUNTS, ITEM_COUNTS
from feature_repo.sql import columns, counted, negative, summed, zeros
from feature_repo.state import ClockStorage, StateDescription
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
        self.sums = self.sums.checked([*touched, "users", "items"])
        rows = {**self._slots(touched), "user_activity": self._users(), "item_stats": self._items()}
        self.sums = self.fold(self.sums.with_delta(self._delta()))
        if self.came and self.as_of.number % DAY_HOURS == 0:
            rows["user_profile"] = self._profiles()
        if self.late:
            self._correct()
        for view, table in rows.items():
            self.clock.logs[view].put(self.as_of, table)
        for changes in self.clock.logs.values():
            changes.tidy(self.engine, self.as_of)
        self.clock.commit(self.describe(self.changes, self.sums, self.old.history_from))
        changed = rows["clock_slots"].num_rows, rows["user_activity"].num_rows
        return Refreshed(self.as_of.key, *changed, len(self.late), full=False)

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
            self.engine.table(name, f"SELECT {key} FROM raw_late UNION SELECT {key} FROM told_late")
        day = self.as_of.number - DAY_HOURS - 1
        self.executor.read_files("yesterday", self.clock.store.event_files([Hour(day)] if self.came else []))
        for name, key, sources in (
            ("pairs", "user_id, slot", ("came", "went", "late_pairs")),
            ("users", "user_id", ("came", "went", "late_users")),
            ("items", "item_id", ("came", "went", "late_items", "yesterday")),
        ):
            self.engine.table(name, " UNION ".join(f"SELECT {key} FROM {source}" for source in sources))

    def _slots(self, touched: list[str]) -> dict[str, pa.Table]:
        """Tables ``DELTA`` of what changes; returns the rows of the touched pairs and of everybody in their slots."""
        touching, pairs = among("pairs", *PAIR), self.build.parts(PAIR)
        together = self.build.parts(("slot",), everyone=True)
        for part in self.build.slot_parts():
            where = "" if part.everyone else touching
            self.engine.table(STORED.of(part), self.merged(self.sums, touched, part, where))
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
            self.executor.run(self.build.encode(encoded, events, join), self.build.sums(tables, encoded, PAIR))
        for ours, everyone in zip(pairs, together, strict=True):
            self.engine.table(BEFORE.of(ours), self.build.with_ids(STORED.of(ours), ours))
            self._change(ours, self._changes_of_pairs(ours))
            self.engine.table(BEFORE.of(everyone), self.build.with_ids(STORED.of(everyone), everyone))
            self._change(everyone, f"SELECT {columns(everyone.columns)} FROM {DELTA.of(ours)} s")
        as_of, slots = str(self.as_of.number), "(SELECT DISTINCT slot FROM pairs)"
        return {
            "population_clock": self.executor.arrow(self.build.clock_rows(NOW, slots, ("slot",), as_of, everyone=True)),
            "clock_slots": self.executor.arrow(self.build.clock_rows(NOW, "pairs", PAIR, as_of)),
        }

    def _changes_of_pairs(self, part: Part) -> str:
        """SELECT of what is added to the sums of pairs; a pair with late events is counted again."""
        same, minus = columns(part.columns), f"{columns(part.keys)}, {negative(part.counts)}"
        late = among("late_pairs", *PAIR)
        return f"""SELECT {same} FROM {CAME.of(part)} s WHERE NOT {late}
            UNION ALL SELECT {minus} FROM {WENT.of(part)} s WHERE NOT {late}
            UNION ALL SELECT {same} FROM {INSIDE.of(part)} s
            UNION ALL SELECT {minus} FROM {BEFORE.of(part)} s WHERE {late}"""

    def _change(self, part: Part, changes: str) -> None:
        """Tables ``DELTA`` and ``NOW`` of a part, from what is added to its sums."""
        by, same = columns(part.keys), columns(part.columns)
        changed = " OR ".join(f"sum({c}) <> 0" for c in columns(part.counts).split(", "))
        self.engine.table(
            DELTA.of(part),
            f"SELECT {by}, {summed(part.counts)} FROM ({changes}) u GROUP BY {by} HAVING {changed}",
        )
        self.engine.table(
            NOW.of(part),
            f"""SELECT {by}, {summed(part.counts)} FROM (SELECT {same} FROM {BEFORE.of(part)}
                UNION ALL SELECT {same} FROM {DELTA.of(part)}) u GROUP BY {by} HAVING sum(events) <> 0""",
        )

    def _users(self) -> pa.Table:
        """The touched users' rows."""
        stored = self.merged(self.sums, ["users"], self.build.base_parts("users")[-1], among("users", "user_id"))
        counts, every_event = columns(["user_id", *COUNTS]), self.build.parts(PAIR)[-1]
        self.engine.table(
            "users_now",
            f"""SELECT user_id, {summed()} FROM (SELECT {counts} FROM ({stored}) s
                UNION ALL SELECT {counts} FROM {DELTA.of(every_event)}) u GROUP BY user_id""",
        )
        filled = ", ".join(f"coalesce(n.{columns([c])}, 0) AS {columns([c])}" for c in COUNTS)
        return self.engine.arrow(
            f"""SELECT k.user_id, {self.engine.hour_start(str(self.as_of.number))} AS event_timestamp, {filled},
            CAST({self.as_of.number} AS BIGINT) AS as_of FROM users k LEFT JOIN users_now n ON n.user_id = k.user_id
            ORDER BY k.user_id"""
        )

    def _items(self) -> pa.Table:
        """Table ``delta_items`` of what changes, ``items_now`` of the touched items; returns their rows."""
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
        return self.engine.arrow(item_rows(self.engine, touched))

    def _delta(self) -> Layer:
        """Write what changes; ``users`` shares the slots' delta."""
        each = " UNION ALL ".join(f"SELECT slot FROM {DELTA.of(part)}" for part in self.build.parts(PAIR))
        rows = {
            str(slot): int(n) for slot, n in self.engine.rows(f"SELECT slot, count(*) FROM ({each}) d GROUP BY slot")
        }
        rows |= {"users": sum(rows.values()), "items": int(self.engine.scalar("SELECT count(*) FROM delta_items"))}
        rows = {name: n for name, n in sorted(rows.items()) if n}
        items = {"items": "SELECT * FROM delta_items ORDER BY item_id"}
        slots = {part.name: self.build.slot_sums(DELTA, part) for part in self.build.slot_parts()}
        return self.write_delta({**slots, **items}, rows)

    def _profiles(self) -> pa.Table:
        """Whole-day rows of users whose day came or went at this midnight."""
        days = [
            *hour_range(self.as_of - DAY_HOURS, self.as_of),
            *hour_range(self.first - DAY_HOURS, self.first),
        ]
        self.executor.read_files("days", self.clock.store.event_files(days))
        self.engine.table("day_users", "SELECT DISTINCT user_id FROM days")
        rows = self.executor.prepare(self.profiles(self.sums, self.as_of, "day_users"))
        return self.engine.arrow(f"{rows} ORDER BY k.user_id")

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
        logs = self.clock.logs
        rows: dict[str, list[pa.Table]] = {view: [changes.schema.empty_table()] for view, changes in logs.items()}
        for view, sql in histories(self.executor, sources, period, "first_hours"):
            rows[view].append(self.engine.arrow(sql).cast(logs[view].schema))
        keys = {
            "clock_slots": "late_pairs",
            "user_profile": "late_users",
            "population_clock": "late_slots",
            "user_activity": "late_users",
            "item_stats": "late_items",
        }
        for view, pieces in rows.items():
            self.engine.register("corrected", pa.concat_tables(pieces))
            logs[view].replace(self.engine, keys[view], "corrected", since)
