"""Tables beside the log, of users or of items: opened as the mapping says, with their ids as the log writes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb

from core.documents import JsonObject, one_line
from core.duck import beside, scalar
from core.errors import DataError
from core.files import digest_json, digest_text, read_json
from events.cells import content, filled, number_id
from events.input_part import InputPart
from events.log_files import find_files
from events.mapping import Mapping as LogMapping
from events.mapping import relative
from events.mapping_tables import SideTable
from events.readers import RawLog, exact_text, load_raw
from events.row_expressions import RowExpressions

log = logging.getLogger("events.side_tables")


@dataclass(frozen=True)
class OpenTable:
    """A table beside the log, loaded as ``raw`` of a schema of its own.

    Attributes:
        con: connection that is in that schema.
        raw: the columns.
        path: the file.
        key: SQL of a row's id as the log writes it, null where there is none.
        expressions: the mapping's, over the table's rows.
    """

    con: duckdb.DuckDBPyConnection
    raw: RawLog
    path: Path
    key: str
    expressions: RowExpressions

    def value(self, text: str, where: str, *, as_text: bool) -> str:
        """SQL of a column of the table as it stands there, or of an expression over its columns.

        Args:
            text: as in the mapping.
            where: the mapping's key, for errors.
            as_text: the value is used as text.
        """
        if text in self.raw.columns:
            return self.raw.cell(text, where)
        return self.expressions.expression(text, where, as_text=as_text)

    @property
    def numbers(self) -> dict[str, str]:
        """SQL of the cells, by column, that expressions so far take for numbers."""
        return {column: self.raw.cell(column, column) for column in sorted(self.expressions.numbers)}

    def unreadable_numbers(self, values: Mapping[str, str]) -> list[UnreadableCells]:
        """Cells that have content and are no numbers.

        Args:
            values: SQL of what should be numbers, by column or expression.
        """
        found = []
        for name, value in values.items():
            count, example = self.con.execute(
                f"SELECT count(*), any_value(CAST({value} AS VARCHAR)) FROM raw r WHERE {is_no_number(value)}"
            ).fetchall()[0]
            found += [UnreadableCells(name, count, example)] if count else []
        return found


class UnreadableCells(NamedTuple):
    """Cells of a column that cannot be read as their type.

    Attributes:
        column: its name, or the expression.
        number: how many there are.
        example: one of them.
    """

    column: str
    number: int
    example: str

    def tell(self, where: str, what: str, key: str = "") -> None:
        """Warn of them.

        Args:
            where: the table.
            what: they are not, such as ``a number``.
            key: of the mapping, that reads the column.
        """
        log.warning(
            "%s: %d cells of '%s' are not %s, such as '%s'; they count as missing%s",
            where, self.number, one_line(self.column), what, one_line(self.example, 40), f" ({key})" if key else "",
        )  # fmt: skip


def is_no_number(value: str) -> str:
    """SQL: a value has content and is no number."""
    return f"({filled(value)} AND TRY_CAST({value} AS DOUBLE) IS NULL)"


def table_file(table: SideTable, folders: list[Path], what: str) -> Path:
    """The table's file: the first that there is in the folders, in order.

    Raises:
        DataError: there is none.
    """
    candidates = (Path(relative(folder, table.path)) for folder in folders)
    matches = ([path] if path.is_file() else sorted(path.parent.glob(path.name)) for path in candidates)
    path = next((paths[0] for paths in matches if paths), None)
    if path is None:
        raise DataError(f"no {what} table at '{table.path}' ({what}.path, relative to the mapping or to the log)")
    return path


def table_mark(mapping: LogMapping, table: SideTable, path: Path) -> JsonObject:
    """What identifies a table's file and how it is read, so that one that did not change need not be kept again.

    Not the folder: one that lies elsewhere is fetched into another each time.
    """
    stat = path.stat()
    digests = (digest_json(part.model_dump(mode="json", exclude={"path"})) for part in (table, mapping.csv))
    return {
        "file": path.name, "size": stat.st_size, "modified_ns": stat.st_mtime_ns, "table": digest_text(*digests),
    }  # fmt: skip


def mark_file(kept: Path) -> Path:
    """Where the mark of the table stands from which a file was made."""
    return kept.with_suffix(".json")


def is_marked(kept: Path, mark: JsonObject) -> bool:
    """Whether a file was made from the table with this mark."""
    path = mark_file(kept)
    return path.exists() and read_json(path) == mark


def open_table(
    con: duckdb.DuckDBPyConnection,
    mapping: LogMapping,
    table: SideTable,
    path: Path,
    what: str,
    *,
    schema: str,
    numbers: bool,
) -> OpenTable:
    """Load a table beside the log.

    Args:
        con: of the log; the table goes to a schema of its own, so that its names meet none of the log's.
        mapping: how the log is written; the table is read in the same way unless ``table`` says otherwise.
        table: names the key and the columns.
        path: its file.
        what: the mapping's key, for messages.
        schema: name of the schema.
        numbers: the log's ids are whole numbers, so that the table's 7.0 is 7.

    Raises:
        ConfigError: the table lacks its key.
        DataError: it cannot be read.
    """
    side = mapping.model_copy(update={"format": table.format, "csv": table.csv})
    other = beside(con)
    other.execute(f"CREATE SCHEMA {schema}")
    other.execute(f"USE {schema}")
    raw = load_raw(other, side, find_files([str(path)]))
    if bad := scalar(other, "SELECT count(*) FROM malformed"):
        log.warning("%s (%s): %d rows could not be read; their %s count as unknown", what, path, bad, what)
    key = content(exact_text(raw.cell(table.key, f"{what}.key ({path})"), raw.types.get(table.key, "VARCHAR")))
    if numbers:
        key = number_id(key)
    return OpenTable(other, raw, path, key, RowExpressions(other, raw, InputPart()))
