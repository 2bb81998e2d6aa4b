"""The table of items: facets of what was shown, joined to the log by the item's id."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from core.duck import identifier, scalar
from core.files import write_json, write_parquet
from events.cells import content
from events.ids import extend_ids, id_path
from events.mapping import Mapping
from events.mapping_tables import Items
from events.side_tables import UnreadableCells, is_marked, is_no_number, mark_file, open_table, table_file, table_mark
from events.store import EventStore

log = logging.getLogger("events.items")

ITEM_LENGTH, ITEM_TITLE, ITEM_ROWS = "item duration", "item title", "item rows"
UNREADABLE_LENGTH = "item duration unreadable"
"""Columns beside the facets; no facet's name has a space."""
UNREADABLE_CELLS = "items_load.unreadable_cells"
"""Table of the columns with cells that are no numbers, to be told once for a table."""


def load_items(
    con: duckdb.DuckDBPyConnection, mapping: Mapping, items: Items, folders: list[Path], *, numbers: bool
) -> Path:
    """Make the view ``items``: of each item its id as text (``key``), its facets, and what stands beside them.

    Of several rows of one item the first counts, and it alone; ``ITEM_ROWS`` says how many there are.

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
    values, as_numbers = {}, dict[str, str]()
    if items.duration_seconds:
        length = table.value(items.duration_seconds, f"items.duration_seconds ({path})", as_text=False)
        values[ITEM_LENGTH] = f"TRY_CAST(({length}) AS DOUBLE)"
        as_numbers = {items.duration_seconds: length, **table.numbers}
        values[UNREADABLE_LENGTH] = " OR ".join(map(is_no_number, as_numbers.values()))
    for name, text in items.facets.items():
        values[name] = table.value(text, f"items.facets.{name} ({path})", as_text=True)
    if items.title:
        values[ITEM_TITLE] = table.value(items.title, f"items.title ({path})", as_text=True)
    cells = "".join(f", {sql} AS {identifier(name)}" for name, sql in values.items())
    table.expressions.execute(
        f"""CREATE TABLE memory_items AS SELECT f.key, f.{identifier(ITEM_ROWS)}{cells} FROM raw r JOIN
        (SELECT {table.key} AS key, min(__row) AS __row, count(*) AS {identifier(ITEM_ROWS)} FROM raw r
        WHERE ({table.key}) IS NOT NULL GROUP BY 1) f USING (__row)""",
        f"items ({path})",
    )
    con.execute("CREATE VIEW items AS SELECT * FROM items_load.memory_items")
    con.execute(f"CREATE TABLE {UNREADABLE_CELLS} (name VARCHAR, number BIGINT, example VARCHAR)")
    as_numbers |= table.numbers
    untold = {name: value for name, value in as_numbers.items() if name not in items.number_columns}
    for unreadable in table.unreadable_numbers(untold):
        con.execute(f"INSERT INTO {UNREADABLE_CELLS} VALUES (?, ?, ?)", list(unreadable))
    table.con.close()
    return path


def write_item_facets(
    con: duckdb.DuckDBPyConnection, store: EventStore, mapping: Mapping, path: Path, *, numbers: bool
) -> None:
    """Keep the facets and the title of every item of the table, so that items can be ranked before they were first shown.

    Items that the log does not have get their ids here: call it after its events were written. A table that did not change
    since the last time is not kept again.

    Args:
        con: has the view ``items``.
        store: where the events go.
        mapping: names the facets.
        path: the table's file.
        numbers: the log's ids are whole numbers; other items are left out.
    """
    items, kept = mapping.items, store.item_facets_file
    assert items is not None
    mark = table_mark(mapping, items, path)
    if is_marked(kept, mark):
        return
    if numbers:
        ids = "(SELECT key, TRY_CAST(key AS BIGINT) AS id FROM items)"
    else:
        keys = "SELECT key, CAST(NULL AS TIMESTAMPTZ) AS first_seen FROM items"
        ids = extend_ids(con, id_path(store.root, "item"), keys)
    names = [*items.facets, *([ITEM_TITLE] if items.title else [])]
    cells = "".join(f", {content(f'CAST(t.{identifier(n)} AS VARCHAR)')} AS {identifier(n)}" for n in names)
    rows = con.sql(
        f"SELECT i.id AS item_id{cells} FROM items t JOIN {ids} i USING (key) WHERE i.id IS NOT NULL ORDER BY i.id"
    )
    write_parquet(kept, rows.to_arrow_table())
    _tell_repeated(con, items, path)
    for unreadable in con.execute(f"SELECT * FROM {UNREADABLE_CELLS}").fetchall():
        UnreadableCells(*unreadable).tell(f"items ({path})", "a number")
    write_json(mark_file(kept), mark)


def _tell_repeated(con: duckdb.DuckDBPyConnection, items: Items, path: Path) -> None:
    """Warn of further rows of an item, where nobody expects them and attributes have not told of them."""
    further = scalar(con, f"SELECT sum({identifier(ITEM_ROWS)} - 1) FROM items")
    if further and items.since is None and not items.attributes:
        log.warning("items (%s): %d rows are of an item that had a row before; the first counts", path, further)


def item_titles(store: EventStore, items: Sequence[int]) -> dict[int, str]:
    """What people call some items, as the table of items tells; those that it does not tell of are left out.

    Args:
        store: of the source.
        items: the platform's numbers.
    """
    path = store.item_facets_file
    if not path.exists() or ITEM_TITLE not in pq.read_schema(path).names:
        return {}
    rows = pq.read_table(path, columns=["item_id", ITEM_TITLE], filters=[("item_id", "in", list(items))])
    pairs = zip(rows["item_id"].to_pylist(), rows[ITEM_TITLE].to_pylist(), strict=True)
    return {item: title for item, title in pairs if title}
