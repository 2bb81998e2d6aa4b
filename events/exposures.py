"""Exposure logs that stand beside the event logs: who was in which variant of which experiment, and since when."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from core.duck import hour_number, identifier
from core.hours import Hour
from events.ids import extend_ids
from events.mapping import Mapping
from events.readers import find_files, load_raw
from events.schema import exposure_schema
from events.staging import check_known, timestamp_sql
from events.store import EventStore


def exposures_by_hour(
    con: duckdb.DuckDBPyConnection, store: EventStore, mapping: Mapping, files: list[Path]
) -> dict[Hour, pa.Table]:
    """First exposures of each hour, from the exposure logs that stand beside the event logs."""
    rule = mapping.exposures
    if rule is None:
        return {}
    paths = [
        file.parent / rule.path.replace("{name}", file.name).replace("{stem}", file.name.split(".")[0])
        for file in files
    ]
    found = sorted({str(path) for path in paths if path.exists()})
    if not found:
        return {}
    con.execute("CREATE SCHEMA exposure_load")
    con.execute("USE exposure_load")
    try:
        raw = load_raw(con, mapping.model_copy(update={"format": "auto"}), find_files(found))
        for name in (rule.experiment, rule.variant, rule.user_id, rule.timestamp.column):
            check_known(name, raw.columns, f"exposures ({found[0]})")
        moment = timestamp_sql(f"r.{identifier(rule.timestamp.column)}", rule.timestamp)
        users = store.root / "_ids" / "user.parquet"
        source = f"""SELECT CAST({identifier(rule.experiment)} AS VARCHAR) AS experiment,
            CAST({identifier(rule.variant)} AS VARCHAR) AS variant,
            trim(CAST({identifier(rule.user_id)} AS VARCHAR)) AS user_key, {moment} AS timestamp FROM raw r"""
        con.execute(f"CREATE TABLE parsed_exposures AS {source}")
        if users.exists():
            ids = extend_ids(
                con, users,
                "SELECT user_key AS key, min(timestamp) AS first_seen FROM exposure_load.parsed_exposures "
                "WHERE user_key IS NOT NULL GROUP BY ALL",
            )  # fmt: skip
        else:
            ids = "(SELECT DISTINCT user_key AS key, TRY_CAST(user_key AS BIGINT) AS id FROM exposure_load.parsed_exposures)"
        found_rows = con.sql(
            f"""SELECT experiment, variant, id AS user_id, min(timestamp) AS timestamp
            FROM exposure_load.parsed_exposures JOIN {ids} ON key = user_key
            WHERE experiment IS NOT NULL AND variant IS NOT NULL AND id IS NOT NULL AND timestamp IS NOT NULL
            GROUP BY experiment, variant, id, {hour_number("timestamp")}"""
        )
        table = found_rows.to_arrow_table()
    finally:
        con.execute("USE main")
    table = table.cast(exposure_schema())
    numbers = pc.divide(pc.cast(table["timestamp"], pa.int64()), 3_600_000_000)
    return {Hour(n): table.filter(pc.equal(numbers, n)) for n in sorted(pc.unique(numbers).to_pylist())}
