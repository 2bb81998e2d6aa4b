"""Delimited text: files with their headers, loaded cell by cell as text."""

from __future__ import annotations

import csv
import itertools
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from core.documents import one_line
from core.duck import file_list, quoted
from core.errors import DataError
from core.numbers import is_number
from events.cells import ISO
from events.loader import Loader, cleaned
from events.mapping_csv import CsvOptions
from events.text import CleanText, clean_csv, decoded, pass_lines

log = logging.getLogger("events.readers")

DELIMITERS = (";", "\t", "|", ",")
NO_HEADER = re.compile(r"sep=.$|#|%|//|$", re.IGNORECASE)
"""How lines begin that people and programs put before a header."""
MOST_COMMENTS = 50
SHOWN_ROWS = 20
"""Rows by which a header is told."""
LONGEST_NAME = 1 << 17
"""Characters of a column's name."""


def load_csv(loader: Loader, options: CsvOptions, files: list[Path]) -> None:
    """Load delimited text.

    Args:
        loader: takes the rows.
        options: how the files are written.
        files: the files.
    """
    con = loader.con
    for number, ((cells, delimiter), members) in enumerate(by_header(options, files).items()):
        names = unique_names(cells, loader.repeated)
        if not options.header:
            _tell_header(members[0], options, delimiter)
        loader.hint = _no_header(members[0], options) or _other_shape(names, delimiter) or _a_row(cells, options)
        columns = [loader.column(name) for name in names]
        clean: CleanText = lambda file, to: clean_csv(file, to, options, delimiter, len(columns))  # noqa: B023, E731
        texts = cleaned(loader, members, clean, with_header=options.header)
        if not texts:
            continue
        types = "{" + ", ".join(f"{quoted(column)}: 'VARCHAR'" for column in columns) + "}"
        con.execute(
            f"""CREATE TABLE raw_{number} AS SELECT * FROM read_csv({file_list(texts)},
            columns={types}, auto_detect=false, header={str(options.header).lower()},
            delim={quoted(delimiter)}, quote={quoted(options.quote)}, escape={quoted(options.quote)},
            encoding='utf-8', store_rejects=true, max_line_size=16777216, filename='__file', hive_partitioning=false)"""
        )
        con.execute(
            "INSERT INTO malformed SELECT any_value(csv_line), 'malformed_row' FROM reject_errors GROUP BY file_id, scan_id, line"
        )
        con.execute("DROP TABLE reject_errors")  # shared by every scan of the connection
        con.execute("DROP TABLE reject_scans")
        loader.parts.append(f"SELECT * FROM raw_{number}")


def by_header(options: CsvOptions, files: list[Path]) -> dict[tuple[tuple[str, ...], str], list[Path]]:
    """Files by their header and delimiter, without those that have no line.

    Args:
        options: how the files are written.
        files: the files.

    Raises:
        DataError: nothing names the columns.
    """
    groups: dict[tuple[tuple[str, ...], str], list[Path]] = defaultdict(list)
    for file in files:
        delimiter = options.delimiter_of(file)
        header = list(options.columns) if not options.header else header_cells(file, options, delimiter)
        if not options.header and not header:
            raise DataError("csv.header is false: name the columns, in order, under csv.columns in the mapping")
        if header:
            groups[tuple(header), delimiter].append(file)
    if len({header for header, _ in groups}) > 1:
        log.warning("the CSV files have different headers; they are joined by name, and empty where a file has none")
    return groups


def header_cells(file: Path, options: CsvOptions, delimiter: str) -> list[str]:
    """Names in a file's first line; none where the file has no line."""
    with decoded(file, options.encoding) as stream:
        pass_lines(stream, options.skip)
        first = next((text for line in stream if (text := line.lstrip("\ufeff")).strip("\r\n")), "")
        if not first:
            return []
        if len(delimiter) == 1 and len(options.quote) == 1:
            lines: Iterator[str] = iter([first, *(stream.readline() for _ in range(20))])
            csv.field_size_limit(LONGEST_NAME)  # the whole process has one limit, which other readers set as well
            try:
                cells = next(csv.reader(lines, delimiter=delimiter, quotechar=options.quote))
            except csv.Error as error:
                raise DataError(
                    f"{file}: its first line cannot be read as a header ({error}); nothing was ingested"
                ) from None
        else:
            cells = first.rstrip("\r\n").split(delimiter)
    return [cell.strip() for cell in cells]


