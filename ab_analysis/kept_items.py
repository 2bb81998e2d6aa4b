"""Rows that are kept as folders of Parquet, ``<kind>/<day>-<key>``, and the index that says which of them are whole.

A key is the digest of everything that an item follows from, so what does not fit is not found. An item is renamed into
place whole and then entered in the index; when it is read, its bytes must have the digest that the index holds.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ab_analysis.source_files import SourceFiles, write_by_user
from core.errors import CorruptStateError
from core.files import digest_file, digest_json, digest_text, read_json, write_json
from core.spark import SparkEngine
from core.sql_engine import Engine, parquet_parts

log = logging.getLogger("ab_analysis.kept_items")

FORMAT = 2
"""Changes whenever something that an item follows from is not in its key."""
KEPT_SUMS = 3
"""How many of the sums of all days are kept: the newest, and those that a late event of yesterday goes back to."""


@dataclass(frozen=True)
class Item:
    """A folder of Parquet, ``<kind>/<day>-<key>``."""

    kind: str
    day: date
    key: str

    @classmethod
    def of(cls, kind: str, day: date, *follows_from: str | Mapping[str, str]) -> Item:
        """The item of a day that follows from digests, keys or SQL."""
        return cls(kind, day, digest_json([FORMAT, kind, str(day), *follows_from]))

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.day}-{self.key[:24]}"


class _Digests(NamedTuple):
    """Of an item: its files, and, where other items follow from its rows alone, these; one row may be written in many ways."""

    bytes: str
    rows: str = ""


class DamagedItemError(Exception):
    """An item's bytes are not those that were written; the message is its name."""


class KeptItems:
    """The items below a folder. Who uses them holds a lock.

    Args:
        db: DuckDB, which reads them.
        cluster: computes them; None: ``db`` does.
        root: the folder.
        sums: kinds of which only the newest ``KEPT_SUMS`` are kept.
    """

    def __init__(self, db: Engine, cluster: SparkEngine | None, root: Path, sums: Collection[str]) -> None:
        self.db, self.cluster, self.root, self.sums = db, cluster, root, sums
        self._index: dict[str, _Digests] = {}
        self._used: set[str] = set()
        self._intact: set[str] = set()

    def __len__(self) -> int:
        return len(self._index)

    def open(self) -> None:
        """Read the index; one that cannot be read is empty."""
        self._index = self._read_index()

    def begin(self) -> None:
        """Begin a use: nothing counts as used, or as read and whole, yet."""
        self._used, self._intact = set(), set()

    def has(self, *items: Item) -> bool:
        """Whether all items are there; each counts as used."""
        self._used.update(item.name for item in items)
        return all(item.name in self._index for item in items)

    def rows(self, kind: str) -> int:
        """Rows of the newest item of a kind; 0 if there is none, or it cannot be read."""
        names = sorted((name for name in self._index if name.startswith(f"{kind}/")), key=_day_of)
        parts = parquet_parts(self.root / names[-1]) if names else []
        with suppress(OSError, pa.ArrowException):
            return sum(pq.read_metadata(part).num_rows for part in parts)
        return 0

    def rows_digest(self, item: Item) -> str:
        """Digest of the rows of an item that was written with it; empty otherwise."""
        return self._index[item.name].rows

    def write(
        self,
        queries: Mapping[Item, str],
        sources: Mapping[str, SourceFiles],
        *,
        check: Callable[[str], None] | None = None,
        digest_rows: bool = False,
    ) -> None:
        """Write the rows of queries, each as an item.

        Args:
            queries: item that is not there → SELECT of its rows, each made from one user's.
            sources: name → what the queries select from.
            check: is given SQL to select the written rows from, before the item counts as there.
            digest_rows: whether other items follow from its rows; they are ordered by user for the digest.

        Raises:
            RefusedQueryError: a query cannot be computed.
        """
        write_by_user(self.db, self.cluster, sources, {self.root / item.name: sql for item, sql in queries.items()})
        for item in queries:
            rows = self.db.files(parquet_parts(self.root / item.name))
            if check is not None:
                check(rows)
            digest = _rows_digest(self.db.arrow(f"SELECT * FROM {rows} ORDER BY user_id")) if digest_rows else ""
            self._index[item.name] = _Digests(self._digest(item.name), digest)
            self._intact.add(item.name)
        self._write_index()

    def files(self, items: Sequence[Item]) -> list[Path]:
        """The files of items, whose bytes are those that were written.

        Raises:
            DamagedItemError: an item's bytes are others.
        """
        for name in (item.name for item in items):
            if name not in self._intact and self._digest(name) != self._index[name].bytes:
                raise DamagedItemError(name)
            self._intact.add(name)
        return [part for item in items for part in parquet_parts(self.root / item.name)]

    def drop(self, name: str) -> None:
        """Take an item out of the index."""
        self._index.pop(name)

    def remove_unused(self, last: date) -> None:
        """Remove what was replaced, older sums, and what killed processes left. Days after ``last`` are another look's."""
        kept = self._intact & set(self._index)
        for kind in {name.split("/")[0] for name in self._index}:
            names = [n for n in self._index if n.startswith(f"{kind}/") and (n in self._used or _day_of(n) > last)]
            kept.update(sorted(names, key=_day_of)[-KEPT_SUMS:] if kind in self.sums else names)
        if kept != set(self._index):
            self._index = {name: digest for name, digest in self._index.items() if name in kept}
            self._write_index()
        for folder in self.root.glob("*/*"):
            if f"{folder.parent.name}/{folder.name}" not in self._index:
                shutil.rmtree(folder)

    def _digest(self, name: str) -> str:
        return digest_text(*(digest_file(part) for part in parquet_parts(self.root / name)))

    def _read_index(self) -> dict[str, _Digests]:
        path = self.root / "index.json"
        if not path.exists():
            return {}
        try:
            return {str(name): _Digests(*digests) for name, digests in read_json(path).items()}
        except (CorruptStateError, AttributeError, TypeError) as error:
            log.warning("%s cannot be read (%s); its days are computed again from the events", path, error)
            return {}

    def _write_index(self) -> None:
        write_json(self.root / "index.json", self._index)


def _day_of(name: str) -> date:
    return date.fromisoformat(name.split("/")[1][: len("2026-11-23")])


def _rows_digest(table: pa.Table) -> str:
    columns = [pc.fill_null(column.cast(pa.int64()), -1).to_numpy() for column in table.columns]
    return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()
