"""What executors do for an ingestion in their Python processes: tasks that read a piece of the input with DuckDB.

They write to a folder of the ingestion's own, under names that no other attempt has, and tell the driver counts and names.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa

from core.duck import file_list, hour_number, identifier, quoted, scalar, task_connection
from core.duck_engine import DuckEngine
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
        with task_connection(self.settings, spill_to_file=True) as con, said_warnings() as warnings:
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
        with task_connection(self.settings, spill_to_file=True) as con:
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
class RepetitionResult:
    """What became of the rows of some event ids.

    Attributes:
        events: file of the new events and of those that were amended, by ``hour`` and ``fresh``.
        conflicts: file of the numbers (``__n``) of rows whose event id is another event's, if there are any.
        kept: new events.
        merged: rows that add to an event.
        duplicates: hour's number → rows that repeat an event.
        conflicting: hour's number → rows whose event id is another event's.
        pieces: of these.
        counts: as ``kept_counts`` counts new events.
        nested: examples of facets and context that are whole objects or lists, by name.
    """

    events: Path
    conflicts: Path | None
    kept: int
    merged: int
    duplicates: Mapping[int, int]
    conflicting: Mapping[int, int]
    pieces: frozenset[int]
    counts: Mapping[str, int]
    nested: Mapping[str, str]


@dataclass(frozen=True)
class Repetitions:
    """Tells events that are new from rows that repeat one: ``mark_repeated`` for all rows of some event ids.

    Attributes:
        settings: of the workspace.
        root: of the event store.
        log: the input.
        span: first and last time of its good rows.
        offsets: rows of the input before each piece.
        folder: of the ingestion.
    """

    settings: Settings
    root: Path
    log: Log
    span: Times
    offsets: tuple[int, ...]
    folder: Path

    def __call__(self, number: int, running: DuckEngine) -> RepetitionResult:
        """Write the events of the rows in the table ``identified``."""
        con, store, name = running.con, EventStore(self.root), f"{number:06d}-{uuid4().hex}.parquet"
        con.execute(
            """CREATE TABLE staged AS SELECT __row, event_id, timestamp AS ts, CAST(NULL AS VARCHAR) AS reason
            FROM identified"""
        )
        mark_repeated(con, store, self.span)
        events, conflicts = self.folder / "events" / name, self.folder / "conflicts" / name
        cells = f"{hour_number('timestamp')} AS hour, {', '.join(map(identifier, store.event_schema.names))}"
        kinds = [
            f"SELECT {fresh} AS fresh, {cells} FROM {table}" for table, fresh in (("fresh", True), ("amended", False))
        ]
        _copy(con, " UNION ALL ".join(kinds), events)
        rows = con.execute("SELECT __row FROM staged WHERE reason IS NOT NULL").fetchnumpy()["__row"]
        if len(rows):
            _copy(con, "SELECT __row AS __n FROM staged WHERE reason IS NOT NULL", conflicts)
        counts: dict[str, int] = kept_counts(con, self.log.mapping)
        nested = [each.removeprefix("nested:") for each, n in counts.items() if n and each.startswith("nested:")]
        return RepetitionResult(
            events, conflicts if len(rows) else None,
            kept=scalar(con, "SELECT count(*) FROM fresh"), merged=scalar(con, "SELECT count(*) FROM marked WHERE adds"),
            duplicates=_by_hour(con, "staged JOIN marked USING (__row) WHERE duplicate"),
            conflicting=_by_hour(con, "staged WHERE reason IS NOT NULL"),
            pieces=frozenset((np.searchsorted(self.offsets, rows, side="right") - 1).tolist()),
            counts=counts, nested={each: nested_example(con, each) for each in nested},
        )  # fmt: skip


def _by_hour(con: duckdb.DuckDBPyConnection, rows: str) -> dict[int, int]:
    return dict(con.execute(f"SELECT {hour_number('ts')}, count(*) FROM {rows} GROUP BY ALL").fetchall())


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

    def __call__(self, number: int, running: DuckEngine) -> list[tuple[Hour, int, Path]]:
        """Write the hours of the rows in the table ``changes``; gives each hour, its new events and its folder."""
        del number
        store, filled = EventStore(self.root), []
        rows = running.con.sql("SELECT * FROM changes ORDER BY hour").to_arrow_reader(ROWS_AT_ONCE)
        for hour, table in hours_of(rows):
            fresh, amended = (_where(table, store.event_schema, fresh=fresh) for fresh in (True, False))
            folder = self.folder / f"{hour}-{uuid4().hex}"
            folder.mkdir()
            change = HourChange(Hour(hour), fresh, amended if amended.num_rows else None)
            change.write(store, None, self.counts, into=folder)
            filled.append((Hour(hour), fresh.num_rows, folder))
        return filled


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
        with task_connection(self.settings, spill_to_file=True) as con:
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


def _where(table: pa.Table, schema: pa.Schema, *, fresh: bool) -> pa.Table:
    return table.filter(pa.compute.equal(table["fresh"], fresh)).select(schema.names).cast(schema)


def _parquet(folder: Path) -> str:
    return f"read_parquet({file_list(sorted(folder.glob('*.parquet')))})"


def _copy(con: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    con.execute(f"COPY ({query}) TO {quoted(str(file))} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
