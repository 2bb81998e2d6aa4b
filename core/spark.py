"""Spark as an engine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.parquet as pq

from core import duck
from core.duck_engine import DuckEngine
from core.files import replaced_directory, temporary_directory, write_atomically
from core.settings import Settings
from core.sql_engine import Engine, parquet_parts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

T = TypeVar("T")
R = TypeVar("R")
ArrowFunction = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
QUERIES_AT_ONCE = 8
"""Number of results that Spark computes at the same time: one small job alone would leave most of a cluster idle."""


def spark_path(path: Path) -> str:
    r"""The pattern that means one path to Spark.

    >>> spark_path(Path("/data/a[1]"))
    '/data/a\\[1\\]'
    """
    return re.sub(r"[\\*?\[\]{},]", r"\\\g<0>", str(path))


def failure_of_tasks(message: str) -> str | None:
    r"""Why Spark gave a job up, in one line, from what it raises; None: no task failed.

    >>> failure_of_tasks("Job aborted due to stage failure: Task 0 (a): java.io.IOException: No space\n\tat java.base/a.B(B.java:1)")
    'Task 0 (a): java.io.IOException: No space'
    >>> failure_of_tasks("Job aborted due to stage failure: Task 0: Traceback:\n  File\nValueError: no\n\n\tat a.B(B.java:1)")
    'ValueError: no'
    >>> failure_of_tasks("[PARSE_SYNTAX_ERROR] Syntax error")

    Args:
        message: of the exception.
    """
    for words in ("Job aborted due to stage failure: ", "An exception was thrown from the Python worker"):
        _, failed, cause = message.partition(words)
        if failed:
            return re.split(r"\n\s+at [\w.$/]+\(|\n\nJVM stacktrace", cause)[0].strip().splitlines()[-1].strip()
    return None


def divided(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Items in as many parts, which follow each other and are as long as each other, about.

    >>> divided([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4, 5]]
    """
    ends = [len(items) * n // parts for n in range(parts + 1)]
    return [items[begin:end] for begin, end in pairwise(ends)]


@dataclass(frozen=True)
class SelectionWriter:
    """A task of an executor: writes a selection of rows by DuckDB; see ``Engine.write_selections``."""

    settings: Settings
    files: Sequence[Path]
    names: str
    order: str

    def __call__(self, selection: tuple[str, str]) -> None:
        """Write the rows that meet a condition to a folder."""
        folder, condition = selection
        with duck.connection(self.settings) as con:
            DuckEngine(con).write_selections(self.files, self.names, self.order, {Path(folder): condition})


class SparkEngine(Engine):
    """Spark: the session of ``settings.spark_master``, a local one or a cluster's."""

    dialect = "spark"
    in_batches = False

    def __init__(self, session: SparkSession, settings: Settings) -> None:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        super().__init__()
        self.errors = (PySparkException, Py4JError)
        self.session, self.settings = session, settings
        self.partitions = int(session.conf.get("spark.sql.shuffle.partitions") or 1)
        self._tables: dict[str, DataFrame] = {}
        self._files_read = 0

    def table(self, name: str, sql: str, by: Sequence[str] = ()) -> None:
        self._record(f"CREATE TABLE {name} AS {sql}")
        frame = self.session.sql(sql)
        if by:
            frame = frame.repartition(self.partitions, *by)
        cached = self._cut(frame).persist()
        cached._jdf.queryExecution().toRdd().count()  # a count as a query is a job more
        old = self._tables.pop(name, None)
        self._from_plan(cached._jdf.queryExecution().withCachedData()).createOrReplaceTempView(name)
        self._tables[name] = cached
        if old is not None:
            old.unpersist()

    def tables(self, queries: Mapping[str, str]) -> None:
        with ThreadPoolExecutor(QUERIES_AT_ONCE) as pool:
            list(pool.map(self.table, queries, queries.values()))

    def _cut(self, frame: DataFrame) -> DataFrame:
        """A frame whose plan is one node: its rows, and how Spark has partitioned and sorted them.

        Without it each table's plan would include, and each job describe, those of all tables before it. ``localCheckpoint``
        cuts like this, too, but keeps rows instead of compressed columns, what is lost with an executor stays lost, and it does
        not ask an adaptive plan, which alone knows at its end, for the partitioning.
        """
        jvm: Any = self.session._jvm
        execution = frame._jdf.queryExecution()
        rows, plan, none = execution.toRdd(), execution.executedPlan(), jvm.scala.Option.empty()
        if plan.getClass().getSimpleName() == "AdaptiveSparkPlanExec":
            plan = plan.executedPlan()
        columns, session = execution.analyzed().output(), self.session._jsparkSession
        partitioning, order = self._partitioning(execution, plan, rows), self._order(execution, plan)
        leaf = jvm.org.apache.spark.sql.execution.LogicalRDD
        return self._from_plan(leaf(columns, rows, partitioning, order, False, none, session, none, none, False))

    def _partitioning(self, execution: Any, plan: Any, rows: Any) -> Any:
        """How a physical plan's rows lie by the hash of columns that its query returns; unknown where they do not."""
        jvm: Any = self.session._jvm
        returned, pending = execution.analyzed().outputSet(), [plan.outputPartitioning()]
        for partitioning in pending:
            kind = partitioning.getClass().getSimpleName()
            if kind == "PartitioningCollection":
                several = partitioning.partitionings()
                pending += [several.apply(n) for n in range(several.size())]
            elif kind == "HashPartitioning" and partitioning.references().subsetOf(returned):
                return partitioning
        return jvm.org.apache.spark.sql.catalyst.plans.physical.UnknownPartitioning(rows.getNumPartitions())

    @staticmethod
    def _order(execution: Any, plan: Any) -> Any:
        """How a physical plan's rows are sorted within partitions, by columns that its query returns."""
        returned, order = execution.analyzed().outputSet(), plan.outputOrdering()
        known = 0
        while known < order.size() and order.apply(known).references().subsetOf(returned):
            known += 1
        return order.take(known)

    def _from_plan(self, plan: Any) -> DataFrame:
        from pyspark.sql import DataFrame

        jvm: Any = self.session._jvm
        return DataFrame(
            jvm.org.apache.spark.sql.classic.Dataset.ofRows(self.session._jsparkSession, plan), self.session
        )

    def view(self, name: str, sql: str) -> None:
        self._record(f"CREATE VIEW {name} AS {sql}")
        self.session.sql(sql).createOrReplaceTempView(name)

    def register(self, name: str, table: pa.Table) -> None:
        self.session.createDataFrame(table).createOrReplaceTempView(name)

    def files(self, paths: Sequence[Path]) -> str:
        self._files_read += 1
        name = f"parquet_{self._files_read}"
        self.session.read.parquet(*map(spark_path, paths)).createOrReplaceTempView(name)
        return name

    def arrow(self, sql: str) -> pa.Table:
        return self.session.sql(self._record(sql)).toArrow()

    def write(self, sql: str, folder: Path) -> None:
        with replaced_directory(folder) as target:
            self._write_parquet(self.session.sql(sql), target)
            for leftover in [*target.glob("_*"), *target.glob(".*")]:  # success marks and checksums of Hadoop
                leftover.unlink()

    @staticmethod
    def _write_parquet(frame: DataFrame, folder: Path, *split_by: str) -> None:
        frame.write.mode("overwrite").option("compression", "zstd").partitionBy(*split_by).parquet(str(folder))

    def write_all(self, queries: Mapping[Path, str]) -> None:
        with ThreadPoolExecutor(QUERIES_AT_ONCE) as pool:
            list(pool.map(self.write, queries.values(), queries))

    def write_by_key(self, query: Callable[[int | None], str], folders: Mapping[int, Path]) -> None:
        if len(folders) == 1:
            super().write_by_key(query, folders)
            return
        # One job for all values: one for each would sort and write a little at a time. A value's rows come to as few tasks, and
        # files, as their size allows.
        frame = self.session.sql(self._record(query(None)))
        with beside(folders.values()) as together:
            self._write_parquet(frame, together, "folder")
            for value, folder in folders.items():
                with replaced_directory(folder) as target:
                    _move_parts(together / f"folder={value}", target)
                    if not parquet_parts(target):
                        empty = frame.drop("folder").limit(0).toArrow()
                        pq.write_table(empty, target / "part-00000.parquet", compression="zstd")

    def write_selections(self, files: Sequence[Path], names: str, order: str, conditions: Mapping[Path, str]) -> None:
        # By DuckDB in tasks: no row is shuffled, as each task reads what is its own.
        with beside(conditions) as together:
            write = SelectionWriter(self.settings, [*files], names, order)
            self.run_tasks(write, [(str(together / str(n)), text) for n, text in enumerate(conditions.values())])
            for n, folder in enumerate(conditions):
                with replaced_directory(folder) as target:
                    _move_parts(together / str(n), target)

    @property
    def cores(self) -> int:
        """Tasks that Spark runs at a time, as far as it knows."""
        return int(self.session.sparkContext.defaultParallelism)

    def run_tasks(self, work: Callable[[Any], None], items: Sequence[Any]) -> None:
        """Run a function of the platform for each of some items, a task each, in executors' Python processes.

        Args:
            work: changes files or stores; what it returns is left.
            items: small: they are sent to the executors with the tasks.
        """
        self.session.sparkContext.parallelize(items, max(len(items), 1)).foreach(work)

    def map_tasks(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Results of a function of the platform for each of some items, a task each, in executors' Python processes.

        Args:
            work: may be called again for an item whose task failed.
            items: small, and so are the results, which come to the driver in the items' order.
        """
        if not items:
            return []
        return self.session.sparkContext.parallelize(items, len(items)).map(work).collect()

    def map_rows(self, name: str, sql: str, by: str, work: ArrowFunction, schema: str) -> None:
        """Define a view of what a function of the platform makes of a query's rows, in executors' Python processes.

        Args:
            name: of the view.
            sql: the query.
            by: column whose equal rows come to one call.
            work: takes the batches of some values and gives batches.
            schema: of what it gives, as Spark's DDL.
        """
        frame = self.session.sql(self._record(sql)).repartition(by)
        frame.mapInArrow(work, schema).createOrReplaceTempView(name)

    def write_lines(self, sql: str, file: Path) -> None:
        """Write a query's only column of text to a file, a line each, in the order of their bytes.

        Args:
            sql: the query; its column is called ``line``.
            file: replaces any older one.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary_directory("lines-", file.parent) as folder:
            self.session.sql(self._record(sql)).orderBy("line").write.text(str(folder / "parts"))
            parts = sorted((folder / "parts").glob("part-*"))
            write_atomically(file, lambda target: _concatenate(parts, target))

    def hand_over(self, sql: str, by: str, write: ArrowFunction, order: Sequence[str] = ()) -> int:
        """Hand a query's rows over to a function of the platform, which writes them to a store, in executors' Python processes.

        Args:
            sql: the query.
            by: column whose equal rows come to one task, one value after the other.
            write: takes a partition's batches and gives one with the column ``written``; a task that fails is tried again.
            order: columns by which the rows of one value are sorted.

        Returns:
            The sum of what it says it wrote.
        """
        frame = self.session.sql(self._record(sql)).repartition(by).sortWithinPartitions(by, *order)
        ((written,),) = frame.mapInArrow(write, "written BIGINT").selectExpr("sum(written)").collect()
        return int(written or 0)

    def digests(self, files: Sequence[Path]) -> dict[Path, str]:
        if not files:
            return {}
        contents = self.session.read.format("binaryFile").load([spark_path(file) for file in files])
        rows = contents.selectExpr("path", "sha2(content, 256) AS digest").collect()
        return {Path(url2pathname(urlparse(path).path)): digest for path, digest in rows}

    def sorted_by(self, columns: str) -> str:
        return f"SORT BY {columns}"

    def hour_number(self, instant: str) -> str:
        return f"CAST(unix_micros({instant}) div 3600000000 AS BIGINT)"

    def hour_start(self, number: str) -> str:
        return f"timestamp_micros(CAST({number} AS BIGINT) * 3600000000)"

    def minute_number(self, moment: str) -> str:
        return f"(unix_micros(CAST({moment} AS TIMESTAMP)) div 60000000)"

    def weekday(self, moment: str) -> str:
        return f"(weekday({moment}) + 1)"

    def close(self) -> None:
        """Drop the tables. The session stays open."""
        for name, frame in self._tables.items():
            self.session.catalog.dropTempView(name)
            frame.unpersist()
        self._tables.clear()


@contextmanager
def beside(folders: Iterable[Path]) -> Iterator[Path]:
    """A folder beside others, for what is put in their place when all of it is written."""
    nearby = next(iter(folders)).parent
    nearby.mkdir(parents=True, exist_ok=True)
    with temporary_directory("together-", nearby) as together:
        yield together


def _move_parts(written: Path, target: Path) -> None:
    for part in parquet_parts(written):
        part.rename(target / part.name)


def _concatenate(files: Sequence[Path], target: Path) -> None:
    with target.open("wb") as whole:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, whole)
