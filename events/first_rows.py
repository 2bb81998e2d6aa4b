"""The first rows of a file that nobody has described: its format, and what its columns hold."""

from __future__ import annotations

import glob
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import duckdb

from core.duck import identifier, quoted
from core.errors import DataError
from core.files import temporary_directory
from core.numbers import is_number
from events.cells import FORMATS, cast_time
from events.csv_reader import header_cells, unique_names
from events.log_files import check_content, format_of
from events.mapping_csv import CsvOptions
from events.packing import CHUNK, DAMAGED, binary, is_read_by_duckdb
from events.text import check_encoding, decoded, is_printed, is_wide, json_of

SAMPLE_ROWS = 20_000
LONGEST_HEAD = 64 << 20
"""Bytes that are unpacked of a file: more than its first rows."""
EXAMPLES = 30
"""Values of a column that are kept, the most frequent ones."""
LEAST_TIMES = 0.99
"""A column of text holds times if this share of its cells has one pattern."""
NAME = re.compile(r"[a-z]+|[0-9]+")
LABELED = re.compile(r"\S+-[01](\s+\S+-[01])*")
"""A list whose items end with a label, as no header does."""
UNNAMED = re.compile(r"column\d+")
"""What DuckDB calls the columns of a file without a header."""

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Units of a mapping's times, as parts of a second."""
FIRST_SECOND, LAST_SECOND = 5e8, 4e9
"""Seconds from 1970 between which logs were written, 1985 to 2096."""
DOUBLE_COLON = "::"
"""Between the cells of MovieLens' older files; DuckDB tells other delimiters by itself."""

Options: TypeAlias = dict[str, str | int | list[str]]


@dataclass(frozen=True)
class Column:
    """What a sample says of a column.

    Attributes:
        name: as in the file.
        kind: ``number``, ``boolean``, ``moment`` (a typed or ISO 8601 time) or ``text``.
        share_filled: share of cells that are neither null nor empty, 0 to 1.
        distinct: different values in the sample.
        low: smallest number, None where the column has none.
        high: largest number.
        examples: the most frequent values, as text.
    """

    name: str
    kind: str
    share_filled: float
    distinct: int
    low: float | None
    high: float | None
    examples: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """Parts of the name in lower case: ``userId`` → user, id."""
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name)
        return tuple(NAME.findall(spaced.lower()))


@dataclass(frozen=True)
class Sample:
    """The first rows of a log.

    Attributes:
        file: the one that was read.
        format: as the mapping names it.
        options: CSV options that differ from the defaults.
        rows: rows read.
        columns: in the file's order.
        repeated: names that several columns have, which are left out of ``columns``: a mapping cannot tell them apart.
    """

    file: Path
    format: str
    options: Options = field(default_factory=dict)
    rows: int = 0
    columns: tuple[Column, ...] = ()
    repeated: tuple[str, ...] = ()

    @property
    def described_columns(self) -> str:
        """What columns there are, for a message about one that is not found."""
        told = f"; several are called {', '.join(self.repeated)}: give each its own name" if self.repeated else ""
        return f"its columns are {', '.join(column.name for column in self.columns)}{told}"


