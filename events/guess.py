"""A first mapping for a log that nobody has described yet: what its names and cells suggest, with comments.

The guess is a beginning for a person, not a decision: what cannot be seen in the file (the zone, what a row means) is
marked with ``check``. Only the first rows of the first files are read.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import duckdb
import yaml

from core.duck import identifier, quoted, scalar, texts
from core.errors import DataError
from events.column_words import (
    ACTION,
    BEHAVIOR_WORDS,
    CHOSEN,
    FACET,
    IMPRESSION,
    ITEM,
    LENGTH,
    LISTED,
    MOMENT,
    PLAYED,
    POSITION,
    RATING,
    REQUEST,
    USER,
    ZONES,
    by_name,
    has_word,
    is_flag,
    is_list,
    list_entries,
    separator_of,
)
from events.first_rows import (
    EXAMPLES,
    NAME,
    UNNAMED,
    Column,
    Options,
    Sample,
    read_first_rows,
    time_format,
)
from events.log_files import find_files
from events.mapping import is_zone
from events.schema import RESERVED_FACETS

MOST_FACET_VALUES = 2_000
"""A text column with more different values in the sample describes single rows, not kinds of items."""
MOST_FILES = 10
LEAST_KNOWN = 0.2
"""A table of items holds this share of the log's items in its first rows."""
MOST_FACETS = 3
LABEL = re.compile(r"-[01]$")
DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}( 00:00:00)?")
TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")
LAST_POSITION = 10_000
"""A list that people see has fewer items; a larger number ranks something else."""


def guess_mapping(paths: list[str], source: str | None = None) -> str:
    """Write a first mapping file for a log.

    Args:
        paths: files, folders or globs of the log.
        source: name of the source; default: made from the file's name.

    Returns:
        YAML with comments, for a person to check and for ``clock events ingest``.

    Raises:
        DataError: there is no such file, or no rows or no column of users, items or times can be found in it.
    """
    sample, moment, timestamp, tables = _log_and_tables(find_files(paths)[:MOST_FILES])
    taken = [moment]
    listed = next((c for word in LISTED for c in sample.columns if has_word(c, (word,)) and is_list(c)), None)
    taken += [c for c in sample.columns if is_list(c)]
    user = by_name(sample, USER, exclude=taken)
    item = by_name(sample, ITEM, exclude=[*taken, *([user] if user else [])])
    item = item if listed else _require(sample, item, "items", "columns.item_id")
    taken += [column for column in (user, item) if column]
    lines = [
        f"# A first mapping, guessed from {sample.rows:,} rows of {sample.file.name}. Look at every line marked 'check'.",
        f"source: {source or _source_name(sample.file)}",
        f"format: {sample.format}",
    ]
    if sample.options:
        unnamed = "  # check: these names are guesses, as the file has no header" if "columns" in sample.options else ""
        lines.append(f"csv: {_flow(sample.options)}{unnamed}")
    lines += [
        "columns:",
        f"  user_id: {_expression(user)}{_seen(user)}" if user else _one_user(sample),
        f"  item_id: {_expression(item)}{_seen(item)}" if item else "  item_id: item  # each item of the list",
    ]
    played, length = _seconds(sample, PLAYED, taken), _seconds(sample, LENGTH, taken)
    lines += [f"  played_seconds: {played}  # check the unit"] if played else []
    lines += [f"  duration_seconds: {length}  # check the unit"] if length else []
    at = len(lines)
    lines += [timestamp, _local_time(sample, taken)]
    taken += [c for c in sample.columns if has_word(c, PLAYED) or has_word(c, LENGTH)]
    lines[at:at] = _requests(sample, taken, listed is not None)
    done = _done_in_list(sample, listed) if listed else []
    behaviors = [] if done else _behaviors(sample, taken, bool(played and length))
    lines += _facets(sample, taken) + (_shown(listed) if listed else []) + done + behaviors
    lines += _items(tables, _item_ids(listed, item), sample)
    return "\n".join(lines) + "\n"


