"""Change logs: what a feature view's rows became, and from which hour on. Feast's offline sources.

Layout below the workspace's ``features``::

    <view>/<first hour>--<last hour>.<n>/part-*.parquet    rows that changed in those hours

Every hour up to the clocks' own belongs to one span. The hours of a day get a span each; when the
day is over they are merged into one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.engine import Engine, parquet_parts
from core.files import replaced_directory, write_parquet
from core.hours import Hour
from feature_repo.sql import columns


@dataclass(frozen=True)
class ChangeLog:
    """The change log of one view.

    Attributes:
        root: its folder.
        keys: columns that identify an entity.
        schema: of the rows; has ``as_of``, hours since 1970 UTC.
    """

    root: Path
    keys: tuple[str, ...]
    schema: pa.Schema

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
        return sorted(p for p in self.root.glob("*--*.*") if p.is_dir() and not p.name.startswith("."))

    def clear(self) -> None:
        """Remove every row."""
        for span in self.spans():
            shutil.rmtree(span)

    def span(self, first: Hour, last: Hour, number: int = 0) -> Path:
        """Folder of the rows of the hours first to last, the last included; ``number`` tells pieces of them apart."""
        return self.root / f"{first.key}--{last.key}.{number:05d}"

    def put(self, engine: Engine, as_of: Hour, rows: pa.Table) -> None:
        """Write rows of one hour, in the place of that hour's rows of equal key.

        Args:
            engine: merges a day that is over.
            as_of: the hour.
            rows: in the order of their keys.
        """
        covering = [s for s in self.spans() if bounds(s)[0] <= as_of <= bounds(s)[1]]
        rows = rows.select(self.schema.names).cast(self.schema)
        if not covering:
            self._write(self.span(as_of, as_of), rows)
        for place, span in enumerate(covering):
            old = self._read(span)
            same = pc.and_(pc.equal(old["as_of"], as_of.number), self._is_in(old, rows))
            kept = old.filter(pc.invert(same))
            self._write(span, self._ordered(pa.concat_tables([kept, rows])) if place == 0 else kept)
        self._merge_days(engine, as_of)

    def replace(self, engine: Engine, keys: str, rows: str, since: Hour) -> None:
        """Write the rows again of the keys in table ``keys`` that hold from ``since`` on.

        Args:
            engine: has the tables.
            keys: table of the affected keys.
            rows: table of their new rows, every one at or after ``since``.
            since: earlier rows stay as they are.
        """
        names, order = columns(self.schema.names), columns(self._order)
        same = " AND ".join(f'k."{key}" = f."{key}"' for key in self.keys)
        placed: set[tuple[Hour, Hour]] = set()
        for span in self.spans():
            first, last = bounds(span)
            if last < since:
                continue
            inside = f"SELECT {names} FROM {rows} WHERE as_of >= {first.number} AND as_of <= {last.number}"
            fresh = "" if (first, last) in placed else f"UNION ALL {inside}"
            placed.add((first, last))
            merged = engine.arrow(
                f"""SELECT {names} FROM {engine.files(parquet_parts(span))} f WHERE as_of < {since.number}
                OR NOT EXISTS (SELECT 1 FROM {keys} k WHERE {same}) {fresh} ORDER BY {order}"""
            )
            self._write(span, merged.cast(self.schema))

    def _merge_days(self, engine: Engine, as_of: Hour) -> None:
        """Merge the hours of finished days, but not what the log begins with: after a rebuild that is every row."""
        spans = self.spans()
        begins, wide = min(bounds(s)[0] for s in spans), [bounds(s) for s in spans if bounds(s)[0] < bounds(s)[1]]
        hourly = [s for s in spans if begins < bounds(s)[0] == bounds(s)[1] and bounds(s)[1].day < as_of.day]
        for span in [s for s in hourly if any(first <= bounds(s)[0] <= last for first, last in wide)]:
            shutil.rmtree(span)  # merged before a crash
            hourly.remove(span)
        if len(hourly) < 2:
            return
        files = engine.files([part for span in hourly for part in parquet_parts(span)])
        span = self.span(min(bounds(s)[0] for s in hourly), max(bounds(s)[1] for s in hourly))
        engine.write(f"SELECT {columns(self.schema.names)} FROM {files} f ORDER BY {columns(self._order)}", span)
        for span in hourly:
            shutil.rmtree(span)

    def _is_in(self, table: pa.Table, rows: pa.Table) -> pa.ChunkedArray:
        """Whether each row's key is among the keys of ``rows``."""
        marked = rows.select(self.keys).group_by(list(self.keys)).aggregate([])
        marked = marked.append_column("is_in", pa.array([True] * marked.num_rows, pa.bool_()))
        place = table.select(self.keys).append_column("place", pa.array(range(table.num_rows), pa.int64()))
        joined = place.join(marked, list(self.keys)).sort_by("place")
        return pc.fill_null(joined["is_in"], False)

    def _ordered(self, rows: pa.Table) -> pa.Table:
        return rows.select(self.schema.names).cast(self.schema).sort_by([(name, "ascending") for name in self._order])

    def _read(self, span: Path) -> pa.Table:
        parts = [pq.ParquetFile(part).read().select(self.schema.names) for part in parquet_parts(span)]
        return pa.concat_tables([part.cast(self.schema) for part in parts]) if parts else self.schema.empty_table()

    @staticmethod
    def _write(span: Path, rows: pa.Table) -> None:
        with replaced_directory(span) as target:
            write_parquet(target / "part-00000.parquet", rows)


def bounds(span: Path) -> tuple[Hour, Hour]:
    """First and last hour of a span's folder."""
    first, last = span.name.split(".")[0].split("--")
    return Hour.parse(first), Hour.parse(last)
