"""The table of items: attributes of what was shown, joined to the log by the item's id."""

from __future__ import annotations

import logging
from pathlib import Path

import duckdb
import sqlglot
from sqlglot import expressions as exp

from core.duck import identifier, scalar
from core.errors import ConfigError, DataError
from core.expressions import parse_expression
from events.cells import content, is_taken_apart, only_json, whole_number, without_point
from events.mapping import Items, Mapping, relative
from events.readers import RawLog, exact_text, find_files, load_raw

log = logging.getLogger("events.items")

ITEM_LENGTH = "item duration"


def load_items(
    con: duckdb.DuckDBPyConnection, mapping: Mapping, items: Items, folders: list[Path], *, numbers: bool
) -> Path:
    """Make the view ``items``: of each item its id as text (``key``), its facets and ``ITEM_LENGTH``.

    Of several rows of one item the first counts.

    Args:
        con: where the view goes.
        mapping: how the log is written; the table is read in the same way unless ``items`` says otherwise.
        items: names the table, its key and the columns.
        folders: where the table is looked for, in order.
        numbers: the log's ids are whole numbers, so that the table's 7.0 is 7.

    Returns:
        The table's file.

    Raises:
        ConfigError: the table lacks a column, or an expression fails.
        DataError: there is no such table, or it cannot be read.
    """
    candidates = (Path(relative(folder, items.path)) for folder in folders)
    matches = ([path] if path.is_file() else sorted(path.parent.glob(path.name)) for path in candidates)
    path = next((paths[0] for paths in matches if paths), None)
    if path is None:
        raise DataError(f"no items table at '{items.path}' (items.path, relative to the mapping or to the log)")
    side = mapping.model_copy(update={"format": items.format, "csv": items.csv})
    other = con.cursor()
    other.execute("CREATE SCHEMA items_load")
    other.execute("USE items_load")
    raw = load_raw(other, side, find_files([str(path)]))
    if bad := scalar(other, "SELECT count(*) FROM malformed"):
        log.warning("items (%s): %d rows could not be read; their items count as unknown", path, bad)
    key = content(exact_text(raw.cell(items.key, f"items.key ({path})"), raw.types.get(items.key, "VARCHAR")))
    if numbers:
        key = f"CASE WHEN {whole_number(key)} THEN {without_point(key)} ELSE {key} END"
    expressions = {**items.facets, **({ITEM_LENGTH: items.duration_seconds} if items.duration_seconds else {})}
    values = {name: _value(text, f"items.{name} ({path})", raw) for name, text in expressions.items()}
    cells = ", ".join(f"arg_min({sql}, __row) AS {identifier(name)}" for name, sql in values.items())
    try:
        other.execute(
            f"""CREATE TABLE memory_items AS SELECT {key} AS key{"," + cells if cells else ""}
            FROM raw r WHERE ({key}) IS NOT NULL GROUP BY ALL"""
        )
    except duckdb.Error as error:
        raise ConfigError(f"items ({path}): {str(error).splitlines()[0]}; nothing was ingested") from None
    con.execute("CREATE VIEW items AS SELECT * FROM items_load.memory_items")
    other.close()
    return path


def _value(text: str, where: str, raw: RawLog) -> str:
    """SQL of a column of the items table, or of an expression over its columns."""
    if text in raw.columns:
        return raw.cell(text, where)
    tree: exp.Expr = parse_expression(text, where)
    for column in list(tree.find_all(exp.Column)):
        sql = raw.cell(column.name, where)
        sql = only_json(sql) if raw.types.get(column.name) == "VARCHAR" and is_taken_apart(column) else sql
        cell = sqlglot.parse_one(sql, read="duckdb")
        tree = cell if column is tree else tree
        column.replace(cell)
    return tree.sql(dialect="duckdb")
