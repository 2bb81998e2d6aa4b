"""A first mapping for a log that nobody has described yet: what its names and cells suggest, with comments.

The guess is a beginning for a person, not a decision: what cannot be seen in the file (the zone, what a row means) is
marked with ``check``. Only the first rows of the first files are read.
"""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path

import duckdb

from core.duck import plain_identifier
from core.errors import ConfigError, DataError
from events.cells import SEVERAL
from events.column_words import (
    BEHAVIOR_WORDS,
    CONTEXT,
    FACET,
    ITEM,
    LENGTH,
    LISTED,
    NO_LENGTH,
    PLAYED,
    POSITION,
    RATING,
    REQUEST,
    USER,
    by_name,
    has_word,
    is_flag,
    is_list,
    list_entries,
    separator_of,
)
from events.first_rows import Column, Sample
from events.guess_behaviors import LABEL, behavior_lines, list_behavior_lines
from events.guess_paths import paths_line
from events.guess_tables import MOST_FACETS, table_lines
from events.guess_times import local_time_line, timestamp_line
from events.log_files import find_files, format_of, tell_unread
from events.log_paths import is_remote
from events.mapping import Mapping
from events.mapping_text import example_values, expression, facet_name, flow, is_yaml_text
from events.remote_log import fetch, local_path, some_files
from events.unnamed import read_named