def read_first_rows(con: duckdb.DuckDBPyConnection, file: Path) -> Sample:
    """Read the beginning of a file into the table ``sample``, and say what its columns hold.

    Args:
        con: a connection for this file alone.
        file: Parquet, JSON Lines or CSV by its ending; anything else is taken for CSV.

    Raises:
        DataError: the file cannot be read, or holds no rows.
    """
    options: Options = {}
    format_ = format_of(file) or "csv"
    check_content(file, "parquet" if format_ == "parquet" else "csv")
    if format_ == "jsonl":
        check_encoding(file, "utf-8", "")
    with temporary_directory("clock-guess-") as scratch, _looking_at(file):
        text = head = _head_for_duckdb(file, scratch / "head")
        if format_ == "csv" and (encoding := _encoding_of(head)) != "utf-8":
            options["encoding"], text = encoding, scratch / "sample.csv"
            with decoded(head, encoding) as lines:
                text.write_text("".join(itertools.islice(lines, SAMPLE_ROWS)).removeprefix("\ufeff"), encoding="utf-8")
        if format_ == "jsonl" and _is_printed_file(head):
            text = scratch / "sample.jsonl"
            with binary(head) as stream, text.open("wb") as target:
                target.writelines(json_of(line) + b"\n" for line in itertools.islice(stream, SAMPLE_ROWS))
        name = quoted(glob.escape(str(text)))
        if format_ == "parquet":
            scan = f"read_parquet({name})"
        elif format_ == "jsonl":
            scan = f"read_json_auto({name}, sample_size={SAMPLE_ROWS}, ignore_errors=true)"
        else:
            scan, header, told = _csv_scan(con, name, text, CsvOptions().delimiter_of(file))
            options = {**told, **options}
        con.execute(f"CREATE TABLE sample AS SELECT * FROM {scan} LIMIT {SAMPLE_ROWS}")
    repeated = _name_columns(con, file, options) if format_ == "csv" and header else ()
    count = con.execute("SELECT count(*) FROM sample").fetchone()
    rows = int(count[0]) if count else 0
    if not rows:
        raise DataError(f"{file} holds no rows to guess from")
    return Sample(file, format_, options, rows, columns_of(con, rows), repeated)


@contextmanager
def _looking_at(file: Path) -> Iterator[None]:
    """Make a file that cannot be read an error that names it."""
    try:
        yield
    except (duckdb.Error, *DAMAGED) as error:
        raise DataError(f"{file} cannot be looked at: {str(error).splitlines()[0]}") from None


def _head_for_duckdb(file: Path, copy: Path) -> Path:
    """The file, or the beginning of its bytes at ``copy`` where it is packed in a way that DuckDB does not read."""
    if is_read_by_duckdb(file):
        return file
    with binary(file) as stream:
        head = stream.read(LONGEST_HEAD)
    copy.write_bytes(head if len(head) < LONGEST_HEAD else head[: head.rfind(b"\n") + 1])
    return copy


def _csv_scan(con: duckdb.DuckDBPyConnection, name: str, text: Path, usual: str) -> tuple[str, bool, Options]:
    """How a delimited text is read, whose name says that ``usual`` stands between its cells.

    Returns:
        SQL, whether it has a header, and the options of a mapping that differ from the defaults.
    """
    with decoded(text, "utf-8") as lines:
        first = next(lines, "")
    if first.count(DOUBLE_COLON) > 1:
        row: tuple[Any, ...] | None = (DOUBLE_COLON, "", 0, not any(map(is_number, first.strip().split(DOUBLE_COLON))))
    else:
        row = con.execute(
            f"SELECT Delimiter, Quote, SkipRows, HasHeader FROM sniff_csv({name}, sample_size={SAMPLE_ROWS})"
        ).fetchone()
    delimiter, quote, skip, header = row or (",", '"', 0, True)
    written = {"delimiter": (delimiter, "," if usual == "," else ""), "quote": (quote, '"'), "skip": (skip, 0)}
    options: Options = {k: v for k, (v, default) in written.items() if v not in {default, "(empty)", "\0"}}
    quoting = "" if quote else ", quote=''"
    scan = (
        f"read_csv({name}, delim={quoted(delimiter)}, skip={skip}, header={str(header).lower()}{quoting}, ignore_errors=true, "
        f"auto_type_candidates=['BOOLEAN', 'BIGINT', 'DOUBLE', 'VARCHAR'], sample_size={SAMPLE_ROWS})"
    )  # times stay as they are written, so that their format can be told
    return scan, bool(header), options


