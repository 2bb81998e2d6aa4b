"""Rows of users in Parquet files, and queries over them of which each row is one user's: by one process, or a share of the users a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from core.duck import identifier
from core.files import replaced_directory
from core.spark import SparkEngine, beside
from core.spark_exchange import TASK, exchange, pieces_of
from core.sql_engine import Engine, parquet_parts

LACKING = (duckdb.OutOfMemoryException, duckdb.IOException)
"""What a task lacks, which another try or another executor may have; all other errors are the query's fault."""
SHARE_BYTES = 16 << 20
"""About so many bytes of Parquet, or more, are a share's."""
TYPES = {"experiment": "VARCHAR", "variant": "VARCHAR", "user_id": "BIGINT"}
"""Of columns of sources that may have no file; all others are moments."""


class RefusedQueryError(Exception):
    """A query cannot be computed, for the reason that it says."""


@dataclass(frozen=True)
class SourceFiles:
    """Rows of Parquet files.

    Attributes:
        files: of them; there may be none where each column is a moment or one of ``TYPES``.
        columns: that are needed; ``user_id`` is among them.
        where: condition, in DuckDB's SQL.
    """

    files: Sequence[Path]
    columns: Sequence[str]
    where: str = "true"

    def select(self, db: Engine, files: Sequence[Path] | None = None, before: str = "") -> str:
        """SELECT of the rows.

        Args:
            db: DuckDB.
            files: some of the files; None: all.
            before: what comes before the columns.
        """
        names = ", ".join(map(identifier, self.columns))
        if not self.files:
            nulls = ", ".join(f"CAST(NULL AS {TYPES.get(c, 'TIMESTAMPTZ')}) AS {identifier(c)}" for c in self.columns)
            return f"SELECT {before}{names} FROM (SELECT {nulls}) nobody WHERE false"
        return f"SELECT {before}{names} FROM {db.files(self.files if files is None else files)} WHERE {self.where}"

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.files)


def share_selects(
    db: Engine, cluster: SparkEngine, sources: Mapping[str, SourceFiles], shares: int
) -> dict[str, list[str]]:
    """What ``exchange`` reads so that each share has its users' rows of each source.

    Args:
        db: DuckDB.
        cluster: whose tasks they are for.
        sources: by name.
        shares: their number.
    """
    share = f"CAST(hash(user_id) % {shares} AS INTEGER) AS {TASK}, "
    return {
        name: [source.select(db, piece, share) for piece in pieces_of(cluster, source.files) or [[]]]
        for name, source in sources.items()
    }


@dataclass(frozen=True)
class _QueryWriter:
    """A task of an executor: writes the rows of queries over its share, a folder for each."""

    queries: Sequence[str]
    root: Path

    def __call__(self, share: int, running: Engine) -> str:
        """Returns why it cannot; empty if it could."""
        try:
            for number, sql in enumerate(self.queries):
                running.write(sql, self.root / str(number) / str(share))
        except duckdb.Error as error:
            if isinstance(error, LACKING):
                raise
            return str(error).splitlines()[0]
        return ""


def write_by_user(
    db: Engine, cluster: SparkEngine | None, sources: Mapping[str, SourceFiles], queries: Mapping[Path, str]
) -> None:
    """Write queries whose rows are each made from one user's.

    Args:
        db: DuckDB.
        cluster: computes them, the users divided, where there is enough to divide; None: ``db`` does.
        sources: by the names that the queries have for them.
        queries: folder → SELECT; the folder replaces any older one.

    Raises:
        RefusedQueryError: a query cannot be computed.
    """
    shares = min(cluster.partitions, sum(source.size for source in sources.values()) // SHARE_BYTES) if cluster else 0
    for name, source in sources.items():
        db.view(name, source.select(db))
    if cluster is None or shares < 2:
        try:
            for folder, sql in queries.items():
                db.write(sql, folder)
        except duckdb.Error as error:
            raise RefusedQueryError(str(error).splitlines()[0]) from None
        return
    with beside(queries) as root:
        writer = _QueryWriter([*queries.values()], root)
        if refused := next(
            filter(None, exchange(cluster, share_selects(db, cluster, sources, shares), shares, writer)), None
        ):
            raise RefusedQueryError(refused)
        for number, folder in enumerate(queries):
            with replaced_directory(folder) as target:
                for part in root.glob(f"{number}/*/*.parquet"):
                    part.rename(target / f"part-{int(part.parent.name):05d}.parquet")
                if not parquet_parts(target):
                    pq.write_table(
                        db.arrow(f"SELECT * FROM ({queries[folder]}) q LIMIT 0"), target / "part-00000.parquet"
                    )
