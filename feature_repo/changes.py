"""Change logs: what a feature view's rows became, and from which hour on. Feast's offline sources.

Layout below the workspace's ``features``::

    <view>/<first hour>--<last hour>.<n>/part-*.parquet    rows that changed in those hours
    latest/<view>/<hour>/part-*.parquet                    every entity's row as of an hour

Every hour up to the clocks' own belongs to one span. The hours of a day get a span each; in the
course of the next day they are merged into one. Once a day the rows of a day or two ago are collected: whoever asks for a later
hour reads them and the spans since, however long the log is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from core.duck import identifier
from core.hours import DAY_HOURS, Hour
from core.sql_engine import Engine, parquet_parts
from feature_repo.sql import columns


@dataclass(frozen=True)
class ChangeLog:
    """The change log of one view.

    Attributes:
        root: its folder.
        keys: columns that identify an entity.
        schema: of the rows; has ``as_of``, hours since 1970 UTC.
        holds_hours: after which a row counts no more, at the latest.
        turn: hour of the day from which its latest rows are collected; an hour later days are merged. Views take turns, so
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
        spans = [s for s in self.spans() if hour is None or bounds(s)[0] <= hour <= bounds(s)[1]]
        return [part for span in spans for part in parquet_parts(span)]

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
        covering = [s for s in self.spans() if bounds(s)[0] <= as_of <= bounds(s)[1]]
        fresh = f"SELECT {columns(self.schema.names)} FROM {rows} r"
        if not covering:
            engine.write(self._sorted(engine, fresh), self.span(as_of, as_of))
        merged = {}
        for place, span in enumerate(covering):
            kept = self._kept(engine, span, rows, f"as_of <> {as_of.number}")
            merged[span] = self._sorted(engine, f"{kept} UNION ALL {fresh}" if place == 0 else kept)
        engine.write_all(merged)

    def tidy(self, engine: Engine, as_of: Hour) -> None:
        """Once a day, in the view's turn: collect the latest rows, and merge the hours of days that are over.

        Args:
            engine: does it.
            as_of: the hour that the log has reached, whether or not it has rows of its own.
        """
        hour_of_day = as_of.number % DAY_HOURS
        if hour_of_day >= self.turn or not collections(self.root):
            self._collect_latest(engine, as_of)
        if hour_of_day > self.turn:
            self._merge_days(engine, as_of)

    def _collect_latest(self, engine: Engine, as_of: Hour) -> None:
        """Write every entity's row as of the last hour of the day before yesterday, unless it was done.

        So long ago because late events mostly touch the last day, and samples are made an hour after the clocks.
        Without any collected rows, as after a rebuild, it is those of the hour before.
        """
        collected = collections(self.root)
        at = Hour.of_day(as_of.day) - DAY_HOURS - 1 if collected else as_of - 1
        if collected and at <= hour_of(collected[-1]):
            return
        spans = [s for s in self.spans() if bounds(s)[0] <= at]
        before = [s for s in collected if hour_of(s) <= at][-1:]
        since = hour_of(before[0]).number if before else -1
        parts = [part for s in spans if bounds(s)[1].number > since for part in parquet_parts(s)]
        if not parts:
            return
        names, keys = columns(self.schema.names), columns(self.keys)
        engine.table(
            "newest",
            f"""SELECT {names} FROM (
                SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY as_of DESC) AS nth FROM {engine.files(parts)} f
                WHERE as_of > {since} AND as_of <= {at.number}) r WHERE nth = 1""",
        )
        rows = f"SELECT {names} FROM newest"
        if before:
            same = " AND ".join(f"n.{key} = f.{key}" for key in map(identifier, self.keys))
            rows += f""" UNION ALL SELECT {names} FROM {engine.files(parquet_parts(before[0]))} f
                WHERE NOT EXISTS (SELECT 1 FROM newest n WHERE {same})"""
        oldest = at.number - self.holds_hours
        target = latest_folder(self.root) / at.key
        engine.write(f"SELECT {names} FROM ({rows}) r WHERE as_of >= {oldest} {engine.sorted_by(keys)}", target)
        for folder in collected:
            shutil.rmtree(folder)

    def _forget_latest(self, since: Hour) -> None:
        """Remove collected rows that depend on changes from an hour on."""
        for folder in collections(self.root):
            if hour_of(folder) >= since:
                shutil.rmtree(folder)

    def replace(self, engine: Engine, keys: str, rows: str, since: Hour) -> None:
        """Write the rows again of the keys in table ``keys`` that hold from ``since`` on.

        Args:
            engine: has the tables.
            keys: table of the affected keys.
            rows: table of their new rows, every one at or after ``since``.
            since: earlier rows stay as they are.
        """
        self._forget_latest(since)
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

    def _kept(self, engine: Engine, span: Path, keys: str, untouched: str) -> str:
        """SELECT of a span's rows that are untouched, or whose keys are not in a table."""
        same = " AND ".join(f"k.{key} = f.{key}" for key in map(identifier, self.keys))
        return f"""SELECT {columns(self.schema.names)} FROM {engine.files(parquet_parts(span))} f
            WHERE {untouched} OR NOT EXISTS (SELECT 1 FROM {keys} k WHERE {same})"""

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


def spans_of(root: Path) -> list[Path]:
    """Folders of the pieces of a view's change log, in the order of their hours."""
    return sorted(p for p in root.glob("*--*.*") if p.is_dir() and not p.name.startswith("."))


def latest_folder(root: Path) -> Path:
    """Where the collected rows of a view's change log lie."""
    return root.parent / "latest" / root.name


def collections(root: Path) -> list[Path]:
    """Folders of every entity's row as of an hour, in the order of the hours."""
    return sorted(p for p in latest_folder(root).glob("*T*") if not p.name.startswith("."))


def files_between(root: Path, first: Hour, last: Hour, holds_hours: int | None) -> list[Path]:
    """Files with all rows of a view's change log that may hold at any of some hours.

    Args:
        root: folder of the change log.
        first: hour.
        last: hour, not before ``first``.
        holds_hours: after which a row counts no more; None: it always does.
    """
    collected = [folder for folder in collections(root) if hour_of(folder) <= first]
    since = hour_of(collected[-1]) + 1 if collected else first - holds_hours if holds_hours is not None else Hour(0)
    spans = [s for s in spans_of(root) if bounds(s)[0] <= last and bounds(s)[1] >= since]
    return [part for folder in (*collected[-1:], *spans) for part in parquet_parts(folder)]


def hour_of(collected: Path) -> Hour:
    """Hour as of which collected rows hold."""
    return Hour.parse(collected.name)


def bounds(span: Path) -> tuple[Hour, Hour]:
    """First and last hour of a span's folder."""
    first, last = span.name.split(".")[0].split("--")
    return Hour.parse(first), Hour.parse(last)
