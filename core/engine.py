"""Two engines for the same SQL: DuckDB in this process, or Spark on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from core.duck import connection, file_list, quoted
from core.errors import NotReadyError
from core.files import replaced_directory
from core.settings import Settings
from core.spark import SparkEngine, failure_of_tasks
from core.spark_session import spark_session
from core.sql_engine import Engine, microseconds


class DuckEngine(Engine):
    """DuckDB in this process, memory bounded by the settings, spilling to disk."""

    dialect = "duckdb"
    in_batches = True
    errors = (duckdb.Error,)

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        super().__init__()
        self.con = con
        self.con.execute("SET preserve_insertion_order = false")  # queries say where order matters

    def table(self, name: str, sql: str, by: Sequence[str] = ()) -> None:
        del by
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

    def sorted_by(self, columns: str) -> str:
        return f"ORDER BY {columns}"

    def hour_number(self, instant: str) -> str:
        return f"(epoch_us({instant}) // 3600000000)"

    def hour_start(self, number: str) -> str:
        return f"make_timestamptz(CAST({number} AS BIGINT) * 3600000000)"

    def instant(self, moment: datetime) -> str:
        return f"make_timestamptz({microseconds(moment)})"

    def round_to_int(self, number: str) -> str:
        return f"CAST(round({number}) AS HUGEINT)"

    def is_finite(self, number: str) -> str:
        return f"isfinite({number})"

    def day_number(self, moment: str) -> str:
        return f"(epoch_us({moment}) // 86400000000)"

    def minute_number(self, moment: str) -> str:
        return f"(epoch_us({moment}) // 60000000)"

    def weekday(self, moment: str) -> str:
        return f"CAST(isodow({moment}) AS INTEGER)"


def on_spark(settings: Settings, events: Callable[[], int] | None = None) -> bool:
    """Whether work is Spark's: the settings name it, and the events, which only then are counted, are enough for it.

    Args:
        settings: of the workspace.
        events: counts those that the work is on, of which few are not worth starting Spark; None: enough.
    """
    return settings.engine == "spark" and (events is None or events() >= settings.spark_from_events)


@contextmanager
def engine(settings: Settings, events: Callable[[], int] | None = None) -> Iterator[Engine]:
    """The engine that the settings name, for the length of a ``with`` block.

    Args:
        settings: of the workspace.
        events: as ``on_spark`` takes it.

    Raises:
        NotReadyError: Spark is not there, or gave up what it was asked for in the block.
    """
    if not on_spark(settings, events):
        with connection(settings) as con:
            yield DuckEngine(con)
        return
    spark = SparkEngine(spark_session(settings))
    try:
        yield spark
    except spark.errors as error:
        if (cause := failure_of_tasks(str(error))) is None:
            raise
        raise NotReadyError(
            f"Spark at {settings.spark_master} gave up after several tries ({cause}); what was there before stays; "
            f"when that is repaired, run it again"
        ) from error
    finally:
        spark.close()
