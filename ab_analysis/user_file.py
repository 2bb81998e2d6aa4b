"""Files of users and of their variants: what ``clock ab assign`` reads and writes."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ab_analysis.text_table import MARK, check_column, delimiter_of, open_text, read_rows
from core.errors import ConfigError, DataError
from core.files import is_tabbed, write_output
from core.id_text import WHOLE_NUMBER, strip_blanks, without_point
from events.packing import is_packed, plain_name

STANDARD_INPUT = "-"
OTHER_FORMATS = {".json", ".jsonl", ".ndjson", ".xlsx", ".xls", ".feather", ".arrow", ".orc", ".avro"}
HEADERS = {"user", "user_id", "userid", "user id", "uid", "id"}
"""Texts that are not a user but the name of the column."""
CONTROL = re.compile(r"[\x00-\x1f]")
DIGIT = re.compile(r"\d")
NO_SPACE = re.compile(r"[\x00-\x08\x0e-\x1f]")
"""Control characters that are not white space."""


def read_users(path: str, column: str | None = None, *, stdin: TextIO | None = None) -> list[str]:
    """Read users from a text file (one per line), a CSV or Parquet file, or standard input (``-``).

    Args:
        path: the file; a packed one is unpacked.
        column: column of the user; a CSV then needs a header. Default: the first column, without a header.
        stdin: what ``-`` reads from.

    Returns:
        A user per row as ingestion reads them: without padding, and 7 for 7.0 where all are whole numbers.

    Raises:
        ConfigError: there is no such file or column, or it is of another kind.
        DataError: a row has no user or not as many cells as the header, a quote is not closed, or ids hold control characters
            or are neither text nor whole numbers: such users would get another variant than in serving.
    """
    if path == STANDARD_INPUT:
        name = "standard input"
        piped = io.StringIO(_decoded(stdin or sys.stdin), newline="")
        users = _from_csv(piped, name, column) if column else _from_lines(piped)
        return _checked(users, name, column)
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no file of users at '{path}'")
    if file.suffix.lower() in OTHER_FORMATS:
        raise ConfigError(f"'{path}' is neither text nor Parquet; write one user per line, or CSV with --column")
    if file.suffix.lower() == ".parquet":
        return _checked(_from_parquet(file, column), path, None)
    plain = plain_name(file)
    with open_text(file) as handle:
        if column is None and plain.suffix.lower() != ".csv" and (is_packed(file) or plain.suffix.lower() == ".txt"):
            users = _from_lines(handle)
        else:
            users = _from_csv(handle, str(file), column, "\t" if is_tabbed(plain) else None)
    return _checked(users, path, column)


def _decoded(stream: TextIO) -> str:
    buffer = getattr(stream, "buffer", None)  # its bytes: the locale may not be UTF-8
    try:
        return (buffer.read().decode("utf-8") if buffer else stream.read()).removeprefix(MARK)
    except UnicodeDecodeError:
        raise DataError("standard input is not UTF-8 text (UTF-16, Latin-1, compressed?); pipe it as UTF-8") from None


def _checked(users: list[tuple[int, str]], name: str, column: str | None) -> list[str]:
    if column is None and users and users[0][1].lower() in HEADERS:
        header = users[0][1]
        raise DataError(f"{name}: '{header}' in the first row is a header, not a user; name it with --column {header}")
    if column is None and _looks_like_header([user for _, user in users]):
        raise DataError(
            f"{name}: '{users[0][1]}' in the first row looks like a header, as all other users have digits; name it with "
            f"--column '{users[0][1]}', or if it is a user, do not put it first"
        )
    for line, user in users:
        if CONTROL.search(user):
            raise DataError(f"{name}, line {line}: the user {user[:40]!r} holds a control character; is it UTF-8 text?")
    texts = [user for _, user in users]
    if all(re.fullmatch(WHOLE_NUMBER, user) for user in texts):  # 7.0, as pandas writes it, is the log's 7
        return [without_point(user) for user in texts]
    return texts


def _looks_like_header(users: Sequence[str]) -> bool:
    """Whether the first is of another kind than all others.

    >>> _looks_like_header(["customer", "c17", "c18"]), _looks_like_header(["ann", "bob", "c18"])
    (True, False)
    """
    first, *others = [bool(DIGIT.search(user)) for user in users] or [True]
    return not first and len(others) > 1 and all(others)


def _bare(text: str) -> str:
    """A cell without padding; a control character stays, so that it is refused, but white space."""
    return text if NO_SPACE.search(text) else strip_blanks(text)


def _from_lines(handle: TextIO) -> list[tuple[int, str]]:
    return [(n, user) for n, line in enumerate(handle, 1) if (user := _bare(line))]


def _from_csv(handle: TextIO, name: str, column: str | None, delimiter: str | None = None) -> list[tuple[int, str]]:
    if delimiter is None and column is not None:  # without a header nothing shows the delimiter
        first = handle.readline()
        delimiter = delimiter_of(first)
        lines = chain([first], handle)
    else:
        lines = chain(handle)
    rows = read_rows(lines, name, delimiter or ",")
    position, width = 0, None
    if column is not None:
        header = [_bare(cell) for cell in next(rows, (0, []))[1]]
        check_column(column, header, name)
        position, width = header.index(column), len(header)
    users = []
    for line, row in rows:
        if width is not None and len(row) != width:
            raise DataError(f"{name}, line {line}: {len(row)} cells, but the header has {width}; mend the row")
        if not (user := _bare(row[position])):
            raise DataError(
                f"{name}, line {line}: no user{f' in column {column!r}' if column else ''}; leave the row out"
            )
        users.append((line, user))
    return users


def _from_parquet(file: Path, column: str | None) -> list[tuple[int, str]]:
    try:
        schema = pq.read_schema(file)
        name = column or (schema.names[0] if schema.names else "")
        check_column(name, schema.names, file)
        values = pq.read_table(file, columns=[name], partitioning=None)[name]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    id_type = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    is_text = pa.types.is_string(id_type) or pa.types.is_large_string(id_type) or pa.types.is_string_view(id_type)
    if not (is_text or pa.types.is_integer(id_type)):
        raise DataError(f"{file}: column '{name}' holds {id_type}; users are text or whole numbers, as in the log")
    users = [(n, "" if v is None else _bare(str(v))) for n, v in enumerate(values.to_pylist(), 1)]
    if missing := sum(not user for _, user in users):
        first = next(n for n, user in users if not user)
        raise DataError(
            f"{file}: {missing:,} rows have no user in column '{name}' (the first is row {first}); leave them out"
        )
    return users


def assignment_table(users: Sequence[str], variants: Sequence[str | None]) -> str:
    """The users who are in the experiment, as CSV: ``user,variant``."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("user", "variant"))
    table.writerows((u, v) for u, v in zip(users, variants, strict=True) if v is not None)
    return text.getvalue()


def write_assignments(path: Path, users: Sequence[str], variants: Sequence[str | None]) -> None:
    """Write ``assignment_table`` to a file atomically; its folder is created."""
    write_output(path, assignment_table(users, variants))
