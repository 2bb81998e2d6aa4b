"""What a log's rows say: raw rows in, one staged row each out, with its event or the reason that it is none."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import sqlglot
from sqlglot import expressions as exp

from core.documents import did_you_mean
from core.duck import identifier, quoted, scalar
from core.errors import ConfigError, DataError
from core.hours import Hour
from events.mapping import Items, Mapping, Timestamp, is_zone, parse_expression, relative
from events.readers import find_files, load_raw
from events.schema import BEHAVIORS

FUTURE_TOLERANCE = timedelta(minutes=5)
ITEM_LENGTH = "item duration"
OWN = ("played_seconds", "duration_seconds")
"""What a behavior's expression may name besides the log's columns."""
MAJORITY = 0.5
"""A text column counts as numbers (or an id as an integer) when more than this share of its cells is."""


class Staging:
    """Turns the table ``raw`` into ``staged``: one row an input row, with its event and its reason."""

    def __init__(self, con: duckdb.DuckDBPyConnection, mapping: Mapping, folder: Path, files: list[Path]) -> None:
        self.con, self.mapping, self.files = con, mapping, files
        try:
            self.raw = load_raw(con, mapping, files)
        except duckdb.Error as error:
            raise DataError(f"cannot read the log: {str(error).splitlines()[0]}; nothing was ingested") from error
        if mapping.items:
            self._load_items(mapping.items, folder)
        self.numbers: set[str] = set()
        self.ids: dict[str, str] = {}

    def stage(self, now: datetime) -> None:
        """Build ``staged``: raw content, event columns, and ``reason`` (null for a good row)."""
        mapping, columns = self.mapping, self.mapping.columns
        user = self._text(columns.user_id, "columns.user_id")
        item = self._text(columns.item_id, "columns.item_id")
        played = self._number(columns.played_seconds, "columns.played_seconds")
        length = self._number(columns.duration_seconds, "columns.duration_seconds")
        if columns.duration_seconds is None and mapping.items and mapping.items.duration_seconds:
            length = f"TRY_CAST(i.{identifier(ITEM_LENGTH)} AS DOUBLE)"
        event_id = self._text(columns.event_id, "columns.event_id") if columns.event_id else "NULL"
        facets = {name: self._text(text, f"facets.{name}") for name, text in mapping.facets.items()}
        facets |= {
            name: f"nullif(trim(CAST(i.{identifier(name)} AS VARCHAR)), '')"
            for name in (mapping.items.facets if mapping.items else {})
        }
        behaviors: dict[str, str] = {
            name: f"TRY_CAST(({self._expression(text, f'behaviors.{name}', OWN)}) AS BOOLEAN)"
            for name, text in mapping.behaviors.items()
        }
        moment = timestamp_sql(self._column(mapping.timestamp.column, "timestamp.column"), mapping.timestamp)
        join = f"LEFT JOIN items i ON i.key = {item}" if mapping.items else ""
        self.con.execute(f"SET TimeZone = {quoted(mapping.timestamp.zone)}")
        self.con.execute(
            f"""CREATE TABLE parsed AS SELECT r.__row, {user} AS user_key, {item} AS item_key,
            {moment} AS ts, r.{identifier(mapping.timestamp.column)} IS NULL AS ts_missing,
            {event_id} AS event_key, {played} AS played_seconds, {length} AS duration_seconds,
            {", ".join(f"{sql} AS {identifier(name)}" for name, sql in facets.items())}
            FROM raw r {join}"""
        )
        self.con.execute("SET TimeZone = 'UTC'")
        self._add_ids()
        local, zone_bad = self._local_time()
        digest = "md5(concat_ws(chr(31), p.user_key, p.item_key, CAST(epoch_us(p.ts) AS VARCHAR)))"
        reasons = self._reasons(now, zone_bad)
        typed = ", ".join(f"{behaviors.get(name, 'CAST(NULL AS BOOLEAN)')} AS {identifier(name)}" for name in BEHAVIORS)
        self.con.execute(
            f"""CREATE TABLE staged AS SELECT p.__row, coalesce(p.event_key, {digest}) AS event_id, p.user_key, p.item_key,
            p.ts, {local} AS local_time, {", ".join(f"p.{identifier(name)}" for name in facets)},
            p.played_seconds, p.duration_seconds, {typed}, {reasons} AS reason
            FROM parsed p JOIN raw r USING (__row)"""
        )
        self.con.execute("DROP TABLE parsed")

    def restrict(self, first: Hour | None, end: Hour | None) -> None:
        """Forget the rows outside hours [first, end)."""
        outside = [f"ts < {_instant(first)} OR ts IS NULL"] if first else []
        outside += [f"ts >= {_instant(end)}"] if end else []
        if outside:
            self.con.execute(f"DELETE FROM staged WHERE {' OR '.join(outside)}")
            self.con.execute("DELETE FROM raw WHERE __row NOT IN (SELECT __row FROM staged)")
        if first:
            self.con.execute("DELETE FROM malformed")

    def _add_ids(self) -> None:
        for kind in ("user", "item"):
            chosen = self.mapping.ids.get(kind, "auto")
            if chosen == "auto":
                share = scalar(
                    self.con,
                    f"SELECT avg((regexp_full_match({kind}_key, '-?[0-9]{{1,18}}'))::INT) FROM parsed WHERE {kind}_key IS NOT NULL",
                )
                chosen = "int" if share is not None and share > MAJORITY else "string"
            self.ids[kind] = chosen

    def _reasons(self, now: datetime, zone_bad: str) -> str:
        limit = (now + FUTURE_TOLERANCE).timestamp()
        cases = [
            ("missing_timestamp", "p.ts_missing"),
            ("bad_timestamp", "p.ts IS NULL"),
            ("missing_user_id", "p.user_key IS NULL"),
            ("missing_item_id", "p.item_key IS NULL"),
            *(
                (f"bad_{kind}_id", f"NOT regexp_full_match(p.{kind}_key, '-?[0-9]{{1,18}}')")
                for kind in ("user", "item")
                if self.ids[kind] == "int"
            ),
            ("in_future", f"epoch(p.ts) > {limit!r}"),
            ("too_old", "p.ts < TIMESTAMPTZ '1990-01-01 00:00:00+00'"),
            ("unknown_zone", zone_bad),
            *(
                (f"not_a_number:{name}", f"r.{identifier(name)} IS NOT NULL AND {self._cell(name)} IS NULL")
                for name in sorted(self.numbers)
            ),
            ("not_finite", "NOT isfinite(p.played_seconds) OR NOT isfinite(p.duration_seconds)"),
            ("negative_duration", "p.duration_seconds < 0"),
            ("negative_played_seconds", "p.played_seconds < 0"),
        ]
        return "CASE " + " ".join(f"WHEN {sql} THEN {quoted(name)}" for name, sql in cases) + " END"

    def _local_time(self) -> tuple[str, str]:
        """SQL of the wall clock, and of "the row's zone is unknown"."""
        rule = self.mapping.local_time
        if rule.zone:
            return f"p.ts AT TIME ZONE {quoted(rule.zone)}", "false"
        if rule.offset_minutes_column:
            minutes = self._number(rule.offset_minutes_column, "local_time.offset_minutes_column")
            bad = f"coalesce(abs({minutes}) > 26 * 60, true)"
            return f"(p.ts AT TIME ZONE 'UTC') + to_minutes(CAST({minutes} AS BIGINT))", bad
        column = self._column(str(rule.zone_column), "local_time.zone_column")
        names = [row[0] for row in self.con.execute(f"SELECT DISTINCT CAST({column} AS VARCHAR) FROM raw r").fetchall()]
        known = [name for name in names if name and is_zone(name)]
        listed = ", ".join(map(quoted, known)) or "''"
        safe = f"CASE WHEN {column} IN ({listed}) THEN {column} ELSE 'UTC' END"
        return f"p.ts AT TIME ZONE ({safe})", f"coalesce({column} NOT IN ({listed}), true)"

    def _load_items(self, items: Items, folder: Path) -> None:
        found = [
            [p] if p.is_file() else sorted(p.parent.glob(p.name))
            for p in (Path(relative(folder, items.path)), self.files[0].parent / items.path)
        ]
        path = next((paths[0] for paths in found if paths), None)
        if path is None:
            raise DataError(f"no items table at '{items.path}' (items.path, relative to the mapping or to the log)")
        side = self.mapping.model_copy(update={"format": items.format, "csv": items.csv})
        other = self.con.cursor()
        other.execute("CREATE SCHEMA items_load")
        other.execute("USE items_load")
        raw = load_raw(other, side, find_files([str(path)]))
        check_known(items.key, raw.columns, f"items.key ({path})")
        wanted = {**items.facets, **({ITEM_LENGTH: items.duration_seconds} if items.duration_seconds else {})}
        values = {name: _item_value(text, f"items.{name} ({path})", raw.columns) for name, text in wanted.items()}
        cells = ", ".join(f"arg_min({sql}, __row) AS {identifier(name)}" for name, sql in values.items())
        other.execute(
            f"""CREATE TABLE memory_items AS SELECT trim(CAST({identifier(items.key)} AS VARCHAR)) AS key
            {"," + cells if cells else ""} FROM raw GROUP BY ALL"""
        )
        self.con.execute("CREATE VIEW items AS SELECT * FROM items_load.memory_items")
        other.close()

    def _column(self, name: str, where: str) -> str:
        check_known(name, self.raw.columns, where)
        return f"r.{identifier(name)}"

    def _text(self, text: str, where: str) -> str:
        return f"nullif(trim(CAST(({self._expression(text, where)}) AS VARCHAR)), '')"

    def _number(self, text: str | None, where: str) -> str:
        if text is None:
            return "CAST(NULL AS DOUBLE)"
        if text in self.raw.columns and not self.raw.typed:
            self.numbers.add(text)
        return f"TRY_CAST(({self._expression(text, where)}) AS DOUBLE)"

    def _expression(self, text: str, where: str, own: tuple[str, ...] = ()) -> str:
        """SQL of a mapping's expression: columns checked, text columns that hold numbers made numbers."""
        if text in self.raw.columns:
            return self._cell(text)
        tree: exp.Expr = parse_expression(text, where)
        for column in list(tree.find_all(exp.Column)):
            name = column.name
            if name in own:
                sql = f"p.{identifier(name)}"
            else:
                check_known(name, (*self.raw.columns, *own), where)
                if not self.raw.typed and self._is_number(name):
                    self.numbers.add(name)
                sql = self._cell(name)
            cell = sqlglot.parse_one(sql, read="duckdb")
            tree = cell if column is tree else tree
            column.replace(cell)
        return tree.sql(dialect="duckdb")

    def _cell(self, name: str) -> str:
        column = f"r.{identifier(name)}"
        return f"TRY_CAST({column} AS DOUBLE)" if name in self.numbers else column

    def _is_number(self, name: str) -> bool:
        column = identifier(name)
        share = scalar(
            self.con,
            f"SELECT avg((TRY_CAST({column} AS DOUBLE) IS NOT NULL)::INT) FROM raw WHERE {column} IS NOT NULL",
        )
        return share is not None and share > MAJORITY


