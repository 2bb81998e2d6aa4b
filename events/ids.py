"""String ids become integers once, and keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.duck import quoted
from core.files import write_parquet

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("id", pa.int64(), nullable=False)])


def extend_ids(con: duckdb.DuckDBPyConnection, path: Path, query: str) -> str:
    """Give every new key an id, in the order of ``query``, and keep the mapping in ``path``.

    Args:
        con: connection in which ``query`` runs.
        path: Parquet file of (key, id); ids count from 1 in order of first appearance.
        query: SELECT of (key, first_seen), one row a key; ids follow first_seen, then key.

    Returns:
        A table expression of (key, id) that covers every key of the query.
    """
    known = pq.read_table(path, schema=SCHEMA) if path.exists() else SCHEMA.empty_table()
    con.register("known_ids", known)
    keys = con.sql(
        f"SELECT key FROM ({query}) ANTI JOIN known_ids USING (key) ORDER BY first_seen, key"
    ).to_arrow_table()
    if keys.num_rows:
        first = known.num_rows + 1
        new = pa.table([keys["key"].cast(pa.string()), pa.array(range(first, first + keys.num_rows))], schema=SCHEMA)
        write_parquet(path, pa.concat_tables([known, new]))
    con.unregister("known_ids")
    if not path.exists():
        return "(SELECT CAST(NULL AS VARCHAR) AS key, CAST(NULL AS BIGINT) AS id WHERE false)"
    return f"read_parquet({quoted(str(path))})"


def log_ids(root: Path, kind: str, ids: Sequence[int]) -> dict[int, str]:
    """The ids that a source's log has for the platform's integers; integer ids are their own.

    Args:
        root: of the event store.
        kind: ``user`` or ``item``.
        ids: the platform's.

    Returns:
        By the platform's id the log's; one that has none is its own text.
    """
    path = root / "_ids" / f"{kind}.parquet"
    known = pq.ParquetFile(path).read() if path.exists() else SCHEMA.empty_table()
    known = known.filter(pc.is_in(known["id"], pa.array(ids, pa.int64())))
    return {number: str(number) for number in ids} | dict(
        zip(known["id"].to_pylist(), known["key"].to_pylist(), strict=True)
    )
