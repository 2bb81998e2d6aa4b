"""Two engines for the same SQL: DuckDB in this process, or Spark on a cluster.

Queries are plain SQL that both run alike; the few functions that they spell differently are methods of the engine.
Tables are named; files are Parquet folders with any number of parts.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import connection, file_list, quoted
from core.errors import NotReadyError
from core.files import replaced_directory, temporary_directory
from core.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SPARK_OPTIONS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.files.openCostInBytes": "65536",  # hours are many small files: read them together
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
"""ANSI SQL, UTC, double quotes around identifiers: as the queries are written."""
WRITES_AT_ONCE = 8
"""Number of results that Spark writes at the same time."""


def parquet_parts(folder: Path) -> list[Path]:
    """The part files of a Parquet folder, in order; a single file is its only part."""
    return [folder] if folder.is_file() else sorted(folder.glob("*.parquet"))


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


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
    def table(self, name: str, sql: str) -> None:
        """Compute a query now and keep its result as a named table."""

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
        """Write a query's result, in its order, to a Parquet folder that replaces any older one."""

    def write_all(self, queries: Mapping[Path, str]) -> None:
        """Write many results, each to its folder."""
        for folder, sql in queries.items():
            self.write(sql, folder)

    def write_by_key(self, query: Callable[[int | None], str], key: str, folders: Mapping[int, Path]) -> None:
        """Write a query's rows to a Parquet folder for each value of a key, which may have no rows.

        Args:
            query: the SELECT of one value's rows in their order, which begins with the key; with None of all rows.
            key: name of the column.
            folders: by value; each replaces any older one.
        """
        del key
        self.write_all({folder: query(value) for value, folder in folders.items()})

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Result of a small query as tuples."""
        return [tuple(row.values()) for row in self.arrow(sql).to_pylist()]

    def scalar(self, sql: str) -> Any:
        """First column of a query's first row, None if it has no rows."""
        rows = self.rows(sql)
        return rows[0][0] if rows else None

    # SQL that the two engines spell differently. Arguments are SQL, too.

    @abstractmethod
    def hour_number(self, instant: str) -> str:
        """An instant's hours since 1970 UTC."""

    @abstractmethod
    def hour_start(self, number: str) -> str:
        """The instant at which an hour starts, by its number."""

    @abstractmethod
    def instant(self, moment: datetime) -> str:
        """A moment as a literal."""

    @abstractmethod
    def round_to_int(self, number: str) -> str:
        """A number rounded to an integer of up to 38 digits, whose sums and products are exact."""

    def double(self, value: float) -> str:
        """A double as a literal."""
        return f"CAST('{value!r}' AS DOUBLE)"

    @abstractmethod
    def day_number(self, moment: str) -> str:
        """Days since 1970 of a timestamp's date."""

    @abstractmethod
    def weekday(self, moment: str) -> str:
        """Day of the week, 1 Monday to 7 Sunday."""

    @abstractmethod
    def top_n(self, number: str, n: int) -> str:
        """Aggregate: list of the n largest numbers, largest first."""

    @abstractmethod
    def collect_ordered(self, value: str, position: str) -> str:
        """Aggregate: list of the values, ordered by their positions; empty if there are none."""

    @abstractmethod
    def take_at(self, values: str, positions: str) -> str:
        """The items of a list at a list of positions, counted from 1; an empty list if the positions are null."""


