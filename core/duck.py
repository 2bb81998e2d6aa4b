"""DuckDB connections: bounded memory, spilling to disk, UTC."""

from __future__ import annotations

import atexit
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from core.files import temporary_directory
from core.hours import microseconds
from core.settings import Settings

DATABASE = "work"
"""Name that a connection's database has in its instance."""
GLOB_SIGN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class _Instance:
    """A running DuckDB: making one takes longer than most queries, as it fills a catalog with thousands of functions."""

    root: duckdb.DuckDBPyConnection
    limits: Mapping[str, Any]


_idle: list[_Instance] = []
"""The instance that was used last, if nobody uses it now; a process keeps no more than one."""
_lock = threading.Lock()
_open: list[list[duckdb.DuckDBPyConnection]] = []
"""The connections of each ``connection`` that is open."""


@contextmanager
def connection(
    settings: Settings, *, spill_to_file: bool = False, scratch: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A private DuckDB database that is removed at the end of the ``with`` block.

    Args:
        settings: the memory limit, the number of threads and the workspace for spill files.
        spill_to_file: keep tables in a file, for inputs larger than memory.
        scratch: folder for what is spilled; by default the workspace's.
    """
    scratch = scratch or settings.workspace / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with temporary_directory("duckdb-", scratch) as folder:
        limits = {"memory_limit": settings.duckdb_memory, "threads": settings.duckdb_threads}
        with _attached(f"{folder}/scratch.duckdb" if spill_to_file else ":memory:", limits, f"{folder}/spill") as con:
            con.execute("SET TimeZone = 'UTC'")
            con.execute("SET enable_progress_bar = false")
            yield con


@contextmanager
def task_connection(settings: Settings, *, spill_to_file: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of a task of a cluster, which has one core, and spills to its own machine.

    Args:
        settings: give the memory.
        spill_to_file: as ``connection`` takes it.
    """
    one_core = settings.model_copy(update={"duckdb_threads": 1})
    with connection(one_core, spill_to_file=spill_to_file, scratch=Path(tempfile.gettempdir())) as con:
        yield con


@contextmanager
def _attached(database: str, limits: Mapping[str, Any], spill: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database that nobody else sees, in the instance that was used last if that is idle and has the same limits.

    An instance is used by one ``with`` block at a time, so each has the whole memory limit. It is not used again after a
    block that failed or spilled.
    """
    instance = _take(limits, spill)
    try:
        with instance.root.cursor() as con, _noted(con):
            con.execute(f"ATTACH {quoted(database)} AS {DATABASE}")
            con.execute(f"USE {DATABASE}")
            con.execute("RESET preserve_insertion_order")  # the one setting of an instance that its users change
            yield con
    except BaseException:
        instance.root.close()
        raise
    try:
        instance.root.execute(f"DETACH {DATABASE}")
    except duckdb.Error:  # something of it is still held: it goes with its instance
        instance.root.close()
    else:
        _give_back(instance)


def beside(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A second connection to the database of a `connection`."""
    other = con.cursor()
    other.execute(f"USE {DATABASE}")
    for connections in _open:
        if con in connections:
            connections.append(other)
    return other


@contextmanager
def _noted(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let ``interrupt_all`` know a connection, and what is opened ``beside`` it, within a ``with`` block."""
    connections = [con]
    _open.append(connections)
    try:
        yield
    finally:
        _open.remove(connections)


def interrupt_all() -> None:
    """Stop what DuckDB computes in this process; for a signal's handler, before it raises.

    Else the main thread waits for each thread of DuckDB to end its whole task, which can take as long as the query.
    """
    for con in [con for connections in _open for con in connections]:
        with suppress(duckdb.Error):  # it was closed meanwhile
            con.interrupt()


def _take(limits: Mapping[str, Any], spill: str) -> _Instance:
    with _lock:
        instance = _idle.pop() if _idle else None
    if instance is not None:
        try:
            if instance.limits == limits:
                instance.root.execute(f"SET temp_directory = {quoted(spill)}")
                return instance
        except duckdb.Error:  # it has spilled, and stays with the folder of then
            pass
        instance.root.close()
    config = {**limits, "temp_directory": spill, "enable_external_file_cache": False}
    return _Instance(duckdb.connect(":memory:", config=config), limits)


def _give_back(instance: _Instance) -> None:
    with _lock:
        instance.root.close() if _idle else _idle.append(instance)


def close_idle() -> None:
    """Close the instance that is kept for the next connection."""
    with _lock:
        while _idle:
            _idle.pop().root.close()


def _before_fork() -> None:
    """A child would have an instance without its threads, and wait for them at its end."""
    close_idle()
    _lock.acquire()


os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
atexit.register(close_idle)


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


def instant(moment: datetime) -> str:
    """SQL of a moment."""
    return f"make_timestamptz({microseconds(moment)})"


def day_number(moment: str) -> str:
    """SQL of the days since 1970 of a timestamp's date."""
    return f"(epoch_us({moment}) // 86400000000)"


def double(value: float) -> str:
    """SQL of a double."""
    return f"CAST('{value!r}' AS DOUBLE)"


def round_to_int(number: str) -> str:
    """SQL of a number rounded to an integer of up to 38 digits, whose sums and products are exact."""
    return f"CAST(round({number}) AS HUGEINT)"


def is_finite(number: str) -> str:
    """SQL of whether a number is neither NaN nor infinite.

    No comparison and not ``isnan`` says so of a Parquet file's column: these are answered by the column's smallest and largest
    value where the file has them, and writers leave NaN out of both.
    """
    return f"isfinite({number})"


def plain_identifier(name: str) -> str:
    """A name as people write it in an expression: in quotes only where it needs them.

    >>> plain_identifier("genre"), plain_identifier("genre 2")
    ('genre', '"genre 2"')
    """
    return name if name.isidentifier() else identifier(name)


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
