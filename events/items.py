"""The table of items: facets of what was shown, joined to the log by the item's id."""

from __future__ import annotations

from pathlib import Path

import duckdb

from core.duck import identifier
from core.errors import ConfigError
from events.mapping import Items, Mapping
from events.side_tables import open_table, table_file

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
    path = table_file(items, folders, "items")
    table = open_table(con, mapping, items, path, "items", schema="items_load", numbers=numbers)
    expressions = {**items.facets, **({ITEM_LENGTH: items.duration_seconds} if items.duration_seconds else {})}
    values = {name: table.value(text, f"items.{name} ({path})") for name, text in expressions.items()}
    cells = ", ".join(f"arg_min({sql}, __row) AS {identifier(name)}" for name, sql in values.items())
    try:
        table.con.execute(
            f"""CREATE TABLE memory_items AS SELECT {table.key} AS key{"," + cells if cells else ""}
            FROM raw r WHERE ({table.key}) IS NOT NULL GROUP BY ALL"""
        )
    except duckdb.Error as error:
        raise ConfigError(f"items ({path}): {str(error).splitlines()[0]}; nothing was ingested") from None
    con.execute("CREATE VIEW items AS SELECT * FROM items_load.memory_items")
    table.con.close()
    return path