def _log_and_tables(files: list[Path]) -> tuple[Sample, Column, str, list[Sample]]:
    """The first file with a time: its sample, the time's column and its line in the mapping; and the files without one.

    Raises:
        DataError: no file has a time; the message is about the first.
    """
    logs: list[tuple[Sample, Column, str]] = []
    tables: list[Sample] = []
    errors: list[DataError] = []
    for file in files:
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            try:
                sample = read_first_rows(con, file)
            except DataError as error:
                errors.append(error)
                continue
            try:
                logs.append((sample, *_timestamp(con, sample)))
            except DataError as error:
                errors.append(error)
                tables.append(sample)
    if not logs:
        raise errors[0]
    return *logs[0], tables


def _item_ids(listed: Column | None, item: Column | None) -> list[str]:
    """Some ids of items, as the log writes them."""
    if listed is None:
        return list(item.examples) if item else []
    entries = [entry.strip(" '\"") for entry in list_entries(listed)]
    return [entry[:-2] for entry in entries] if all(map(LABEL.search, entries)) else entries


def _items(tables: list[Sample], ids: list[str], log_sample: Sample) -> list[str]:
    """The mapping's lines about a table of items, if a column of one holds ids of the log's items, each once."""
    for table in tables:
        with duckdb.connect() as con:
            read_first_rows(con, table.file)
            counts = {
                column: scalar(con, f"SELECT count(*) FROM sample WHERE CAST({identifier(column.name)} AS VARCHAR) IN ({texts([ids])})")
                for column in table.columns if column.distinct == table.rows
            }  # fmt: skip
        key = max(counts, key=lambda column: counts[column], default=None)
        if key is None or counts[key] < LEAST_KNOWN * len({*ids}):
            continue
        columns, options = table.columns, table.options
        if table.format == "csv" and (
            UNNAMED.fullmatch(key.name) or _shape(key.name) in {*map(_shape, key.examples)} - {""}
        ):
            columns = tuple(replace(c, name=f"column{place}") for place, c in enumerate(columns))
            key = columns[table.columns.index(key)]
            options = {**options, "header": False, "columns": [c.name for c in columns]}
        taken = {_facet_name(c) for c in log_sample.columns}
        kinds = [
            c for c in columns
            if c.kind == "text" and 1 < c.distinct <= max(table.rows // 2, 2) and _facet_name(c) not in taken
        ]  # fmt: skip
        return [
            f"items:  # check: {table.file.name} has no time, and ids of items; ingest the other files by their names, without it",
            f"  path: {json.dumps(table.file.name)}",
            *([f"  csv: {_flow(options)}"] if options else []),
            f"  key: {json.dumps(key.name)}",
            *(["  facets:", *(f"    {_facet_name(c)}: {_expression(c)}{_seen(c)}" for c in kinds[:MOST_FACETS])] if kinds else []),
        ]  # fmt: skip
    return []


def _shape(text: str) -> str:
    """A text with its digits made one, so that ids look alike; empty without any.

    >>> _shape("N10075"), _shape("title")
    ('N9', '')
    """
    shape = re.sub(r"[0-9]+", "9", text)
    return shape if shape != text or "9" in text else ""


def _local_time(sample: Sample, taken: list[Column]) -> str:
    """The mapping's line about the users' clocks; a column of zones is taken."""
    column = next((c for c in sample.columns if c not in taken and has_word(c, ZONES) and c.examples), None)
    if column is None or not all(map(is_zone, column.examples)):
        return "local_time: {zone: UTC}  # check: the zone in which these people live, for example Europe/Berlin"
    taken.append(column)
    if column.share_filled == 1:
        return f"local_time: {{zone_column: {json.dumps(_expression(column))}}}{_seen(column)}"
    rule = f"coalesce(nullif({_expression(column)}, ''), 'UTC')"
    return f"local_time: {{zone_column: {json.dumps(rule)}}}  # check: the zone of the rows without one{_seen(column, '; ')}"


def _one_user(sample: Sample) -> str:
    names = ", ".join(c.name for c in sample.columns)
    return (
        f"  user_id: \"'me'\"  # check: no column looks like users (there are {names}); this is for a log of one person"
    )


def _shown(listed: Column) -> list[str]:
    """The mapping's lines about what was shown together."""
    mark = separator_of(listed)
    return [
        "impressions:",
        f"  list_column: {json.dumps(listed.name)}{_seen(listed)}",
        *([f"  separator: {json.dumps(mark)}"] if mark else []),
    ]


def _done_in_list(sample: Sample, listed: Column) -> list[str]:
    """What the list, or the columns beside it, say was done; nothing where they say none of it."""
    if all(LABEL.search(entry.strip(" '\"")) for entry in list_entries(listed)):
        return ['  labels: {separator: "-", values: {finish: "1"}, shown: ["0"]}  # check: what the endings mean']
    words = {**BEHAVIOR_WORDS, "finish": (*BEHAVIOR_WORDS["finish"], *CHOSEN)}
    beside = {
        name: column.name for name, texts in words.items() for column in sample.columns
        if column is not listed and is_list(column) and has_word(column, texts)
    }  # fmt: skip
    return [f"  chosen: {_flow(beside)}  # check: those of the list with which something was done"] if beside else []


def _require(sample: Sample, column: Column | None, what: str, key: str) -> Column:
    if column is None:
        names = ", ".join(c.name for c in sample.columns)
        raise DataError(
            f"{sample.file}: no column looks like {what} (its columns are {names}). Print a commented mapping with "
            f"'clock events explain' and name the column under {key}"
        )
    return column


def _timestamp(con: duckdb.DuckDBPyConnection, sample: Sample) -> tuple[Column, str]:
    """The column of the moment and the mapping's line about it."""
    named = [c for word in MOMENT for c in sample.columns if has_word(c, (word,)) and c.share_filled > 0]
    typed = [c for c in sample.columns if c.kind == "moment"]
    for column in [*dict.fromkeys([*named, *typed])]:
        name, moment = json.dumps(column.name), None
        if column.kind == "moment":
            check = f"{_time_apart(sample, column)}the zone where no offset is given{_seen(column, '; ')}"
            moment = f"timestamp: {{column: {name}, unit: iso, zone: UTC}}  # check: {check}"
        elif column.kind == "number" and column.low is not None and column.high is not None:
            for unit, second in (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
                if column.low / second >= 5e8 and column.high / second <= 4e9:
                    moment = f"timestamp: {{column: {name}, unit: {unit}}}  # numbers that count from 1970{_seen(column, ', ')}"
        else:
            moment = _text_moment(con, column)
        if moment:
            return column, moment
    names = ", ".join(c.name for c in sample.columns)
    raise DataError(
        f"{sample.file}: no column looks like a time (its columns are {names}). See 'clock events explain' for timestamp's unit and format"
    )


def _time_apart(sample: Sample, column: Column) -> str:
    """What to check where a column has dates only, and another one has the time of day."""
    if not all(DATE.fullmatch(text) for text in column.examples):
        return ""
    other = next(
        (c.name for c in sample.columns if c.examples and all(TIME_OF_DAY.fullmatch(text) for text in c.examples)), None
    )
    where = f"it may stand in {json.dumps(other)}; write both into one column" if other else "is there none?"
    return f"a date without the time of day, which the clock needs: {where}; "


def _text_moment(con: duckdb.DuckDBPyConnection, column: Column) -> str | None:
    """The mapping's line about a column of text that holds times."""
    pattern = time_format(con, column)
    if pattern is None:
        return None
    return (
        f"timestamp: {{column: {json.dumps(column.name)}, format: {json.dumps(pattern)}, zone: UTC}}"
        f"  # check: day before month? the zone?{_seen(column, '; ')}"
    )


def _seconds(sample: Sample, words: tuple[str, ...], taken: list[Column]) -> str | None:
    """A length of time in seconds: milliseconds by their name or their size."""
    column = next(
        (
            c
            for word in words
            for c in sample.columns
            if c not in taken and c.kind == "number" and has_word(c, (word,)) and not is_flag(c)
        ),
        None,
    )
    if column is None:
        return None
    milliseconds = bool({"ms", "millis", "milliseconds", "msec"} & {*column.words}) or (column.high or 0) > 100_000
    minutes = bool({"min", "minutes", "mins"} & {*column.words})
    return _expression(column) + (" / 1000" if milliseconds else " * 60" if minutes else "")


def _requests(sample: Sample, taken: list[Column], listed: bool) -> list[str]:
    """Where an item stood among those shown with it, and what these have in common; the columns are taken."""
    lines = []
    position = next((c for c in sample.columns if c not in taken and has_word(c, POSITION) and _is_position(c)), None)
    position = None if listed else position  # which a list tells by itself
    if position is not None:
        taken.append(position)
        lines.append(
            f"  position: {_expression(position)}  # check: the item's place among those that were shown together"
        )
    request = next(
        (
            c
            for c in sample.columns
            if c not in taken and has_word(c, REQUEST) and _is_shared_id(c, sample.rows, listed)
        ),
        None,
    )
    if request is not None:
        taken.append(request)
        lines.append(f"  request_id: {_expression(request)}  # check: items that were shown together have it in common")
    return lines


def _is_position(column: Column) -> bool:
    return column.kind == "number" and (column.low or 0) >= 0 and (column.high or 0) <= LAST_POSITION


def _is_shared_id(column: Column, rows: int, listed: bool) -> bool:
    """Whether a column names what was shown together: groups of several rows, or each row of a log of lists."""
    named = column.words[-1] == "id" or column.words[-1].endswith("id")
    return named and 1 < column.distinct < column.share_filled * rows + listed


def _facets(sample: Sample, taken: list[Column]) -> list[str]:
    suited = [
        c for c in sample.columns
        if c not in taken and c.kind in {"text", "number"} and 1 < c.distinct <= min(MOST_FACET_VALUES, max(sample.rows // 2, 2))
        and not has_word(c, RATING) and not any(has_word(c, words) for words in BEHAVIOR_WORDS.values())
    ]  # fmt: skip
    named = [c for word in FACET for c in suited if has_word(c, (word,))]
    chosen = [*dict.fromkeys(named or [c for c in suited if c.kind == "text"])][:MOST_FACETS]
    if not chosen:
        return [
            "# facets: no attribute of items was seen in the log; add facets, or items: {path: ..., key: ..., facets: {...}}"
        ]
    return [
        "facets:  # check: the attributes of items that the clock encodes",
        *(f"  {_facet_name(c)}: {_expression(c)}{_seen(c)}" for c in chosen),
    ]


def _behaviors(sample: Sample, taken: list[Column], timed: bool) -> list[str]:
    """What people did: flags, a column of actions, ratings, the share played; else that the row exists at all."""
    rules = _flags(sample, taken)
    action = next((c for word in ACTION for c in sample.columns
                   if c not in taken and c.kind == "text" and c.distinct <= EXAMPLES and has_word(c, (word,))), None)  # fmt: skip
    note = ""
    if action is not None:
        matched = {
            behavior: [v for v in action.examples if set(NAME.findall(v.lower())) & {*words}]
            for behavior, words in BEHAVIOR_WORDS.items()
        }
        shown = [v for v in action.examples if set(NAME.findall(v.lower())) & IMPRESSION]
        if any(matched.values()):
            taken.append(action)
            if shown:
                return _actions(action, {name: values for name, values in matched.items() if values}, shown, rules)
            note = f"  # values of {action.name}: {', '.join(action.examples[:12])}"
            for behavior, values in matched.items():
                if values and behavior not in rules:
                    rules[behavior] = f"{_expression(action)} IN ({', '.join(quoted(v) for v in values)})"
    rating = next((c for c in sample.columns if c not in taken and c.kind == "number" and has_word(c, RATING)), None)
    if rating is not None and rating.high is not None and "like" not in rules:
        high = rating.high
        rules["like"] = f"{_expression(rating)} >= {high * 0.8:g}"
        rules.setdefault("dislike", f"{_expression(rating)} <= {high * 0.4:g}")
        taken.append(rating)
    if timed:
        rules.setdefault("finish", "played_seconds / duration_seconds >= 0.9")
        rules.setdefault("skip", "played_seconds < 5")
    lines = [f"behaviors:  # check: which rows count as what{note and ';' + note[3:]}"]
    if not rules:
        return [
            *lines,
            '  finish: "true"  # nothing says what people did: every row is taken as a positive',
            "negatives: {per_positive: 4, kind: popularity, seed: 7}  # drawn for training, as the log has positives only",
        ]
    return [*lines, *(f"  {name}: {json.dumps(rules[name])}" for name in BEHAVIOR_WORDS if name in rules)]


def _flags(sample: Sample, taken: list[Column]) -> dict[str, str]:
    """Behaviors that have their own column, with their rules; the columns are taken."""
    rules: dict[str, str] = {}
    for behavior, words in BEHAVIOR_WORDS.items():
        flag = next(
            (c for word in words for c in sample.columns
             if c not in taken and (word in c.words or word == "_".join(c.words)) and is_flag(c)), None)  # fmt: skip
        if flag is not None:
            rules[behavior] = _expression(flag)
            taken.append(flag)
    return rules


def _actions(action: Column, values: dict[str, list[str]], shown: list[str], rules: dict[str, str]) -> list[str]:
    """Rows that show an item, and rows that say later what was done with it."""
    flags = [f"  {name}: {json.dumps(rule)}" for name, rule in rules.items()]
    named = {*shown, *(text for texts in values.values() for text in texts)}
    unknown = [value for value in action.examples if value not in named]
    return [
        f"actions:  # check: which values of {json.dumps(action.name)} count as what; it holds {', '.join(action.examples[:12])}",
        f"  column: {json.dumps(action.name)}",
        *["  values:", *(f"    {name}: {json.dumps(texts)}" for name, texts in values.items())],
        *([f"  ignored: {json.dumps(unknown)}  # check: do they mean nothing?"] if unknown else []),
        "  window_minutes: 30  # an action without an event id belongs to the item's last impression so long before it",
        f"impressions: {{values: {json.dumps(shown)}}}",
        *(["behaviors:", *flags] if flags else []),
    ]


def _expression(column: Column) -> str:
    """The column's name as an expression: quoted unless it is a plain word."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column.name) and _is_yaml_text(column.name)
    return column.name if plain else json.dumps(identifier(column.name))


def _facet_name(column: Column) -> str:
    plain = re.sub(r"[^a-z0-9_]+", "_", column.name.lower()).strip("_")
    return plain if plain.isidentifier() and plain not in RESERVED_FACETS and _is_yaml_text(plain) else f"facet_{plain}"


def _is_yaml_text(word: str) -> bool:
    """Whether YAML reads a word without quotes as that text: ``no`` and ``null`` are none."""
    return isinstance(yaml.safe_load(word), str)


def _seen(column: Column, lead: str = "  # ") -> str:
    """For example: three values, shortened."""
    return f"{lead}for example {', '.join(' '.join(v.split())[:24] for v in column.examples[:3])}"


def _flow(options: Options | dict[str, str]) -> str:
    return "{" + ", ".join(f"{k}: {json.dumps(v)}" for k, v in options.items()) + "}"


def _source_name(file: Path) -> str:
    stem = (
        file.name.split(".")[0]
        if file.name.split(".")[0] not in {"log", "events", "data", "part"}
        else file.resolve().parent.name
    )
    name = re.sub(r"[^a-z0-9_-]+", "_", stem.lower()).strip("_-")[:40]
    return (
        name
        if re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name) and _is_yaml_text(name)
        else f"log_{name}"[:40].rstrip("_-")
    )
