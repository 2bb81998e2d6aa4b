"""Tables of items and of users beside a log that nobody has described: which they are, and what rankers may read in them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import duckdb

from core.duck import identifier, scalar, texts
from events.column_words import FACET, ITEM, TITLE, USER, has_word, is_flag, is_list, separator_of
from events.first_rows import UNNAMED, Column, Options, Sample
from events.guess_times import zone_column
from events.log_files import format_of
from events.mapping_text import example_values, expression, facet_name, flow
from events.unnamed import read_named

LEAST_KNOWN = 0.2
"""A table holds this share of the log's ids in its first rows."""
MOST_FACETS = 3
MOST_ATTRIBUTES = 20
MOST_CATEGORIES = 2_000
"""A text column with more different values in the sample describes single rows, not kinds of them."""

Role = Literal["items", "users"]


@dataclass(frozen=True)
class _Match:
    """A table whose column ``key`` holds the ids of the log's items or users.

    Attributes:
        role: what the table describes.
        known: share of the log's ids that it holds, 0 to 1.
        named: how many of the column's and the file's names say the same.
    """

    role: Role
    table: Sample
    key: Column
    known: float
    named: int


def table_lines(tables: list[Sample], ids: dict[Role, list[str]], log: Sample) -> tuple[list[str], str | None]:
    """The mapping's lines about a table of items and one of users, and the column of the users' zones.

    Args:
        tables: files beside the log.
        ids: some ids of the log's items and users, as it writes them.
        log: the log, whose own columns are no attributes again.

    Returns:
        no lines for tables that hold none of the ids, and no column where the table of users has no zones.
    """
    matches = [match for table in tables for match in _matches(table, ids)]
    best: dict[Role, _Match] = {}
    for match in sorted(matches, key=lambda m: (m.named, m.known), reverse=True):
        if match.table.file not in {m.table.file for m in best.values()}:
            best.setdefault(match.role, match)
    taken = {facet_name(column) for column in log.columns}
    lines = [line for role in ids if role in best for line in _lines(best[role], taken)]
    zone = zone_column(best["users"].table.columns) if "users" in best else None
    return lines, expression(zone) if zone else None


def _matches(table: Sample, ids: dict[Role, list[str]]) -> list[_Match]:
    """The column of a table that holds each id once, for each kind of ids of which it holds enough.

    Small numbers are ids of users, items and categories alike: a column whose name says that it is of another kind is passed over.
    """
    words: dict[Role, tuple[str, ...]] = {"items": ITEM, "users": USER}
    others: dict[Role, tuple[str, ...]] = {"items": (*USER, *FACET), "users": (*ITEM, *FACET)}
    matches = []
    with duckdb.connect() as con:
        read_named(con, table.file)
        for role, examples in ids.items():
            wanted = {*examples}
            shares = {
                column: scalar(con, f"SELECT count(*) FROM sample WHERE CAST({identifier(column.name)} AS VARCHAR) IN ({texts([wanted])})")
                / len(wanted)
                for column in table.columns if wanted and column.distinct == table.rows
                and (has_word(column, words[role]) or not has_word(column, others[role]))
            }  # fmt: skip
            key = max(shares, key=lambda column: shares[column], default=None)
            if key is not None and shares[key] >= LEAST_KNOWN:
                file = replace(key, name=table.file.name.split(".")[0])
                named = sum(has_word(column, words[role]) for column in (key, file))
                matches.append(_Match(role, table, key, shares[key], named))
    return matches


def _lines(match: _Match, taken: set[str]) -> list[str]:
    table, key, columns, options = match.table, match.key, match.table.columns, match.table.options
    if table.format == "csv" and (
        UNNAMED.fullmatch(key.name) or _shape(key.name) in {*map(_shape, key.examples)} - {""}
    ):
        columns = tuple(replace(c, name=f"column{place}") for place, c in enumerate(columns))
        key = columns[table.columns.index(key)]
        options = {**options, "header": False, "columns": [c.name for c in columns]}
    usable = [c for c in columns if c.name != key.name and c.distinct > 1 and facet_name(c) not in taken]
    facets = [c for c in usable if _is_facet(c, table.rows)][:MOST_FACETS] if match.role == "items" else []
    titles = [c for c in usable if c not in facets and _is_title(c)][:1] if match.role == "items" else []
    zones = [zone for zone in [zone_column(columns)] if zone and match.role == "users"]
    others = [c for c in usable if c not in [*facets, *titles, *zones]]
    attributes = [line for c in others for line in _attribute(c, table.rows)][:MOST_ATTRIBUTES]
    if match.role == "users" and not attributes and not zones:
        return []
    what = f"check: {table.file.name} has ids of {match.role}; ingest the log by its files' names, without it"
    return [
        f"{match.role}:  # {what}",
        f"  path: {json.dumps(table.file.name)}",
        *([f"  format: {table.format}"] if format_of(table.file) is None else []),
        *_csv(table, options),
        f"  key: {json.dumps(key.name)}",
        *(f"  title: {expression(c)}  # check: pages show it{example_values(c, '; ')}" for c in titles),
        *(["  facets:", *(f"    {facet_name(c)}: {expression(c)}{example_values(c)}" for c in facets)] if facets else []),
        *(["  attributes:  # check: what rankers read besides", *attributes] if attributes else []),
    ]  # fmt: skip


def _csv(table: Sample, options: Options) -> Sequence[str]:
    return [f"  csv: {flow(options)}"] if options and table.format == "csv" else []


def _is_facet(column: Column, rows: int) -> bool:
    return column.kind == "text" and not is_list(column) and column.distinct <= max(rows // 2, 2)


def _is_title(column: Column) -> bool:
    """Whether a column holds what people call an item."""
    return column.kind == "text" and not is_list(column) and has_word(column, TITLE)


def _attribute(column: Column, rows: int) -> list[str]:
    """The line of a column that says something of kinds of rows, or a number or a moment; nothing for the others."""
    name, text, seen = facet_name(column), expression(column), example_values(column)
    if is_list(column):
        mark = separator_of(column)
        separator = f", separator: {json.dumps(mark)}" if mark else ""
        return [f"    {name}: {{column: {text}, type: list{separator}}}{seen}"]
    if column.kind == "moment":
        return [f"    {name}: {{column: {text}, type: age, zone: UTC}}{seen}"]
    if column.kind == "number" and not is_flag(column) and not _is_code(column):
        return [f"    {name}: {{column: {text}, type: number}}{seen}"]
    if column.kind != "text" or column.distinct <= min(MOST_CATEGORIES, max(rows // 2, 2)):
        return [f"    {name}: {text}{seen}"]
    return []


def _is_code(column: Column) -> bool:
    """Whether the name says that numbers name something: an id, a type, a category."""
    return column.words[-1:] == ("id",) or has_word(column, FACET)


def _shape(text: str) -> str:
    """A text with its digits made one, so that ids look alike; empty without any.

    >>> _shape("N10075"), _shape("title")
    ('N9', '')
    """
    shape = re.sub(r"[0-9]+", "9", text)
    return shape if shape != text or "9" in text else ""
