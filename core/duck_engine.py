"""DuckDB as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from core.duck import file_list, quoted
from core.files import replaced_directory
from core.sql_engine import Engine


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

    def minute_number(self, moment: str) -> str:
        return f"(epoch_us({moment}) // 60000000)"

    def weekday(self, moment: str) -> str:
        return f"CAST(isodow({moment}) AS INTEGER)"
