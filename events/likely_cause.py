"""What a person should look at when many rows of a log could not be read: the reason, a cell, and what the mapping may want."""

from __future__ import annotations

import csv
import json
import re

from core.documents import one_line
from core.duck import plain_identifier, quoted, scalar
from core.numbers import is_number
from events.cells import CLOCK_OFFSET, FORMATS, ISO, content
from events.mapping_times import USERS_ZONE
from events.staging import LEAST_OFFSET, Staging

MINUTES_AND_SECONDS = re.compile(r"\d+:\d{2}(\.\d+)?")
NO_CAUSE = "Look at the mapping's columns"
OUT_OF_RANGE = {
    "in_future": "lie in the future: is the clock of this machine right, and are these rows what happened?",
    "too_old": "lie before 1990: does the log write a missing time so?",
}
FIXED_CAUSES = {
    "bad_list": "A list begins and does not end: were cells cut short when the log was written?",
    "conflicting_event_id": "columns.event_id is not an event's own: rows of other users or items have the same one; take it out",
    "repeated_key": "An object has the same key twice: give each its own name",
    "bad_encoding": "The text is not UTF-8: set csv: {encoding: latin-1} in the mapping, or save it as UTF-8",
    "zone_abbreviation": "Abbreviations of zones mean several; write offsets, or leave them out and give zone",
    "unknown_label": "The items of impressions.list_column do not end with a separator and a value of impressions.labels",
    "bad_user_id": "User ids of this source are integers since its first ingestion",
    "bad_item_id": "Item ids of this source are integers since its first ingestion",
}
"""What a person should look at, whatever the cells are."""


def likely_cause(staging: Staging, reason: str) -> str:
    """What a person should look at when many rows could not be read.

    Args:
        staging: of the input.
        reason: the one that most of these rows have.
    """
    if reason in {"bad_timestamp", "too_old", "in_future"}:
        return _likely_time(staging, reason)
    if reason.startswith("not_a_number:"):
        column = reason.removeprefix("not_a_number:")
        return f"Column '{column}' is used as a number in the mapping and is none{_as_number(staging, column)}"
    if reason in {"malformed_row", "open_quote"}:
        return f"Look at csv: delimiter, quote, encoding and header in the mapping{_cell_counts(staging)}"
    if reason == "unknown_zone":
        return _zone_hint(staging)
    if reason == "unknown_action":
        return (
            "The values of actions.column are not those under actions.values and impressions.values: "
            + staging.describe_actions(staging.unknown_actions())
        )
    return FIXED_CAUSES.get(reason, NO_CAUSE)


def _likely_time(staging: Staging, reason: str) -> str:
    """What a person should look at when many times could not be read."""
    rule = staging.mapping.timestamp
    text = scalar(
        staging.con,
        f"""SELECT any_value(CAST({staging.time_cell} AS VARCHAR)) FROM raw r JOIN staged USING (__row)
        WHERE reason = {quoted(reason)}""",
    )
    if rule.unit != "iso" and re.fullmatch(ISO, str(text)):
        return f"Times such as {text!r} look like unit: iso; the mapping says unit: {rule.unit}"
    if reason != "bad_timestamp" and rule.unit == "iso" and not rule.format and re.fullmatch(ISO, str(text)):
        return f"Times such as {text!r} {OUT_OF_RANGE[reason]}"
    try:
        number = float(text)
    except (TypeError, ValueError):
        if pattern := _likely_format(staging):
            return f'Times such as {text!r} look like timestamp.format: "{pattern}"'
        return f"Look at timestamp: a cell reads {text!r}; give unit (s, ms, us, ns) for numbers, or a format"
    for unit, micros in (("s", 1_000_000), ("ms", 1_000), ("us", 1), ("ns", 0.001)):
        if 1990 <= 1970 + number * micros / 3.15576e13 <= 2100 and unit != rule.unit:
            return f"Times such as {text} look like unit: {unit}; the mapping says unit: {rule.unit}"
    return f"Look at timestamp: a cell reads {text!r}"


