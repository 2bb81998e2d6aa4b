"""What a log's rows say: raw rows in, one staged row each out, with its event or the reason that it is none."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb

from core.documents import did_you_mean, one_line
from core.duck import identifier, quoted, scalar, texts
from core.errors import ConfigError, DataError
from core.hours import Hour
from events.cells import (
    HALF_DAY,
    boolean_sql,
    content,
    filled,
    offset_minutes_sql,
    only_json,
    position_sql,
    timestamp_sql,
    unless_missing,
    wall_clock_sql,
    whole_number,
    without_point,
)
from events.folds import fold_reasons, resolve_folds
from events.input_part import InputPart
from events.items import ITEM_LENGTH, UNREADABLE_LENGTH, load_items
from events.lists import unfold_lists
from events.mapping import Mapping
from events.mapping_tables import Items
from events.readers import exact_text, load_raw, raw_rows
from events.row_expressions import RowExpressions
from events.schema import BEHAVIORS, REQUEST_COLUMNS
from events.user_zones import load_user_zones
from events.zones import is_zone

log = logging.getLogger("events.staging")

FUTURE_TOLERANCE = timedelta(minutes=5)
EARLIEST = "TIMESTAMPTZ '1990-01-01 00:00:00+00'"
OWN = ("played_seconds", "duration_seconds")
"""What a behavior's expression may name besides the log's columns."""
IGNORED = "ignored"
"""Reason of a row that the mapping passes over; it is counted, and not quarantined."""
ITEM_LENGTH_KEY = "items.duration_seconds"
MOST_VALUES = 10
"""Unknown values that the account lists."""
LEAST_OFFSET = 15
"""Minutes; what is nearer to UTC is no clock's offset, but a number of hours."""
MAJORITY = 0.5
"""With fewer of the log's items in the table of items, a warning says so."""


class ItemMatches(NamedTuple):
    """How an input's items match the table of items.

    Attributes:
        known: items of good rows that the table has.
        items: items of good rows.
        example: one that the table does not have.
        in_table: an item of the table, where it has none of the log's.
    """

    known: int
    items: int
    example: str | None
    in_table: str | None

    def check(self, items: Items, file: Path, one_hour: bool) -> None:
        """Say what a person should know.

        Args:
            items: the mapping's table.
            file: its file.
            one_hour: the input is an hour of a log, in which every item may be newer than the table.

        Raises:
            ConfigError: the table has none of the items.
        """
        if self.items and not self.known and not one_hour:
            read = "every cell is empty" if self.in_table is None else f"it reads '{one_line(self.in_table, 40)}'"
            raise ConfigError(
                f"items.key: no item of the log is in {file.name} by '{items.key}': {read}, the log "
                f"'{one_line(self.example or '', 40)}'; nothing was ingested"
            )
        if self.known < MAJORITY * self.items:
            log.warning(
                "%d of the %d items are in %s by '%s' (items.key); the others have no facets from it",
                self.known, self.items, file.name, items.key,
            )  # fmt: skip


