"""What a rebuild and a refresh of the clocks share: tables in an engine, sums on disk, rows in change logs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.engine import Engine, parquet_parts
from core.files import digest_file, digest_text
from core.hours import Hour, hour_range
from feature_repo.sql import COUNTS, Recipe, columns, negative, summed, zeros

if TYPE_CHECKING:
    from feature_repo.clock import ClockState


@dataclass(frozen=True)
class Refreshed:
    """What a rebuild or refresh did."""

    as_of: str
    slots_changed: int
    users_changed: int
    hours_corrected: int
    full: bool


class Work:
    """What a rebuild and a refresh share: tables in an engine, sums on disk, rows in change logs."""

    number = 0
    """Refreshes since the rebuild: tells sums of one hour apart that late events corrected."""

    def __init__(self, clock: ClockState, running: Engine, as_of: Hour) -> None:
        self.clock, self.engine, self.as_of = clock, running, as_of
        self.recipe = Recipe(running, clock.settings, clock.facets)
        self.first = as_of - clock.window

    def write_sums(self, wanted: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
        """Write sums of slots (or of users or items), a query a part; returns their entries in the state.

        Args:
            wanted: for each name in the state, the queries of its parts.
        """
        names = {key: f"{key.zfill(3)}-{self.as_of.key}-{self.number}" for key in wanted}
        for name in names.values():
            shutil.rmtree(self.clock.sums_folder(name), ignore_errors=True)
        self.engine.write_all(
            {
                self.clock.sums_folder(names[key]) / part: sql
                for key, queries in wanted.items()
                for part, sql in queries.items()
            }
        )
        return {key: {"folder": n, "digest": folder_digest(self.clock.sums_folder(n))} for key, n in names.items()}

    def stored(self, entry: dict[str, str], part: str) -> list[Path]:
        return parquet_parts(self.clock.sums_folder(entry["folder"]) / part)

    def stored_slots(
        self, entries: dict[str, dict[str, str]], slots: Sequence[int], part: str, counts: Sequence[str]
    ) -> str:
        """SELECT of the stored sums of slots (user_id, slot, value as text, counts).

        Args:
            entries: the state's sums.
            slots: their numbers; none gives no rows.
            part: facet number, or ``all`` (without values).
            counts: columns of the part.
        """
        value = "" if part == "all" else "value, "
        selects = [
            f"""SELECT user_id, CAST({slot} AS INTEGER) AS slot, {value}{columns(counts)}
            FROM {self.engine.files(self.stored(entries[str(slot)], part))} f{slot}"""
            for slot in slots
        ]
        text = "" if part == "all" else "CAST(NULL AS VARCHAR(1)) AS value, "
        nothing = f"SELECT CAST(0 AS BIGINT) AS user_id, CAST(0 AS INTEGER) AS slot, {text}{zeros(counts)} WHERE 1 = 0"
        return " UNION ALL ".join(selects or [nothing])

    @staticmethod
    def with_ids(sums: str, part: str, counts: Sequence[str]) -> str:
        """SELECT of stored sums with the ids of their values instead of the text."""
        if part == "all":
            return sums
        return f"""SELECT t.user_id, t.slot, d.id AS value, {columns(counts, "t.")} FROM ({sums}) t
            JOIN values_{part} d ON d.value = t.value"""

    def slot_sums(self, tables: str, slot: int, more: str = "") -> dict[str, str]:
        """Queries of a slot's sums, values as text, in the order of their key.

        Args:
            tables: name of the tables by facet, with value ids.
            slot: the slot.
            more: name of further such tables, their rows added.
        """

        def both(i: str) -> str:
            return f"(SELECT * FROM {tables}_{i} UNION ALL SELECT * FROM {more}_{i})" if more else f"{tables}_{i}"

        queries = {
            i: f"""SELECT s.user_id, d.value, {columns(counts, "s.")} FROM {both(i)} s
            JOIN values_{i} d ON d.id = s.value WHERE s.slot = {slot} ORDER BY s.user_id, s.value"""
            for i, counts in self.recipe.parts()[:-1]
        }
        queries["all"] = f"SELECT user_id, {columns(COUNTS)} FROM {both('all')} s WHERE slot = {slot} ORDER BY user_id"
        return queries

    def population(self, tables: str, more: str = "", keyed: str = "everyone_all") -> str:
        """SELECT of the population's clock rows from tables of sums (and ``more``), one for every slot in ``keyed``."""
        for i, counts in self.recipe.parts():
            source = f"(SELECT * FROM {tables}_{i} UNION ALL SELECT * FROM {more}_{i})" if more else f"{tables}_{i}"
            value = "" if i == "all" else ", value"
            self.engine.table(
                f"everyone_{i}", f"SELECT slot{value}, {summed(counts)} FROM {source} s GROUP BY slot{value}"
            )
        return self.recipe.clock("everyone", keyed, ("slot",), str(self.as_of.number))

    def profiles(self, entries: dict[str, dict[str, str]], midnight: Hour, users: str | None) -> str:
        """SELECT of the whole-day rows as of a midnight, from the sums of all slots.

        Sums as of a later hour are taken back to midnight by the events in between.

        Args:
            entries: the state's sums by slot.
            midnight: UTC midnight at or before ``as_of``.
            users: table of the users wanted; None for all.
        """
        later = self.clock.events(list(hour_range(midnight, self.as_of)))
        earlier = self.clock.events(list(hour_range(midnight - self.clock.window, self.as_of - self.clock.window)))
        self.recipe.read("raw_later", later)
        self.recipe.read("raw_earlier", earlier)
        slots = [entry for slot, entry in entries.items() if slot.isdigit()]
        wanted = f" WHERE EXISTS (SELECT 1 FROM {users} w WHERE w.user_id = s.user_id)" if users else ""
        text = {
            i: f"""(SELECT user_id, value, {columns(counts)} FROM
            {self.engine.files([p for entry in slots for p in self.stored(entry, i)])} s{wanted})"""
            for i, counts in self.recipe.parts()[:-1]
        }
        both = "(SELECT * FROM raw_later UNION ALL SELECT * FROM raw_earlier)"
        self.recipe.dictionaries(f"{both} b", {int(i): f"{sql} t" for i, sql in text.items()})
        self.recipe.encode("back", "raw_later")
        self.recipe.encode("forth", "raw_earlier")
        for name in ("back", "forth"):
            self.recipe.sums(f"day_{name}", name, ("user_id",))
        for i, counts in self.recipe.parts():
            value = "" if i == "all" else ", value"
            if i == "all":
                files = self.engine.files([p for entry in slots for p in self.stored(entry, "all")])
                base = f"SELECT user_id, {columns(COUNTS)} FROM {files} s{wanted}"
            else:
                base = f"""SELECT t.user_id, d.id AS value, {columns(counts, "t.")} FROM {text[i]} t
                    JOIN values_{i} d ON d.value = t.value"""
            minus = f"SELECT user_id{value}, {negative(counts)} FROM day_back_{i} s{wanted}"
            plus = f"SELECT user_id{value}, {columns(counts)} FROM day_forth_{i} s{wanted}"
            self.engine.table(
                f"day_{i}",
                f"""SELECT user_id{value}, {summed(counts)} FROM ({base} UNION ALL {minus} UNION ALL {plus}) s
                GROUP BY user_id{value} HAVING sum(events) <> 0""",
            )
        return self.recipe.clock("day", users or "day_all", ("user_id",), str(midnight.number))

    def write_rows(self, view: str, first: Hour, number: int, sql: str) -> None:
        """Write rows of the hours from first on as a piece of a change log."""
        self.engine.write(sql, self.clock.logs[view].span(first, self.as_of, number))

    def state(
        self, hours: dict[str, str], sums: dict[str, dict[str, str]], generation: int, history_from: Hour
    ) -> dict[str, Any]:
        return {
            "as_of": self.as_of.key,
            "generation": generation,
            "history_from": history_from.key,
            "config": self.clock.config,
            "hours": hours,
            "sums": sums,
        }


def folder_digest(folder: Path) -> str:
    """Digest of every file below a folder of sums."""
    return digest_text(*(digest_file(path) for path in sorted(folder.rglob("*.parquet"))))
