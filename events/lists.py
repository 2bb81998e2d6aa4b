"""Rows that show several items in one cell: a row for each of them, with its place and what the list says was done."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace

import duckdb

from core.documents import one_line
from core.duck import identifier, quoted, scalar, texts
from core.errors import ConfigError
from events.cells import content, whole_number, without_point
from events.mapping import Mapping
from events.mapping_rows import Behavior, Impressions, Labels
from events.readers import RawLog, exact_text

log = logging.getLogger("events.lists")

SEPARATORS = {",": "','", ";": "';'", "|": "'|'", "\t": '"\\t"', " ": "' '"}
"""What usually stands between items, as YAML has it."""
UNSPLIT = 0.5
"""Where more than this share of lists hold another separator, and none the mapping's, the mapping's may be wrong."""
MOST_CELLS = 10_000
"""Lists that are looked at for another separator."""
ID_PART = re.compile(r"\S*[0-9]\S*")
"""What items of a list look like where nothing else tells: ids without spaces, with digits."""
FEW_PARTS = 3
"""So many parts in every cell are parts of one id as well, such as a latitude and a longitude."""
LONGEST_LIST = 10_000
"""A row is copied for each item of its list; nobody was shown more."""
OTHER_BRACKETS = r"\([-0-9.,\s]+\)|\(\s*['\"](?s:.*)['\"]\s*,?\s*\)|\{[^{}:]*\}"
"""Tuples of numbers or of texts as Python prints them, and arrays as PostgreSQL does."""
CUT_SHORT = r"\[\s*[\"'](?s:.*)[^\]\s]\s*"
"""A list of texts whose end is missing."""
QUOTES_APART, QUOTES_LISTED = r"'\s+'", "', '"
"""Between the texts of a list: as NumPy prints it, and as everybody else writes it."""


@dataclass(frozen=True)
class ListMarks:
    """What a list says of a row ``r`` of ``raw``, as SQL.

    Column ``__place`` is its item's index and ``__size`` the number of the list's items, both null outside a list.

    Attributes:
        said: by behavior, whether it was done; null where the list says nothing of it.
        unlabeled: whether the item should have a label and has none that means something.
        chosen: items that columns beside the lists name as chosen.
        chosen_not_in_list: those of them that their list does not have.
    """

    said: dict[str, str] = field(default_factory=dict)
    unlabeled: str = "false"
    chosen: int = 0
    chosen_not_in_list: int = 0


def unfold_lists(con: duckdb.DuckDBPyConnection, mapping: Mapping, raw: RawLog, acts: str) -> tuple[RawLog, ListMarks]:
    """Make a row of ``raw`` for each item of its list; a row that has a list and is an action stays one as well.

    Args:
        con: has the tables ``raw`` and ``malformed``.
        mapping: its ``impressions`` name the list. Without one, only the columns ``__place`` and ``__size`` are added.
        raw: the log.
        acts: SQL of "the row ``r`` is an action".

    Returns:
        The log, and what its lists say.

    Raises:
        ConfigError: the log has no column for the list, or the mapping does not name a column for its items.
    """
    rule = mapping.impressions or Impressions()
    if rule.list_column is None or rule.list_column not in raw.columns:
        if rule.list_column is not None:
            raw.named_cell(rule.list_column, "impressions.list_column")  # a misspelled name is refused
        con.execute("ALTER TABLE raw ADD COLUMN __place INTEGER")
        con.execute("ALTER TABLE raw ADD COLUMN __size INTEGER")
        return raw, ListMarks()
    raw = _with_items(con, raw, mapping.columns.item_id)
    item = raw.columns[mapping.columns.item_id]
    chosen = _chosen_columns(rule, raw)
    for name in rule.chosen:
        raw.named_cell(rule.chosen[name], f"impressions.chosen.{name}")
    lists = {"shown": rule.list_column, **{column: rule.chosen[name] for name, column in chosen.items()}}
    _read_lists(con, raw, lists, rule.separator)
    _check_separator(con, raw, rule, mapping.columns.item_id)
    chosen_counts = _drop_points(con, [*chosen.values()])
    entry = "unnest(shown) AS entry, CAST(generate_subscripts(shown, 1) - 1 AS INTEGER) AS __place"
    con.execute(f"CREATE TABLE entries AS SELECT *, {entry} FROM listed")
    if chosen:  # what was chosen without having been shown is no part of the list, and not lost
        every = f"list_distinct(list_concat({', '.join([*chosen.values(), '[]'])}))"
        con.execute(
            f"""INSERT INTO entries BY NAME SELECT *, unnest(list_filter({every}, lambda x: NOT list_contains(shown, x))) AS entry
            FROM listed"""
        )
    bare, label = _label(rule.labels)
    marks = "".join(f", list_contains({column}, entry) AS {column}" for column in chosen.values())
    single = f"CAST({exact_text(f'r.{item}', raw.types[mapping.columns.item_id])} AS VARCHAR) AS {item}"
    con.execute(
        f"""CREATE TABLE unfolded AS SELECT * EXCLUDE (__row), row_number() OVER (ORDER BY __row, __place NULLS FIRST) AS __row
        FROM (SELECT r.* EXCLUDE ({item}), {bare} AS {item}, __place, len(shown) AS __size, {label} AS __label{marks}
            FROM raw r JOIN entries USING (__row)
        UNION ALL BY NAME SELECT r.* EXCLUDE ({item}), {single} FROM raw r LEFT JOIN listed USING (__row)
            WHERE shown IS NULL OR coalesce({acts}, false))"""
    )
    for table in ("listed", "entries", "raw"):
        con.execute(f"DROP TABLE {table}")
    con.execute("ALTER TABLE unfolded RENAME TO raw")
    types = {**raw.types, mapping.columns.item_id: "VARCHAR"}
    said: dict[str, str] = {name: f"r.{column}" for name, column in chosen.items()}
    unlabeled = "false"
    if rule.labels:
        said = {name: f"r.__label IN ({texts([values])})" for name, values in rule.labels.values.items()}
        known = texts([*rule.labels.values.values(), rule.labels.shown])
        unlabeled = f"r.__place IS NOT NULL AND coalesce(r.__label NOT IN ({known}), true)"
    unfolded = replace(raw, types=types, untyped=raw.untyped | {mapping.columns.item_id})
    return unfolded, ListMarks(said, unlabeled, *chosen_counts)


def _chosen_columns(rule: Impressions, raw: RawLog) -> dict[Behavior, str]:
    """Columns of ``listed`` with the items that were chosen, by behavior; those that the log has."""
    return {name: identifier(f"__chosen:{name}") for name, column in rule.chosen.items() if column in raw.columns}


def _with_items(con: duckdb.DuckDBPyConnection, raw: RawLog, item: str) -> RawLog:
    """The log with a column for the lists' items, which it need not have."""
    if item in raw.columns:
        return raw
    if not item.isidentifier():
        raise ConfigError(
            f"columns.item_id: '{item}' is not a column of the log; with impressions.list_column it names one, and no "
            "expression"
        )
    column = f"c{len(raw.columns)}"
    con.execute(f"ALTER TABLE raw ADD COLUMN {column} VARCHAR")
    return replace(raw, columns={**raw.columns, item: column}, types={**raw.types, item: "VARCHAR"})


