"""What a rebuild and a refresh of the clocks share: tables in an engine, sums on disk, rows in change logs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from core.engine import Engine, parquet_parts
from core.hours import Hour, hour_range
from feature_repo.history import ITEM_COUNTS
from feature_repo.sql import Recipe, columns, negative, summed, zeros
from feature_repo.sums import Layer, Sums, folder_digest

if TYPE_CHECKING:
    from feature_repo.clock import ClockState

EVERYONE = "everyone-"


def table_of(name: str, part: str) -> str:
    """The engine's table of a part of sums, as ``Recipe.clock`` finds it: ``<name>_<i>`` or ``<name>_everyone_<i>``."""
    return f"{name}_{part.replace('-', '_')}"


def among(table: str, *keys: str) -> str:
    """Condition: the rows ``s`` have their keys in a table."""
    return f"EXISTS (SELECT 1 FROM {table} p WHERE {' AND '.join(f'p.{key} = s.{key}' for key in keys)})"


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
    """Refreshes since the rebuild: tells layers of sums apart."""

    def __init__(self, clock: ClockState, running: Engine, as_of: Hour) -> None:
        self.clock, self.engine, self.as_of = clock, running, as_of
        self.recipe = Recipe(running, clock.settings, clock.facets)
        self.first = as_of - clock.window

    def layout(self, name: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """Keys and counts of each part of a base: of ``users``, ``items`` or a slot."""
        if name == "items":
            return {"items": (("item_id",), ITEM_COUNTS)}
        found = {}
        for i, counts in self.recipe.parts():
            value = () if i == "all" else ("value",)
            if name == "users":
                found[i] = ("user_id", *value), counts
            else:
                found[i] = ("user_id", "slot", *value), counts
                found[EVERYONE + i] = ("slot", *value), counts
        return found

    def merged(self, sums: Sums, names: Sequence[str], part: str, where: str = "") -> str:
        """SELECT of stored sums, their deltas added up, values as text: a row a key that still has events.

        Args:
            sums: where they lie.
            names: any number of slots, or ``users`` or ``items`` alone.
            part: one of their ``layout``.
            where: condition on the keys of the rows ``s``.
        """
        keys, counts = self.layout(names[0] if names else "0")[part]
        by, items = columns(keys), part == "items"
        wanted = columns([*keys, *(["first_hour"] if items else []), *counts])
        rows = sums.rows(self.engine, names, part, wanted) if names else self._no_sums(keys, counts)
        return f"""SELECT {by}, {"min(first_hour) AS first_hour, " if items else ""}{summed(counts)}
            FROM ({rows}) s {f"WHERE {where}" if where else ""}
            GROUP BY {by} {"" if items else "HAVING sum(events) <> 0"}"""

    @staticmethod
    def _no_sums(keys: Sequence[str], counts: Sequence[str]) -> str:
        kinds = {"user_id": "BIGINT", "slot": "INTEGER", "value": "VARCHAR(1)"}
        return f"SELECT {', '.join(f'CAST(NULL AS {kinds[k]}) AS {k}' for k in keys)}, {zeros(counts)} WHERE 1 = 0"

    def with_ids(self, sums: str, part: str, name: str = "0") -> str:
        """SELECT of sums (of a slot; or of another ``name``) with the ids of their values instead of the text."""
        keys, counts = self.layout(name)[part]
        if "value" not in keys:
            return f"SELECT * FROM {sums} t"
        kept = columns([k for k in keys if k != "value"], "t.")
        dictionary = f"values_{part.removeprefix(EVERYONE)}"
        return f"""SELECT {kept}, d.id AS value, {columns(counts, "t.")} FROM {sums} t
            JOIN {dictionary} d ON d.value = t.value"""

    def parts_of(self, tables: str, slot: int | None = None) -> dict[str, str]:
        """Queries of every part of slots' sums, values as text, in the order of their keys.

        Args:
            tables: name of the tables, one a part as ``table_of`` names them, with value ids.
            slot: only that one.
        """
        where = "" if slot is None else f"WHERE s.slot = {slot}"
        return {part: self.with_texts(table_of(tables, part), part, "0", where) for part in self.layout("0")}

    def with_texts(self, sums: str, part: str, name: str, where: str = "") -> str:
        """SELECT of sums with value ids, values as text, in the order of their keys: ids sort as their texts do."""
        keys, counts = self.layout(name)[part]
        text = f"JOIN values_{part.removeprefix(EVERYONE)} d ON d.id = s.value" if "value" in keys else ""
        kept = ", ".join("d.value" if key == "value" else f"s.{key}" for key in keys)
        order = columns(sorted(keys, key=("slot", "user_id", "value").index), "s.")
        return f"SELECT {kept}, {columns(counts, 's.')} FROM {sums} s {text} {where} ORDER BY {order}"

    def everyone(self, tables: str) -> None:
        """Everybody's sums from the tables of slots."""
        for i, counts in self.recipe.parts():
            by = "slot" if i == "all" else "slot, value"
            name = table_of(tables, EVERYONE + i)
            self.engine.table(name, f"SELECT {by}, {summed(counts)} FROM {tables}_{i} s GROUP BY {by}")

    def write_bases(self, wanted: Mapping[str, Mapping[str, str]]) -> dict[str, Layer]:
        """Write the sums of slots, users or items anew: for each name the query of every part."""
        folders = {name: f"{name.zfill(3)}-{self.as_of.key}-{self.number}" for name in wanted}
        self._write({folders[name]: queries for name, queries in wanted.items()})
        return {
            name: self._layer(folder, {name: sum(self.keys(folder, p) for p in wanted[name] if EVERYONE not in p)})
            for name, folder in folders.items()
        }

    def write_delta(self, queries: Mapping[str, str], rows: Mapping[str, int]) -> Layer:
        """Write what this refresh changed: the query of every part, and how many rows of it are each name's."""
        folder = f"{self.as_of.key}-{self.number}"
        self._write({folder: queries})
        return self._layer(folder, rows)

    def fold(self, sums: Sums) -> Sums:
        """Write the bases anew whose deltas have grown large."""
        wanted = {}
        for name in sums.due():
            wanted[name] = {
                part: f"SELECT * FROM ({self.merged(sums, [name], part)}) m ORDER BY {columns(keys)}"
                for part, (keys, _) in self.layout(name).items()
            }
        return sums.with_bases(self.write_bases(wanted)) if wanted else sums

    def _write(self, folders: Mapping[str, Mapping[str, str]]) -> None:
        root = self.clock.sums_folder
        for folder in folders:
            shutil.rmtree(root / folder, ignore_errors=True)
        self.engine.write_all(
            {root / folder / part: sql for folder, queries in folders.items() for part, sql in queries.items()}
        )

    def _layer(self, folder: str, rows: Mapping[str, int]) -> Layer:
        return Layer(folder, folder_digest(self.clock.sums_folder / folder), self.number, rows)

    def keys(self, folder: str, part: str) -> int:
        """Rows of a part of a layer."""
        return sum(pq.read_metadata(file).num_rows for file in parquet_parts(self.clock.sums_folder / folder / part))

    # Rows of views.

    def profiles(self, sums: Sums, midnight: Hour, users: str | None) -> str:
        """SELECT of the whole-day rows as of a midnight, from the users' sums.

        Sums as of a later hour are taken back to midnight by the events in between.

        Args:
            sums: as of ``as_of``.
            midnight: UTC midnight at or before ``as_of``.
            users: table of the users wanted; None for all.
        """
        later = self.clock.store.event_files(list(hour_range(midnight, self.as_of)))
        earlier = self.clock.store.event_files(
            list(hour_range(midnight - self.clock.window, self.as_of - self.clock.window))
        )
        self.recipe.read("raw_later", later)
        self.recipe.read("raw_earlier", earlier)
        wanted = f" WHERE {among(users, 'user_id')}" if users else ""
        stored, layout = {}, self.layout("users")
        for i, (keys, counts) in layout.items():
            names = columns([*keys, *counts])
            stored[i] = f"(SELECT {names} FROM ({sums.rows(self.engine, ['users'], i, names)}) s{wanted})"
        both = "(SELECT * FROM raw_later UNION ALL SELECT * FROM raw_earlier)"
        self.recipe.dictionaries(f"{both} b", {int(i): f"{sql} t" for i, sql in stored.items() if i != "all"})
        self.recipe.encode("back", "raw_later")
        self.recipe.encode("forth", "raw_earlier")
        for name in ("back", "forth"):
            self.recipe.sums(f"day_{name}", name, ("user_id",))
        for i, (keys, counts) in layout.items():
            by, base = columns(keys), self.with_ids(stored[i], i, "users")
            minus = f"SELECT {by}, {negative(counts)} FROM day_back_{i} s{wanted}"
            plus = f"SELECT {by}, {columns(counts)} FROM day_forth_{i} s{wanted}"
            self.engine.table(
                f"day_{i}",
                f"""SELECT {by}, {summed(counts)} FROM ({base} UNION ALL {minus} UNION ALL {plus}) s
                GROUP BY {by} HAVING sum(events) <> 0""",
            )
        return self.recipe.clock("day", users or "day_all", ("user_id",), str(midnight.number))

    def write_rows(self, view: str, first: Hour, number: int, sql: str) -> None:
        """Write rows of the hours from first on as a piece of a change log."""
        self.engine.write(sql, self.clock.logs[view].span(first, self.as_of, number))

    def state(self, hours: dict[str, str], sums: Sums, generation: int, history_from: Hour) -> dict[str, Any]:
        return {
            "as_of": self.as_of.key,
            "generation": generation,
            "history_from": history_from.key,
            "config": self.clock.config,
            "hours": hours,
            "sums": sums.described(),
        }
