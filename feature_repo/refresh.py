"""The refresh of one hour: what came, what went, and what late events touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from core.engine import Engine
from core.errors import CorruptStateError
from core.hours import Hour, hour_range
from events.schema import BEHAVIOURS
from feature_repo.history import DAY_HOURS, ITEM_COUNTS, Period, Sources, histories, item_rows
from feature_repo.sql import COUNTS, columns, counted, negative, summed, zeros
from feature_repo.work import Refreshed, Work, folder_digest

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
        self.sums: dict[str, dict[str, str]] = dict(state["sums"])
        self.came = [as_of - 1] if self.at < as_of else []
        self.went = list(hour_range(self.at - clock.window, self.first)) if self.at < as_of else []

    def run(self) -> Refreshed:
        self._read()
        touched = [slot for (slot,) in self.engine.rows("SELECT DISTINCT slot FROM pairs ORDER BY slot")]
        self._check([*map(str, touched), "users", "items"])
        rows = {**self._slots(touched), "user_activity": self._users(), "item_stats": self._items()}
        if self.at < self.as_of and self.as_of.number % DAY_HOURS == 0:
            rows["user_profile"] = self._profiles()
        if self.late:
            self._correct()
        for view, table in rows.items():
            self.clock.logs[view].put(self.as_of, table)
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
            self.recipe.read(name, self.clock.events(hours))
        for name, key in (("late_pairs", "user_id, slot"), ("late_users", "user_id"), ("late_items", "item_id")):
            self.engine.table(name, f"SELECT DISTINCT {key} FROM raw_late")
        day = self.as_of.number - DAY_HOURS - 1
        self.recipe.read("yesterday", self.clock.events([Hour(day)] if self.came else []))
        for name, key, sources in (
            ("pairs", "user_id, slot", ("came", "went", "raw_late")),
            ("users", "user_id", ("came", "went", "raw_late")),
            ("items", "item_id", ("came", "went", "raw_late", "yesterday")),
        ):
            self.engine.table(name, " UNION ".join(f"SELECT {key} FROM {source}" for source in sources))

    def _check(self, names: list[str]) -> None:
        """The stored sums are those that were written; raises ``CorruptStateError`` where they are not."""
        for name in names:
            entry = self.sums.get(name)
            if entry and folder_digest(self.clock.sums_folder(entry["folder"])) != entry["digest"]:
                raise CorruptStateError(
                    f"the sums in {self.clock.sums_folder(entry['folder'])} are damaged; "
                    f"run 'python -m feature_repo rebuild {self.at}' to compute them again from the events"
                )

    def _slots(self, touched: list[int]) -> dict[str, pa.Table]:
        """Write the new sums of the touched slots; returns the rows of the touched pairs and of the population."""
        before = {i: self.stored_slots(self.sums, touched, i, counts) for i, counts in self.recipe.parts()}
        moved = "(SELECT * FROM came UNION ALL SELECT * FROM went UNION ALL SELECT * FROM inside) m"
        self.recipe.dictionaries(moved, {int(i): f"({sql}) t" for i, sql in before.items() if i != "all"})
        own = "JOIN late_pairs k ON k.user_id = r.user_id AND k.slot = r.slot"
        for name, join in (("came", ""), ("went", ""), ("inside", own)):
            self.recipe.encode(f"e_{name}", name, join)
            self.recipe.sums(f"s_{name}", f"e_{name}", ("user_id", "slot"))
        among = "EXISTS (SELECT 1 FROM %s p WHERE p.user_id = s.user_id AND p.slot = s.slot)"
        for i, counts in self.recipe.parts():
            keys = "user_id, slot" if i == "all" else "user_id, slot, value"
            self.engine.table(f"old_{i}", self.with_ids(before[i], i, counts))
            self.engine.table(f"still_{i}", f"SELECT * FROM old_{i} s WHERE NOT {among % 'pairs'}")
            rest, same = f"WHERE NOT {among % 'late_pairs'}", columns(counts)
            self.engine.table(
                f"moved_{i}",
                f"""SELECT {keys}, {summed(counts)} FROM (
                    SELECT {keys}, {same} FROM old_{i} s {rest} AND {among % "pairs"}
                    UNION ALL SELECT {keys}, {same} FROM s_came_{i} s {rest}
                    UNION ALL SELECT {keys}, {negative(counts)} FROM s_went_{i} s {rest}
                    UNION ALL SELECT {keys}, {same} FROM s_inside_{i} s) u
                GROUP BY {keys} HAVING sum(events) <> 0""",
            )
        self.sums |= self.write_sums({str(slot): self.slot_sums("still", slot, "moved") for slot in touched})
        everyone = self.engine.arrow(self.population("still", "moved", "(SELECT DISTINCT slot FROM pairs)"))
        rows = self.recipe.clock("moved", "pairs", ("user_id", "slot"), str(self.as_of.number))
        return {"clock_slots": self.engine.arrow(rows), "population_clock": everyone}

    def _users(self) -> pa.Table:
        """Write the users' sums; returns the touched users' rows."""
        among = "EXISTS (SELECT 1 FROM %s p WHERE p.user_id = s.user_id)"
        stored = self.engine.files(self.stored(self.sums["users"], "all"))
        parts = [
            f"SELECT user_id, {columns(COUNTS)} FROM {stored} s WHERE NOT {among % 'late_users'}",
            f"SELECT user_id, {counted()} FROM came s WHERE NOT {among % 'late_users'} GROUP BY user_id",
            f"""SELECT user_id, {negative()} FROM (
            SELECT user_id, {counted()} FROM went s WHERE NOT {among % "late_users"} GROUP BY user_id) w""",
            f"SELECT user_id, {counted()} FROM inside s WHERE {among % 'late_users'} GROUP BY user_id",
        ]  # fmt: skip
        self.engine.table(
            "users_now",
            f"""SELECT user_id, {summed()} FROM ({" UNION ALL ".join(parts)}) u GROUP BY user_id
            HAVING sum(events) <> 0""",
        )
        self.sums |= self.write_sums({"users": {"all": "SELECT * FROM users_now ORDER BY user_id"}})
        filled = ", ".join(f"coalesce(n.{columns([c])}, 0) AS {columns([c])}" for c in COUNTS)
        return self.engine.arrow(
            f"""SELECT k.user_id, {self.engine.hour_start(str(self.as_of.number))} AS event_timestamp, {filled},
            CAST({self.as_of.number} AS BIGINT) AS as_of FROM users k LEFT JOIN users_now n ON n.user_id = k.user_id"""
        )

    def _items(self) -> pa.Table:
        """Write the items' sums; returns the touched items' rows."""
        among = "EXISTS (SELECT 1 FROM late_items p WHERE p.item_id = s.item_id)"
        stored = self.engine.files(self.stored(self.sums["items"], "all"))
        both, names = columns(("first_hour", *ITEM_COUNTS)), columns(ITEM_COUNTS)
        for name in ("came", "went", "yesterday", "inside"):
            self.engine.view(
                f"{name}_items", f"SELECT * FROM {name} s WHERE {'' if name == 'inside' else 'NOT '}{among}"
            )
        never = f"CAST({self.as_of.number} AS BIGINT) AS first_hour"  # later than any hour: only another one counts
        no_day, nothing = zeros(ITEM_COUNTS[:2]), zeros()
        day = "count(CASE WHEN {0} THEN 1 END) AS day_events, count(CASE WHEN {0} AND finish THEN 1 END) AS day_finish"
        recent = day.format(f"hour >= {self.as_of.number - DAY_HOURS}")
        parts = [
            f"SELECT item_id, {both} FROM {stored} s WHERE NOT {among}",
            f"SELECT item_id, first_hour, {no_day}, {nothing} FROM {stored} s WHERE {among}",
            f"SELECT item_id, min(hour), {no_day}, {nothing} FROM raw_late GROUP BY item_id",
            f"SELECT item_id, min(hour), {recent}, {counted()} FROM came_items GROUP BY item_id",
            f"SELECT item_id, min(hour), {recent}, {counted()} FROM inside_items GROUP BY item_id",
            f"""SELECT item_id, {never}, -day_events, -day_finish, {nothing} FROM (
                SELECT item_id, {day.format("1 = 1")} FROM yesterday_items GROUP BY item_id) y""",
            f"""SELECT item_id, {never}, {no_day}, {negative()} FROM (
                SELECT item_id, {counted()} FROM went_items GROUP BY item_id) w""",
        ]
        self.engine.table(
            "items_now",
            f"SELECT item_id, min(first_hour) AS first_hour, {summed(ITEM_COUNTS)} FROM ({' UNION ALL '.join(parts)}) i GROUP BY item_id",
        )
        now = f"SELECT item_id, first_hour, {names} FROM items_now ORDER BY item_id"
        self.sums |= self.write_sums({"items": {"all": now}})
        touched = f"""SELECT n.*, CAST({self.as_of.number} AS BIGINT) AS as_of FROM items_now n
            JOIN items k ON k.item_id = n.item_id"""
        return self.engine.arrow(item_rows(self.recipe, touched))

    def _profiles(self) -> pa.Table:
        """Whole-day rows of users whose day came or went at this midnight."""
        days = [
            *hour_range(self.as_of - DAY_HOURS, self.as_of),
            *hour_range(self.first - DAY_HOURS, self.first),
        ]
        self.recipe.read("days", self.clock.events(days))
        self.engine.table("day_users", "SELECT DISTINCT user_id FROM days")
        return self.engine.arrow(self.profiles(self.sums, self.as_of, "day_users"))

    def _correct(self) -> None:
        """Write the rows of past hours again that stand on late events."""
        since = max(min(self.late) + 1, self.history_from)
        opening = since == self.history_from and since - 1 > self.clock.store.hours()[0]
        period = Period(since - (0 if opening else 1), self.as_of, self.clock.window, opening=opening)
        files = self.clock.events(
            [h for h in self.clock.store.hours() if since - self.clock.window - DAY_HOURS <= h < self.as_of]
        )
        self.recipe.read("past_events", files)
        names = columns(["hour", "slot", "user_id", "item_id", *self.clock.facets, *BEHAVIOURS])
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
