"""CSV files as they come: byte order marks, packed, other delimiters, headers that repeat a name, damaged rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from core.documents import did_you_mean
from core.errors import ConfigError, DataError
from core.files import is_tabbed, temporary_directory
from events.packing import DAMAGED, PACKINGS, binary, for_duckdb, is_read_by_duckdb, plain_name

DELIMITERS = ",;\t|"
MARK = "\ufeff"
CHUNK = 1 << 20
LONGEST_CELL = 1 << 24
LONGEST_CELL_LINES = 20
"""A quoted cell that goes on for more lines than this is a quote that was never meant to open one."""
PLAIN_SUFFIXES = (".csv", ".tsv", ".txt")
TEXT_SUFFIXES = {*PLAIN_SUFFIXES, *PACKINGS}


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
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file, unpacked if it is packed.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with binary(path) as stream:
            yield stream
    except DAMAGED as error:
        raise DataError(f"{path} cannot be read: {error}") from None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, unpacked if it is packed, without its byte order mark.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as handle:
            yield handle
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text (UTF-16, Latin-1?); save it as UTF-8") from None


def read_rows(
    handle: Iterable[str], path: Path | str, delimiter: str = ",", *, multiline: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every non-empty row; unless ``multiline``, cells must end on the line they begin on.

    Raises:
        DataError: a quote is opened and not closed on its line, or a cell has bytes that are not valid in CSV.
    """
    csv.field_size_limit(LONGEST_CELL)
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
        if rows.line_num > before + 1 and not multiline:
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
    if "\0" in line:
        raise DataError(f"{path} is not UTF-8 text (UTF-16, or no text at all?); save it as UTF-8")
    delimiter = "\t" if is_tabbed(plain_name(path)) else delimiter_of(line)
    ((_, names),) = read_rows(io.StringIO(line), path, delimiter)
    return Header(tuple(name.strip() for name in names), delimiter)


@dataclass(frozen=True)
class LineEnds:
    """How the lines of a file end.

    Attributes:
        feeds: line feeds; ``returns``: carriage returns; ``pairs``: both together.
        unfinished: whether the last line has no end.
    """

    feeds: int
    returns: int
    pairs: int
    unfinished: bool

    @property
    def mixed(self) -> bool:
        """Whether some lines end in both and some in a line feed."""
        return 0 < self.pairs < self.feeds

    @property
    def lines(self) -> int:
        """Number of lines."""
        return self.feeds + self.returns - self.pairs + self.unfinished


@contextmanager
def readable_by_duckdb(path: Path, ends: LineEnds) -> Iterator[Path]:
    """The file itself, or a copy for the ``with`` block where DuckDB does not unpack it, or its lines do not all end alike."""
    if is_read_by_duckdb(path) and not ends.mixed:
        yield path
        return
    with temporary_directory("clock-csv-") as folder:
        copy = folder / "table.csv"
        if not ends.mixed:
            for_duckdb(path, copy)
        else:
            with open_bytes(path) as source, copy.open("wb") as target:
                for line in source:
                    target.write(line[:-2] + b"\n" if line.endswith(b"\r\n") else line)
        yield copy


def line_ends(path: Path) -> LineEnds:
    """Count the ends of a file's lines."""
    feeds = returns = pairs = 0
    last = b"\n"
    with open_bytes(path) as source:
        while chunk := source.read(CHUNK):
            feeds += chunk.count(b"\n")
            if carriage_returns := chunk.count(b"\r"):
                returns += carriage_returns
                pairs += chunk.count(b"\r\n")
            pairs += last == b"\r" and chunk[:1] == b"\n"
            last = chunk[-1:]
    return LineEnds(feeds, returns, pairs, unfinished=last not in b"\r\n")


def check_quotes(path: Path, header: Header) -> None:
    """Check that no quoted cell swallowed rows: one may hold line ends, but not lines that are rows themselves.

    Raises:
        DataError: a cell goes on for many lines, or the lines in it have as many cells as the header.
    """
    csv.field_size_limit(LONGEST_CELL)
    with open_text(path) as handle:
        rows = csv.reader(handle, delimiter=header.delimiter)
        before = 0
        for row in rows:
            lines = rows.line_num - before
            inner = max((cell.splitlines()[1:-1] for cell in row), key=len) if lines > 1 else []
            cells = {len(next(csv.reader([line], delimiter=header.delimiter), [])) for line in inner}
            if lines > LONGEST_CELL_LINES or (len(header.names) > 2 and cells == {len(header.names)}):
                raise DataError(
                    f"{path}, line {before + 1}: a quoted cell goes on for {lines:,} lines, which are rows themselves; is a "
                    "quote opened and not closed?"
                )
            before = rows.line_num


def delimiter_of(line: str) -> str:
    """The delimiter most used in a header line."""
    return max(DELIMITERS, key=line.count)


def check_column(name: str, columns: Sequence[str], path: Path | str) -> None:
    """Check that a table has a column, and only one, of a name.

    Raises:
        ConfigError: it has not; the message suggests a similar name and lists the columns.
    """
    if name not in columns:
        raise ConfigError(
            f"{Path(path).name} has no column '{name}'{did_you_mean(name, columns)} (columns: {', '.join(columns)})"
        )
    same = [c for c in columns if c.lower() == name.lower()]
    if len(same) > 1:
        spelled = "" if len(set(same)) == 1 else f" ({', '.join(same)}: upper and lower case are one)"
        raise ConfigError(f"{Path(path).name} has {len(same)} columns named '{name}'{spelled}; rename all but one")
