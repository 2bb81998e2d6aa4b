"""The refresh of one hour: what came, what went, and what late events touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from core.engine import Engine
from core.hours import DAY_HOURS, Hour, hour_range
from events.schema import BEHAVIORS
from feature_repo.history import ITEM_COUNTS, Period, Sources, histories, item_rows
from feature_repo.sql import COUNTS, columns, counted, negative, summed, zeros
from feature_repo.sums import Layer
from feature_repo.work import EVERYONE, Refreshed, Work, among, table_of

if TYPE_CHECKING:
    from feature_repo.clock import ClockState


class Refresh(Work):
    """One hour: what came, what went, and what late events touch."""

    def __init__(
        self, clock: ClockState, running: Engine, state: dict[str, Any], as_of: Hour, late: list[Hour]
    ) -> None:
        super().__init__(clock, running, as_of)
        self.old, self.late = state, late
        self.at = Hour.parse(state["as_of"])
        self.number = state["generation"] + 1
        self.history_from = Hour.parse(state["history_from"])
        self.sums = clock.sums(state)
        self.came = [as_of - 1] if self.at < as_of else []
        self.went = list(hour_range(self.at - clock.window, self.first)) if self.at < as_of else []

    def run(self) -> Refreshed:
        self._read()
        touched = [str(slot) for (slot,) in self.engine.rows("SELECT DISTINCT slot FROM pairs ORDER BY slot")]
        self.sums.check([*touched, "users", "items"])
        rows = {**self._slots(touched), "user_activity": self._users(), "item_stats": self._items()}
        self.sums = self.fold(self.sums.with_delta(self._delta()))
        if self.at < self.as_of and self.as_of.number % DAY_HOURS == 0:
            rows["user_profile"] = self._profiles()
        if self.late:
            self._correct()
        for view, table in rows.items():
            self.clock.logs[view].put(self.engine, self.as_of, table)
        known = self.old["hours"] | {h.key: self.clock.store.manifest(h).digest for h in (*self.came, *self.late)}
        self.clock.commit(self.state(known, self.sums, self.number, self.history_from))
        changed = rows["clock_slots"].num_rows, rows["user_activity"].num_rows
        return Refreshed(self.as_of.key, *changed, len(self.late), full=False)

    def _read(self) -> None:
        """Views ``came``, ``went``, ``raw_late`` of events; tables of the keys that they touch."""
        window = list(hour_range(self.first, self.as_of))
        for name, hours in (
            ("came", self.came), ("went", self.went), ("raw_late", self.late),
            ("inside", window if self.late else []),
        ):  # fmt: skip
            self.recipe.read(name, self.clock.store.event_files(hours))
        for name, key in (("late_pairs", "user_id, slot"), ("late_users", "user_id"), ("late_items", "item_id")):
            self.engine.table(name, f"SELECT DISTINCT {key} FROM raw_late")
        day = self.as_of.number - DAY_HOURS - 1
        self.recipe.read("yesterday", self.clock.store.event_files([Hour(day)] if self.came else []))
        for name, key, sources in (
            ("pairs", "user_id, slot", ("came", "went", "raw_late")),
            ("users", "user_id", ("came", "went", "raw_late")),
            ("items", "item_id", ("came", "went", "raw_late", "yesterday")),
        ):
            self.engine.table(name, " UNION ".join(f"SELECT {key} FROM {source}" for source in sources))

    def _slots(self, touched: list[str]) -> dict[str, pa.Table]:
        """Tables ``delta_<i>`` of what changes; returns the rows of the touched pairs and of everybody in their slots."""
        touching = among("pairs", "user_id", "slot")
        for part in self.layout("0"):
            where = "" if part.startswith(EVERYONE) else touching
            self.engine.table(table_of("stored", part), self.merged(self.sums, touched, part, where))
        moved = "(SELECT * FROM came UNION ALL SELECT * FROM went UNION ALL SELECT * FROM inside) m"
        texts = "(SELECT value FROM stored_{0} UNION ALL SELECT value FROM stored_everyone_{0}) t"
        self.recipe.dictionaries(moved, {i: texts.format(i) for i in range(len(self.clock.facets))})
        own = "JOIN late_pairs k ON k.user_id = r.user_id AND k.slot = r.slot"
        for name, join in (("came", ""), ("went", ""), ("inside", own)):
            self.recipe.encode(f"e_{name}", name, join)
            self.recipe.sums(f"s_{name}", f"e_{name}", ("user_id", "slot"))
        late = among("late_pairs", "user_id", "slot")
        for part, (keys, counts) in self.layout("0").items():
            by, same, minus = columns(keys), columns([*keys, *counts]), f"{columns(keys)}, {negative(counts)}"
            before, delta, now = (table_of(name, part) for name in ("before", "delta", "now"))
            self.engine.table(before, self.with_ids(table_of("stored", part), part))
            if part.startswith(EVERYONE):
                changes = f"SELECT {same} FROM delta_{part.removeprefix(EVERYONE)} s"
            else:  # a pair with late events is counted anew
                changes = f"""SELECT {same} FROM s_came_{part} s WHERE NOT {late}
                    UNION ALL SELECT {minus} FROM s_went_{part} s WHERE NOT {late}
                    UNION ALL SELECT {same} FROM s_inside_{part} s
                    UNION ALL SELECT {minus} FROM {before} s WHERE {late}"""
            changed = " OR ".join(f"sum({c}) <> 0" for c in columns(counts).split(", "))
            self.engine.table(delta, f"SELECT {by}, {summed(counts)} FROM ({changes}) u GROUP BY {by} HAVING {changed}")
            self.engine.table(
                now,
                f"""SELECT {by}, {summed(counts)} FROM (SELECT {same} FROM {before}
                    UNION ALL SELECT {same} FROM {delta}) u GROUP BY {by} HAVING sum(events) <> 0""",
            )
        as_of = str(self.as_of.number)
        everyone = self.recipe.clock("now_everyone", "(SELECT DISTINCT slot FROM pairs)", ("slot",), as_of)
        population = self.engine.arrow(everyone)
        rows = self.recipe.clock("now", "pairs", ("user_id", "slot"), as_of)
        slots = self.engine.arrow(rows)
        return {"clock_slots": slots, "population_clock": population}

    def _users(self) -> pa.Table:
        """The touched users' rows."""
        stored = self.merged(self.sums, ["users"], "all", among("users", "user_id"))
        counts = columns(["user_id", *COUNTS])
        self.engine.table(
            "users_now",
            f"""SELECT user_id, {summed()} FROM (SELECT {counts} FROM ({stored}) s
                UNION ALL SELECT {counts} FROM delta_all) u GROUP BY user_id""",
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
        self.engine.table("stored_items", self.merged(self.sums, ["items"], "items", among("items", "item_id")))
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
            # an item with late events is counted anew
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
        return self.engine.arrow(item_rows(self.recipe, touched))

    def _delta(self) -> Layer:
        """Write what changes; ``users`` shares the slots' delta."""
        each = " UNION ALL ".join(f"SELECT slot FROM delta_{i}" for i, _ in self.recipe.parts())
        rows = {
            str(slot): int(n) for slot, n in self.engine.rows(f"SELECT slot, count(*) FROM ({each}) d GROUP BY slot")
        }
        rows |= {"users": sum(rows.values()), "items": int(self.engine.scalar("SELECT count(*) FROM delta_items"))}
        rows = {name: n for name, n in sorted(rows.items()) if n}
        items = {"items": "SELECT * FROM delta_items ORDER BY item_id"}
        return self.write_delta({**self.parts_of("delta"), **items}, rows)

    def _profiles(self) -> pa.Table:
        """Whole-day rows of users whose day came or went at this midnight."""
        days = [
            *hour_range(self.as_of - DAY_HOURS, self.as_of),
            *hour_range(self.first - DAY_HOURS, self.first),
        ]
        self.recipe.read("days", self.clock.store.event_files(days))
        self.engine.table("day_users", "SELECT DISTINCT user_id FROM days")
        rows = self.profiles(self.sums, self.as_of, "day_users")
        return self.engine.arrow(f"{rows} ORDER BY k.user_id")

    def _correct(self) -> None:
        """Write the rows of past hours again that stand on late events."""
        since = max(min(self.late) + 1, self.history_from)
        opening = since == self.history_from and since - 1 > self.clock.store.hours()[0]
        period = Period(since - (0 if opening else 1), self.as_of, self.clock.window, opening=opening)
        files = self.clock.store.event_files(
            [h for h in self.clock.store.hours() if since - self.clock.window - DAY_HOURS <= h < self.as_of]
        )
        self.recipe.read("past_events", files)
        names = columns(["hour", "slot", "user_id", "item_id", *self.clock.facets, *BEHAVIORS])
        self.engine.table("late_slots", "SELECT DISTINCT slot FROM raw_late")
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
        self.recipe.dictionaries("past_events")
        firsts = "SELECT n.item_id, n.first_hour FROM items_now n JOIN late_items k ON k.item_id = n.item_id"
        self.engine.table("first_hours", firsts)
        sources = Sources(*(f"past_of_{name}" for name in ("late_pairs", "late_users", "late_slots", "late_items")))
        logs = self.clock.logs
        found: dict[str, list[pa.Table]] = {view: [changes.schema.empty_table()] for view, changes in logs.items()}
        for view, sql in histories(self.recipe, sources, period, "first_hours"):
            found[view].append(self.engine.arrow(sql).cast(logs[view].schema))
        keys = {
            "clock_slots": "late_pairs",
            "user_profile": "late_users",
            "population_clock": "late_slots",
            "user_activity": "late_users",
            "item_stats": "late_items",
        }
        for view, pieces in found.items():
            self.engine.register("corrected", pa.concat_tables(pieces))
            logs[view].replace(self.engine, keys[view], "corrected", since)
