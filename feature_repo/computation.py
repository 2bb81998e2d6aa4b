"""What a rebuild and a refresh of the clocks share: sums on disk become tables in an engine, and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from core.hours import Hour, hour_range
from core.sql_engine import Engine, parquet_parts
from events.change_list import ChangePosition
from feature_repo.executor import Executor
from feature_repo.query_builder import ITEMS, Part, SumTables
from feature_repo.sql import columns, negative, summed, zeros
from feature_repo.state import ClockStorage, StateDescription
from feature_repo.statements import Query
from feature_repo.sums import Layer, Sums, folder_digests, folder_stamp


def among(table: str, *keys: str) -> str:
    """Condition: the rows ``s`` have their keys in a table."""
    return f"EXISTS (SELECT 1 FROM {table} p WHERE {' AND '.join(f'p.{key} = s.{key}' for key in keys)})"


@dataclass(frozen=True)
class Refreshed:
    """What a rebuild or refresh did.

    Attributes:
        as_of: key of the hour at whose start the clocks now hold.
        slots_changed: rows of users' slots that were written.
        users_changed: users with a new row.
        hours_corrected: past hours with late events.
        full: whether it was a rebuild.
    """

    as_of: str
    slots_changed: int
    users_changed: int
    hours_corrected: int
    full: bool


class ClockComputation:
    """One rebuild or refresh, or a look at the sums.

    Args:
        clock: where the clocks lie.
        running: computes them.
        as_of: hour at whose start they shall hold.
    """

    generation = 0
    """Refreshes since the rebuild: tells layers of sums apart."""

    def __init__(self, clock: ClockStorage, running: Engine, as_of: Hour) -> None:
        self.clock, self.engine, self.as_of = clock, running, as_of
        self.executor = Executor(running, clock.settings, clock.facets)
        self.build = self.executor.build
        self.first = as_of - clock.window

    # Sums.

    def merged(self, sums: Sums, names: Sequence[str], part: Part, where: str = "") -> str:
        """SELECT of stored sums, their deltas added up, values as text: one row for each key that still has events.

        Args:
            sums: which lie on disk.
            names: any number of slots, or ``users`` or ``items`` alone.
            part: one of theirs.
            where: condition on the keys of the rows ``s``.
        """
        by, items = columns(part.keys), part == ITEMS
        selected = columns([*part.keys, *(["first_hour"] if items else []), *part.counts])
        rows = sums.rows(self.engine, names, part.name, selected) if names else self._no_sums(part)
        return f"""SELECT {by}, {"min(first_hour) AS first_hour, " if items else ""}{summed(part.counts)}
            FROM ({rows}) s {f"WHERE {where}" if where else ""}
            GROUP BY {by} {"" if items else "HAVING sum(events) <> 0"}"""

    @staticmethod
    def _no_sums(part: Part) -> str:
        types = {"user_id": "BIGINT", "slot": "INTEGER", "value": "VARCHAR(1)"}
        keys = ", ".join(f"CAST(NULL AS {types[key]}) AS {key}" for key in part.keys)
        return f"SELECT {keys}, {zeros(part.counts)} WHERE 1 = 0"

    def write_bases(self, queries: Mapping[str, Mapping[str, str]]) -> dict[str, Layer]:
        """Write bases of sums, in the place of those before.

        Args:
            queries: by name (a slot, ``users``, ``items``) and part, the query of the sums.
        """
        folders = {name: self.base_folder(name) for name in queries}
        self._write({folders[name]: parts for name, parts in queries.items()})
        return self._bases({name: list(parts) for name, parts in queries.items()})

    def write_slot_sums(self, tables: SumTables, slots: Sequence[int], root: Path) -> None:
        """Write the sums of slots to the folders of their bases, in the place of those before.

        Args:
            tables: of their sums, with value ids.
            slots: their numbers.
            root: folder of the bases.
        """
        for slot in slots:
            folder = root / self.base_folder(str(slot))
            shutil.rmtree(folder, ignore_errors=True)
            for part in self.build.slot_parts():
                self.engine.write(self.build.slot_sums(tables, part, slot), folder / part.name)

    def slot_bases(self, slots: Sequence[int]) -> dict[str, Layer]:
        """The bases of slots, whose sums have just been written."""
        return self._bases({str(slot): [part.name for part in self.build.slot_parts()] for slot in slots})

    def base_folder(self, name: str) -> str:
        """Name of the folder of a base."""
        return f"{name.zfill(3)}-{self.as_of.key}-{self.generation}"

    def _bases(self, parts: Mapping[str, Sequence[str]]) -> dict[str, Layer]:
        """The bases just written, from the names of their parts."""
        rows = {}
        for name, names in parts.items():
            folder = self.base_folder(name)
            stored = sum(self.stored_rows(folder, part) for part in names if not part.startswith("everyone-"))
            rows[folder] = {name: stored}
        return dict(zip(parts, self._layers(rows), strict=True))

    def write_delta(self, queries: Mapping[str, str], rows: Mapping[str, int]) -> Layer:
        """Write what this refresh changed.

        Args:
            queries: of every part, by its name.
            rows: by name (a slot, ``users``, ``items``), how many rows belong to it.
        """
        folder = f"{self.as_of.key}-{self.generation}"
        self._write({folder: queries})
        return self._layers({folder: rows})[0]

    def fold(self, sums: Sums) -> Sums:
        """Write those bases again whose deltas have grown large."""
        folded = {
            name: {
                part.name: f"SELECT * FROM ({self.merged(sums, [name], part)}) m {self.engine.sorted_by(columns(part.keys))}"
                for part in self.build.base_parts(name)
            }
            for name in sums.due()
        }
        return sums.with_bases(self.write_bases(folded)) if folded else sums

    def _write(self, folders: Mapping[str, Mapping[str, str]]) -> None:
        root = self.clock.sums_folder
        for folder in folders:
            shutil.rmtree(root / folder, ignore_errors=True)
        self.engine.write_all(
            {root / folder / part: sql for folder, queries in folders.items() for part, sql in queries.items()}
        )

    def _layers(self, rows: Mapping[str, Mapping[str, int]]) -> list[Layer]:
        """The layers just written, from what each folder has of each name."""
        root = self.clock.sums_folder
        digests = folder_digests([root / folder for folder in rows], self.engine.digests)
        return [
            Layer(folder, digests[root / folder], self.generation, counts, folder_stamp(root / folder))
            for folder, counts in rows.items()
        ]

    def stored_rows(self, folder: str, part: str) -> int:
        """Number of rows of a part of a layer."""
        return sum(pq.read_metadata(file).num_rows for file in parquet_parts(self.clock.sums_folder / folder / part))

    # Rows of views.

    def profiles(self, sums: Sums, midnight: Hour, users: str | None, since: Hour | None = None) -> Query:
        """The whole-day rows as of a midnight, from the users' sums.

        Sums as of a later hour are taken back to midnight by the events in between.

        Args:
            sums: as of ``as_of``.
            midnight: UTC midnight at or before ``as_of``.
            users: table of the users wanted; None for all.
            since: hour from which the rows hold; default the midnight.
        """
        later = self.clock.store.event_files(list(hour_range(midnight, self.as_of)))
        earlier = self.clock.store.event_files(
            list(hour_range(midnight - self.clock.window, self.as_of - self.clock.window))
        )
        self.executor.read_files("raw_later", later)
        self.executor.read_files("raw_earlier", earlier)
        of_users = f" WHERE {among(users, 'user_id')}" if users else ""
        keys = ("user_id",)
        parts = self.build.parts(keys)
        stored = {}
        for part in parts:
            names = columns(part.columns)
            stored[part] = f"(SELECT {names} FROM ({sums.rows(self.engine, ['users'], part.name, names)}) s{of_users})"
        both = "(SELECT * FROM raw_later UNION ALL SELECT * FROM raw_earlier) b"
        texts = {part.facet: f"{sql} t" for part, sql in stored.items() if part.facet is not None}
        back, forth, day = (SumTables(f"day{suffix}") for suffix in ("_back", "_forth", ""))
        self.executor.run(self.build.dictionaries(both, texts))
        signed = [(tables, events, sign) for tables, events, files, sign in (
            (back, "raw_later", later, negative), (forth, "raw_earlier", earlier, columns),
        ) if files]  # fmt: skip
        for tables, events, _ in signed:
            encoded = f"{tables.prefix}_events"
            self.executor.run(self.build.encode(encoded, events), self.build.sums(tables, encoded, keys))
        self.engine.tables({day.of(part): self._moved(stored[part], part, signed, of_users) for part in parts})
        return self.build.clock_rows(day, users or day.of(parts[-1]), keys, str((since or midnight).number))

    def _moved(
        self,
        stored: str,
        part: Part,
        signed: Sequence[tuple[SumTables, str, Callable[[Sequence[str]], str]]],
        where: str,
    ) -> str:
        """SELECT of stored sums, with value ids, and what is added to them or taken off."""
        by = columns(part.keys)
        sources = [self.build.with_ids(stored, part)]
        sources += [f"SELECT {by}, {sign(part.counts)} FROM {tables.of(part)} s{where}" for tables, _, sign in signed]
        return f"""SELECT {by}, {summed(part.counts)} FROM ({" UNION ALL ".join(sources)}) s
            GROUP BY {by} HAVING sum(events) <> 0"""

    def write_rows(self, view: str, first: Hour, number: int, sql: str) -> None:
        """Write rows of the hours from first on as a piece of a view's change log; ``number`` tells pieces apart."""
        self.engine.write(sql, self.clock.logs[view].span(first, self.as_of, number))

    def describe(self, changes: ChangePosition, sums: Sums, history_from: Hour) -> StateDescription:
        """The state after this computation.

        Args:
            changes: how far the events' list of changes is in them, taken before any event was read.
            sums: as of ``as_of``.
            history_from: first hour whose rows the change logs can tell.
        """
        return StateDescription(self.as_of, self.generation, history_from, self.clock.config, changes, sums)
