"""A first mapping for a log that nobody has described yet: what its names and cells suggest, with comments.

The guess is a beginning for a person, not a decision: what cannot be seen in the file (the zone, what a row means) is
marked with ``check``. Only the first rows of the first files are read.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import duckdb

from core.duck import quoted
from core.errors import DataError
from events.column_words import (
    ACTION,
    BEHAVIOR_WORDS,
    CHOSEN,
    CONTEXT,
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
    Column,
    Sample,
    read_first_rows,
    time_format,
)
from events.guess_tables import MOST_FACETS, table_lines
from events.log_files import find_files
from events.mapping import Mapping, is_zone
from events.mapping_text import (
    example_values,
    expression,
    facet_name,
    flow,
    is_yaml_text,
)

MOST_FACET_VALUES = 2_000
"""A text column with more different values in the sample describes single rows, not kinds of items."""
MOST_FILES, MOST_NAMED = 10, 5
MOST_CONTEXT_VALUES = 200
"""A column with more different values in the sample names something, and no circumstance."""
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
        lines.append(f"csv: {flow(sample.options)}{unnamed}")
    lines += [
        "columns:",
        f"  user_id: {expression(user)}{example_values(user)}" if user else _one_user(sample),
        f"  item_id: {expression(item)}{example_values(item)}" if item else "  item_id: item  # each item of the list",
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
    context = _context(sample, taken)
    side_tables = table_lines(
        tables, {"items": _item_ids(listed, item), "users": list(user.examples) if user else []}, sample
    )
    facets = _facets(sample, taken, "  facets:" in side_tables)
    lines += context + facets + (_shown(listed) if listed else []) + done + behaviors + side_tables
    return "\n".join(lines) + "\n"


def ingest_arguments(paths: list[str], mapping: Mapping) -> str:
    """How the log's files are named for ``clock events ingest``: without the tables beside it, whose rows are no events.

    Args:
        paths: files, folders or globs that the guess was made from.
        mapping: the guess.
    """
    tables = {table.path for table in (mapping.items, mapping.users) if table}
    files = find_files(paths)
    logs = [file for file in files if file.name not in tables]
    if not logs or len(logs) == len(files):
        return shlex.join(paths)
    return shlex.join(map(str, logs)) if len(logs) <= MOST_NAMED else f"FILES, all but {', '.join(sorted(tables))}"


def _log_and_tables(files: list[Path]) -> tuple[Sample, Column, str, list[Sample]]:
    """The first file with a time, and users and items if one has them; and all other files.

    Returns:
        the log's sample, the time's column, its line in the mapping, and the samples of the files that are not the log.

    Raises:
        DataError: no file has a time; the message is about the first.
    """
    logs: list[tuple[Sample, Column, str]] = []
    samples: list[Sample] = []
    errors: list[DataError] = []
    for file in files:
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            try:
                samples.append(read_first_rows(con, file))
                logs.append((samples[-1], *_timestamp(con, samples[-1])))
            except DataError as error:
                errors.append(error)
    if not logs:
        raise errors[0]
    log = next((log for log in logs if _tells_who_met_what(log[0])), logs[0])
    return *log, [sample for sample in samples if sample is not log[0]]


def _tells_who_met_what(sample: Sample) -> bool:
    """Whether a file has a column of users and another one of items, or of lists of them."""
    user = by_name(sample, USER, exclude=[])
    item = by_name(sample, ITEM, exclude=[user]) if user else None
    return bool(item) or any(has_word(c, LISTED) and is_list(c) for c in sample.columns)


def _item_ids(listed: Column | None, item: Column | None) -> list[str]:
    """Some ids of items, as the log writes them."""
    if listed is None:
        return list(item.examples) if item else []
    entries = [entry.strip(" '\"") for entry in list_entries(listed)]
    return [entry[:-2] for entry in entries] if all(map(LABEL.search, entries)) else entries


def _local_time(sample: Sample, taken: list[Column]) -> str:
    """The mapping's line about the users' clocks; a column of zones is taken."""
    column = next((c for c in sample.columns if c not in taken and has_word(c, ZONES) and c.examples), None)
    if column is None or not all(map(is_zone, column.examples)):
        return "local_time: {zone: UTC}  # check: the zone in which these people live, for example Europe/Berlin"
    taken.append(column)
    if column.share_filled == 1:
        return f"local_time: {{zone_column: {json.dumps(expression(column))}}}{example_values(column)}"
    rule = f"coalesce(nullif({expression(column)}, ''), 'UTC')"
    return f"local_time: {{zone_column: {json.dumps(rule)}}}  # check: the zone of the rows without one{example_values(column, '; ')}"


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
        f"  list_column: {json.dumps(listed.name)}{example_values(listed)}",
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
    return [f"  chosen: {flow(beside)}  # check: those of the list with which something was done"] if beside else []


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
            check = f"{_time_apart(sample, column)}the zone where no offset is given{example_values(column, '; ')}"
            moment = f"timestamp: {{column: {name}, unit: iso, zone: UTC}}  # check: {check}"
        elif column.kind == "number" and column.low is not None and column.high is not None:
            for unit, second in (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
                if column.low / second >= 5e8 and column.high / second <= 4e9:
                    moment = f"timestamp: {{column: {name}, unit: {unit}}}  # numbers that count from 1970{example_values(column, ', ')}"
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
        f"  # check: day before month? the zone?{example_values(column, '; ')}"
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
    return expression(column) + (" / 1000" if milliseconds else " * 60" if minutes else "")


def _requests(sample: Sample, taken: list[Column], listed: bool) -> list[str]:
    """Where an item stood among those shown with it, and what these have in common; the columns are taken."""
    lines = []
    position = next((c for c in sample.columns if c not in taken and has_word(c, POSITION) and _is_position(c)), None)
    position = None if listed else position  # which a list tells by itself
    if position is not None:
        taken.append(position)
        lines.append(
            f"  position: {expression(position)}  # check: the item's place among those that were shown together"
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
        lines.append(f"  request_id: {expression(request)}  # check: items that were shown together have it in common")
    return lines


def _is_position(column: Column) -> bool:
    return column.kind == "number" and (column.low or 0) >= 0 and (column.high or 0) <= LAST_POSITION


def _is_shared_id(column: Column, rows: int, listed: bool) -> bool:
    """Whether a column names what was shown together: groups of several rows, or each row of a log of lists."""
    named = column.words[-1] == "id" or column.words[-1].endswith("id")
    return named and 1 < column.distinct < column.share_filled * rows + listed


def _context(sample: Sample, taken: list[Column]) -> list[str]:
    """What the log tells of the moment besides user, item and time; the columns are taken."""
    suited = [
        c for c in sample.columns
        if c not in taken and c.kind in {"text", "number", "boolean"} and 1 < c.distinct <= MOST_CONTEXT_VALUES
        and has_word(c, CONTEXT) and not has_word(c, FACET)
    ]  # fmt: skip
    if not suited:
        return []
    taken += suited
    return [
        "context:  # check: what a request can tell as well; rankers read it, and the clock does not",
        *(f"  {facet_name(c)}: {expression(c)}{example_values(c)}" for c in suited),
    ]


def _facets(sample: Sample, taken: list[Column], in_items: bool) -> list[str]:
    """What kinds of items the log tells; a hint where neither it nor, ``in_items``, a table of items tells any."""
    suited = [
        c for c in sample.columns
        if c not in taken and c.kind in {"text", "number"} and 1 < c.distinct <= min(MOST_FACET_VALUES, max(sample.rows // 2, 2))
        and not has_word(c, RATING) and not any(has_word(c, words) for words in BEHAVIOR_WORDS.values())
    ]  # fmt: skip
    named = [c for word in FACET for c in suited if has_word(c, (word,))]
    chosen = [*dict.fromkeys(named or [c for c in suited if c.kind == "text"])][:MOST_FACETS]
    if not chosen:
        return (
            []
            if in_items
            else [
                "# facets: no attribute of items was seen in the log; add facets, or items: {path: ..., key: ..., facets: {...}}"
            ]
        )
    return [
        "facets:  # check: the attributes of items that the clock encodes",
        *(f"  {facet_name(c)}: {expression(c)}{example_values(c)}" for c in chosen),
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
                    rules[behavior] = f"{expression(action)} IN ({', '.join(quoted(v) for v in values)})"
    rating = next((c for c in sample.columns if c not in taken and c.kind == "number" and has_word(c, RATING)), None)
    if rating is not None and rating.high is not None and "like" not in rules:
        high = rating.high
        rules["like"] = f"{expression(rating)} >= {high * 0.8:g}"
        rules.setdefault("dislike", f"{expression(rating)} <= {high * 0.4:g}")
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
            rules[behavior] = expression(flag)
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


def _source_name(file: Path) -> str:
    stem = (
        file.name.split(".")[0]
        if file.name.split(".")[0] not in {"log", "events", "data", "part"}
        else file.resolve().parent.name
    )
    name = re.sub(r"[^a-z0-9_-]+", "_", stem.lower()).strip("_-")[:40]
    return (
        name if re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name) and is_yaml_text(name) else f"log_{name}"[:40].rstrip("_-")
    )
