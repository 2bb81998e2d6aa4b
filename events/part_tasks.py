"""What executors do for an ingestion in their Python processes: tasks that read a piece of the input with DuckDB.

They write to a folder of the ingestion's own, under names that no other attempt has, and tell the driver counts and names.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import duckdb
import pyarrow as pa

from core.duck import connection, file_list, identifier, quoted, scalar
from core.errors import PlatformError
from core.hour_batches import hours_of
from core.hours import Hour
from core.settings import Settings
from events.account import FEW_ROWS, kept_counts, nested_example, odd_id_conditions
from events.hour_changes import HourChange, HourCounts, rejected_query
from events.ids import NewIds, id_path, new_ids
from events.input_part import InputPart
from events.likely_cause import likely_cause
from events.local_input import Log, RowCounts, good_and_reasons
from events.quarantine import malformed_rows, quarantine_line, rejected_rows
from events.repeated import CONFLICTING, Times, mark_repeated
from events.schema import BEHAVIORS, REQUEST_COLUMNS
from events.spans import Piece
from events.staging import IGNORED, Staging, inner
from events.store import EventStore

MOST_CAUSES = 3
"""Reasons of a piece whose cause is looked for, the most frequent."""
MOST_WARNINGS = 20
NO_ROWS = RowCounts(0, {}, 0)
ROWS_AT_ONCE = 50_000


class PieceWork(NamedTuple):
    """A piece to be read.

    Attributes:
        number: of the piece, from 0.
        piece: its files.
        known: answers that hold for the whole input.
        first_row: rows of the input before it, where that is known.
    """

    number: int
    piece: Piece
    known: Mapping[str, Any]
    first_row: int = 0


@dataclass(frozen=True)
class PieceResult:
    """What became of a piece.

    Attributes:
        part: what it says of the whole input, and what its reader went by.
        error: why it could not be read.
        rows: that have a number.
        counts: of its rows.
        unreadable: as of the account.
        shifted: times that the zone's clock showed twice or never.
        times: first and last time of the good rows.
        ids: kinds of ids.
        causes: what a person should look at, by reason.
        item_example: an item that the table of items does not have.
        warnings: said while it was read.
        staged: file of the good rows.
        rejected: file of how many rows were rejected, by hour and reason.
        quarantine: file of the rows that could not be read.
        items_file: of the table of items.
    """

    part: InputPart
    error: PlatformError | None = None
    rows: int = 0
    counts: RowCounts = NO_ROWS
    unreadable: dict[str, int] = field(default_factory=dict)
    shifted: dict[str, int] = field(default_factory=dict)
    times: Times = (None, None)
    ids: dict[str, str] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    item_example: str | None = None
    warnings: tuple[str, ...] = ()
    staged: Path | None = None
    rejected: Path | None = None
    quarantine: Path | None = None
    items_file: Path | None = None


@dataclass(frozen=True)
class Reader:
    """Reads pieces of an input.

    Attributes:
        settings: of the workspace.
        log: the input.
        kinds: kinds of ids that the source has already.
        folder: of the ingestion.
    """

    settings: Settings
    log: Log
    kinds: dict[str, str]
    folder: Path

    def make_folders(self) -> None:
        """Make what the tasks write to."""
        for name in ("staged", "rejected", "quarantine"):
            (self.folder / name).mkdir()

    def __call__(self, work: PieceWork) -> PieceResult:
        """Read a piece, and write its rows."""
        part = InputPart(work.piece.span, work.first_row, work.known)
        with task_connection(self.settings) as con, said_warnings() as warnings:
            try:
                return self._read(con, work, part, warnings)
            except PlatformError as error:
                return PieceResult(part, error)

    def _read(
        self, con: duckdb.DuckDBPyConnection, work: PieceWork, part: InputPart, warnings: list[str]
    ) -> PieceResult:
        staging = self._staging(con, work.piece, part)
        rows = int(scalar(con, "SELECT count(*) FROM raw"))
        staging.stage(self.log.moment)
        staging.restrict(*self.log.only)
        forgotten = self.log.forgotten.pass_over(con, IGNORED)
        counts = RowCounts(*good_and_reasons(con), forgotten)
        bad = sorted(counts.reasons, key=lambda reason: -counts.reasons[reason])
        bad = [
            reason for reason in bad if reason != IGNORED and (not counts.good or counts.reasons[reason] >= FEW_ROWS)
        ]
        times = con.execute("SELECT min(ts), max(ts) FROM staged WHERE reason IS NULL").fetchall()[0]
        name = f"{work.number:06d}-{uuid4().hex}.parquet"
        staged, rejected, quarantine = (self.folder / kind / name for kind in ("staged", "rejected", "quarantine"))
        _copy(con, self._good_rows(work.number), staged)
        _copy(con, rejected_query("staged"), rejected)
        if any(reason != IGNORED for reason in counts.reasons):
            _copy(con, _numbered(work.number, f"{rejected_rows(staging.raw)} UNION ALL {malformed_rows()}"), quarantine)
        return PieceResult(
            part, None, rows, counts, staging.unreadable, staging.shifted, times, staging.ids,
            {reason: likely_cause(staging, reason) for reason in bad[:MOST_CAUSES]},
            staging.item_example, tuple(dict.fromkeys(warnings))[:MOST_WARNINGS], staged, rejected,
            quarantine if quarantine.exists() else None, staging.items_file,
        )  # fmt: skip

    def _staging(self, con: duckdb.DuckDBPyConnection, piece: Piece, part: InputPart) -> Staging:
        return Staging(con, self.log.mapping, [*self.log.folders], [*piece.files], self.kinds, part)

    def _good_rows(self, number: int) -> str:
        mapping = self.log.mapping
        attributes = [inner(name) for name in (*mapping.facet_names, *mapping.context_names)]
        behaviors = [identifier(name) for name in BEHAVIORS]
        columns = ", ".join([*attributes, *behaviors, *REQUEST_COLUMNS])
        odd = " + ".join(
            f"(CASE WHEN {sql} THEN {1 << bit} ELSE 0 END)" for bit, sql in enumerate(odd_id_conditions().values())
        )
        return f"""SELECT {number} AS part, __row, event_id, user_key, item_key, ts, local_time, played_seconds, duration_seconds,
            in_items, {columns}, {odd} AS odd FROM staged WHERE reason IS NULL"""

    def conflicting(self, work: PieceWork, conflicts: Path) -> Path:
        """Write the rows of a piece whose event id is that of another user's or item's event, for quarantine.

        Args:
            work: the piece, with the rows before it.
            conflicts: Parquet folder of the numbers of such rows (``__n``), of the whole input.
        """
        part = InputPart(work.piece.span, work.first_row, work.known)
        target = self.folder / "quarantine" / f"{work.number:06d}-{uuid4().hex}.parquet"
        with task_connection(self.settings) as con:
            staging = self._staging(con, work.piece, part)
            con.execute(
                f"CREATE TABLE staged AS SELECT __n AS __row, {quoted(CONFLICTING)} AS reason FROM {_parquet(conflicts)}"
            )
            _copy(con, _numbered(0, rejected_rows(staging.raw)), target)  # their numbers are those of the whole input
        return target


@dataclass(frozen=True)
class ConflictReader:
    """Finds again what rows with another one's event id held; see ``Reader.conflicting``.

    Attributes:
        reader: reads pieces.
        conflicts: of all pieces.
    """

    reader: Reader
    conflicts: Path

    def __call__(self, work: PieceWork) -> Path:
        return self.reader.conflicting(work, self.conflicts)


@dataclass(frozen=True)
class Repetitions:
    """Tells events that are new from rows that repeat one: ``mark_repeated`` for all rows of some event ids.

    Attributes:
        settings: of the workspace.
        root: of the event store.
        log: the input.
        span: first and last time of its good rows.
        schema: of what is given, ``repetition_schema``.
    """

    settings: Settings
    root: Path
    log: Log
    span: Times
    schema: pa.Schema

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Rows of events by what they are (``__kind``), and a row with counts."""
        first = next(batches, None)
        if first is None:
            return
        with task_connection(self.settings) as con:
            con.register("arriving", pa.RecordBatchReader.from_batches(first.schema, chain([first], batches)))
            con.execute("CREATE TABLE identified AS SELECT * FROM arriving")
            con.unregister("arriving")
            con.execute(
                """CREATE TABLE staged AS SELECT __row, event_id, timestamp AS ts, CAST(NULL AS VARCHAR) AS reason
                FROM identified"""
            )
            mark_repeated(con, EventStore(self.root), self.span)
            duplicates = "SELECT ts FROM staged JOIN marked USING (__row) WHERE duplicate"
            queries = {
                "fresh": "SELECT * FROM fresh",
                "amended": "SELECT * FROM amended",
                "duplicates": f"SELECT date_trunc('hour', ts) AS timestamp, count(*) AS __n FROM ({duplicates}) GROUP BY ALL",
                "conflicting": "SELECT __row AS __n, ts AS timestamp FROM staged WHERE reason IS NOT NULL",
            }
            for kind, query in queries.items():
                yield from self._rows(con, kind, query)
            note = quoted(json.dumps(self._counts(con)))
            yield from self._rows(con, "counts", f"SELECT {note} AS __note")

    def _counts(self, con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
        counts: dict[str, Any] = kept_counts(con, self.log.mapping)
        nested = [name.removeprefix("nested:") for name, n in counts.items() if n and name.startswith("nested:")]
        return {
            "kept": scalar(con, "SELECT count(*) FROM fresh"),
            "merged": scalar(con, "SELECT count(*) FROM marked WHERE adds"),
            "duplicates": scalar(con, "SELECT count(*) FROM marked WHERE duplicate"),
            "counts": counts,
            "nested": {name: nested_example(con, name) for name in nested},
        }

    def _rows(self, con: duckdb.DuckDBPyConnection, kind: str, query: str) -> Iterator[pa.RecordBatch]:
        columns = {row[0] for row in con.execute(f"DESCRIBE {query}").fetchall()}
        cells = [
            identifier(name) if name in columns else f"NULL AS {identifier(name)}" for name in self.schema.names[1:]
        ]
        rows = con.sql(f"SELECT {quoted(kind)} AS __kind, {', '.join(cells)} FROM ({query})")
        for batch in rows.to_arrow_reader(ROWS_AT_ONCE):
            yield from pa.Table.from_batches([batch]).cast(self.schema).to_batches()


def repetition_schema(events: pa.Schema) -> pa.Schema:
    """Arrow schema of what ``Repetitions`` gives; no facet can have a name that begins with two underscores.

    Args:
        events: of the source.
    """
    beside = [pa.field("__kind", pa.string()), pa.field("__n", pa.int64()), pa.field("__note", pa.string())]
    return pa.schema([*beside, *(field.with_nullable(True) for field in events)])


@dataclass(frozen=True)
class HourFiller:
    """Fills a folder for each hour with what ``EventStore.merge`` writes.

    Attributes:
        root: of the event store.
        folder: of the ingestion.
        counts: of rows that no event shows.
    """

    root: Path
    folder: Path
    counts: HourCounts

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write a partition, in which the rows of an hour follow each other; gives each hour's folder and new events."""
        store = EventStore(self.root)
        for number, table in hours_of(batches):
            fresh, amended = (_of_kind(table, kind, store.event_schema) for kind in ("fresh", "amended"))
            name = f"{number}-{uuid4().hex}"
            (self.folder / name).mkdir()
            change = HourChange(Hour(number), fresh, amended if amended.num_rows else None)
            change.write(store, None, self.counts, into=self.folder / name)
            yield pa.RecordBatch.from_pydict(
                {
                    "hour": pa.array([number], pa.int64()),
                    "rows": pa.array([fresh.num_rows], pa.int64()),
                    "folder": [name],
                }
            )


@dataclass(frozen=True)
class IdWriter:
    """Gives ids to the new keys of a kind of ids.

    Attributes:
        settings: of the workspace.
        root: of the event store.
        folder: of the ingestion; ``{kind}_keys`` in it is a Parquet folder of key and first_seen.
    """

    settings: Settings
    root: Path
    folder: Path

    def __call__(self, kind: str) -> NewIds | None:
        """Write the ids of ``user`` or ``item``; None where no key is new."""
        place = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"{kind}-ids-"))
        with task_connection(self.settings) as con:
            keys = f"SELECT key, first_seen FROM {_parquet(self.folder / f'{kind}_keys')}"
            return new_ids(con, id_path(self.root, kind), keys, place)