def _as_number(staging: Staging, column: str) -> str:
    """A cell of a column that is no number, and how a mapping reads it where it has a decimal comma, or is minutes and seconds."""
    cell = f"CAST({staging.raw.cell(column, column)} AS VARCHAR)"
    text = scalar(
        staging.con,
        f"""SELECT coalesce(any_value({cell}) FILTER (TRY_CAST(replace({cell}, ',', '.') AS DOUBLE) IS NOT NULL), any_value({cell}))
        FROM raw r JOIN staged USING (__row) WHERE reason = {quoted(f"not_a_number:{column}")}""",
    )
    name = plain_identifier(column)
    remedy = ""
    if text and is_number(text.replace(",", ".")):
        remedy = f"replace({name}, ',', '.')"
    elif text and MINUTES_AND_SECONDS.fullmatch(text):
        remedy = f"CAST(split_part({name}, ':', 1) AS DOUBLE) * 60 + CAST(split_part({name}, ':', 2) AS DOUBLE)"
    return f": a cell reads '{one_line(text, 40)}'" + (f'; write "{remedy}"' if remedy else "") if text else ""


def _likely_format(staging: Staging) -> str | None:
    """The format of times that reads most of the cells, if one reads nearly all."""
    text = f"CAST({staging.time_cell} AS VARCHAR)"
    counts = ", ".join(f"count(try_strptime({text}, {quoted(pattern)}))" for pattern in FORMATS)
    total, *read = staging.con.execute(f"SELECT count({staging.time_cell}), {counts} FROM raw r").fetchall()[0]
    best = max(range(len(FORMATS)), key=lambda place: read[place])
    return FORMATS[best] if read[best] >= 0.99 * total else None


def _cell_counts(staging: Staging) -> str:
    """How many cells a row that could not be split has, and how many the mapping or the header names."""
    text = scalar(staging.con, "SELECT any_value(content) FROM malformed WHERE reason = 'malformed_row'")
    if text is None or staging.raw.typed:
        return ""
    options = staging.mapping.csv
    delimiter = options.delimiter_of(staging.files[0])
    if len(delimiter) == 1 and options.quote:
        cells = next(csv.reader([text], delimiter=delimiter, quotechar=options.quote), [])
    else:
        cells = text.split(delimiter)
    names = "the header" if options.header else "csv.columns"
    return f": a row has {len(cells)} cells, {names} {len(options.columns) or len(staging.raw.columns)}"


def _zone_hint(staging: Staging) -> str:
    """What a person should look at when many rows have no zone or offset that can be read."""
    rule = staging.mapping.local_time
    if rule.users_zone:
        user, text = _user_without_zone(staging)
        read = (
            f"a cell reads {text!r}, it takes a zone such as Europe/Berlin"
            if text
            else "the table has no zone for them"
        )
        return f"Look at {USERS_ZONE} and users.key, for example at user '{one_line(user, 40)}': {read}"
    key = "zone_column" if rule.zone_column else "offset_minutes_column"
    name = getattr(rule, key)
    plain = f"CAST({staging.raw.cell(name, key)} AS VARCHAR)" if name in staging.raw.columns else None
    cell = content(plain or staging.sql.optional_text(name, f"local_time.{key}"))
    text = scalar(
        staging.con,
        f"SELECT any_value({cell}) FROM raw r JOIN staged USING (__row) WHERE reason = 'unknown_zone'",
    )
    wanted = "a zone such as Europe/Berlin" if rule.zone_column else "minutes from UTC, such as 120 or -300, or +02:00"
    read = "every cell is empty" if text is None else f"a cell reads {text!r}"
    return f"Look at local_time.{key}: {read}, it takes {wanted}{_other_offset(staging, key, name, str(text))}"


def _user_without_zone(staging: Staging) -> tuple[str, str | None]:
    """A user of rows without a zone, and what the table of users has in its place; rather one of whom it has something."""
    row = staging.con.execute(
        """SELECT user_key, zone FROM staged LEFT JOIN user_zones ON key = user_key WHERE reason = 'unknown_zone'
        ORDER BY zone IS NULL, __row LIMIT 1"""
    ).fetchall()
    return row[0]


def _other_offset(staging: Staging, key: str, name: str, text: str) -> str:
    """A hint where an offset is one of hours or seconds, or stands where a zone should."""
    if key == "zone_column":
        is_offset = re.fullmatch(CLOCK_OFFSET, text)
        return f"; offsets are read by local_time: {{offset_minutes_column: {json.dumps(name)}}}" if is_offset else ""
    try:
        number = abs(float(text))
    except ValueError:
        return ""
    source = staging.raw.operand(name)
    if 0 < number < LEAST_OFFSET:
        return f"; if these are hours, write {json.dumps(f'{source} * 60')}"
    return f"; if these are seconds, write {json.dumps(f'{source} / 60')}" if number and not number % 900 else ""