def _read_lists(con: duckdb.DuckDBPyConnection, raw: RawLog, lists: dict[str, str], separator: str) -> None:
    """Make the table ``listed``: of each row with a list its texts, without blanks; the others only if they have some.

    Rows with a list that is too long go to ``malformed``.
    """
    cells = [
        f"coalesce({_texts_of(f'r.{raw.columns[name]}', raw.types[name], separator)}, []) AS {column}"
        for column, name in lists.items()
    ]
    con.execute(f"CREATE TABLE listed AS SELECT __row, {', '.join(cells)} FROM raw r")
    con.execute(f"DELETE FROM listed WHERE {' AND '.join(f'len({column}) = 0' for column in lists)}")
    longest = f"greatest({', '.join(f'len({column})' for column in lists)})"
    con.execute(
        f"""INSERT INTO malformed SELECT CAST(r.{raw.columns[lists["shown"]]} AS VARCHAR), 'list_too_long'
        FROM raw r JOIN listed USING (__row) WHERE {longest} > {LONGEST_LIST}"""
    )
    con.execute(f"DELETE FROM raw WHERE __row IN (SELECT __row FROM listed WHERE {longest} > {LONGEST_LIST})")
    con.execute(f"DELETE FROM listed WHERE {longest} > {LONGEST_LIST}")
    shown = f"trim(CAST(r.{raw.columns[lists['shown']]} AS VARCHAR))"
    cut = f"SELECT __row FROM raw r JOIN listed USING (__row) WHERE len(shown) < 2 AND regexp_full_match({shown}, {quoted(CUT_SHORT)})"
    con.execute(f"INSERT INTO malformed SELECT {shown}, 'bad_list' FROM raw r WHERE __row IN ({cut})")
    con.execute(f"DELETE FROM raw WHERE __row IN ({cut})")
    con.execute("DELETE FROM listed WHERE __row NOT IN (SELECT __row FROM raw)")
    every = f"list_concat({', '.join([*lists, '[]'])})"
    whole = f"SELECT bool_and({whole_number('x')}) FROM (SELECT unnest({every}) AS x FROM listed)"
    if scalar(con, whole):  # 7.0 here and 7 there are one item
        bare = ", ".join(f"{column} = list_transform({column}, lambda x: {without_point('x')})" for column in lists)
        con.execute(f"UPDATE listed SET {bare}")