@dataclass(frozen=True)
class QuarantineLines:
    """Writes rows of quarantine as JSON lines.

    Attributes:
        offsets: rows of the input before each piece.
    """

    offsets: tuple[int, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Lines of rows with ``part``, ``reason``, ``number`` and ``content``."""
        for batch in batches:
            lines = [
                quarantine_line(
                    row["reason"], row["number"] and row["number"] + self.offsets[row["part"]], row["content"]
                )
                for row in batch.to_pylist()
            ]
            yield pa.RecordBatch.from_pydict({"line": pa.array(lines, pa.string())})


@contextmanager
def task_connection(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of a task, which has one core, and spills to its own machine.

    Args:
        settings: give the memory.
    """
    one_core = settings.model_copy(update={"duckdb_threads": 1})
    with connection(one_core, spill_to_file=True, scratch=Path(tempfile.gettempdir())) as con:
        yield con


@contextmanager
def said_warnings() -> Iterator[list[str]]:
    """What the ``with`` block warns of, so that a person reads it in the driver's log."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("events")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def _numbered(part: int, rows: str) -> str:
    return f"SELECT {part} AS part, reason, number, CAST(content AS VARCHAR) AS content FROM ({rows})"


def _of_kind(table: pa.Table, kind: str, schema: pa.Schema) -> pa.Table:
    return table.filter(pa.compute.equal(table["__kind"], kind)).select(schema.names).cast(schema)


def _parquet(folder: Path) -> str:
    return f"read_parquet({file_list(sorted(folder.glob('*.parquet')))})"


def _copy(con: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    con.execute(f"COPY ({query}) TO {quoted(str(file))} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
