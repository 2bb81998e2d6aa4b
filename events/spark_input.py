"""An input that executors of Spark read, each a piece, with the functions that one process reads it with.

What an event is, why a row is none, and what a row adds to an event is defined once, for DuckDB: executors' Python processes run
it on their piece, and Spark brings together what belongs together. Where a reader has to know of all rows, the pieces agree
(`events.input_part`). Rows of an event id come to one task, which tells events from repetitions; rows of an hour to another one,
which writes the hour's files to a folder of the ingestion. The driver puts them in place, hour by hour, as one process does.
Only counts and names of files reach it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import pyarrow as pa

from core.duck import file_list, scalar
from core.files import digest_file
from core.hours import Hour
from core.settings import Settings
from core.spark import SparkEngine
from core.spark_exchange import TASK, exchange, pieces_of
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
    RepetitionResult,
    Repetitions,
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
ROWS_A_TASK = 2_000_000
"""Rows of event ids that are told apart by one task."""


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
        for name in ("hours", "events", "conflicts"):
            (folder / name).mkdir()
        self._reader = Reader(settings, log, id_kinds(store.root), folder)
        self._pieces = read_pieces(con, log, self._reader, running.map_tasks, PIECE_BYTES)
        self._results = self._pieces.results
        self.ids, self.items_file = self._results[0].ids, self._results[0].items_file
        self._counts_by_hour = HourCounts()
        self._conflicts: list[Path] = []
        self._repetitions: list[RepetitionResult] = []
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
        mapping, counts = self._log.mapping, self.counts
        self._give_ids()
        self._repetitions = repetitions = self._find_repetitions(store)
        account = Account(rows_in=counts.good + sum(counts.reasons.values()))
        account.kept, account.merged = sum(each.kept for each in repetitions), sum(each.merged for each in repetitions)
        duplicates, conflicting = Counter[int](), Counter[int]()
        for each in repetitions:
            duplicates.update(each.duplicates)
            conflicting.update(each.conflicting)
        account.duplicates = duplicates.total()
        conflicts = [(hour, CONFLICTING, n) for hour, n in conflicting.items()]
        files = [result.rejected for result in self._results if result.rejected]
        by_reason = self._con.execute(
            f"SELECT hour, reason, CAST(sum(n) AS BIGINT) FROM read_parquet({file_list(files)}) GROUP BY ALL"
        ).fetchall()
        self._counts_by_hour = HourCounts(duplicates, rejected_by_hour([*by_reason, *conflicts]))
        reasons = Counter(counts.reasons)
        if conflicts:
            reasons[CONFLICTING] += conflicting.total()
            self._read_conflicts()
        account.ignored = reasons.pop(IGNORED, 0)
        account.reasons, account.quarantined = dict(sorted(reasons.items())), sum(reasons.values())
        self._count_staged(account)
        total: Counter[str] = Counter()
        for each in repetitions:
            total.update(each.counts)
            self.examples.nested_texts.update(each.nested)
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
        engine = self._engine
        filler = HourFiller(self._store.root, self._folder / "hours", self._counts_by_hour)
        pieces = pieces_of(engine, [each.events for each in self._repetitions])
        task = f"CAST(hour % {engine.partitions} AS INTEGER) AS {TASK}"
        reads = [f"SELECT {task}, * FROM read_parquet({file_list(piece)})" for piece in pieces]
        filled = exchange(engine, {"changes": reads}, engine.partitions, filler) if reads else []
        hours = [FilledHour(*each) for share in filled for each in share]
        yield from sorted(hours, key=lambda each: (not each.rows, each.hour.number))

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
        """Give ids to new users and items whose ids are texts."""
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

    def _find_repetitions(self, store: EventStore) -> list[RepetitionResult]:
        times = [each for result in self._results for each in result.times if each is not None]
        span = min(times, default=None), max(times, default=None)
        work = Repetitions(
            self._settings, store.root, self._log._replace(files=()), span, self._pieces.offsets, self._folder
        )
        tasks = max(self._engine.cores, -(-self.counts.good // ROWS_A_TASK))
        reads = [
            self._identified(store, result.staged, offset, tasks)
            for result, offset in zip(self._results, self._pieces.offsets, strict=False)
            if result.staged
        ]
        return exchange(self._engine, {"identified": reads}, tasks, work) if reads else []

    def _identified(self, store: EventStore, staged: Path, offset: int, tasks: int) -> str:
        """SELECT of a piece's good rows, with their ids and their numbers in the whole input, and the task that knows their event ids."""
        ids, joins = [], []
        for kind in ("user", "item"):
            if self.ids[kind] == "string":
                known = file_list(id_files(id_path(store.root, kind)))
                ids.append(f"{kind}s.id AS {kind}_id")
                joins.append(f"JOIN read_parquet({known}) {kind}s ON {kind}s.key = s.{kind}_key")
            else:
                ids.append(f"CAST(s.{kind}_key AS BIGINT) AS {kind}_id")
        cells = cells_sql(store, self._log.mapping, "CAST(NULL AS VARCHAR)")
        return f"""SELECT CAST(hash(s.event_id) % {tasks} AS INTEGER) AS {TASK}, {offset} + s.__row AS __row, s.event_id,
            {", ".join(ids)}, s.ts AS timestamp, {cells} FROM read_parquet({file_list([staged])}) s {" ".join(joins)}"""

    @property
    def _row(self) -> str:
        """Spark's SQL of a staged row's number in the whole input."""
        offsets = ", ".join(f"{n}L" for n in self._pieces.offsets[:-1])
        return f"element_at(array({offsets}), part + 1) + __row"

    @property
    def _conflicting(self) -> list[Path]:
        """Files of the numbers of rows whose event id is another event's."""
        return [each.conflicts for each in self._repetitions if each.conflicts]

    def _read_conflicts(self) -> None:
        """Write the content of rows of pieces whose event id is another event's."""
        pieces = sorted({piece for each in self._repetitions for piece in each.pieces})
        work = [self._pieces.again(piece) for piece in pieces]
        self._conflicts = self._engine.map_tasks(ConflictReader(self._reader, self._folder / "conflicts"), work)

    def _count_staged(self, account: Account) -> None:
        """Count hours, users, items and odd ids of the good rows."""
        engine = self._engine
        rows = f"SELECT * FROM {self._staged} s"
        if self._conflicting:
            rows += f" LEFT ANTI JOIN (SELECT __n FROM {engine.files(self._conflicting)}) c ON c.__n = {self._row}"
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