class Staging:
    """Turns the table ``raw`` into ``staged``: one row an input row, with its event and its reason."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        mapping: Mapping,
        folders: list[Path],
        files: list[Path],
        kinds: dict[str, str],
        part: InputPart | None = None,
    ) -> None:
        """Load the log.

        Args:
            con: a separate database.
            mapping: how the log's columns become events.
            folders: where the mapping's relative paths may start.
            files: the log.
            kinds: kinds of ids (int, string) that the source has already, by user and item.
            part: which part of the input the files are; by default all of it.

        Raises:
            DataError: the log cannot be read.
        """
        self.con, self.mapping, self.files, self.part = con, mapping, files, part or InputPart()
        try:
            self.raw = load_raw(con, mapping, files, self.part)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise DataError(f"cannot read the log: {str(error).splitlines()[0]}; nothing was ingested") from error
        self.raw = replace(self.raw, partial=mapping.actions is not None, mentioned=mapping.mentioned_names)
        before = raw_rows(con)
        acts = f"{self._value()} IN ({texts(mapping.actions.values.values())})" if mapping.actions else "false"
        self.raw, self.marks = unfold_lists(con, mapping, self.raw, acts)
        self.unfolded = raw_rows(con) - before
        """Rows that lists of items gave beyond the rows of the input."""
        self.items_file: Path | None = None
        self._folders = folders
        self.sql = RowExpressions(con, self.raw, self.part)
        self.ids: dict[str, str] = {}
        self.known_ids = kinds
        self.shifted: dict[str, int] = {}
        """How many times the zone's clock showed twice (``ambiguous``) or never (``skipped``)."""
        self.unreadable: dict[str, int] = {}
        """Cells that are not empty and were not understood, by the part of the event; their rows are kept."""

    def stage(self, now: datetime) -> None:
        """Build ``staged``: raw content, event columns, and ``reason`` (null for a good row)."""
        mapping, columns = self.mapping, self.mapping.columns
        user = self.sql.text(columns.user_id, "columns.user_id")
        item = self.sql.text(columns.item_id, "columns.item_id")
        played = self.sql.number(columns.played_seconds, "columns.played_seconds")
        length = self.sql.number(columns.duration_seconds, "columns.duration_seconds")
        length_unreadable = "false"
        if columns.duration_seconds is None and mapping.items and mapping.items.duration_seconds:
            length = f"i.{identifier(ITEM_LENGTH)}"
            length_unreadable = f"coalesce(i.{identifier(UNREADABLE_LENGTH)}, false)"
        event_id = unless_missing(self.sql.optional_text(columns.event_id, "columns.event_id"))
        request_id = unless_missing(self.sql.optional_text(columns.request_id, "columns.request_id"))
        place = self.sql.optional_text(columns.position, "columns.position")
        position = f"coalesce(r.__place, {position_sql(place)})" if mapping.has_lists else position_sql(place)
        facets = {name: self.sql.text(text, f"facets.{name}") for name, text in mapping.log_facets.items()}
        facets |= {name: self.sql.text(text, f"context.{name}") for name, text in mapping.context_columns.items()}
        facets |= {
            name: content(f"CAST(i.{identifier(name)} AS VARCHAR)")
            for name in (mapping.items.facets if mapping.items else {})
        }
        outcomes: dict[str, str] = {
            name: self.sql.expression(text, f"behaviors.{name}", OWN) for name, text in mapping.behaviors.items()
        }
        time_cell, time_kind = self.sql.moment(mapping.timestamp, "timestamp.column")
        self.time_cell = time_cell
        moment = timestamp_sql(time_cell, mapping.timestamp, time_kind)
        written = wall_clock_sql(time_cell, mapping.timestamp, time_kind)
        join = f"LEFT JOIN items i ON i.key = {self._join_items(mapping.items, item)}" if mapping.items else ""
        self.con.execute(f"SET TimeZone = {quoted(mapping.timestamp.zone)}")
        self.sql.execute(
            f"""CREATE TABLE parsed AS SELECT r.__row, {user} AS user_key, {item} AS item_key,
            {moment} AS ts, {time_cell} IS NULL AS ts_missing,
            {written} AS wall_clock, {self._ignored()} AS ignored,
            {event_id} AS event_key, {played} AS played_seconds, {length} AS duration_seconds,
            {length_unreadable} AS length_unreadable, {place} AS place, {position} AS position, {request_id} AS request_id,
            {"i.key IS NOT NULL" if mapping.items else "false"} AS in_items,
            {", ".join(f"{sql} AS {inner(name)}" for name, sql in facets.items())}
            FROM raw r {join}"""
        )
        self.con.execute("SET TimeZone = 'UTC'")
        self.shifted = resolve_folds(self.con, "parsed", mapping.timestamp)
        self._add_ids()
        local, zone_bad = self._local_time()
        zones = " LEFT JOIN user_zones z ON z.key = p.user_key" if mapping.local_time.users_zone else ""
        behaviors, guessed = {}, []
        for (name, sql), text in zip(outcomes.items(), mapping.behaviors.values(), strict=True):
            where = f"behaviors.{name}: '{one_line(text)}'"
            kind = "BOOLEAN" if self.raw.blank else self.sql.type_of(sql, where)
            behaviors[name] = f"({sql})" if kind == "BOOLEAN" else boolean_sql(sql)
            guessed += [name] if kind != "BOOLEAN" else []
        for name, sql in self.marks.said.items():
            behaviors[name] = f"coalesce({sql}, {behaviors.get(name, 'CAST(NULL AS BOOLEAN)')})"
        digest = "md5(concat_ws(chr(31), p.user_key, p.item_key, CAST(epoch_us(p.ts) AS VARCHAR)))"
        key = "md5(p.event_key || chr(31) || p.item_key)" if mapping.has_lists else "p.event_key"
        role, told = self._action(behaviors)
        behaviors |= told
        reasons = self._reasons(now, zone_bad)
        typed = ", ".join(f"{behaviors.get(name, 'CAST(NULL AS BOOLEAN)')} AS {identifier(name)}" for name in BEHAVIORS)
        self.sql.execute(
            f"""CREATE TABLE staged AS SELECT p.__row, coalesce({key}, {digest}) AS event_id, p.user_key, p.item_key,
            p.ts, {role} AS is_action, {local} AS local_time, {", ".join(f"p.{inner(name)}" for name in facets)},
            p.played_seconds, p.duration_seconds, p.in_items, {typed}, {", ".join(f"p.{n}" for n in REQUEST_COLUMNS)}, {reasons} AS reason
            FROM parsed p JOIN raw r USING (__row){zones}"""
        )
        self._say_missing()
        self._count_unreadable({name: outcomes[name] for name in guessed})
        self.con.execute("DROP TABLE parsed")

    def _count_unreadable(self, guessed: dict[str, str]) -> None:
        """Count the cells of good rows that have content and were not understood.

        Args:
            guessed: SQL of the behaviors whose cells are no booleans by themselves, by name.
        """
        conditions = {
            f"behaviors.{name}": f"{content(f'CAST(({sql}) AS VARCHAR)')} IS NOT NULL AND s.{identifier(name)} IS NULL"
            for name, sql in guessed.items()
        }
        conditions |= {
            where: f"{filled(cell)} AND {only_json(cell)} IS NULL" for where, cell in self.sql.json_cells.items()
        }
        conditions["columns.position"] = "p.place IS NOT NULL AND p.position IS NULL"
        conditions[ITEM_LENGTH_KEY] = "p.length_unreadable"
        for part, condition in conditions.items():
            count = scalar(
                self.con,
                f"""SELECT count(*) FROM parsed p JOIN raw r USING (__row) JOIN staged s USING (__row)
                WHERE s.reason IS NULL AND {condition}""",
            )
            if count:
                self.unreadable[part] = count

    def _join_items(self, items: Items, item: str) -> str:
        """Load the table of items; SQL of a row's item as that writes it, where 7.0 is 7 if the log's items are numbers."""
        whole = f"bool_and({whole_number(item)})"
        self.sql.execute(f"CREATE TABLE item_form AS SELECT {whole} AS whole FROM raw r WHERE NOT {self._ignored()}")
        kinds = (self.known_ids.get("item"), self.mapping.ids.get("item"))
        is_whole = self.part.is_whole("item cells", scalar(self.con, "SELECT whole FROM item_form"))
        numbers = "int" in kinds or bool(is_whole)
        self.items_file = load_items(self.con, self.mapping, items, self._folders, numbers=numbers)
        return without_point(item) if numbers else item

    @property
    def _list_columns(self) -> dict[str, str]:
        """Keys of the mapping that name columns of lists, and the columns."""
        rule = self.mapping.impressions
        if not rule or not rule.list_column:
            return {}
        chosen = {f"impressions.chosen.{name}": column for name, column in rule.chosen.items()}
        return {"impressions.list_column": rule.list_column, **chosen}

    def _ignored(self) -> str:
        """SQL of "the mapping passes over rows like this one", which show no item."""
        actions = self.mapping.actions
        if not actions or not actions.ignored:
            return "false"
        return f"r.__place IS NULL AND coalesce({self._value()} IN ({texts([actions.ignored])}), false)"

    def _value(self) -> str:
        """SQL of what a row of a log with actions says that it is."""
        column = self.mapping.actions.column if self.mapping.actions else ""
        cell = self.raw.named_cell(column, "actions.column")
        return content(exact_text(cell, self.raw.types.get(column, "VARCHAR")))

    def _action(self, behaviors: dict[str, str]) -> tuple[str, dict[str, str]]:
        """SQL of "this row is an action" (null where it is nothing known), and of the behaviors that actions tell.

        An item that was shown and has no action yet was not liked; an action says only what it says.
        """
        actions, shown = self.mapping.actions, self.mapping.impressions
        if actions is None:
            return "false", {}
        value = self._value()
        is_action = f"{value} IN ({texts(actions.values.values())})"
        impression = (
            f"r.__place IS NOT NULL OR {value} IS NULL OR {value} IN ({texts([shown.values if shown else ()])})"
        )
        role = f"CASE WHEN {impression} THEN false WHEN {is_action} THEN true END"
        told = {}
        for name, values in actions.values.items():
            says = f"r.__place IS NULL AND {value} IN ({texts([values])})"
            other = behaviors.get(name, "CAST(NULL AS BOOLEAN)")
            told[str(name)] = (
                f"CASE WHEN {says} THEN true WHEN {impression} THEN coalesce({other}, false) ELSE {other} END"
            )
        return role, told

    def _say_missing(self) -> None:
        """Tell which columns of the mapping an input of impressions or of actions does not have."""
        if not self.raw.partial or self.raw.blank:
            return
        mapping = self.mapping
        plain = {
            "columns.event_id": mapping.columns.event_id, "columns.played_seconds": mapping.columns.played_seconds,
            "columns.duration_seconds": mapping.columns.duration_seconds, "columns.position": mapping.columns.position,
            "columns.request_id": mapping.columns.request_id,
            **self._list_columns,
            "actions.column": mapping.actions.column if mapping.actions else None,
            **{f"facets.{name}": text for name, text in mapping.log_facets.items()},
            **{f"context.{name}": text for name, text in mapping.context_columns.items()},
        }  # fmt: skip
        missing = [
            f"'{text}' ({where})"
            for where, text in plain.items()
            if text and text.isidentifier() and text not in self.raw.columns
        ]
        if missing:
            log.warning("these files have no column %s; it counts as empty in them", ", ".join(missing))

    def match_items(self) -> ItemMatches:
        """Compare the input's items with the table of items."""
        known, items = self.con.execute(
            """SELECT count(DISTINCT item_key) FILTER (WHERE in_items), count(DISTINCT item_key)
            FROM staged WHERE reason IS NULL"""
        ).fetchall()[0]
        in_table = None if known else scalar(self.con, "SELECT any_value(key) FROM items")
        return ItemMatches(known, items, self.item_example, in_table)

    def unknown_actions(self) -> dict[str, int]:
        """The most frequent values of ``actions.column`` in quarantined rows that the mapping does not name, with their rows."""
        if not self.mapping.actions:
            return {}
        unnamed = f"reason <> {quoted(IGNORED)} AND ({self._action({})[0]}) IS NULL"
        rows = self.con.execute(
            f"""SELECT {self._value()} AS value, count(*) AS n FROM raw r JOIN staged USING (__row)
            WHERE {unnamed} GROUP BY value ORDER BY n DESC, value LIMIT {MOST_VALUES}"""
        ).fetchall()
        return {str(value): int(count) for value, count in rows}

    def describe_actions(self, counts: dict[str, int]) -> str:
        """For people: values that the mapping does not name, with their rows, and what may be meant."""
        shown, actions = self.mapping.impressions, self.mapping.actions
        values = [*(shown.values if shown else ()), *(actions.ignored if actions else ())]
        values += [value for group in (actions.values if actions else {}).values() for value in group]
        return "; ".join(
            f"'{one_line(value, 60)}' {count}{did_you_mean(value, values)}" for value, count in counts.items()
        )

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
        """Choose the kind of ids: the source's, the mapping's, or integers where every id of the input is one."""
        self.item_example = scalar(
            self.con, "SELECT any_value(item_key) FROM parsed WHERE NOT in_items AND NOT ignored"
        )
        for kind in ("user", "item"):
            chosen: str = self.mapping.ids.get(kind, "auto")
            known = self.known_ids.get(kind)
            if known and chosen not in ("auto", known):
                raise DataError(
                    f"ids: {kind} ids of this source are of kind {known} since its first ingestion, the mapping says "
                    f"{chosen}; take it out, or start the source again in another --out"
                )
            if chosen == "auto":
                every = scalar(
                    self.con,
                    f"SELECT bool_and({whole_number(f'{kind}_key')}) FROM parsed WHERE {kind}_key IS NOT NULL AND NOT ignored",
                )
                chosen = known or ("int" if self.part.is_whole(f"{kind} ids", every) else "string")
            self.ids[kind] = chosen
            if chosen == "int":
                key = f"{kind}_key"
                self.con.execute(
                    f"UPDATE parsed SET {key} = {without_point(key)} WHERE regexp_full_match({key}, '.*\\.0+')"
                )

    def _reasons(self, now: datetime, zone_bad: str) -> str:
        limit = (now + FUTURE_TOLERANCE).timestamp()
        cases = [
            (IGNORED, "p.ignored"),
            ("missing_timestamp", "p.ts_missing"),
            *fold_reasons(self.mapping.timestamp, self.shifted, "p.__row"),
            (
                "zone_abbreviation",
                f"p.ts IS NULL AND regexp_matches(CAST({self.time_cell} AS VARCHAR), '[0-9] ?[A-Za-z]{{2,5}}$') "
                f"AND NOT regexp_matches(CAST({self.time_cell} AS VARCHAR), {quoted(HALF_DAY)})",
            ),
            ("bad_timestamp", "p.ts IS NULL"),
            ("missing_user_id", "p.user_key IS NULL"),
            ("missing_item_id", "p.item_key IS NULL"),
            *(
                (f"bad_{kind}_id", f"NOT {whole_number(f'p.{kind}_key')}")
                for kind in ("user", "item")
                if self.ids[kind] == "int"
            ),
            ("in_future", f"epoch(p.ts) > {limit!r}"),
            ("too_old", f"p.ts < {EARLIEST}"),
            ("unknown_zone", zone_bad),
            *(
                (
                    f"not_a_number:{name}",
                    f"{content(self.raw.cell(name, name))} IS NOT NULL AND {self.sql.cell(name)} IS NULL",
                )
                for name in sorted(self.sql.numbers)
            ),
            *((("unknown_label", self.marks.unlabeled),) if self.marks.unlabeled != "false" else ()),
            *((("unknown_action", f"{self._action({})[0]} IS NULL"),) if self.mapping.actions else ()),
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
            minutes = offset_minutes_sql(self.sql.text(rule.offset_minutes_column, "local_time.offset_minutes_column"))
            hours = f"abs({minutes}) > 0 AND abs({minutes}) < {LEAST_OFFSET}"
            bad = f"coalesce(NOT isfinite({minutes}) OR abs({minutes}) > 26 * 60 OR {hours}, true)"
            safe = f"CASE WHEN {bad} THEN 0 ELSE {minutes} END"
            return f"(p.ts AT TIME ZONE 'UTC') + to_minutes(CAST({safe} AS BIGINT))", bad
        if rule.users_zone:
            load_user_zones(self.con, self.mapping, self._folders, numbers=self.ids["user"] == "int")
            column, names_of = "z.zone", "user_zones z"
        else:
            column, names_of = self.sql.text(str(rule.zone_column), "local_time.zone_column"), "raw r"
        names = [row[0] for row in self.con.execute(f"SELECT DISTINCT {column} FROM {names_of}").fetchall()]
        known = [name for name in names if name and is_zone(name)]
        zones = ", ".join(map(quoted, known)) or "''"
        safe = f"CASE WHEN {column} IN ({zones}) THEN {column} ELSE 'UTC' END"
        return f"p.ts AT TIME ZONE ({safe})", f"coalesce({column} NOT IN ({zones}), true)"


def inner(facet: str) -> str:
    """Column of a facet in ingestion's own tables, where no name of a user's can meet one of ours."""
    return identifier(f"facet:{facet}")


def _instant(hour: Hour) -> str:
    return f"TIMESTAMPTZ {quoted(hour.start.isoformat())}"