def _name_columns(con: duckdb.DuckDBPyConnection, file: Path, options: Options) -> tuple[str, ...]:
    """Call the columns of ``sample`` as ingestion does, without those whose names are one, in any case of their letters.

    Returns:
        the names of the columns that are left out.
    """
    csv = CsvOptions.model_validate(options)
    cells = header_cells(file, csv, csv.delimiter_of(file))
    spelled = Counter(cell.casefold() for cell in cells if cell)
    read = [row[0] for row in con.execute("DESCRIBE sample").fetchall()]
    if len(read) != len(cells):  # rows are wider than the header
        return ()
    columns = zip(read, unique_names(tuple(cells), set()), cells, strict=True)
    kept = [f"{identifier(old)} AS {identifier(new)}" for old, new, cell in columns if spelled[cell.casefold()] < 2]
    if kept:
        con.execute(f"CREATE OR REPLACE TABLE sample AS SELECT {', '.join(kept)} FROM sample")
    return tuple(dict.fromkeys(cell for cell in cells if spelled[cell.casefold()] > 1))


def _is_printed_file(file: Path) -> bool:
    with binary(file) as stream:
        return is_printed(stream.read(CHUNK))


def _encoding_of(file: Path) -> Literal["utf-8", "utf-16", "latin-1"]:
    """How a text is written; whatever is no Unicode is read as Latin-1, which holds every byte."""
    if is_wide(file):
        return "utf-16"
    with binary(file) as stream:
        head = stream.read(CHUNK).rpartition(b"\n")[0]
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def unit_since_1970(column: Column) -> str | None:
    """The unit in which numbers may be moments that count from 1970, by their size; None where they may not."""
    if column.kind != "number" or column.low is None or column.high is None:
        return None
    low, high = column.low, column.high
    return next(
        (unit for unit, part in UNITS.items() if low / part >= FIRST_SECOND and high / part <= LAST_SECOND), None
    )


def columns_of(con: duckdb.DuckDBPyConnection, rows: int) -> tuple[Column, ...]:
    """What the columns of the table ``sample`` hold.

    Args:
        con: has the table.
        rows: its rows.
    """
    described = con.execute("DESCRIBE sample").fetchall()
    return tuple(_column(con, r[0], str(r[1]), rows) for r in described)


def _column(con: duckdb.DuckDBPyConnection, name: str, dtype: str, rows: int) -> Column:
    cell = identifier(name)
    text = f"nullif(trim(CAST({cell} AS VARCHAR)), '')"
    row = con.execute(
        f"""SELECT count({text}), count(DISTINCT {text}), min(TRY_CAST({text} AS DOUBLE)), max(TRY_CAST({text} AS DOUBLE)),
        count(TRY_CAST({text} AS DOUBLE)), count({cast_time(text, "TIMESTAMP")}) FROM sample"""
    ).fetchone()
    assert row is not None
    filled, distinct, low, high, numbers, moments = row
    top = con.execute(
        f"""SELECT v.cell FROM (SELECT {text} AS cell FROM sample) v WHERE v.cell IS NOT NULL GROUP BY v.cell
        ORDER BY count(*) DESC, v.cell LIMIT {EXAMPLES}"""  # no name of a column meets one of ours
    ).fetchall()
    if dtype == "BOOLEAN":
        kind = "boolean"
    elif dtype.startswith(("TIMESTAMP", "DATE")) or (filled and moments == filled and numbers < filled):
        kind = "moment"
    else:
        kind = "number" if filled and numbers == filled else "text"
    return Column(name, kind, filled / rows, distinct, low, high, tuple(r[0] for r in top))


def time_format(con: duckdb.DuckDBPyConnection, column: Column) -> str | None:
    """The pattern in which nearly all cells of a column of text are times, or None.

    Args:
        con: holds the table ``sample``.
        column: of text.

    Returns:
        a pattern of :data:`events.cells.FORMATS`.
    """
    cell = identifier(column.name)
    for pattern in FORMATS:
        row = con.execute(
            f"SELECT count({cell}), count(TRY_STRPTIME(CAST({cell} AS VARCHAR), {quoted(pattern)})) FROM sample"
        ).fetchone()
        if row and row[0] and row[1] >= LEAST_TIMES * row[0]:
            return pattern
    return None
