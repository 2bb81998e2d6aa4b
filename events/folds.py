"""Times without an offset that a zone's clock showed twice, in autumn, or never, in spring: which moment is meant.

A table of moments has the columns ``__row``, ``ts`` (TIMESTAMPTZ, null where it cannot be read) and ``wall_clock`` (the time as
it is written, where a zone's clock can show it twice or never; else null).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import duckdb

from core.duck import identifier, quoted, scalar
from events.cells import timestamp_sql, wall_clock_sql
from events.mapping_times import Timestamp

log = logging.getLogger("events.folds")

FOLDS = "folds"
"""Table of the times that are not clear: ``__row``, ``first_ts`` (the earlier moment of one that was shown twice), ``skipped``."""


def load_moments(con: duckdb.DuckDBPyConnection, cell: str, rule: Timestamp, kind: str, table: str) -> dict[str, int]:
    """Make a table of the moments in a column or an expression over the rows ``r`` of ``raw``.

    Args:
        con: holds the table ``raw``.
        cell: SQL of the cell.
        rule: how the moment is written, and which one is meant where it is not clear.
        kind: DuckDB type of the cell.
        table: name of the table of moments.

    Returns:
        As of ``resolve_folds``.
    """
    con.execute(f"SET TimeZone = {quoted(rule.zone)}")
    try:
        con.execute(
            f"""CREATE TABLE {identifier(table)} AS SELECT r.__row, {timestamp_sql(cell, rule, kind)} AS ts,
            {wall_clock_sql(cell, rule, kind)} AS wall_clock FROM raw r"""
        )
    finally:
        con.execute("SET TimeZone = 'UTC'")
    return resolve_folds(con, table, rule)


def resolve_folds(con: duckdb.DuckDBPyConnection, table: str, rule: Timestamp) -> dict[str, int]:
    """Find the times that the zone's clock showed twice or never, and take the moment that the rule chooses; none for ``reject``.

    Args:
        con: holds the table.
        table: of moments.
        rule: how they are written.

    Returns:
        How many times were shown twice (``ambiguous``) and never (``skipped``), without zeros; where there are any, the table
        ``FOLDS`` has them.
    """
    moments, zone = identifier(table), quoted(rule.zone)
    if not scalar(con, f"SELECT count(wall_clock) FROM {moments}"):
        return {}
    shifts = ", ".join(f"p.ts - INTERVAL {minutes} MINUTE" for minutes in (30, 60, 120))
    first = f"list_filter([{shifts}], lambda x: (x AT TIME ZONE {zone}) = p.wall_clock)[1]"
    con.execute(
        f"""CREATE OR REPLACE TABLE {FOLDS} AS SELECT __row, {first} AS first_ts,
        (p.ts AT TIME ZONE {zone}) <> p.wall_clock AS skipped FROM {moments} p WHERE wall_clock IS NOT NULL AND ts IS NOT NULL"""
    )
    con.execute(f"DELETE FROM {FOLDS} WHERE first_ts IS NULL AND NOT skipped")
    counts = con.execute(f"SELECT count(first_ts), count(*) FILTER (WHERE skipped) FROM {FOLDS}").fetchall()[0]
    if rule.fold == "first":
        con.execute(
            f"UPDATE {moments} AS p SET ts = f.first_ts FROM {FOLDS} f WHERE f.__row = p.__row AND f.first_ts IS NOT NULL"
        )
    elif rule.fold == "reject":
        con.execute(f"UPDATE {moments} SET ts = NULL WHERE __row IN (SELECT __row FROM {FOLDS})")
    return {name: n for name, n in zip(("ambiguous", "skipped"), counts, strict=True) if n}


def fold_reasons(rule: Timestamp, shifted: Mapping[str, int], row: str) -> list[tuple[str, str]]:
    """Reasons of rows whose time the rule rejects, and SQL of the condition.

    Args:
        rule: of the times.
        shifted: what ``resolve_folds`` found.
        row: SQL of the row's number.
    """
    if rule.fold != "reject" or not shifted:
        return []
    kinds = {"ambiguous": "first_ts IS NOT NULL", "skipped": "skipped"}
    return [
        (f"{name}_local_time", f"{row} IN (SELECT __row FROM {FOLDS} WHERE {condition})")
        for name, condition in kinds.items()
    ]


def tell_folds(shifted: Mapping[str, int], rule: Timestamp, key: str, rejected: str) -> None:
    """Warn of times that were shown twice or never.

    Args:
        shifted: what ``resolve_folds`` found.
        rule: of the times.
        key: of the mapping that says how they are written, perhaps with the file.
        rejected: what becomes of the rows that the rule rejects.
    """
    if ambiguous := shifted.get("ambiguous"):
        log.warning(
            "%s: %d times were shown twice by the clocks of %s; fold says which is meant (now: %s%s)", key, ambiguous,
            rule.zone, rule.fold, f", {rejected}" if rule.fold == "reject" else "",
        )  # fmt: skip
    if skipped := shifted.get("skipped"):
        log.warning(
            "%s: %d times never were on the clocks of %s; %s", key, skipped, rule.zone,
            rejected if rule.fold == "reject" else "they count by the offset before the change",
        )  # fmt: skip
