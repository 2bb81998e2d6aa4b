"""Expressions of a mapping as SQL over the rows of a log: checked, typed, and with errors that name the expression and a row."""

from __future__ import annotations

import re

import duckdb
import sqlglot
from sqlglot import expressions as exp

from core.documents import one_line
from core.duck import identifier, scalar
from core.errors import ConfigError, DataError
from core.expressions import parse_expression
from events.cells import FINITE, content, filled, finite, finite_tree, is_taken_apart, only_json
from events.input_part import InputPart
from events.mapping_times import Timestamp
from events.readers import RawLog, exact_text
from events.text_uses import is_text_use


class RowExpressions:
    """Compiles a mapping's expressions for the tables ``raw`` (``r``) and, of a log, ``parsed`` (``p``).

    Attributes:
        numbers: columns of text that expressions use as numbers.
        compiled: of each expression the mapping's key, its text and its SQL.
        json_cells: SQL of the cells that are taken for JSON, by the key that says so.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, raw: RawLog, part: InputPart) -> None:
        """Start with no expressions.

        Args:
            con: holds the table ``raw``.
            raw: its columns.
            part: which part of the input it is.
        """
        self.con, self.raw, self.part = con, raw, part
        self.numbers: set[str] = set()
        self.compiled: list[tuple[str, str, str]] = []
        self.json_cells: dict[str, str] = {}
        self._numeric: dict[str, bool | None] = {}
        con.execute(f"CREATE OR REPLACE MACRO {FINITE}(x) AS {finite('x')}")

    def text(self, text: str, where: str) -> str:
        """SQL of the text of a column or expression; null where there is no content.

        Args:
            text: as in the mapping.
            where: the mapping's key, for errors.
        """
        sql = self.expression(text, where, as_text=True)
        return content(exact_text(f"({sql})", self.raw.types.get(text, "VARCHAR")))

    def optional_text(self, text: str | None, where: str) -> str:
        """SQL as of :meth:`text`, null where the mapping has nothing."""
        return self.text(text, where) if text else "CAST(NULL AS VARCHAR)"

    def number(self, text: str | None, where: str) -> str:
        """SQL of the number of a column or expression; null where the mapping has nothing, or the cell is none."""
        if text is None:
            return "CAST(NULL AS DOUBLE)"
        if text in self.raw.columns and not self._typed(text):
            self.numbers.add(text)
        return f"TRY_CAST(({self.expression(text, where)}) AS DOUBLE)"

    def moment(self, rule: Timestamp, where: str) -> tuple[str, str]:
        """SQL of the cell, or the expression, that says when, and its DuckDB type.

        Args:
            rule: how the moment is written.
            where: the mapping's key, for errors.
        """
        if rule.column in self.raw.columns or self.raw.blank:
            return self.raw.cell(rule.column, where), self.raw.types.get(rule.column, "VARCHAR")
        as_text = rule.unit == "iso" or rule.format is not None
        sql = self.expression(rule.column, where, as_text=as_text)
        return f"({sql})", self.type_of(sql, f"{where}: '{one_line(rule.column)}'", "raw r")

    def expression(self, text: str, where: str, event_columns: tuple[str, ...] = (), *, as_text: bool = False) -> str:
        """SQL of a mapping's expression: columns checked, text columns that hold numbers made numbers where they are used as such.

        Args:
            text: as in the mapping.
            where: the mapping's key, for errors.
            event_columns: what it may name besides the log's columns.
            as_text: its value is used as text.
        """
        if text in self.raw.columns:
            self.raw.cell(text, where)  # a repeated name is refused
            return self.cell(text)
        tree: exp.Expr = parse_expression(text, where)
        columns = [(column, is_text_use(column, as_text=as_text)) for column in tree.find_all(exp.Column)]
        for column, used_as_text in columns:
            name = column.name
            self._refuse_nested(column, where)
            if name in event_columns:
                sql = f"p.{identifier(name)}"
            else:
                sql = self.raw.cell(name, where if column is tree else f"{where} ({one_line(text)})")
                if self._is_empty(name):
                    sql = "NULL"  # of any type, so that what is meant for numbers is not an error
                else:
                    if not used_as_text:
                        if not self._typed(name) and self._is_number(name):
                            self.numbers.add(name)
                        sql = self.cell(name)
                    if self.raw.types[name] in {"FLOAT", "DOUBLE"}:
                        sql = finite(sql)
                    if self.raw.types[name] == "VARCHAR" and is_taken_apart(column):
                        self.json_cells[where] = sql
                        sql = only_json(sql)
            cell = sqlglot.parse_one(sql, read="duckdb")
            tree = cell if column is tree else tree
            column.replace(cell)
        compiled = finite_tree(tree).sql(dialect="duckdb")
        self.compiled.append((where, text, compiled))
        return compiled

    def cell(self, name: str) -> str:
        """SQL of a column's cell, as a number if an expression uses it as one."""
        column = self.raw.cell(name, name)
        return f"TRY_CAST({column} AS DOUBLE)" if name in self.numbers else column

    def type_of(self, sql: str, where: str, source: str = "raw r JOIN parsed p USING (__row)") -> str:
        """DuckDB type of a compiled expression over the rows of ``source``."""
        try:
            rows = self.con.execute(f"DESCRIBE SELECT ({sql}) FROM {source}").fetchall()
        except duckdb.Error as error:
            texts = self._example_texts(sql)
            raise ConfigError(f"{where}: {str(error).splitlines()[0]}{texts}; nothing was ingested") from None
        return str(rows[0][1])

    def _example_texts(self, sql: str) -> str:
        """A cell of each column of a compiled expression that is text and no number."""
        used = {*re.findall(r"\br\.(\w+)", sql)}
        names = [n for n, column in self.raw.columns.items() if column in used and self.raw.types[n] == "VARCHAR"]
        cells = {
            name: scalar(self.con, f"SELECT any_value({self.raw.columns[name]}) FROM raw WHERE {filled(self.raw.columns[name])}")
            for name in names if not self._is_number(name)
        }  # fmt: skip
        told = (f"a cell of '{one_line(name)}' reads '{one_line(text, 40)}'" for name, text in cells.items() if text)
        return "".join(f"; {each}" for each in told)

    def execute(self, sql: str, subject: str = "the mapping cannot be applied") -> None:
        """Run a statement with the mapping's expressions in it; an error names the expression and a row.

        Args:
            sql: the statement.
            subject: begins the message where no expression is to blame.
        """
        try:
            self.con.execute(sql)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            self.con.execute("SET TimeZone = 'UTC'")
            first = str(error).splitlines()[0]
            for where, text, compiled in self.compiled:
                source = "raw r" + (" JOIN parsed p USING (__row)" if "p." in compiled else "")
                try:
                    self.con.execute(f"SELECT count(({compiled})) FROM {source}").fetchall()
                except duckdb.Error as cause:
                    reason = str(cause).splitlines()[0]
                    row = self._failing_row(compiled, source)
                    raise ConfigError(
                        f"{where}: '{one_line(text)}' fails{row}: {reason}; nothing was ingested"
                    ) from None
            raise DataError(f"{subject}: {first}; nothing was ingested") from None

    def _failing_row(self, compiled: str, source: str) -> str:
        """`` in row N`` of the first row in which an expression fails, nothing where none is to blame."""
        try:
            row = scalar(
                self.con,
                f"SELECT min(__row) FROM {source} WHERE TRY(({compiled})) IS NULL AND __row > 0",
            )
        except duckdb.Error:
            return ""
        return f" in row {row}" if row is not None else ""

    def _refuse_nested(self, column: exp.Column, where: str) -> None:
        """Fail for ``geo.country`` where the log has a column ``geo``: it would be looked for under the last name."""
        outer = column.table
        if outer and outer in self.raw.columns:
            kind = self.raw.types[outer]
            inside = f"{outer}['{column.name}']" if kind.startswith("STRUCT") else f"{outer}->>'$.{column.name}'"
            raise ConfigError(
                f"{where}: '{outer}.{column.name}' names no column; what is inside of column '{outer}' is \"{inside}\""
            )

    def _typed(self, name: str) -> bool:
        """Whether the file itself says that a column is something else than text."""
        return self.raw.typed and name in self.raw.columns and name not in self.raw.untyped

    def _is_empty(self, name: str) -> bool:
        """Whether a column that is text, or that this input does not have, has no content at all."""
        if name not in self.raw.columns:
            return True
        if self._typed(name):
            return False
        return self._has_numbers(name) is None

    def _is_number(self, name: str) -> bool:
        """Whether a text column counts as numbers: more than half of its cells with content are."""
        return bool(self._has_numbers(name))

    def _has_numbers(self, name: str) -> bool | None:
        """Whether most cells are numbers, None where none has content."""
        if name not in self._numeric:
            column = self.raw.columns[name]
            counts = self.con.execute(
                f"SELECT count(*), count(TRY_CAST({column} AS DOUBLE)) FROM raw WHERE {filled(column)}"
            ).fetchall()[0]
            self._numeric[name] = self.part.has_numbers(name, *counts)
        return self._numeric[name]
