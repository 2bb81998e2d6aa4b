"""Files of users and of their variants: what ``clock ab assign`` reads and writes."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ab_analysis.text_table import MARK, check_column, open_text, read_rows
from core.errors import ConfigError, DataError
from core.files import write_text

STANDARD_INPUT = "-"


def read_users(path: str, column: str | None = None, *, stdin: TextIO | None = None) -> list[str]:
    """Read users from a text file (one per line), a CSV or Parquet file, or standard input (``-``).

    Args:
        path: the file; ``.gz`` is decompressed.
        column: column of the user; a CSV then needs a header. Default: the first column, without a header.
        stdin: what ``-`` reads from.

    Raises:
        ConfigError: there is no such file or column.
        DataError: a row has no user or not as many cells as the header, a quote is not closed, or ids are neither text nor
            whole numbers: such users would get another variant than in serving.
    """
    if path == STANDARD_INPUT:
        piped = io.StringIO((stdin or sys.stdin).read().removeprefix(MARK), newline="")
        return _from_csv(piped, "standard input", column) if column else _from_lines(piped)
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no file of users at '{path}'")
    if file.suffix.lower() == ".parquet":
        return _from_parquet(file, column)
    with open_text(file) as handle:
        if column is None and file.with_suffix("").suffix.lower() != ".csv" and file.suffix.lower() in {".txt", ".gz"}:
            return _from_lines(handle)
        tabs = ".tsv" in {s.lower() for s in file.suffixes}
        return _from_csv(handle, str(file), column, "\t" if tabs else ",")


def _from_lines(handle: TextIO) -> list[str]:
    return [user for line in handle if (user := line.strip())]


def _from_csv(handle: TextIO, name: str, column: str | None, delimiter: str = ",") -> list[str]:
    rows = read_rows(handle, name, delimiter)
    position, width = 0, None
    if column is not None:
        header = next(rows, (0, []))[1]
        check_column(column, header, name)
        position, width = header.index(column), len(header)
    users = []
    for line, row in rows:
        if width is not None and len(row) != width:
            raise DataError(f"{name}, line {line}: {len(row)} cells, but the header has {width}; mend the row")
        if not row[position].strip():
            raise DataError(
                f"{name}, line {line}: no user{f' in column {column!r}' if column else ''}; leave the row out"
            )
        users.append(row[position])
    return users


def _from_parquet(file: Path, column: str | None) -> list[str]:
    try:
        schema = pq.read_schema(file)
        name = column or (schema.names[0] if schema.names else "")
        check_column(name, schema.names, file)
        values = pq.read_table(file, columns=[name])[name]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    id_type = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_integer(id_type) or pa.types.is_string(id_type) or pa.types.is_large_string(id_type)):
        raise DataError(f"{file}: column '{name}' holds {id_type}; users are text or whole numbers, as in the log")
    users = ["" if v is None else str(v) for v in values.to_pylist()]
    if missing := sum(not u.strip() for u in users):
        first = next(n for n, u in enumerate(users, 1) if not u.strip())
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
    write_text(path, assignment_table(users, variants))
