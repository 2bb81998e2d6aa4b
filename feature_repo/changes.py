"""Change logs: what a feature view's rows became, and from which hour on. Feast's offline sources.

Layout below the workspace's ``features``::

    <view>/<first hour>--<last hour>.<n>/part-*.parquet    rows that changed in those hours
    latest/<view>/<hour>.<low>_<high>/part-*.parquet       the row as of an hour of every entity in a range: a tablet

Every hour up to the clocks' own belongs to one span. The hours of a day get a span each; in the
course of the next day they are merged into one. Tablets hold the rows of a day or two ago: whoever asks for a later hour reads
them and the spans since, however long the log is. In the course of each day every tablet is brought forward by a day, a few of
them each hour, so that no hour has to read and write everybody's rows.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa

from core.duck import identifier
from core.hours import DAY_HOURS, Hour
from core.sql_engine import Engine, parquet_parts
from feature_repo.sql import columns, newest_rows

TABLET_ROWS = 200_000
"""Rows that a tablet has, about; one with twice as many is split."""


@dataclass(frozen=True)
class Tablet:
    """Every entity's row as of an hour, of entities whose first key is in a range.

    Attributes:
        folder: has the rows.
        hour: as of whose start they hold.
        low: first of the range; None: there is no lower bound.
        high: end of the range, which it does not include; None: there is no upper bound.
    """

    folder: Path
    hour: Hour
    low: int | None = None
    high: int | None = None

    @classmethod
    def of(cls, root: Path, hour: Hour, low: int | None = None, high: int | None = None) -> Tablet:
        """That of a view's change log."""
        name = f"{hour.key}.{'' if low is None else low}_{'' if high is None else high}"
        return cls(latest_folder(root) / name, hour, low, high)

    @classmethod
    def at(cls, folder: Path) -> Tablet:
        """That in a folder, as its name says; without a range it is an older platform's, and has everybody."""
        hour, _, limits = folder.name.partition(".")
        low, _, high = limits.partition("_")
        return cls(folder, Hour.parse(hour), int(low) if low else None, int(high) if high else None)

    @property
    def ends(self) -> tuple[float, float]:
        """The range, as numbers."""
        return -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high

    def has(self, key: str) -> str:
        """SQL condition that a key is in the range."""
        limits = ((">=", self.low), ("<", self.high))
        return " AND ".join(f"{key} {sign} {limit}" for sign, limit in limits if limit is not None) or "1 = 1"

    def split(self, root: Path, pieces: int, first: int, last: int) -> list[Tablet]:
        """Tablets of equally wide ranges in its place, of whose keys some are from ``first`` to ``last``."""
        edges = sorted({first + (last + 1 - first) * n // pieces for n in range(1, pieces)} - {first})
        lows, highs = [self.low, *edges], [*edges, self.high]
        return [Tablet.of(root, self.hour, low, high) for low, high in zip(lows, highs, strict=True)]


@dataclass(frozen=True)
class ChangeLog:
    """The change log of one view.

    Attributes:
        root: its folder.
        keys: columns that identify an entity.
        schema: of the rows; has ``as_of``, hours since 1970 UTC.
        holds_hours: after which a row counts no more, at the latest.
        turn: hour of the day from which its tablets are brought forward; an hour later days are merged. Views take turns, so
            that no hour does all of it.
    """

    root: Path
    keys: tuple[str, ...]
    schema: pa.Schema
    holds_hours: int
    turn: int = 0

    @property
    def _order(self) -> tuple[str, ...]:
        """Columns by which rows are sorted."""
        return (*self.keys, "as_of")

    def parts(self, hour: Hour | None = None) -> list[Path]:
        """Every part file; with ``hour`` those that may have rows of that hour."""
        return [part for span in spans_of(self.root, hour, hour) for part in parquet_parts(span)]

    def spans(self) -> list[Path]:
        """Folders of the pieces, in the order of their hours."""
        return spans_of(self.root)

    def clear(self) -> None:
        """Remove every row."""
        shutil.rmtree(latest_folder(self.root), ignore_errors=True)
        for span in self.spans():
            shutil.rmtree(span)

    def span(self, first: Hour, last: Hour, number: int = 0) -> Path:
        """Folder of the rows of the hours first to last, the last included; ``number`` tells pieces of them apart."""
        return self.root / f"{first.key}--{last.key}.{number:05d}"

    def put(self, engine: Engine, as_of: Hour, rows: str) -> None:
        """Write rows of one hour, in the place of that hour's rows of equal key.

        Args:
            engine: has the table, and writes.
            as_of: the hour.
            rows: table of the rows.
        """
        spans = spans_of(self.root, as_of, as_of)
        fresh = f"SELECT {columns(self.schema.names)} FROM {rows} r"
        if not spans:
            engine.write(self._sorted(engine, fresh), self.span(as_of, as_of))
        merged = {}
        for place, span in enumerate(spans):
            kept = self._kept(engine, span, rows, f"as_of <> {as_of.number}")
            merged[span] = self._sorted(engine, f"{kept} UNION ALL {fresh}" if place == 0 else kept)
        engine.write_all(merged)
        self._correct_tablets(engine, rows, as_of)

    def tidy(self, engine: Engine, as_of: Hour) -> None:
        """Each hour from the view's turn on: bring some tablets forward, and merge the hours of days that are over.

        Args:
            engine: does it.
            as_of: the hour that the log has reached, whether or not it has rows of its own.
        """
        hour_of_day, tablets = as_of.number % DAY_HOURS, covering(self.root, as_of)
        # So long ago because late events mostly touch the last day, and samples are made an hour after the clocks.
        at = Hour.of_day(as_of.day) - DAY_HOURS - 1
        if not tablets:
            begins = [bounds(s)[0] for s in self.spans()]
            reached = [hour for hour in (at, as_of - 1, as_of) if any(first <= hour for first in begins)]
            if reached:
                self._bring_forward(engine, None, reached[0])
        elif hour_of_day >= self.turn:
            due = sorted((t for t in tablets if t.hour < at), key=lambda t: (t.hour, t.ends))
            for tablet in due[: -(-len(due) // (DAY_HOURS - hour_of_day))]:
                self._bring_forward(engine, tablet, at)
        if hour_of_day > self.turn:
            self._merge_days(engine, as_of)

    def _bring_forward(self, engine: Engine, tablet: Tablet | None, at: Hour) -> None:
        """Write a tablet as of a later hour, or without one all tablets as of an hour; the rows that held before go."""
        target = Tablet.of(self.root, at, tablet.low, tablet.high) if tablet else Tablet.of(self.root, at)
        names, key, oldest = columns(self.schema.names), identifier(self.keys[0]), at - self.holds_hours
        first = tablet.hour + 1 if tablet else oldest
        spans = spans_of(self.root, first, at)
        if spans and not tablet and _of_one_hour(spans):
            self._select_tablets(engine, target, spans, f"as_of >= {oldest.number} AND as_of <= {at.number}")
            return
        rows = self.newest(engine, first, at, target.has(key))
        if tablet:
            engine.table("newest", rows)
            rows = f"SELECT {names} FROM newest UNION ALL {self._kept(engine, tablet.folder, 'newest')}"
        engine.table("collected_rows", f"SELECT * FROM ({rows}) r WHERE as_of >= {oldest.number}")
        self._write_tablets(engine, "collected_rows", self._pieces(engine, target, "collected_rows"))

    def _pieces(self, engine: Engine, target: Tablet, rows: str) -> list[Tablet]:
        """The tablets that the rows of one are divided into."""
        key = identifier(self.keys[0])
        ((count, low, high),) = engine.rows(f"SELECT count(*), min({key}), max({key}) FROM {rows}")
        pieces = int(count) // TABLET_ROWS if int(count) >= 2 * TABLET_ROWS else 1
        return target.split(self.root, pieces, int(low), int(high)) if pieces > 1 else [target]

    def _select_tablets(self, engine: Engine, target: Tablet, spans: list[Path], inside: str) -> None:
        """Write the first tablets from rows as they lie: no entity has two, so each tablet's are read from the files by themselves."""
        parts = [part for span in spans for part in parquet_parts(span)]
        tablets = self._pieces(engine, target, f"(SELECT * FROM {engine.files(parts)} f WHERE {inside}) r")
        key = identifier(self.keys[0])
        conditions = {tablet.folder: f"{inside} AND {tablet.has(key)}" for tablet in tablets}
        engine.write_selections(parts, columns(self.schema.names), columns(self.keys), conditions)
        self._drop_replaced()

    def _write_tablets(self, engine: Engine, collected: str, tablets: list[Tablet]) -> None:
        """Write the rows in a table to the tablets that they belong to, and remove what these replace."""
        names, key = columns(self.schema.names), identifier(self.keys[0])
        ranges = " ".join(f"WHEN {tablet.has(key)} THEN {number}" for number, tablet in enumerate(tablets))

        def rows(number: int | None) -> str:
            if number is not None:
                order = engine.sorted_by(columns(self.keys))
                return f"SELECT {names} FROM {collected} WHERE {tablets[number].has(key)} {order}"
            numbered = (
                f"SELECT /*+ REBALANCE(folder) */ * FROM (SELECT *, CASE {ranges} END AS folder FROM {collected}) c"
            )
            return f"SELECT {names}, folder FROM ({numbered}) n {engine.sorted_by(f'folder, {columns(self.keys)}')}"

        engine.write_by_key(rows, {number: tablet.folder for number, tablet in enumerate(tablets)})
        self._drop_replaced()

    def _drop_replaced(self) -> None:
        """Remove the tablets that newer ones replace."""
        needed = {tablet.folder for tablet in covering(self.root)}
        for tablet in tablets_of(self.root):
            if tablet.folder not in needed:
                shutil.rmtree(tablet.folder)

    def newest(self, engine: Engine, first: Hour, last: Hour, condition: str) -> str:
        """SELECT of every entity's newest row of some hours.

        Args:
            engine: reads.
            first: hour.
            last: hour, which is included.
            condition: which rows ``f`` count.
        """
        spans = spans_of(self.root, first, last)
        rows = self._rows(engine, [part for span in spans for part in parquet_parts(span)])
        condition = f"as_of >= {first.number} AND as_of <= {last.number} AND {condition}"
        names = columns(self.schema.names)
        if _of_one_hour(spans):
            return f"SELECT {names} FROM {rows} f WHERE {condition}"
        return newest_rows(rows, columns(self.keys), "as_of", condition, names)

    def _rows(self, engine: Engine, parts: list[Path]) -> str:
        """SQL of the rows of files, of which there may be none."""
        if parts:
            return engine.files(parts)
        engine.register("no_rows_yet", self.schema.empty_table())
        return "no_rows_yet"

    def _correct_tablets(self, engine: Engine, keys: str, since: Hour) -> None:
        """Compute the rows again of the keys in a table, in the tablets as of ``since`` or later."""
        for tablet in tablets_of(self.root):
            if tablet.hour < since:
                continue
            touched = tablet.has(f"k.{identifier(self.keys[0])}")
            if not engine.scalar(f"SELECT count(*) FROM {keys} k WHERE {touched}"):
                continue
            wanted = f"EXISTS (SELECT 1 FROM {keys} k WHERE {self._same} AND {touched})"
            corrected = self.newest(engine, tablet.hour - self.holds_hours, tablet.hour, wanted)
            rows = f"{self._kept(engine, tablet.folder, keys)} UNION ALL {corrected}"
            engine.write(f"SELECT * FROM ({rows}) r {engine.sorted_by(columns(self.keys))}", tablet.folder)

    def replace(self, engine: Engine, keys: str, rows: str, since: Hour) -> None:
        """Write the rows again of the keys in table ``keys`` that hold from ``since`` on.

        Args:
            engine: has the tables.
            keys: table of the affected keys.
            rows: table of their new rows, every one at or after ``since``.
            since: earlier rows stay as they are.
        """
        placed: set[tuple[Hour, Hour]] = set()
        merged = {}
        for span in self.spans():
            first, last = bounds(span)
            if last < since:
                continue
            kept = self._kept(engine, span, keys, f"as_of < {since.number}")
            if (first, last) not in placed:
                inside = f"as_of >= {first.number} AND as_of <= {last.number}"
                kept += f" UNION ALL SELECT {columns(self.schema.names)} FROM {rows} r WHERE {inside}"
            placed.add((first, last))
            merged[span] = self._sorted(engine, kept)
        engine.write_all(merged)
        self._correct_tablets(engine, keys, since)

    @property
    def _same(self) -> str:
        """SQL condition that the rows ``k`` and ``f`` are of one entity."""
        return " AND ".join(f"k.{key} = f.{key}" for key in map(identifier, self.keys))

    def _kept(self, engine: Engine, folder: Path, keys: str, untouched: str = "1 = 0") -> str:
        """SELECT of a folder's rows that are untouched, or whose keys are not in a table."""
        return f"""SELECT {columns(self.schema.names)} FROM {self._rows(engine, parquet_parts(folder))} f
            WHERE {untouched} OR NOT EXISTS (SELECT 1 FROM {keys} k WHERE {self._same})"""

    def _sorted(self, engine: Engine, rows: str) -> str:
        return f"SELECT * FROM ({rows}) r {engine.sorted_by(columns(self._order))}"

    def _merge_days(self, engine: Engine, as_of: Hour) -> None:
        """Merge the hours of finished days, but not what the log begins with: after a rebuild that is every row."""
        spans = self.spans()
        if not spans:
            return
        begins, wide = min(bounds(s)[0] for s in spans), [bounds(s) for s in spans if bounds(s)[0] < bounds(s)[1]]
        hourly = [s for s in spans if begins < bounds(s)[0] == bounds(s)[1] and bounds(s)[1].day < as_of.day]
        for span in [s for s in hourly if any(first <= bounds(s)[0] <= last for first, last in wide)]:
            shutil.rmtree(span)  # merged before a crash
            hourly.remove(span)
        if len(hourly) < 2:
            return
        files = engine.files([part for span in hourly for part in parquet_parts(span)])
        span = self.span(min(bounds(s)[0] for s in hourly), max(bounds(s)[1] for s in hourly))
        engine.write(
            f"SELECT {columns(self.schema.names)} FROM {files} f {engine.sorted_by(columns(self._order))}", span
        )
        for span in hourly:
            shutil.rmtree(span)


def spans_of(root: Path, first: Hour | None = None, last: Hour | None = None) -> list[Path]:
    """Folders of the pieces of a view's change log that may have rows of the hours first to last, in the order of their hours."""
    spans = sorted(p for p in root.glob("*--*.*") if p.is_dir() and not p.name.startswith("."))
    return [s for s in spans if (first is None or bounds(s)[1] >= first) and (last is None or bounds(s)[0] <= last)]


def _of_one_hour(spans: list[Path]) -> bool:
    """Whether pieces of a change log have rows of one hour at most: then none has two rows of an entity."""
    return len({hour for span in spans for hour in bounds(span)}) < 2


def latest_folder(root: Path) -> Path:
    """Where the collected rows of a view's change log lie."""
    return root.parent / "latest" / root.name


def tablets_of(root: Path) -> list[Tablet]:
    """All tablets of a view's change log, the oldest first."""
    folders = (p for p in latest_folder(root).glob("*T*") if not p.name.startswith("."))
    return sorted(map(Tablet.at, folders), key=lambda tablet: (tablet.hour, tablet.ends))


def covering(root: Path, until: Hour | None = None) -> list[Tablet]:
    """The newest tablets as of an hour at the latest that together have every entity; none if they do not.

    After a crash two may overlap: where both have a row of an entity, the newer one holds.
    """
    covered: list[tuple[float, float]] = []
    chosen = []
    for tablet in reversed(tablets_of(root)):
        low, high = tablet.ends
        if (until is not None and tablet.hour > until) or any(a <= low and high <= b for a, b in covered):
            continue
        chosen.append(tablet)
        touching = [(a, b) for a, b in covered if a <= high and low <= b]
        covered = [each for each in covered if each not in touching]
        covered.append((min([low, *(a for a, _ in touching)]), max([high, *(b for _, b in touching)])))
    return chosen if (-math.inf, math.inf) in covered else []


def files_between(root: Path, first: Hour, last: Hour, holds_hours: int | None) -> list[Path]:
    """Files with all rows of a view's change log that may hold at any of some hours; some rows may be there twice.

    Args:
        root: folder of the change log.
        first: hour.
        last: hour, not before ``first``.
        holds_hours: after which a row counts no more; None: it always does.
    """
    tablets = covering(root, first)
    oldest = first - holds_hours if holds_hours is not None else Hour(0)
    since = min(tablet.hour for tablet in tablets) + 1 if tablets else oldest
    return [
        part
        for folder in (*(t.folder for t in tablets), *spans_of(root, since, last))
        for part in parquet_parts(folder)
    ]


def files_that_may_hold(root: Path, first: datetime, last: datetime, ttl: timedelta | None) -> list[Path]:
    """``files_between`` for the times of entity rows, as Feast gives them; none where the folder is not a change log.

    Args:
        root: folder of a source.
        first: time.
        last: time, not before ``first``.
        ttl: after which a row counts no more; None or 0: it always does.
    """
    if not spans_of(root):
        return []
    holds = int(ttl.total_seconds()) // 3600 if ttl else None
    return files_between(root, Hour.of(first), Hour.of(last), holds)


def bounds(span: Path) -> tuple[Hour, Hour]:
    """First and last hour of a span's folder."""
    first, last = span.name.split(".")[0].split("--")
    return Hour.parse(first), Hour.parse(last)
