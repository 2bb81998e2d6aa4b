"""CSV files as they come: byte order marks, gzip, other delimiters, headers that repeat a name, damaged rows."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from core.documents import did_you_mean
from core.errors import ConfigError, DataError

DELIMITERS = ",;\t|"
MARK = "\ufeff"
TEXT_SUFFIXES = {".csv", ".tsv", ".gz", ".txt"}


@dataclass(frozen=True)
class Header:
    """First line of a CSV file.

    Attributes:
        names: of the columns, in order.
        delimiter: between them.
    """

    names: tuple[str, ...]
    delimiter: str


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, decompressed if it is gzip, without its byte order mark.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        opened = gzip.open if path.suffix.lower() == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as handle:
            yield cast(TextIO, handle)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text (UTF-16, Latin-1?); save it as UTF-8") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def read_rows(handle: TextIO, path: Path | str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every non-empty row; cells must end on the line they begin on.

    Raises:
        DataError: a quote is opened and not closed on its line, or a cell has bytes that are not valid in CSV.
    """
    rows = csv.reader(handle, delimiter=delimiter, strict=True)
    before = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {before + 1}: a cell cannot be read ({error}); is a quote opened and not closed?"
            ) from None
        if row is None:
            return
        if rows.line_num > before + 1:
            raise DataError(f"{path}, line {before + 1}: a quote is opened and not closed on its line")
        before = rows.line_num
        if row:
            yield before, row


def read_header(path: Path) -> Header:
    """Names and delimiter of a CSV file: tabs for ``.tsv``, else the delimiter most used in the first line."""
    with open_text(path) as handle:
        line = handle.readline().rstrip("\r\n")
    if not line:
        raise DataError(f"{path} has no header line")
    tabs = {s.lower() for s in path.suffixes} & {".tsv"}
    delimiter = "\t" if tabs else max(DELIMITERS, key=line.count) if any(d in line for d in DELIMITERS) else ","
    ((_, names),) = read_rows(io.StringIO(line), path, delimiter)
    return Header(tuple(name.strip() for name in names), delimiter)


def check_column(name: str, columns: Sequence[str], path: Path | str) -> None:
    """Check that a table has a column, and only one, of a name.

    Raises:
        ConfigError: it has not; the message suggests a similar name and lists the columns.
    """
    if name not in columns:
        raise ConfigError(
            f"{Path(path).name} has no column '{name}'{did_you_mean(name, columns)} (columns: {', '.join(columns)})"
        )
    if columns.count(name) > 1:
        raise ConfigError(f"{Path(path).name} has {columns.count(name)} columns named '{name}'; rename all but one")
