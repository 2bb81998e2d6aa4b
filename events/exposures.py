"""Exposure logs that stand beside the event logs: who was in which variant of which experiment, and since when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from core.duck import hour_number, quoted
from core.errors import DataError
from core.hours import Hour
from events.cells import content, number_id, whole_number
from events.folds import fold_reasons, load_moments, tell_folds
from events.ids import extend_ids, id_path
from events.input_part import InputPart
from events.log_files import find_files
from events.mapping import Mapping
from events.readers import exact_text, load_raw
from events.row_expressions import RowExpressions
from events.schema import exposure_schema
from events.staging import EARLIEST, FUTURE_TOLERANCE
from events.store import EventStore

SCHEMA = "exposure_load"
"""DuckDB schema of the tables that exposures are read through."""


@dataclass(frozen=True)
class Exposures:
    """Exposures that were read.

    Attributes:
        logged: whether any exposure log exists.
        rejected: rows that are not exposures, by reason.
        user_kind: kind of user ids (int, string).
    """

    logged: bool
    rejected: dict[str, int] = field(default_factory=dict)
    user_kind: str = "string"

    def by_hour(self, con: duckdb.DuckDBPyConnection, store: EventStore) -> dict[Hour, pa.Table]:
        """First exposures of each hour; new users get their ids."""
        if not self.logged:
            return {}
        good = f"(SELECT * FROM {SCHEMA}.parsed_exposures WHERE reason IS NULL)"
        if self.user_kind == "string":
            ids = extend_ids(
                con, id_path(store.root, "user"),
                f"SELECT user_key AS key, min(timestamp) AS first_seen FROM {good} GROUP BY ALL",
            )  # fmt: skip
        else:
            ids = f"(SELECT DISTINCT user_key AS key, TRY_CAST(user_key AS BIGINT) AS id FROM {good})"
        table = con.sql(
            f"""SELECT experiment, variant, id AS user_id, min(timestamp) AS timestamp
            FROM {good} JOIN {ids} ON key = user_key
            WHERE id IS NOT NULL GROUP BY experiment, variant, id, {hour_number("timestamp")}"""
        ).to_arrow_table()
        table = table.cast(exposure_schema())
        numbers = pc.divide(pc.cast(table["timestamp"], pa.int64()), 3_600_000_000)
        return {Hour(n): table.filter(pc.equal(numbers, n)) for n in sorted(pc.unique(numbers).to_pylist())}


def read_exposures(
    con: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    files: list[Path],
    now: datetime,
    user_kind: str,
) -> Exposures:
    """Read the exposure logs that stand beside the event logs, with the readers and limits of events.

    Args:
        con: a separate database; gets the schema ``exposure_load``.
        mapping: names the exposure logs and their columns.
        files: the event logs.
        now: moment after which an exposure counts as from the future.
        user_kind: kind of user ids (int, string).

    Raises:
        ConfigError: a column is missing.
        DataError: a file cannot be read.
    """
    rule = mapping.exposures
    if rule is None:
        return Exposures(logged=False)
    paths = [
        file.parent / rule.path.replace("{name}", file.name).replace("{stem}", file.name.split(".")[0])
        for file in files
    ]
    present = sorted({str(path) for path in paths if path.is_file() or any(path.glob("*.*"))})
    if not present:
        return Exposures(logged=False)
    con.execute(f"CREATE SCHEMA {SCHEMA}")
    con.execute(f"USE {SCHEMA}")
    try:
        raw = load_raw(con, mapping.model_copy(update={"format": "auto"}), find_files(present))
        where = f"exposures ({present[0]})"
        cells = {name: raw.cell(name, where) for name in (rule.experiment, rule.variant, rule.user_id)}
        experiment, variant, user = (
            content(exact_text(cells[name], raw.types.get(name, "VARCHAR")))
            for name in (rule.experiment, rule.variant, rule.user_id)
        )
        user = number_id(user) if user_kind == "int" else user
        cell, kind = RowExpressions(con, raw, InputPart()).moment(rule.timestamp, where)
        shifted = load_moments(con, cell, rule.timestamp, kind, "moments")
        tell_folds(shifted, rule.timestamp, "exposures.timestamp", "they count for nothing")
        limit = (now + FUTURE_TOLERANCE).timestamp()
        is_bad_id = f"NOT {whole_number('user_key')}" if user_kind == "int" else "false"
        unclear = " ".join(
            f"WHEN {sql} THEN {quoted(name)}" for name, sql in fold_reasons(rule.timestamp, shifted, "__row")
        )
        con.execute(
            f"""CREATE TABLE parsed_exposures AS SELECT *, CASE {unclear} WHEN timestamp IS NULL THEN 'bad_timestamp'
            WHEN user_key IS NULL THEN 'missing_user_id' WHEN {is_bad_id} THEN 'bad_user_id'
            WHEN experiment IS NULL THEN 'missing_experiment' WHEN variant IS NULL THEN 'missing_variant'
            WHEN epoch(timestamp) > {limit!r} THEN 'in_future' WHEN timestamp < {EARLIEST} THEN 'too_old' END AS reason
            FROM (SELECT __row, {experiment} AS experiment, {variant} AS variant, {user} AS user_key, ts AS timestamp
            FROM raw r JOIN moments USING (__row))"""
        )
        rejected = con.execute(
            """SELECT reason, count(*) FROM (SELECT reason FROM parsed_exposures WHERE reason IS NOT NULL
            UNION ALL SELECT reason FROM malformed) GROUP BY reason ORDER BY reason"""
        ).fetchall()
    except duckdb.Error as error:
        raise DataError(f"cannot read {present[0]}: {str(error).splitlines()[0]}; nothing was ingested") from error
    finally:
        con.execute("USE main")
    return Exposures(True, dict(rejected), user_kind)
