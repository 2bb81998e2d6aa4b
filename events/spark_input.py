"""An input that executors of Spark read, each a piece, with the functions that one process reads it with.

What an event is, why a row is none, and what a row adds to an event is defined once, for DuckDB: executors' Python processes run
it on their piece, and Spark brings together what belongs together. Where a reader has to know of all rows, the pieces agree
(`events.input_part`). Rows of an event id come to one task, which tells events from repetitions; rows of an hour to another one,
which writes the hour's files to a folder of the ingestion. The driver puts them in place, hour by hour, as one process does.
Only counts and names of files reach it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import pyarrow as pa

from core.duck import file_list, identifier, scalar
from core.files import digest_file
from core.hours import Hour
from core.settings import Settings
from core.spark import SparkEngine
from events.account import Account, odd_id_conditions, take_counts
from events.hour_changes import HourCounts, HourWriter, rejected_by_hour
from events.ids import drop_merged_ids, id_files, id_kinds, id_path
from events.items import load_items
from events.likely_cause import FIXED_CAUSES, NO_CAUSE
from events.lists import ListMarks
from events.local_input import Log, RowCounts, add_up, cells_sql, keep_id_kinds
from events.mapping import Mapping as LogMapping
from events.part_tasks import (
    ConflictReader,
    HourFiller,
    IdWriter,
    PieceResult,
    QuarantineLines,
    Reader,
    Repetitions,
    repetition_schema,
)
from events.partition import Manifest
from events.pieces import read_pieces
from events.quarantine import input_digest
from events.readers import RawLog
from events.repeated import CONFLICTING
from events.staging import IGNORED, ItemMatches
from events.store import EventStore

log = logging.getLogger("events.ingest")

PIECE_BYTES = 64 << 20
"""About so many bytes a task reads."""
SPARK_TYPES = {
    "string": "STRING", "int64": "BIGINT", "int32": "INT", "double": "DOUBLE", "bool": "BOOLEAN",
    "timestamp[us, tz=UTC]": "TIMESTAMP", "timestamp[us]": "TIMESTAMP_NTZ",
}  # fmt: skip


def is_readable(mapping: LogMapping) -> bool:
    """Whether executors can read a log, each a piece: actions look for impressions far away, and lists are judged by all of them.

    Args:
        mapping: of the log.
    """
    return mapping.actions is None and mapping.impressions is None


class SparkInput:
    """An input that executors read; see ``events.local_input.Input``.

    Args:
        running: Spark.
        con: of this process, for tables beside the log.
        log: what is read.
        store: where it goes.
        settings: of the workspace.
        folder: an empty one that the executors see, on the store's file system.

    Raises:
        ConfigError, DataError: it cannot be read.
    """

    def __init__(
        self,
        running: SparkEngine,
        con: duckdb.DuckDBPyConnection,
        log: Log,
        store: EventStore,
        settings: Settings,
        folder: Path,
    ) -> None:
        self._engine, self._con, self._log, self._store = running, con, log, store
        self._settings, self._folder = settings, folder
        (folder / "hours").mkdir()
        self._reader = Reader(settings, log, id_kinds(store.root), folder)
        self._pieces = read_pieces(con, log, self._reader, running.map_tasks, PIECE_BYTES)
        self._results = self._pieces.results
        self.ids, self.items_file = self._results[0].ids, self._results[0].items_file
        self._counts_by_hour = HourCounts()
        self._conflicts: list[Path] = []
        self._staged = running.files([result.staged for result in self._results if result.staged])

    @property
    def counts(self) -> RowCounts:
        return self._pieces.counts

    @cached_property
    def examples(self) -> CollectedExamples:
        layout = self._pieces.known["layout:"]
        columns = {name: f"c{number}" for number, name in enumerate((*layout.names, *layout.keys))}
        raw = RawLog(columns, dict(layout.types), False, tuple(self._log.files))
        return CollectedExamples(self._results, raw, {})

    def match_items(self) -> ItemMatches:
        ((known, items),) = self._engine.rows(
            f"""SELECT count_if(known), count(*) FROM
            (SELECT item_key, bool_or(in_items) AS known FROM {self._staged} GROUP BY item_key)"""
        )
        example = next((result.item_example for result in self._results if result.item_example), None)
        if items and not known:
            self.load_items()
        in_table = scalar(self._con, "SELECT any_value(key) FROM items") if items and not known else None
        return ItemMatches(known, items, example, in_table)

    def account(self, store: EventStore) -> Account:
        engine, mapping, counts = self._engine, self._log.mapping, self.counts
        self._give_ids()
        self._find_repetitions(store)
        rows = engine.rows(
            f"""SELECT __kind, CAST({engine.hour_number("timestamp")} AS BIGINT) AS hour, __note, {self._piece} AS piece,
            sum(CASE __kind WHEN 'duplicates' THEN __n ELSE 1 END) AS n FROM repetitions
            WHERE __kind NOT IN ('fresh', 'amended') GROUP BY 1, 2, 3, 4"""
        )
        told = [json.loads(note) for kind, _, note, _, _ in rows if kind == "counts"]
        account = Account(rows_in=counts.good + sum(counts.reasons.values()))
        account.kept, account.merged, account.duplicates = (
            sum(each[name] for each in told) for name in ("kept", "merged", "duplicates")
        )
        duplicates = Counter[int]()
        for kind, hour, _, _, n in rows:
            duplicates.update({hour: int(n)} if kind == "duplicates" else {})
        conflicts = [(hour, CONFLICTING, int(n)) for kind, hour, _, _, n in rows if kind == "conflicting"]
        files = [result.rejected for result in self._results if result.rejected]
        by_reason = self._con.execute(
            f"SELECT hour, reason, CAST(sum(n) AS BIGINT) FROM read_parquet({file_list(files)}) GROUP BY ALL"
        ).fetchall()
        self._counts_by_hour = HourCounts(duplicates, rejected_by_hour([*by_reason, *conflicts]))
        reasons = Counter(counts.reasons)
        if number := sum(n for *_, n in conflicts):
            reasons[CONFLICTING] += number
            self._read_conflicts({piece for kind, _, _, piece, _ in rows if kind == "conflicting"})
        account.ignored = reasons.pop(IGNORED, 0)
        account.reasons, account.quarantined = dict(sorted(reasons.items())), sum(reasons.values())
        self._count_staged(account, bool(number))
        total: Counter[str] = Counter()
        for each in told:
            total.update(each["counts"])
            self.examples.nested_texts.update(each["nested"])
        take_counts(account, mapping, total)
        account.ids, account.unreadable = dict(sorted(self.ids.items())), self._pieces.sums("unreadable")
        shifted = self._pieces.sums("shifted")
        account.ambiguous_times, account.skipped_times = shifted.get("ambiguous", 0), shifted.get("skipped", 0)
        add_up(account)
        return account

    def digest(self) -> str:
        return input_digest(self._engine.map_tasks(digest_file, [*self._log.files]))

    def write_quarantine(self, file: Path) -> None:
        files = [result.quarantine for result in self._results if result.quarantine]
        query = f"SELECT part, reason, number, content FROM {self._engine.files([*files, *self._conflicts])}"
        self._engine.map_rows("quarantine_lines", query, "part", QuarantineLines(self._pieces.offsets), "line STRING")
        self._engine.write_lines("SELECT line FROM quarantine_lines", file)

    def changes(self) -> Iterator[HourWriter]:
        engine, names = self._engine, self._store.event_schema.names
        query = f"""SELECT {engine.hour_number("timestamp")} AS hour, __kind, {", ".join(map(identifier, names))} FROM repetitions
            WHERE __kind IN ('fresh', 'amended')"""
        filler = HourFiller(self._store.root, self._folder / "hours", self._counts_by_hour)
        engine.map_rows("filled_hours", query, "hour", filler, "hour BIGINT, rows BIGINT, folder STRING", in_order=True)
        filled = [
            FilledHour(Hour(hour), rows, self._folder / "hours" / name)
            for hour, rows, name in engine.rows("SELECT hour, rows, folder FROM filled_hours")
        ]
        yield from sorted(filled, key=lambda each: (not each.rows, each.hour.number))

    def counts_by_hour(self) -> HourCounts:
        return self._counts_by_hour

    def load_items(self) -> None:
        items = self._log.mapping.items
        loaded = self._con.execute("SELECT count(*) FROM duckdb_views() WHERE view_name = 'items'").fetchall()[0][0]
        if items and not loaded:
            numbers = self._pieces.known["whole:item cells"] or "int" in (
                self.ids["item"],
                self._log.mapping.ids.get("item"),
            )
            load_items(self._con, self._log.mapping, items, [*self._log.folders], numbers=bool(numbers))

    def _give_ids(self) -> None:
        """Give ids to new users and items; leaves the tables ``user_ids`` and ``item_ids`` where they are texts."""
        engine, root = self._engine, self._store.root
        if self.counts.good:
            keep_id_kinds(root, self.ids)
        kinds = [kind for kind in ("user", "item") if self.ids[kind] == "string"]
        for kind in kinds:
            drop_merged_ids(id_path(root, kind))
            engine.write(
                f"SELECT {kind}_key AS key, min(ts) AS first_seen FROM {self._staged} GROUP BY 1",
                self._folder / f"{kind}_keys",
            )
        for new in engine.map_tasks(IdWriter(self._settings, root, self._folder), kinds):
            if new is not None:
                new.put()
        for kind in kinds:
            files = id_files(id_path(root, kind))
            known = f"SELECT key, id FROM {engine.files(files)}" if files else "SELECT '' AS key, 0L AS id WHERE false"
            engine.view(f"{kind}_ids", known)

    def _find_repetitions(self, store: EventStore) -> None:
        """Make the table ``repetitions``: what ``Repetitions`` gives."""
        engine, schema = self._engine, repetition_schema(store.event_schema)
        times = [each for result in self._results for each in result.times if each is not None]
        ids, joins = [], []
        for kind in ("user", "item"):
            if self.ids[kind] == "string":
                ids.append(f"{kind}s.id AS {kind}_id")
                joins.append(f"JOIN {kind}_ids {kind}s ON {kind}s.key = s.{kind}_key")
            else:
                ids.append(f"CAST(s.{kind}_key AS BIGINT) AS {kind}_id")
        query = f"""SELECT {self._row} AS __row, s.event_id, {", ".join(ids)}, s.ts AS timestamp,
            {cells_sql(store, self._log.mapping, "CAST(NULL AS STRING)")} FROM {self._staged} s {" ".join(joins)}"""
        log_of_rows = self._log._replace(files=())
        work = Repetitions(
            self._settings, store.root, log_of_rows, (min(times, default=None), max(times, default=None)), schema
        )
        engine.map_rows("repetitions_of_ids", query, "event_id", work, ddl(schema))
        engine.table("repetitions", "SELECT * FROM repetitions_of_ids")

    @property
    def _row(self) -> str:
        """SQL of a staged row's number in the whole input."""
        return f"element_at({self._offsets_sql}, part + 1) + __row"

    @property
    def _offsets_sql(self) -> str:
        return f"array({', '.join(f'{n}L' for n in self._pieces.offsets[:-1])})"

    @property
    def _piece(self) -> str:
        """SQL of the piece that has the conflicting row ``__n``, null of other kinds."""
        return f"CASE __kind WHEN 'conflicting' THEN size(filter({self._offsets_sql}, x -> x < __n)) - 1 END"

    def _read_conflicts(self, pieces: set[int]) -> None:
        """Write the content of rows of pieces whose event id is another event's."""
        engine, folder = self._engine, self._folder / "conflicts"
        engine.write("SELECT __n FROM repetitions WHERE __kind = 'conflicting'", folder)
        work = [self._pieces.again(piece) for piece in sorted(pieces)]
        self._conflicts = engine.map_tasks(ConflictReader(self._reader, folder), work)

    def _count_staged(self, account: Account, conflicts: bool) -> None:
        """Count hours, users, items and odd ids of the good rows."""
        engine = self._engine
        rows = f"SELECT * FROM {self._staged} s"
        if conflicts:
            rows += (
                f" LEFT ANTI JOIN (SELECT __n FROM repetitions WHERE __kind = 'conflicting') c ON c.__n = {self._row}"
            )
        engine.view("good_rows", rows)
        distinct = ", ".join(
            f"(SELECT count(DISTINCT {column}) FROM good_rows) AS {name}"
            for name, column in (("hours", engine.hour_number("ts")), ("users", "user_key"), ("items", "item_key"))
        )
        ((account.hours, account.users, account.items),) = engine.rows(f"SELECT {distinct}")
        what = odd_id_conditions()
        selected = ", ".join(f"count_if((odd & {1 << bit}) <> 0) AS odd_{bit}" for bit, _ in enumerate(what))
        (odd,) = engine.rows(f"SELECT {selected} FROM good_rows")
        account.odd_ids = {name: n for name, n in zip(what, odd, strict=True) if n}


