"""Names for the columns of a log that has no header, by what their cells look like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb

from core.duck import identifier, scalar
from events.column_words import BEHAVIOR_WORDS, IMPRESSION, is_flag
from events.first_rows import (
    EXAMPLES,
    LABELED,
    NAME,
    UNNAMED,
    Column,
    Sample,
    columns_of,
    read_first_rows,
    time_format,
    unit_since_1970,
)

HIGHEST_RATING, MOST_RATINGS = 10, 20
"""A rating is no higher, and takes no more different values."""


def read_named(con: duckdb.DuckDBPyConnection, file: Path) -> Sample:
    """As :func:`events.first_rows.read_first_rows`; columns of a log without a header have names, in the table ``sample`` as well.

    Args:
        con: a connection for this file alone.
        file: of a log, or a table beside one, whose columns stay as they are.
    """
    sample = read_first_rows(con, file)
    if sample.format != "csv" or not all(UNNAMED.fullmatch(column.name) for column in sample.columns):
        return sample
    labeled = any(map(is_labeled, sample.columns))
    names = _names_of_lists(con, sample) if labeled else _names_of_rows(con, sample)
    if not labeled and "time" not in names.values():
        return sample
    for old, new in names.items():
        con.execute(f"ALTER TABLE sample RENAME {identifier(old)} TO {identifier(new)}")
    columns = columns_of(con, sample.rows)
    options = {**sample.options, "header": False, "columns": [column.name for column in columns]}
    return replace(sample, options=options, columns=columns)


def is_labeled(column: Column) -> bool:
    """Whether every example is a list of items that end with a label: ``N1-0 N2-1``."""
    return bool(column.examples) and all(LABELED.fullmatch(cell) for cell in column.examples)


def _names_of_lists(con: duckdb.DuckDBPyConnection, sample: Sample) -> dict[str, str]:
    """Names where a row is a list of labeled items; the other columns keep what DuckDB calls them."""
    names: dict[str, str] = {}
    for column in sample.columns:
        if is_labeled(column):
            role = "impressions"
        elif _holds_times(con, column):
            role = "time"
        elif column.distinct == sample.rows:
            role = "request_id"
        elif not any(" " in cell for cell in column.examples):
            role = "user"
        else:
            continue
        if role not in names.values():
            names[column.name] = role
    return names


def _names_of_rows(con: duckdb.DuckDBPyConnection, sample: Sample) -> dict[str, str]:
    """Names where a row is one item: the user comes first, and of the other ids those of items are the most."""
    time = next((c for c in sample.columns if _holds_times(con, c)), None)
    time = time or next((c for c in sample.columns if unit_since_1970(c)), None)
    action = next((c for c in sample.columns if c is not time and _holds_actions(c)), None)
    ids = [c for c in sample.columns if c not in (time, action) and _holds_ids(c)]
    user = ids[0] if len(ids) > 1 else None
    item = max(ids[1:], key=lambda column: column.distinct, default=None)
    rest = [c for c in sample.columns if c not in (time, action, user, item)]
    rating = next((c for c in rest if _holds_ratings(c)), None)
    numbers = [c for c in ids if c in rest and c is not rating and c.kind == "number"]
    category = next((c for c in numbers if item and _is_of(con, c, item)), None)
    roles = {"time": time, "user": user, "item": item, "action": action, "rating": rating, "category": category}
    return {column.name: role for role, column in roles.items() if column}


def _holds_times(con: duckdb.DuckDBPyConnection, column: Column) -> bool:
    return column.kind == "moment" or (column.kind == "text" and time_format(con, column) is not None)


def _holds_actions(column: Column) -> bool:
    """Whether a column has few texts, and at least one is what people do, or that an item was shown."""
    words = {word for texts in BEHAVIOR_WORDS.values() for word in texts} | IMPRESSION
    few = column.kind == "text" and column.distinct <= EXAMPLES
    return few and any(words & {*NAME.findall(text.lower())} for text in column.examples)


def _holds_ratings(column: Column) -> bool:
    if column.kind != "number" or column.low is None or column.high is None:
        return False
    return 2 < column.distinct <= MOST_RATINGS and column.low >= 0 and column.high <= HIGHEST_RATING


def _holds_ids(column: Column) -> bool:
    """Whether the cells are words without spaces or whole numbers, and several."""
    whole = column.kind == "text" or not any("." in cell for cell in column.examples)
    return column.distinct > 1 and not is_flag(column) and whole and not any(" " in cell for cell in column.examples)


def _is_of(con: duckdb.DuckDBPyConnection, column: Column, item: Column) -> bool:
    """Whether a column has one value for each item, and several items for a value."""
    per_item = f"SELECT count(DISTINCT {identifier(column.name)}) AS n FROM sample GROUP BY {identifier(item.name)}"
    return column.distinct < item.distinct and scalar(con, f"SELECT max(n) FROM ({per_item})") == 1
