"""What tables beside the log tell of users and items, and from when on: kept with the events, for rankers to read.

``_attributes/user.parquet`` has one row for each user and change: ``user_id``, ``event_timestamp`` (the start of the hour from
which the row holds, 1970 where it always did) and the attributes; ``item.parquet`` likewise. ``_attributes/user.json`` says
which file was read last, so that a table that did not change is not read again.

Where the table says since when a row holds, it holds from the first full hour after that. Where it does not, the first table
tells what always held, and a later one what changes with the hour after the last one that is known: nothing that was trained
on is told anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import hour_start, identifier, quoted, scalar
from core.errors import ConfigError
from core.files import write_json, write_parquet
from events.cells import content, filled
from events.folds import load_moments, tell_folds
from events.ids import extend_ids, id_path
from events.mapping import Mapping
from events.mapping_tables import Attribute, SideTable
from events.mapping_times import Timestamp
from events.readers import exact_text
from events.schema import Owner
from events.side_tables import OpenTable, UnreadableCells, is_marked, mark_file, open_table, table_file, table_mark
from events.store import EventStore

log = logging.getLogger("events.attributes")

START = hour_start(0)


@dataclass(frozen=True)
class StagedTable:
    """A table of attributes that was read and waits to be written.

    Attributes:
        owner: whom it tells of.
        view: its rows in the connection: key, held_from (null: unknown), the attributes.
        dated: whether its rows say since when they hold.
        mark: what identifies the file and how it was read.
    """

    owner: Owner
    view: str
    dated: bool
    mark: dict[str, object]


def stage_attributes(
    con: duckdb.DuckDBPyConnection, mapping: Mapping, folders: list[Path], store: EventStore, kinds: dict[str, str]
) -> list[StagedTable]:
    """Read the tables of users and items that a mapping names; those that did not change since the last time are left out.

    Args:
        con: connection of the ingestion.
        mapping: names the tables.
        folders: where they are looked for, in order.
        store: where the events go.
        kinds: kind of the log's ids (int, string) by owner.

    Raises:
        ConfigError: a table lacks a column, or none of its rows can be used.
        DataError: there is no such table, or it cannot be read.
    """
    tables: dict[Owner, SideTable | None] = {"user": mapping.users, "item": mapping.items}
    staged = []
    for owner, table in tables.items():
        if table is None or not table.attributes:
            continue
        path = table_file(table, folders, f"{owner}s")
        mark = table_mark(mapping, table, path)
        if not is_marked(store.attribute_file(owner), mark):
            staged.append(_stage(con, mapping, owner, table, path, kinds[owner] == "int", mark))
    return staged


def _stage(
    con: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    owner: Owner,
    table: SideTable,
    path: Path,
    numbers: bool,
    mark: dict[str, object],
) -> StagedTable:
    what, schema = f"{owner}s", f"{owner}_attributes"
    opened = open_table(con, mapping, table, path, what, schema=schema, numbers=numbers)
    where = f"{what} ({path})"
    columns = {}
    for name, attribute in table.attributes.items():
        key = f"{what}.attributes.{name} ({path})"
        columns[f"{owner}_{name}"] = _attribute_sql(opened, attribute, key)
    held_from = START
    if table.since is not None:
        where_since = f"{what}.since ({path})"
        moment = _moment(opened, table.since.column, table.since, where_since, "their rows are left out")
        held_from = f"to_timestamp(ceil(epoch_us({moment}) / 3.6e9) * 3600)"
    cells = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in columns.items())
    integer = f"TRY_CAST({opened.key} AS BIGINT) IS NOT NULL" if numbers else "true"
    opened.expressions.execute(
        f"""CREATE TABLE rows AS SELECT __row, {opened.key} AS key, {held_from} AS held_from, {integer} AS fits, {cells}
        FROM raw r""",
        where,
    )
    _tell_unreadable(opened, owner, table, where)
    opened.con.execute(
        f"""CREATE TABLE told AS SELECT key, held_from, {", ".join(map(identifier, columns))} FROM rows
        WHERE key IS NOT NULL AND fits AND held_from IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY key, held_from ORDER BY __row) = 1"""
    )
    _tell_left_out(opened, owner, table, where)
    opened.con.close()
    return StagedTable(owner, f"{schema}.told", table.since is not None, mark)


def _attribute_sql(table: OpenTable, attribute: Attribute, where: str) -> str:
    """SQL of an attribute as it is kept: a text, a number, a list of texts, or hours since 1970; null where it is missing."""
    if attribute.type == "age":
        moment = _moment(table, attribute.column, attribute.moment, where, "they count as missing")
        return f"epoch_us({moment}) / 3.6e9"
    cell = table.value(attribute.column, where, as_text=attribute.type != "number")
    kind = table.raw.types.get(attribute.column, "VARCHAR")
    if attribute.type == "list":
        return _list_sql(cell, kind, attribute.separator)
    text = content(exact_text(f"({cell})", kind))
    if attribute.type == "number":
        number = f"TRY_CAST({text} AS DOUBLE)"
        return f"CASE WHEN isfinite({number}) THEN {number} END"
    return text


def _moment(table: OpenTable, text: str, rule: Timestamp, where: str, rejected: str) -> str:
    """SQL of a moment (TIMESTAMPTZ, null where it cannot be read or is rejected), in a column of its own: each rule has its zone.

    Raises:
        ConfigError: there is no such column, or the expression fails.
    """
    kind = table.raw.types.get(text, "VARCHAR")
    moments = _moments_of(where)
    column = identifier(moments)
    try:
        shifted = load_moments(table.con, table.value(text, where, as_text=True), rule, kind, moments)
        table.con.execute(f"ALTER TABLE raw ADD COLUMN {column} TIMESTAMPTZ")
        table.con.execute(f"UPDATE raw AS r SET {column} = m.ts FROM {column} m WHERE m.__row = r.__row")
    except duckdb.Error as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}; nothing was ingested") from None
    tell_folds(shifted, rule, where, rejected)
    return f"r.{column}"


def _moments_of(where: str) -> str:
    """Name of the table of moments of a key of the mapping, and of the column of ``raw`` with them."""
    return f"moment of {where}"


def _list_sql(cell: str, kind: str, separator: str) -> str:
    """SQL of the values of a list, each once, in their order; null where there is none."""
    if kind.endswith("[]"):
        values = f"CAST({cell} AS VARCHAR[])"
    else:
        text = f"CAST({cell} AS VARCHAR)"
        is_json = f"(starts_with(trim({text}), '[') AND json_valid({text}))"
        split = f"string_split({text}, {quoted(separator)})"
        values = (
            f"CASE WHEN {is_json} THEN from_json(CASE WHEN {is_json} THEN {text} END, '[\"VARCHAR\"]') ELSE {split} END"
        )
    cleaned = (
        f"list_filter(list_transform({values}, lambda value: {content('value')}), lambda value: value IS NOT NULL)"
    )
    once = f"list_filter({cleaned}, lambda value, place: list_position({cleaned}, value) = place)"
    return f"CASE WHEN len({cleaned}) > 0 THEN {once} END"


def _tell_unreadable(table: OpenTable, owner: Owner, told: SideTable, where: str) -> None:
    """Warn of cells that have content and cannot be read as their type; they count as missing."""
    for name, attribute in told.attributes.items():
        if attribute.type not in {"number", "age"}:
            continue
        cell = table.value(attribute.column, where, as_text=attribute.type == "age")
        bad = f"{filled(cell)} AND k.{identifier(f'{owner}_{name}')} IS NULL"
        if attribute.type == "age":  # a time that its rule rejects was told of as such
            moments = identifier(_moments_of(f"{owner}s.attributes.{name} ({table.path})"))
            bad += f" AND __row NOT IN (SELECT __row FROM {moments} WHERE wall_clock IS NOT NULL)"
        count, example = table.con.execute(
            f"SELECT count(*), any_value(CAST({cell} AS VARCHAR)) FROM raw r JOIN rows k USING (__row) WHERE {bad}"
        ).fetchall()[0]
        if count:
            is_what = "a number" if attribute.type == "number" else "a time"
            UnreadableCells(attribute.column, count, example).tell(where, is_what, f"attributes.{name}")
    untold = {column: cell for column, cell in table.numbers.items() if column not in told.number_columns}
    for cells in table.unreadable_numbers(untold):
        cells.tell(where, "a number")


def _tell_left_out(table: OpenTable, owner: Owner, told: SideTable, where: str) -> None:
    """Warn of rows that are not used; a table of which nothing can be used is refused."""
    rows, keyless, misfit, undated, kept = table.con.execute(
        """SELECT count(*), count(*) FILTER (key IS NULL), count(*) FILTER (key IS NOT NULL AND NOT fits),
        count(*) FILTER (key IS NOT NULL AND fits AND held_from IS NULL), (SELECT count(*) FROM told) FROM rows"""
    ).fetchall()[0]
    if misfit:
        example = scalar(table.con, "SELECT any_value(key) FROM rows WHERE NOT fits")
        log.warning(
            "%s: %d rows have an id such as '%s', and the log's are whole numbers; they are left out",
            where,
            misfit,
            example,
        )
    if keyless:
        log.warning("%s: %d rows have no %s; they are left out", where, keyless, told.key)
    if undated and told.since:
        log.warning("%s: %d rows have no readable %s (since); they are left out", where, undated, told.since.column)
    if rows and not kept:
        raise ConfigError(
            f"{where}: none of the {rows} rows can be used by '{told.key}' ({owner}s.key); nothing was ingested"
        )
    if twice := rows - keyless - misfit - undated - kept:
        moment = "and one moment " if told.since else ""
        whose = "an item" if owner == "item" else "a user"
        log.warning("%s: %d rows are of %s %sthat had a row before; the first counts", where, twice, whose, moment)


def write_attributes(
    con: duckdb.DuckDBPyConnection, store: EventStore, tables: list[StagedTable], kinds: dict[str, str]
) -> None:
    """Write what staged tables tell; call it before the events of the same ingestion are written.

    Args:
        con: connection of the ingestion.
        store: where the events go; its source has been declared.
        tables: that were staged.
        kinds: kind of the log's ids by owner.
    """
    for table in tables:
        schema, path = store.attribute_schema(table.owner), store.attribute_file(table.owner)
        names = [name for name in schema.names if name not in {f"{table.owner}_id", "event_timestamp"}]
        here = {row[0] for row in con.execute(f"DESCRIBE {table.view}").fetchall()}
        for name in set(names) - here:
            log.warning(
                "the mapping tells nothing of '%s', which the source has; it counts as missing from now on", name
            )
        cells = ", ".join(
            f"t.{identifier(name)}"
            if name in here
            else f"CAST(NULL AS {_duck_type(schema, name)}) AS {identifier(name)}"
            for name in names
        )
        ids = _ids(con, store, table, kinds)
        told = f"SELECT i.id AS id, t.held_from, {cells} FROM {table.view} t JOIN {ids} i ON i.key = t.key"
        known = f"read_parquet({quoted(str(path))})" if path.exists() else None
        if known:
            columns = {field.name for field in pq.read_schema(path)}
            before = ", ".join(
                identifier(name)
                if name in columns
                else f"CAST(NULL AS {_duck_type(schema, name)}) AS {identifier(name)}"
                for name in names
            )
            known = f"SELECT {table.owner}_id AS id, event_timestamp AS held_from, {before} FROM {known}"
        rows = con.sql(_merged(told, known, names, None if table.dated else _next_hour(store))).to_arrow_table()
        rows = rows.rename_columns([f"{table.owner}_id", "event_timestamp", *names])
        write_parquet(path, rows.select(schema.names).cast(schema))
        write_json(mark_file(path), table.mark)
        log.info("%ss: %d rows of attributes from %s", table.owner, rows.num_rows, table.mark["file"])


def _merged(told: str, known: str | None, names: list[str], now: str | None) -> str:
    """SQL of what is known and what is told, one row for each id and moment, what is told first.

    Args:
        told, known: queries of id, held_from and the attributes.
        names: of the attributes.
        now: SQL of the moment from which rows that differ hold; None: the rows say it themselves.
    """
    columns = ", ".join(["id", "held_from", *map(identifier, names)])
    if known is None:
        return f"SELECT {columns} FROM ({told}) ORDER BY id, held_from"
    news = f"SELECT {columns} FROM ({told})"
    if now is not None:
        differs = " OR ".join(f"t.{identifier(n)} IS DISTINCT FROM k.{identifier(n)}" for n in names)
        latest = f"SELECT * FROM ({known}) QUALIFY row_number() OVER (PARTITION BY id ORDER BY held_from DESC) = 1"
        values = ", ".join(f"t.{identifier(n)}" for n in names)
        news = f"""SELECT t.id, {now} AS held_from, {values} FROM ({told}) t LEFT JOIN ({latest}) k ON k.id = t.id
            WHERE k.id IS NULL OR {differs}"""
    return f"""SELECT {columns} FROM (SELECT *, 0 AS place FROM ({news}) UNION ALL BY NAME SELECT *, 1 AS place FROM ({known}))
        QUALIFY row_number() OVER (PARTITION BY id, held_from ORDER BY place) = 1 ORDER BY id, held_from"""


def _next_hour(store: EventStore) -> str:
    hours = store.hours()
    return hour_start((hours[-1] + 1).number) if hours else START


def _duck_type(schema: pa.Schema, name: str) -> str:
    kind = str(schema.field(name).type)
    return {"string": "VARCHAR", "double": "DOUBLE"}.get(kind, "VARCHAR[]")


def _ids(con: duckdb.DuckDBPyConnection, store: EventStore, table: StagedTable, kinds: dict[str, str]) -> str:
    """A table expression of (key, id) of every key of a table; ids that the log does not have yet are given one."""
    if kinds[table.owner] == "int":
        return f"(SELECT DISTINCT key, CAST(key AS BIGINT) AS id FROM {table.view})"
    keys = f"SELECT DISTINCT key, CAST(NULL AS TIMESTAMPTZ) AS first_seen FROM {table.view}"
    return extend_ids(con, id_path(store.root, table.owner), keys)
