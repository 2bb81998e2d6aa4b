"""What runs SQL: named tables and views, Parquet files, and the few functions that engines spell differently.

Queries are plain SQL that DuckDB and Spark run alike. Tables are named; files are Parquet folders with any number of parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.files import digest_files


def parquet_parts(folder: Path) -> list[Path]:
    """The part files of a Parquet folder, in order; a single file is its only part."""
    return [folder] if folder.is_file() else sorted(folder.glob("*.parquet"))


class Engine(ABC):
    """Runs SQL over named tables and Parquet files."""

    dialect: str
    """The engine's SQL, by sqlglot's name."""
    in_batches: bool
    """Whether large work should come to it in batches, because it has the memory of one process."""
    errors: tuple[type[Exception], ...]
    """What it raises when it cannot compute a query."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        """Every query as it ran, for reports that show how a figure was computed."""

    def _record(self, sql: str) -> str:
        self.queries.append(sql)
        return sql

    @abstractmethod
    def table(self, name: str, sql: str, by: Sequence[str] = ()) -> None:
        """Compute a query now and keep its result as a named table.

        Args:
            name: of the table.
            sql: the query.
            by: columns by whose values a cluster keeps rows together, so that grouping and joining by these, or by more,
                moves no rows. One process needs none of it.
        """

    def tables(self, queries: Mapping[str, str]) -> None:
        """Compute queries, none of which needs another's table, and keep each result under its name."""
        for name, sql in queries.items():
            self.table(name, sql)

    @abstractmethod
    def view(self, name: str, sql: str) -> None:
        """Define a named query; it is computed wherever it is used."""

    @abstractmethod
    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table available under a name."""

    @abstractmethod
    def files(self, paths: Sequence[Path]) -> str:
        """SQL to select from that reads Parquet files."""

    @abstractmethod
    def arrow(self, sql: str) -> pa.Table:
        """Result of a query."""

    @abstractmethod
    def write(self, sql: str, folder: Path) -> None:
        """Write a query's result to a Parquet folder that replaces any older one; each file is in the query's order."""

    def digests(self, files: Sequence[Path]) -> dict[Path, str]:
        """SHA-256 of files, in hex, computed where the engine computes."""
        return digest_files(files)

    def write_all(self, queries: Mapping[Path, str]) -> None:
        """Write many results, each to its folder."""
        for folder, sql in queries.items():
            self.write(sql, folder)

    def write_by_key(self, query: Callable[[int | None], str], folders: Mapping[int, Path]) -> None:
        """Write a query's rows to a Parquet folder for each value of a key, which may have no rows.

        Args:
            query: the SELECT of one value's rows in their order (``sorted_by``); with None of all rows, which have their value
                in the last column, ``folder``, and are in its order first.
            folders: by value; each replaces any older one.
        """
        self.write_all({folder: query(value) for value, folder in folders.items()})

    def write_selections(self, files: Sequence[Path], names: str, order: str, conditions: Mapping[Path, str]) -> None:
        """Write rows of Parquet files as they are, each selection to a folder of one file.

        Args:
            files: are read for each selection; what lies outside of it is skipped by the statistics of sorted files.
            names: columns, comma separated.
            order: columns by which the rows are sorted.
            conditions: folder → condition on the rows ``f``, in SQL that engines share; the folder replaces any older one.
        """
        for folder, condition in conditions.items():
            self.write(f"SELECT {names} FROM {self.files(files)} f WHERE {condition} {self.sorted_by(order)}", folder)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Result of a small query as tuples."""
        return [tuple(row.values()) for row in self.arrow(sql).to_pylist()]

    def scalar(self, sql: str) -> Any:
        """First column of a query's first row, None if it has no rows."""
        rows = self.rows(sql)
        return rows[0][0] if rows else None

    # SQL that the two engines spell differently. Arguments are SQL, too.

    @abstractmethod
    def sorted_by(self, columns: str) -> str:
        """Clause that ends a query whose result is written: the order of the rows of each file."""

    @abstractmethod
    def hour_number(self, instant: str) -> str:
        """An instant's hours since 1970 UTC."""

    @abstractmethod
    def hour_start(self, number: str) -> str:
        """The instant at which an hour starts, by its number."""

    @abstractmethod
    def minute_number(self, moment: str) -> str:
        """Minutes since 1970 of a timestamp without a zone."""

    @abstractmethod
    def weekday(self, moment: str) -> str:
        """Day of the week, 1 Monday to 7 Sunday."""