class DuckEngine(Engine):
    """DuckDB in this process, memory bounded by the settings, spilling to disk."""

    dialect = "duckdb"
    in_batches = True

    errors = (duckdb.Error,)

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        super().__init__()
        self.con = con
        self.con.execute("SET preserve_insertion_order = false")  # queries say where order matters

    def table(self, name: str, sql: str) -> None:
        self.con.execute(self._record(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}"))

    def view(self, name: str, sql: str) -> None:
        self.con.execute(self._record(f"CREATE OR REPLACE TEMP VIEW {name} AS {sql}"))

    def register(self, name: str, table: pa.Table) -> None:
        self.con.register("arriving", table)
        self.table(name, "SELECT * FROM arriving")
        self.con.unregister("arriving")

    def files(self, paths: Sequence[Path]) -> str:
        return f"read_parquet({file_list(paths)})"

    def arrow(self, sql: str) -> pa.Table:
        return self.con.sql(self._record(sql)).to_arrow_table()

    def write(self, sql: str, folder: Path) -> None:
        with replaced_directory(folder) as target:
            part = quoted(str(target / "part-00000.parquet"))
            self.con.execute(f"COPY ({sql}) TO {part} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")

    def hour_number(self, instant: str) -> str:
        return f"(epoch_us({instant}) // 3600000000)"

    def hour_start(self, number: str) -> str:
        return f"make_timestamptz(CAST({number} AS BIGINT) * 3600000000)"

    def instant(self, moment: datetime) -> str:
        return f"make_timestamptz({microseconds(moment)})"

    def round_to_int(self, number: str) -> str:
        return f"CAST(round({number}) AS HUGEINT)"

    def day_number(self, moment: str) -> str:
        return f"(epoch_us({moment}) // 86400000000)"

    def weekday(self, moment: str) -> str:
        return f"CAST(isodow({moment}) AS INTEGER)"

    def top_n(self, number: str, n: int) -> str:
        return f"max({number}, {int(n)})"

    def collect_ordered(self, value: str, position: str) -> str:
        return f"coalesce(list({value} ORDER BY {position}), [])"

    def take_at(self, values: str, positions: str) -> str:
        return f"list_select({values}, coalesce({positions}, []))"


def spark_path(path: Path) -> str:
    r"""The pattern that means one path to Spark.

    >>> spark_path(Path("/data/a[1]"))
    '/data/a\\[1\\]'
    """
    return re.sub(r"[\\*?\[\]{},]", r"\\\g<0>", str(path))


class SparkEngine(Engine):
    """Spark: the session of ``settings.spark_master``, a local one or a cluster's."""

    dialect = "spark"
    in_batches = False

    def __init__(self, session: SparkSession) -> None:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        super().__init__()
        self.errors = (PySparkException, Py4JError)
        self.session = session
        self._tables: dict[str, DataFrame] = {}
        self._files_read = 0

    def table(self, name: str, sql: str) -> None:
        # A checkpoint cuts the plan; without it each table's plan would include those of all tables before it.
        self._record(f"CREATE TABLE {name} AS {sql}")
        frame = self.session.sql(sql).localCheckpoint(eager=True)
        frame.createOrReplaceTempView(name)
        self._tables[name] = frame

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
        with ThreadPoolExecutor(WRITES_AT_ONCE) as pool:  # one small job alone would leave most of a cluster idle
            list(pool.map(self.write, queries.values(), queries))

    def write_by_key(self, query: Callable[[int | None], str], key: str, folders: Mapping[int, Path]) -> None:
        # One job for all values: one for each would sort and write a little at a time.
        frame = self.session.sql(self._record(f"SELECT *, {key} AS folder FROM ({query(None)}) s"))
        nearby = next(iter(folders.values())).parent
        nearby.mkdir(parents=True, exist_ok=True)
        with temporary_directory("together-", nearby) as together:
            self._write_parquet(frame, together, "folder")
            empty = frame.drop("folder").limit(0).toArrow()
            for value, folder in folders.items():
                with replaced_directory(folder) as target:
                    for part in parquet_parts(together / f"folder={value}"):
                        part.rename(target / part.name)
                    if not parquet_parts(target):
                        pq.write_table(empty, target / "part-00000.parquet", compression="zstd")

    def hour_number(self, instant: str) -> str:
        return f"CAST(unix_micros({instant}) div 3600000000 AS BIGINT)"

    def hour_start(self, number: str) -> str:
        return f"timestamp_micros(CAST({number} AS BIGINT) * 3600000000)"

    def instant(self, moment: datetime) -> str:
        return f"timestamp_micros({microseconds(moment)})"

    def round_to_int(self, number: str) -> str:
        return f"CAST(round({number}) AS DECIMAL(38, 0))"

    def day_number(self, moment: str) -> str:
        return f"CAST(unix_date(CAST({moment} AS DATE)) AS BIGINT)"

    def weekday(self, moment: str) -> str:
        return f"(weekday({moment}) + 1)"

    def top_n(self, number: str, n: int) -> str:
        return f"slice(sort_array(collect_list({number}), false), 1, {int(n)})"

    def collect_ordered(self, value: str, position: str) -> str:
        return f"transform(sort_array(collect_list(struct({position} AS a, {value} AS b))), s -> s.b)"

    def take_at(self, values: str, positions: str) -> str:
        return f"transform(coalesce({positions}, array()), n -> element_at({values}, n))"

    def close(self) -> None:
        """Drop the tables; Spark frees what is no longer referenced. The session stays open."""
        for name in self._tables:
            self.session.catalog.dropTempView(name)
        self._tables.clear()


def spark_session(settings: Settings) -> SparkSession:
    """The process's Spark session, created on first use, with ``SPARK_OPTIONS``.

    Args:
        settings: the master and the number of shuffle partitions.

    Raises:
        NotReadyError: Spark or Java is missing, or the master does not answer.
    """
    if shutil.which("java") is None:
        raise NotReadyError("Spark needs Java 17; install it ('make services' does), or set CLOCK_ENGINE=duckdb")
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(settings.spark_master).appName("interest-clock")
    options = {**SPARK_OPTIONS, "spark.sql.shuffle.partitions": str(settings.spark_partitions)}
    if settings.spark_master.startswith("local") or "127.0.0.1" in settings.spark_master:
        options |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    for key, value in options.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise NotReadyError(f"Spark at {settings.spark_master} does not answer: {error}") from error
    session.sparkContext.setLogLevel("ERROR")
    return session


@contextmanager
def engine(settings: Settings) -> Iterator[Engine]:
    """The engine that the settings name, for the length of a ``with`` block."""
    if settings.engine == "duckdb":
        with connection(settings) as con:
            yield DuckEngine(con)
        return
    spark = SparkEngine(spark_session(settings))
    try:
        yield spark
    finally:
        spark.close()