def _no_header(file: Path, options: CsvOptions) -> str:
    """A hint if a file begins with lines that are no header: comments, or Excel's note about the delimiter."""
    if options.skip or not options.header:
        return ""
    with decoded(file, options.encoding) as stream:
        lines = [line.lstrip("\ufeff").strip() for line in itertools.islice(stream, MOST_COMMENTS)]
    notes = list(itertools.takewhile(NO_HEADER.match, lines))
    if not any(notes):
        return ""
    what = "line looks" if len(notes) == 1 else f"{len(notes)} lines look"
    return f"; its first {what} like a note: set csv: {{skip: {len(notes)}}} in the mapping"


def _other_shape(names: list[str], delimiter: str) -> str:
    """A hint if a header looks like JSON, or its only name like several names.

    >>> _other_shape(["uid;iid"], ",")
    '; its cells look separated by ";": set csv: {delimiter: ";"} in the mapping'
    """
    if names[0].startswith(("{", "[")):
        return "; it looks like JSON: set format: jsonl in the mapping"
    other = next((mark for mark in DELIMITERS if mark != delimiter and mark in names[0]), None)
    if other is None or len(names) > 1:
        return ""
    shown = '"\\t"' if other == "\t" else f'"{other}"'
    return f"; its cells look separated by {shown}: set csv: {{delimiter: {shown}}} in the mapping"


def _a_row(cells: tuple[str, ...], options: CsvOptions) -> str:
    """A hint if a header has cells that are numbers or times, as rows have.

    >>> _a_row(("1", "2268318", "pv"), CsvOptions())
    '; its first line looks like a row: if it is one, set csv: {header: false, columns: [...]} with a name for each cell'
    """
    if not options.header or not any(map(_is_value, cells)):
        return ""
    return "; its first line looks like a row: if it is one, set csv: {header: false, columns: [...]} with a name for each cell"


def _is_value(cell: str) -> bool:
    """Whether a cell is a number or a time, as no name of a column is."""
    return is_number(cell) or bool(re.fullmatch(ISO, cell))


def _tell_header(file: Path, options: CsvOptions, delimiter: str) -> None:
    """Warn of a file that has a header although the mapping says that it has none: the header counts as a row."""
    with decoded(file, options.encoding) as stream:
        pass_lines(stream, options.skip)
        lines = [line.lstrip("\ufeff").rstrip("\r\n") for line in itertools.islice(stream, SHOWN_ROWS)]
    rows = [line.split(delimiter) for line in lines]
    if len(delimiter) == 1 and len(options.quote) == 1:
        with suppress(csv.Error):
            rows = [*csv.reader(lines, delimiter=delimiter, quotechar=options.quote)]
    if rows and _are_names(rows[0], rows[1:], options.columns):
        log.warning(
            "%s: its first line looks like a header (%s), and counts as a row, as csv says header: false: take that and columns "
            "out of the mapping, or write skip: %d", file, one_line(lines[0], 60), options.skip + 1,
        )  # fmt: skip


def _are_names(first: list[str], others: list[list[str]], columns: Sequence[str]) -> bool:
    """Whether the first row of a file is a header: the names that it should have, or no value where every other row has one.

    >>> _are_names(["uid", "time"], [["u1", "17"], ["u2", "18"]], ("user", "ts")), _are_names(["u0", ""], [["u1", "17"]], ("user", "ts"))
    (True, False)
    """
    if any(map(_is_value, first)):
        return False
    named = sum(cell.strip().casefold() == name.casefold() for cell, name in zip(first, columns, strict=False))
    valued = (
        bool(name.strip()) and bool(cells) and all(map(_is_value, cells))
        for name, *cells in itertools.zip_longest(first, *others, fillvalue="")
    )
    return 2 * named >= len(columns) or any(valued)


def unique_names(header: tuple[str, ...], repeated: set[str]) -> list[str]:
    """Names of a header, each once: empty ones by their place, repeated ones by a number.

    >>> unique_names(("id", "", "id"), set())
    ['id', 'column_2', 'id_2']
    """
    names: list[str] = []
    for place, cell in enumerate(header, 1):
        name, times = cell or f"column_{place}", 1
        if name in names:
            repeated.add(name)
        while name in names:
            times += 1
            name = f"{cell or f'column_{place}'}_{times}"
        names.append(name)
    return names
