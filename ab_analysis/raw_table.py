"""Reads somebody else's table, one row per user, into the engine: CSV or Parquet, by the columns that are analyzed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from ab_analysis.text_table import (
    PLAIN_SUFFIXES,
    TEXT_SUFFIXES,
    Header,
    check_quotes,
    line_ends,
    open_text,
    read_header,
    read_rows,
    readable_by_duckdb,
)
from core.duck import double, file_list, identifier, is_finite, quoted
from core.errors import ConfigError, DataError
from core.parquet_source import parquet_source
from core.sql_engine import Engine
from events.packing import PACKINGS

MISSING_CELLS = ("", "NA", "N/A", "NULL", "null", "None", "nan", "NaN")
"""Texts that mean a missing value in a CSV file."""
PADDING = quoted(" \t\u00a0\u200b\ufeff")
UNREADABLE = "\x1funreadable"
"""Column of ``raw`` that says whether a row of a CSV file has a cell that is not a number."""
NUMBER = re.compile(r"u?int|float|double|half|decimal|bool")
FLOATING = re.compile(r"float|double|half")
LONGEST_LINE = 1 << 24
"""Bytes of a line of a CSV file."""
REASONS = ("Expected Number", "Value with", "Invalid unicode", "Maximum line size")
"""How the line of an engine's error begins that says what is wrong with a CSV file."""


def raw_columns(db: Engine, path: Path) -> tuple[str, ...]:
    """Columns of a table; a name that it repeats is repeated here. Parquet is then ``table_files`` in the engine.

    Raises:
        ConfigError: there is no file.
        DataError: the file cannot be read.
    """
    if not path.exists():
        raise ConfigError(f"no table at '{path}'")
    if _is_text(path):
        return read_header(path).names
    try:
        source = parquet_source([path])
    except DataError as error:
        raise DataError(
            f"{error}; a table is Parquet, or CSV named {', '.join(PLAIN_SUFFIXES)}, also packed ({', '.join(PACKINGS)})"
        ) from None
    db.view("table_files", f"SELECT * FROM {source.sql}")
    return source.columns


def load_raw(db: Engine, path: Path, columns: Sequence[str], numbers: Sequence[str], groups: Sequence[str]) -> None:
    """Make the table ``raw`` in the engine.

    Args:
        db: where to.
        path: the table.
        columns: what ``raw_columns`` gave.
        numbers: columns of numbers.
        groups: columns of the variant, the user, segments and strata.

    Raises:
        DataError: a column of numbers holds something else, or the file is damaged.
    """
    if _is_text(path):
        ends = line_ends(path)
        with readable_by_duckdb(path, ends) as text:
            rows = _load_text(db, path, text, columns, numbers, groups)
        if ends.lines - 1 > rows:
            check_quotes(path, read_header(path))
        return
    schema = db.arrow("SELECT * FROM table_files LIMIT 0").schema
    for c in numbers:
        column_type = str(schema.field(c).type)
        if not NUMBER.match(column_type):
            raise DataError(f"{path.name}: column '{c}' holds {column_type}, not numbers")
    floating = {c for c in (*groups, *numbers) if FLOATING.match(str(schema.field(c).type))}
    known = {c: is_finite(identifier(c)) for c in groups}
    known |= {c: f"{is_finite(identifier(c))} OR {_is_infinite(c)}" for c in numbers if c not in groups}
    cells = [  # pandas writes a missing value among numbers as NaN, and an empty cell of a CSV file is one as well
        f"CASE WHEN {condition} THEN {identifier(c)} END AS {identifier(c)}" if c in floating else identifier(c)
        for c, condition in known.items()
    ]
    db.view("raw", f"SELECT {', '.join(cells)} FROM table_files")


def _is_infinite(column: str) -> str:
    """SQL of whether a number is infinite, which no missing value is written as."""
    return f"abs({identifier(column)}) = {double(math.inf)}"


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in TEXT_SUFFIXES and not path.is_dir()