def _check_separator(con: duckdb.DuckDBPyConnection, raw: RawLog, rule: Impressions, item: str) -> None:
    """Look for another separator where no list has several items: refuse it where its parts are items, else warn.

    Ids of lists that honestly have one item each may hold commas and spaces.

    Args:
        con: has the tables ``raw`` and ``listed``.
        raw: the log.
        rule: its lists.
        item: column of the items that rows name outside of their list.
    """
    column = str(rule.list_column)
    if raw.types[column].endswith("[]") or scalar(con, "SELECT coalesce(max(len(shown)), 2) FROM listed") > 1:
        return
    cell = f"trim(CAST(r.{raw.columns[column]} AS VARCHAR))"
    rows = con.execute(
        f"SELECT {cell} FROM raw r JOIN listed USING (__row) WHERE len(shown) = 1 ORDER BY __row LIMIT {MOST_CELLS}"
    ).fetchall()
    cells = [str(text) for (text,) in rows if not str(text).startswith("[")]
    marks = [mark for mark in SEPARATORS if mark != rule.separator]
    mark = max(marks, key=lambda mark: sum(mark in text for text in cells))
    split = [[part.strip() for part in text.split(mark)] for text in cells if mark in text]
    if len(split) <= UNSPLIT * len(rows):
        return
    sources = [f"SELECT unnest({name}) AS item FROM listed" for name in _chosen_columns(rule, raw).values()]
    sources += [f"SELECT {exact_text(f'r.{raw.columns[item]}', raw.types[item])} AS item FROM raw r"]
    named = {
        str(text) for (text,) in con.execute(f"SELECT DISTINCT item FROM ({' UNION ALL '.join(sources)})").fetchall()
    }
    text = (
        f"no list was split by '{rule.separator}'; a cell reads '{one_line(next(c for c in cells if mark in c), 60)}'"
    )
    if _are_lists(split, cells, named - {"None", ""}, rule.labels):
        raise ConfigError(f"impressions.separator: {text}: is it {SEPARATORS[mark]}? Nothing was ingested")
    log.warning("impressions.separator: %s: if that is a list of several items, give %s", text, SEPARATORS[mark])


