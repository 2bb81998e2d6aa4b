"""Rows that tasks of a cluster send each other as columns: read and packed by DuckDB, moved by Spark's shuffle as they are.

Between Python processes Spark moves rows of its own, and takes microseconds of a core for each to pack and unpack it. Here a
record of its shuffle is some thousand rows in Arrow's format, which it moves, keeps and, if an executor is lost, makes again
like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from core import duck
from core.duck_engine import DuckEngine
from core.settings import Settings
from core.spark import SparkEngine

R = TypeVar("R")
TASK = "_task"
"""First column of what is sent: the number of the task that a row goes to."""
BATCH_ROWS, PACK_ROWS = 250_000, 4_000
"""Rows that are packed at a time, for all tasks; more where packs would have fewer rows."""
PIECES_A_CORE, PIECE_BYTES = 3, 128 << 20
"""A reading task has so many bytes of files at most, and fewer where cores would idle."""
Packed = tuple[int, tuple[str, bytes]]


@dataclass(frozen=True)
class _Packer:
    """A task that reads: gives rows, packed, with the task that they go to."""

    settings: Settings
    tasks: int

    def __call__(self, piece: tuple[str, str]) -> Iterator[Packed]:
        name, sql = piece
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with duck.task_connection(self.settings) as con:
            for batch in con.sql(sql).fetch_record_batch(max(BATCH_ROWS, PACK_ROWS * self.tasks)):
                tasks = batch.column(0).to_numpy(zero_copy_only=False)
                rows = batch.select(batch.schema.names[1:]).take(pa.array(np.argsort(tasks, kind="stable")))
                numbers, counts = np.unique(tasks, return_counts=True)
                for number, end, count in zip(numbers, counts.cumsum(), counts, strict=True):
                    sink = pa.BufferOutputStream()
                    with pa.ipc.new_stream(sink, rows.schema, options=options) as stream:
                        stream.write_batch(rows.slice(end - count, count))
                    yield int(number), (name, sink.getvalue().to_pybytes())


@dataclass(frozen=True)
class _Worker(Generic[R]):
    """A task that computes from the rows that come to it."""

    settings: Settings
    schemas: Mapping[str, pa.Schema]
    work: Callable[[int, DuckEngine], R]

    def __call__(self, number: int, arriving: Iterable[Packed]) -> Iterator[R]:
        packed = iter(arriving)
        first = next(packed, None)
        if first is None:
            return
        with duck.task_connection(self.settings) as con:
            running = DuckEngine(con)
            for name, schema in self.schemas.items():
                running.register(name, schema.empty_table())
            for rows in chain([first], packed):
                self._insert(running, rows)
            yield self.work(number, running)

    @staticmethod
    def _insert(running: DuckEngine, packed: Packed) -> None:
        _, (name, rows) = packed
        running.con.register("arriving", pa.ipc.open_stream(rows).read_all())
        running.con.execute(f"INSERT INTO {name} SELECT * FROM arriving")
        running.con.unregister("arriving")


def exchange(
    cluster: SparkEngine, selects: Mapping[str, Sequence[str]], tasks: int, work: Callable[[int, DuckEngine], R]
) -> list[R]:
    """Bring rows to tasks, and let each task compute from those that it gets.

    Args:
        cluster: runs the tasks.
        selects: name → queries in DuckDB's SQL, at least one, each of which is run by a task of its own. They have the same
            columns, the first of which is ``TASK``.
        tasks: how many there are.
        work: called in each task that gets a row, with the task's number and DuckDB, which has the rows as tables of the
            names; it may be called again for a task that failed.

    Returns:
        What ``work`` returned, which is small, in the order of the tasks.
    """
    with duck.connection(cluster.settings) as con:
        schemas = {name: con.sql(f"FROM ({sqls[0]}) LIMIT 0").to_arrow_table().schema for name, sqls in selects.items()}
    kept = {name: pa.schema([*schema][1:]) for name, schema in schemas.items()}
    pieces = [(name, sql) for name, sqls in selects.items() for sql in sqls]
    packed = cluster.session.sparkContext.parallelize(pieces, len(pieces)).flatMap(_Packer(cluster.settings, tasks))
    worker = _Worker(cluster.settings, kept, work)
    return packed.partitionBy(tasks, int).mapPartitionsWithIndex(worker).collect()


def pieces_of(cluster: SparkEngine, files: Sequence[Path]) -> list[list[Path]]:
    """Files in groups, each for a task to read.

    Args:
        cluster: whose tasks they are.
        files: in the order in which they stay.
    """
    sizes = [file.stat().st_size for file in files]
    most = min(PIECE_BYTES, max(sum(sizes) // (cluster.cores * PIECES_A_CORE), 1))
    pieces: list[list[Path]] = []
    room = 0
    for file, size in zip(files, sizes, strict=True):
        if not pieces or size > room:
            pieces.append([])
            room = most
        pieces[-1].append(file)
        room -= size
    return pieces