def _load_text(
    db: Engine, path: Path, text: Path, columns: Sequence[str], numbers: Sequence[str], groups: Sequence[str]
) -> int:
    """Read a CSV into ``raw``, and return its rows: groups as text without padding, numbers as doubles (true and false are 1 and 0).

    Nothing is guessed: columns are read by position, so that names may repeat, and a cell that is not a number is reported.
    """
    header = read_header(path)
    column_types = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(len(columns)))
    source = (
        f"read_csv({file_list([text])}, auto_detect = false, header = true, delim = {quoted(header.delimiter)}, "
        f"quote = '\"', escape = '\"', columns = {{{column_types}}}, nullstr = '', max_line_size = {LONGEST_LINE}, "
        f"buffer_size = {2 * LONGEST_LINE})"
    )
    at = {c: columns.index(c) for c in (*numbers, *groups)}
    # Most cells are numbers as they are; only the others are looked at closely.
    plain = ", ".join(f"TRY_CAST(c{at[c]} AS DOUBLE) AS x{at[c]}" for c in numbers)
    values = ", ".join(
        f"CASE WHEN isfinite(x{at[c]}) THEN x{at[c]} ELSE CASE WHEN {_filled(at[c])} THEN {_number(at[c])} END END AS v{at[c]}"
        for c in numbers
    )
    unreadable = " OR ".join(f"CASE WHEN v{at[c]} IS NOT NULL THEN false ELSE {_filled(at[c])} END" for c in numbers)
    selected = [f"nullif({_cell(at[c])}, '') AS {identifier(c)}" for c in groups]
    selected += [f"v{at[c]} AS {identifier(c)}" for c in numbers if c not in groups]
    selected.append(f"{unreadable or 'false'} AS {identifier(UNREADABLE)}")
    read = f"(SELECT {', '.join(['*', *([plain] if numbers else [])])} FROM {source})"
    read = f"(SELECT {', '.join(['*', *([values] if numbers else [])])} FROM {read})"
    try:
        db.table("raw", f"SELECT {', '.join(selected)} FROM {read}")
        rows, bad = db.rows(f"SELECT count(*), count(*) FILTER (WHERE {identifier(UNREADABLE)}) FROM raw")[0]
        if bad:
            _raise_unreadable(db, path, header, source, at, numbers)
    except duckdb.Error as error:
        raise DataError(f"{path} cannot be read as CSV: {_csv_error(str(error))}") from None
    return int(rows)


def _cell(number: int) -> str:
    """SQL of a cell without padding."""
    return f"trim(c{number}, {PADDING})"


def _filled(number: int) -> str:
    """SQL of whether a cell has a value. With ``IN`` it would become a join, which looks at every cell."""
    return f"({' AND '.join(f'{_cell(number)} <> {quoted(text)}' for text in MISSING_CELLS)})"


def _number(number: int) -> str:
    """SQL of a cell's number, null if it is none."""
    cell = _cell(number)
    return f"CASE lower({cell}) WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 ELSE TRY_CAST({cell} AS DOUBLE) END"


def _raise_unreadable(
    db: Engine, path: Path, header: Header, source: str, at: Mapping[str, int], numbers: Sequence[str]
) -> None:
    """Name the first column with a cell that is not a number, and such a cell."""
    counted = []
    for n, c in enumerate(numbers):
        bad = f"FILTER (WHERE {_filled(at[c])} AND ({_number(at[c])}) IS NULL)"
        counted += [f"count(*) {bad} AS u{n}", f"min({_cell(at[c])}) {bad} AS t{n}"]
    (counts,) = db.rows(f"SELECT {', '.join(counted)} FROM {source}")
    for c, bad, example in zip(numbers, counts[::2], counts[1::2], strict=True):
        if bad:
            line = _line_of(path, header, at[c], example)
            raise DataError(
                f"{path.name}, line {line}: column '{c}' holds {_shown(example)}, not a number ({bad:,} such cells); write "
                "1234.5, without currency, units or separators of thousands"
            )


def _csv_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "state machine" in lines[0]:
        return "a carriage return stands where no line ends, or text follows a quoted cell"
    reason = next((line for line in lines if line.startswith(REASONS)), "")
    return f"{lines[0]} {reason}".strip()


def _shown(cell: str, most: int = 40) -> str:
    shown = cell if len(cell) <= most else cell[:most] + "…"
    return f"'{shown}'" if shown.isprintable() else repr(shown)


def _line_of(path: Path, header: Header, position: int, cell: str) -> int:
    """Line of the first row with a cell."""
    with open_text(path) as handle:
        rows = read_rows(handle, path, header.delimiter, multiline=True)
        return next((line for line, row in rows if position < len(row) and row[position].strip() == cell.strip()), 0)