def _are_lists(split: list[list[str]], cells: list[str], named: set[str], labels: Labels | None) -> bool:
    """Whether the parts of most cells are items: by their labels, by what other cells name, or as they look like ids.

    >>> _are_lists([["N1", "N2"], ["N3", "N4", "N5"]], ["N1 N2", "N3 N4 N5"], set(), None)
    True
    >>> _are_lists([["New", "York"], ["San", "Juan", "2"]], ["New York", "San Juan 2"], set(), None)
    False
    """
    if labels:
        known = tuple(
            labels.separator + label
            for label in (*labels.shown, *(x for group in labels.values.values() for x in group))
        )
        return 2 * sum(all(part.endswith(known) for part in parts if part) for parts in split) > len(split)
    if named:
        return len(named & {part for parts in split for part in parts}) > len(named & set(cells))
    counts = {len(parts) for parts in split}
    like_ids = sum(all(ID_PART.fullmatch(part) for part in parts if part) for parts in split)
    return 2 * like_ids > len(split) and (len(counts) > 1 or min(counts) > FEW_PARTS)


def _drop_points(con: duckdb.DuckDBPyConnection, chosen: list[str]) -> tuple[int, int]:
    """Write chosen items as their list has them (pandas writes 7.0 for 7 beside empty cells), and count them.

    Returns:
        How many were chosen, and how many of these their list does not have.
    """
    if not chosen:
        return 0, 0
    bare = without_point("x")
    for column in chosen:
        con.execute(
            f"""UPDATE listed SET {column} = list_transform({column}, lambda x: CASE WHEN
            NOT list_contains(shown, x) AND list_contains(shown, {bare}) THEN {bare} ELSE x END)
            WHERE NOT list_has_all(shown, {column})"""
        )
    every = f"list_distinct(list_concat({', '.join([*chosen, '[]'])}))"
    row = con.execute(
        f"""SELECT coalesce(sum(len({every})), 0), coalesce(sum(len(list_filter({every}, lambda x:
        NOT list_contains(shown, x)))), 0) FROM listed"""
    ).fetchall()[0]
    return int(row[0]), int(row[1])


def _texts_of(cell: str, kind: str, separator: str) -> str:
    """SQL of the texts in a cell: a list, a JSON array, a list as Python prints it, or text with separators."""
    text = f"trim({exact_text(cell, kind)})"
    each = (
        f"list_transform({cell}, lambda x: {exact_text('x', kind.removesuffix('[]'))})"
        if kind.endswith("[]")
        else f"""CASE WHEN starts_with({text}, '[') AND json_valid({text}) THEN CAST(json({text}) AS VARCHAR[])
        ELSE coalesce({_printed_list(text)}, string_split({text}, {quoted(separator)})) END"""
    )
    return f"list_filter(list_transform({each}, lambda x: {content('x')}), lambda x: x IS NOT NULL)"


def _printed_list(text: str) -> str:
    """SQL of the elements of a list as Python, NumPy or PostgreSQL print it (``['a', 'b']``, ``[1 2]``, ``{a,b}``), else null."""
    bare = rf"regexp_replace({text}, 'np\.\w+\(([^()]*)\)', '\1', 'g')"
    inside = f"substr({text}, 2, len({text}) - 2)"
    listed = (
        f"CASE WHEN regexp_full_match({text}, {quoted(OTHER_BRACKETS)}) THEN '[' || {inside} || ']' ELSE {bare} END"
    )
    apart = f"regexp_replace({listed}, {quoted(QUOTES_APART)}, {quoted(QUOTES_LISTED)}, 'g')"
    numbers = rf"regexp_replace({text}, '\s+', ', ', 'g')"
    return rf"""CASE WHEN regexp_full_match({text}, '\[[-0-9.\s]+\]') THEN TRY_CAST({numbers} AS VARCHAR[])
        WHEN starts_with({listed}, '[') THEN TRY_CAST({apart} AS VARCHAR[]) END"""


def _label(rule: Labels | None) -> tuple[str, str]:
    """SQL of an entry's item and of its label, which stands after the last separator."""
    if rule is None:
        return "entry", "CAST(NULL AS VARCHAR)"
    pattern = quoted(f"(?s)^(.*){re.escape(rule.separator)}(.*)$")
    labeled = f"contains(entry, {quoted(rule.separator)})"
    return (
        f"CASE WHEN {labeled} THEN regexp_extract(entry, {pattern}, 1) ELSE entry END",
        f"CASE WHEN {labeled} THEN trim(regexp_extract(entry, {pattern}, 2)) END",
    )