@dataclass(frozen=True)
class FilledHour:
    """An hour whose files executors wrote.

    Attributes:
        hour: the hour.
        rows: its new events.
        folder: the files.
    """

    hour: Hour
    rows: int
    folder: Path

    def write(self, store: EventStore, exposures: pa.Table | None, counts: HourCounts) -> Manifest:
        """Put the files in place, and add exposures; the rows' counts are in the files."""
        del counts
        manifest = store.place(self.hour, self.folder)
        return store.merge(self.hour, None, exposures) if exposures is not None else manifest


class CollectedExamples:
    """Examples that executors gave.

    Args:
        results: of the pieces.
        raw: columns of the log.
        nested_texts: facets and context that are whole objects or lists, by name.
    """

    marks = ListMarks()

    def __init__(self, results: Sequence[PieceResult], raw: RawLog, nested_texts: dict[str, str]) -> None:
        self._causes: Mapping[str, str] = {
            reason: cause for result in reversed(results) for reason, cause in result.causes.items()
        }
        self.nested_texts, self.part_of = nested_texts, raw.part_of

    def cause(self, reason: str) -> str:
        return self._causes.get(reason) or FIXED_CAUSES.get(reason, NO_CAUSE)

    def nested(self, name: str) -> str:
        return self.nested_texts[name]

    def describe_actions(self, counts: dict[str, int]) -> str:
        """No log with actions is read in pieces."""
        return ", ".join(counts)


def ddl(schema: pa.Schema) -> str:
    """An Arrow schema for Spark.

    >>> ddl(pa.schema([("user_id", pa.int64()), ("local_time", pa.timestamp("us"))]))
    '`user_id` BIGINT, `local_time` TIMESTAMP_NTZ'
    """
    return ", ".join(f"`{field.name}` {SPARK_TYPES[str(field.type)]}" for field in schema)
