"""What a log's columns suggest of its times: the column of the moment, how it is written, and the users' zone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import duckdb

from core.duck import plain_identifier
from core.errors import DataError
from events.column_words import CLOCKS, MOMENT, ZONES, has_word
from events.first_rows import Column, Sample, time_format, unit_since_1970
from events.mapping_text import example_values, expression
from events.zones import is_zone

DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}( 00:00:00)?")
DAY_SECONDS = 86_400
TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")


def local_time_line(sample: Sample, taken: list[Column], users_zone: str | None) -> str:
    """The mapping's line about the users' clocks.

    Args:
        sample: first rows of the log.
        taken: columns that are something else; a column of zones is added.
        users_zone: the column of zones of a table of users; None: there is none.
    """
    column = zone_column([c for c in sample.columns if c not in taken])
    if column is None and users_zone:
        return f"local_time: {{users_zone: {json.dumps(users_zone)}}}  # of the table of users"
    if column is None:
        return "local_time: {zone: UTC}  # check: the zone in which these people live, for example Europe/Berlin"
    taken.append(column)
    if column.share_filled == 1:
        return f"local_time: {{zone_column: {json.dumps(expression(column))}}}{example_values(column)}"
    rule = f"coalesce(nullif({expression(column)}, ''), 'UTC')"
    return f"local_time: {{zone_column: {json.dumps(rule)}}}  # check: the zone of the rows without one{example_values(column, '; ')}"


def zone_column(columns: Iterable[Column]) -> Column | None:
    """The column that holds zones, by its name and its cells; None: there is none."""
    column = next((c for c in columns if has_word(c, ZONES) and c.examples), None)
    return column if column is not None and all(map(is_zone, column.examples)) else None


def timestamp_line(con: duckdb.DuckDBPyConnection, sample: Sample) -> tuple[Column, str]:
    """The column of the moment and the mapping's line about it.

    Args:
        con: on which expressions are tried.
        sample: first rows of the log.

    Raises:
        DataError: no column looks like a time.
    """
    named = [c for word in MOMENT for c in sample.columns if has_word(c, (word,)) and c.share_filled > 0]
    typed = [c for c in sample.columns if c.kind == "moment"]
    texts = [c for c in sample.columns if c.kind == "text"]
    for column in [*dict.fromkeys([*named, *typed, *texts])]:
        name, moment = json.dumps(column.name), None
        if column.kind == "moment":
            check = f"{_time_apart(sample, column)}the zone where no offset is given{example_values(column, '; ')}"
            moment = f"timestamp: {{column: {name}, unit: iso, zone: UTC}}  # check: {check}"
        elif column.kind == "number":
            if unit := unit_since_1970(column):
                moment = f"timestamp: {{column: {name}, unit: {unit}}}  # numbers that count from 1970{example_values(column, ', ')}"
        else:
            moment = _text_moment(con, column)
        if moment:
            return column, moment
    for column in named:
        if (
            has_word(column, CLOCKS)
            and column.kind == "number"
            and (column.low or 0) >= 0
            and (column.high or 0) > DAY_SECONDS
        ):
            check = "check: these numbers do not count from 1970: from when, and in which unit? Hours of the day are right only then"
            moment = f"timestamp: {{column: {json.dumps(column.name)}, unit: s, origin: 2024-01-01}}  # {check}"
            return column, moment
    raise DataError(
        f"{sample.file}: no column looks like a time ({sample.described_columns}). See 'clock events explain' for timestamp's unit "
        "and format"
    )


def _time_apart(sample: Sample, column: Column) -> str:
    """What to check where a column has dates only, and another one has the time of day."""
    if not all(DATE.fullmatch(text) for text in column.examples):
        return ""
    other = next(
        (c for c in sample.columns if c.examples and all(TIME_OF_DAY.fullmatch(text) for text in c.examples)), None
    )
    where = "is there none?"
    if other is not None:
        both = " || ' ' || ".join(plain_identifier(c.name) for c in (column, other))
        where = f'it may stand in "{other.name}": then column: {json.dumps(both)}'
    return f"a date without the time of day, which the clock needs: {where}; "


def _text_moment(con: duckdb.DuckDBPyConnection, column: Column) -> str | None:
    """The mapping's line about a column of text that holds times."""
    pattern = time_format(con, column)
    if pattern is None:
        return None
    return (
        f"timestamp: {{column: {json.dumps(column.name)}, format: {json.dumps(pattern)}, zone: UTC}}"
        f"  # check: day before month? the zone?{example_values(column, '; ')}"
    )