MOST_FACET_VALUES = 2_000
"""A text column with more different values in the sample describes single rows, not kinds of items."""
MOST_FILES, MOST_NAMED = 10, 5
MOST_BYTES = 200_000_000
"""Of files that are fetched to look at; the first is, however large."""
MOST_CONTEXT_VALUES = 200
"""A column with more different values in the sample names something, and no circumstance."""
MILLISECONDS, SECONDS, MINUTES = (
    {"ms", "millis", "milliseconds", "msec"},
    {"sec", "secs", "seconds"},
    {"min", "minutes", "mins"},
)
UNITS = MILLISECONDS | SECONDS | MINUTES
LONGEST_SECONDS = 100_000
"""Nothing that people play is longer; such lengths are milliseconds."""
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
        ConfigError, NotReadyError: the log lies elsewhere, and cannot be read.
    """
    with _files_and_names(paths) as (files, names):
        return _guess(files, names, source)


@contextmanager
def _files_and_names(paths: list[str]) -> Iterator[tuple[list[Path], list[str]]]:
    """The first files of a log as files of this machine, and the paths or addresses of all."""
    if not any(map(is_remote, paths)):
        tell_unread(paths)
        files = find_files(paths)
        yield files[:MOST_FILES], [str(file.resolve()) for file in files]
        return
    if not all(map(is_remote, paths)):
        raise ConfigError(f"{shlex.join(paths)}: name files of one place only")
    remote = [file for path in paths for file in some_files(path)]
    remote.sort(key=lambda file: format_of(Path(file.url)) is None)  # a folder may hold more than log files
    small = [n for n, size in enumerate(accumulate(file.size for file in remote), 1) if size <= MOST_BYTES]
    some = remote[: min(max(small, default=1), MOST_FILES)]
    with tempfile.TemporaryDirectory() as folder:
        fetch(some, Path(folder))
        yield [local_path(file.url, Path(folder)) for file in some], [file.url for file in remote]


def _guess(files: list[Path], names: list[str], source: str | None) -> str:
    """As ``guess_mapping``, from the first files of a log; ``names`` are the paths or addresses of all, in the same order."""
    sample, moment, timestamp, tables = _log_and_tables(files)
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
    lines += [line] if (line := paths_line(names, names[files.index(sample.file)])) else []
    if sample.repeated:
        lines.append(
            f"# check: several columns are called {', '.join(sample.repeated)}: give each its own name to use it"
        )
    lines += [
        "columns:",
        f"  user_id: {expression(user)}{example_values(user)}" if user else _one_user(sample),
        f"  item_id: {expression(item)}{example_values(item)}" if item else "  item_id: item  # each item of the list",
    ]
    played = _length(sample, PLAYED, taken)
    length = _length(sample, LENGTH, [*taken, *([played] if played else [])])
    highest = max((c.high or 0 for c in (played, length) if c and not UNITS & {*c.words}), default=0)
    lines += [f"  played_seconds: {_seconds(played, highest)}  # check the unit"] if played else []
    lines += [f"  duration_seconds: {_seconds(length, highest)}  # check the unit"] if length else []
    at = len(lines)
    side_tables, users_zone = table_lines(
        tables, {"items": _item_ids(listed, item), "users": list(user.examples) if user else []}, sample
    )
    lines += [timestamp, local_time_line(sample, taken, users_zone)]
    taken += [c for c in sample.columns if has_word(c, PLAYED) or has_word(c, LENGTH)]
    lines[at:at] = _requests(sample, taken, listed is not None)
    done = list_behavior_lines(sample, listed) if listed else []
    behaviors = [] if done else behavior_lines(sample, taken, bool(played and length))
    context = _context(sample, taken)
    facets = _facets(sample, taken, "  facets:" in side_tables)
    lines += context + facets + (_shown(listed) if listed else []) + done + behaviors + side_tables
    return "\n".join(lines) + "\n"


def ingest_arguments(paths: list[str], mapping: Mapping) -> str:
    """How the log's files are named for ``clock events ingest``: without the tables beside it, whose rows are no events.

    Args:
        paths: files, folders or globs that the guess was made from.
        mapping: the guess.
    """
    if any(map(is_remote, paths)):
        return shlex.join(paths)
    tables = {table.path for table in (mapping.items, mapping.users) if table}
    files = find_files(paths)
    logs = _with_columns_of([file for file in files if file.name not in tables], mapping)
    if not logs or len(logs) == len(files):
        return shlex.join(paths)
    others = ", ".join(sorted({file.name for file in files} - {file.name for file in logs}))
    return shlex.join(map(str, logs)) if len(logs) <= MOST_NAMED else f"FILES, all but {others}"


def _with_columns_of(files: list[Path], mapping: Mapping) -> list[Path]:
    """The files that have every column that the mapping names of those that any has; many are not looked at, nor is a single one."""
    if not 1 < len(files) <= MOST_FILES:
        return files
    columns = {}
    for file in files:
        with duckdb.connect() as con, suppress(DataError):
            con.execute("SET TimeZone = 'UTC'")
            columns[file] = {column.name for column in read_named(con, file).columns}
    named = mapping.mentioned_names & set().union(*columns.values())
    return [file for file in files if named <= columns.get(file, set())] if mapping.csv.header else files


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
                samples.append(read_named(con, file))
                logs.append((samples[-1], *timestamp_line(con, samples[-1])))
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


def _require(sample: Sample, column: Column | None, what: str, key: str) -> Column:
    if column is None:
        raise DataError(
            f"{sample.file}: no column looks like {what} ({sample.described_columns}). Print a commented mapping with "
            f"'clock events explain' and name the column under {key}"
        )
    return column


def _length(sample: Sample, words: tuple[str, ...], taken: list[Column]) -> Column | None:
    """A column with lengths of time; a share of one or a number of times is none."""
    return next(
        (
            c
            for word in words
            for c in sample.columns
            if c not in taken
            and c.kind == "number"
            and has_word(c, (word,))
            and not is_flag(c)
            and not has_word(c, NO_LENGTH)
        ),
        None,
    )


def _seconds(column: Column, highest: float) -> str:
    """A length of time in seconds: milliseconds by their name or, without a unit in it, by the size of such columns."""
    words = {*column.words}
    if MINUTES & words:
        return f"{expression(column)} * 60"
    milliseconds = MILLISECONDS & words or (not SECONDS & words and highest > LONGEST_SECONDS)
    return expression(column) + (" / 1000" if milliseconds else "")


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
        *(f"  {facet_name(c)}: {_first_value(c)}{example_values(c)}" for c in chosen),
    ]


def _first_value(column: Column) -> str:
    """The column, or the first of the values that its cells hold with | between them."""
    if not any(re.search(SEVERAL, cell) for cell in column.examples):
        return expression(column)
    return json.dumps(f"split_part({plain_identifier(column.name)}, '|', 1)")


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
