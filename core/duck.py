"""DuckDB connections: bounded memory, spilling to disk, UTC."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from core.files import temporary_directory
from core.settings import Settings

GLOB_SIGN = re.compile(r"[*?\[]")


@contextmanager
def connection(settings: Settings, *, spill_to_file: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """A private DuckDB database that is removed at the end of the ``with`` block.

    Args:
        settings: the memory limit, the number of threads and the workspace for spill files.
        spill_to_file: keep tables in a file, for inputs larger than memory.
    """
    scratch = settings.workspace / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with temporary_directory("duckdb-", scratch) as folder:
        database = f"{folder}/scratch.duckdb" if spill_to_file else ":memory:"
        con = duckdb.connect(
            database,
            config={
                "memory_limit": settings.duckdb_memory,
                "threads": settings.duckdb_threads,
                "temp_directory": f"{folder}/spill",
            },
        )
        try:
            con.execute("SET TimeZone = 'UTC'")
            con.execute("SET enable_progress_bar = false")
            yield con
        finally:
            con.close()


def scalar(con: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> Any:
    """First column of a query's first row, None if it has no rows."""
    rows = con.execute(sql, parameters or []).fetchall()
    return rows[0][0] if rows else None


def hour_number(column: str) -> str:
    """SQL of an instant's hours since 1970 UTC (``//`` on DuckDB's doubles does not floor)."""
    return f"(epoch_us({column}) // 3600000000)"


def hour_start(number: int) -> str:
    """SQL of the instant at which an hour starts, given in hours since 1970 UTC."""
    return f"to_timestamp({int(number) * 3600})"


def quoted(text: str) -> str:
    """A text as a SQL string literal.

    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + str(text).replace("'", "''") + "'"


def texts(groups: Iterable[Iterable[str]]) -> str:
    """SQL of the texts of all groups, for IN; a text that no cell has where there are none.

    >>> texts([("a", "b"), ("c",)])
    "'a', 'b', 'c'"
    """
    return ", ".join(quoted(text) for group in groups for text in group) or "''"


def file_list(paths: Iterable[Path]) -> str:
    """SQL list of files, as DuckDB's readers take them; a sign of a glob in a file's name stands for itself.

    >>> file_list([Path("a.csv"), Path("b'c*.csv")])
    "['a.csv', 'b''c[*].csv']"
    """
    return "[" + ", ".join(quoted(GLOB_SIGN.sub(r"[\g<0>]", str(path))) for path in paths) + "]"


def parquet_union(paths: Iterable[Path]) -> str:
    """SQL of the rows of Parquet files, null in columns that only other files have.

    >>> parquet_union([Path("hour=2026-11-23T10/events.parquet")])
    "read_parquet(['hour=2026-11-23T10/events.parquet'], union_by_name = true, hive_partitioning = false)"
    """
    return f"read_parquet({file_list(paths)}, union_by_name = true, hive_partitioning = false)"


def identifier(name: str) -> str:
    """A name as a quoted SQL identifier.

    >>> identifier('a"b')
    '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'
