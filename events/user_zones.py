"""The users' time zones where a table of users has them, and the log has not."""

from __future__ import annotations

from pathlib import Path

import duckdb

from events.cells import content
from events.mapping import Mapping
from events.mapping_times import USERS_ZONE
from events.side_tables import open_table, table_file


def load_user_zones(con: duckdb.DuckDBPyConnection, mapping: Mapping, folders: list[Path], *, numbers: bool) -> None:
    """Make the view ``user_zones``: of each user of the table the id as the log writes it (``key``), and the ``zone``.

    Of several rows of one user the first counts.

    Args:
        con: where the view goes.
        mapping: names the table, its key and the column of zones.
        folders: where the table is looked for, in order.
        numbers: the log's user ids are whole numbers, so that the table's 7.0 is 7.

    Raises:
        ConfigError: the table lacks a column.
        DataError: there is no such table, or it cannot be read.
    """
    assert mapping.users is not None
    path = table_file(mapping.users, folders, "users")
    table = open_table(con, mapping, mapping.users, path, "users", schema="user_zones_load", numbers=numbers)
    where = f"{USERS_ZONE} ({path})"
    cell = content(f"CAST({table.value(str(mapping.local_time.users_zone), where, as_text=True)} AS VARCHAR)")
    table.expressions.execute(
        f"""CREATE TABLE zones AS SELECT {table.key} AS key, {cell} AS zone FROM raw r WHERE ({table.key}) IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY {table.key} ORDER BY __row) = 1""",
        where,
    )
    table.con.close()
    con.execute("CREATE VIEW user_zones AS SELECT * FROM user_zones_load.zones")