def timestamp_sql(column: str, rule: Timestamp) -> str:
    """SQL of an instant (TIMESTAMPTZ, null where unreadable); naive times are in the session's zone."""
    if rule.format:
        return f"CAST(try_strptime(CAST({column} AS VARCHAR), {quoted(rule.format)}) AS TIMESTAMPTZ)"
    if rule.unit == "iso":
        return f"TRY_CAST({column} AS TIMESTAMPTZ)"
    micros = {"s": 1_000_000, "ms": 1_000, "us": 1}[rule.unit]
    number = f"(round(TRY_CAST({column} AS DOUBLE) * {micros}) + {rule.origin_us})"
    return f"CASE WHEN abs({number}) < 2.5e17 THEN make_timestamptz(CAST({number} AS BIGINT)) END"


def _instant(hour: Hour) -> str:
    return f"TIMESTAMPTZ {quoted(hour.start.isoformat())}"


def _item_value(text: str, where: str, columns: tuple[str, ...]) -> str:
    """SQL of a column of the items table, or of an expression over its columns."""
    if text in columns:
        return identifier(text)
    tree = parse_expression(text, where)
    for column in tree.find_all(exp.Column):
        check_known(column.name, columns, where)
    return tree.sql(dialect="duckdb")


def check_known(name: str, columns: tuple[str, ...], where: str) -> None:
    if name not in columns:
        raise ConfigError(
            f"{where}: the log has no column '{name}'{did_you_mean(name, columns)} (columns: {', '.join(columns)})"
        )
