"""Log files of any supported format, as one raw table with every original cell."""

from __future__ import annotations

import difflib
import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow.parquet as pq

from core.documents import did_you_mean, one_line
from core.duck import file_list, identifier, plain_identifier, quoted, scalar
from core.errors import ConfigError, DataError
from core.files import temporary_directory
from events.csv_reader import by_header, load_csv
from events.input_part import InputPart, Layout, family
from events.loader import Loader, cleaned
from events.log_files import ALSO, SUFFIXES, check_content, check_whole, format_of
from events.mapping import Mapping
from events.text import clean_json

log = logging.getLogger("events.readers")

LINE = "read_csv({files}, columns={{'line': 'VARCHAR'}}, delim='\x01', quote='', escape='', header=false, \
auto_detect=false, max_line_size=16777216, filename='__file', hive_partitioning=false)"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The folder of rows without a value of its key."""
REQUIRED = (
    "columns.user_id",
    "columns.item_id",
    "timestamp.column",
    "local_time.zone_column",
    "local_time.offset_minutes_column",
)
"""Keys of the mapping whose columns every input has."""
MOST_LISTED = 40
"""Columns that a message lists."""
EXPRESSION = re.compile(r"[('|]")
"""What is in an expression that computes a text, and hardly in a column's name."""
NESTED = re.compile(r"^(STRUCT|MAP)|\]$")
"""Types of DuckDB whose values have parts."""
NO_NUMBER = r"(?i):\s*[+-]?(nan|inf(inity)?)\s*[,}]"
"""How a JSON line reads in which a value may be one of what is no number."""
MISSPELLED = 0.8
"""Names that are more alike than this are taken for one name and a slip of the pen."""
EXACT_DOUBLE = 2**53
"""Integers from here on are not exact as doubles."""


@dataclass(frozen=True)
class RawLog:
    """A log loaded into the table ``raw``; lines that are not rows at all stand in ``malformed``.

    Columns of ``raw`` are called ``c0``, ``c1``, …, so that no name of a user's meets one of ours.

    Attributes:
        columns: names as the files have them, to the column of ``raw``.
        types: DuckDB type of each column by name; text formats have VARCHAR only.
        typed: the file itself says the types of its columns (Parquet).
        files: the files, in order.
        repeated: names that a header has more than once.
        untyped: columns that are text although the format has types: names of folders, and mixed kinds.
        blank: the input has no row and no header at all; every column counts as present.
        partial: an input may lack columns, as impressions and actions have other ones; they are empty there.
        mentioned: names that the mapping's expressions hold.
        hint: what may be the matter where a column is missing.
    """

    columns: dict[str, str]
    types: dict[str, str]
    typed: bool
    files: tuple[Path, ...]
    repeated: frozenset[str] = frozenset()
    blank: bool = False
    untyped: frozenset[str] = frozenset()
    partial: bool = False
    mentioned: frozenset[str] = frozenset()
    hint: str = ""

    def cell(self, name: str, where: str) -> str:
        """SQL of a column's cell in a row ``r``.

        Raises:
            ConfigError: the log has no such column, or several; the message begins with ``where``.
        """
        if self.blank:
            return "CAST(NULL AS VARCHAR)"
        if self.partial and name not in self.columns and where not in REQUIRED:
            if misspelled := self._similar(name):
                raise ConfigError(f"{where}: the log has no column '{name}'; did you mean '{one_line(misspelled)}'?")
            return "CAST(NULL AS VARCHAR)"
        if name in self.repeated:
            raise ConfigError(f"{where}: the log has several columns named '{name}'; give each its own name")
        if name not in self.columns:
            listed = ", ".join(one_line(column, 60) for column in [*self.columns][:MOST_LISTED])
            listed += f" and {len(self.columns) - MOST_LISTED} more" if len(self.columns) > MOST_LISTED else ""
            listed = f"(columns: {listed}){self.hint}"
            near = did_you_mean(name, map(one_line, self.columns))
            raise ConfigError(f"{where}: the log has no column '{one_line(name)}'{near} {listed}")
        return f"r.{self.columns[name]}"

    def named_cell(self, name: str, where: str) -> str:
        """As ``cell``, for a key that names a column; an expression is refused, as an input may lack columns."""
        if name not in self.columns and EXPRESSION.search(name):
            raise ConfigError(
                f"{where}: '{name}' is not a column of the log; it names one, and no expression: write it into a column first"
            )
        return self.cell(name, where)

    def operand(self, source: str) -> str:
        """A column or an expression as a part of a longer expression that people write."""
        return plain_identifier(source) if source.isidentifier() or source in self.columns else f"({source})"

    def part_of(self, source: str, example: str) -> str:
        """A column or an expression, and how a mapping names a part of the object or list that it holds."""
        whole = self.operand(source)
        is_list = example.startswith("[")
        if NESTED.search(self.types.get(source, "")):
            return f"{whole}[1]" if is_list else f"{whole}['name']"
        return f"{whole}->>'$[0]'" if is_list else f"{whole}->>'$.name'"

    def _similar(self, name: str) -> str | None:
        """A column that the mapping names nowhere and that is called almost like one that no file has."""
        spare = {column.casefold(): column for column in self.columns if column not in self.mentioned}
        matches = difflib.get_close_matches(name.casefold(), spare, n=1, cutoff=MISSPELLED)
        return spare[matches[0]] if matches else None


def load_raw(
    con: duckdb.DuckDBPyConnection, mapping: Mapping, files: list[Path], part: InputPart | None = None
) -> RawLog:
    """Load files into the tables ``raw`` and ``malformed(content, reason)`` of ``con``.

    Cells of text formats stay text; a row that cannot be split into its columns goes to
    ``malformed``. Every raw row carries ``__row``, its number over the whole input.

    Args:
        con: where the tables go.
        mapping: how the files are written.
        files: the files, in order.
        part: which part of the input they are; by default all of it.

    Raises:
        DataError: a file is empty or cut short, or formats are mixed; nothing was written.
    """
    part = part or InputPart()
    kind = one_format(mapping, files)
    for file in files if part.span is None else []:
        check_whole(file, kind)
    con.execute("CREATE TABLE malformed (content VARCHAR, reason VARCHAR)")
    with temporary_directory("clock-log-") as scratch:
        loader = Loader(con, scratch, part)
        if kind == "parquet":
            _load_parquet(loader, files)
        elif kind == "jsonl":
            _load_jsonl(loader, files)
        else:
            load_csv(loader, mapping.csv, files)
        keys = _folder_keys(loader, {str(file): file for file in files} if kind == "parquet" else dict(loader.sources))
        folder_keys = tuple(name for name, column in loader.columns.items() if column in keys)
        source = " UNION ALL BY NAME ".join(loader.parts) or "SELECT NULL AS __file WHERE false"
        cells = "".join(f", {cell} AS {column}" for column, cell in keys.items())
        con.execute(
            f"""CREATE TABLE raw AS SELECT * EXCLUDE (__file){cells}, row_number() OVER () + {part.first_row} AS __row
            FROM ({source})"""
        )
    described = {row[0]: row[1] for row in con.execute("DESCRIBE raw").fetchall()}
    types = {name: described[column] for name, column in loader.columns.items() if column in described}
    names = tuple(name for name in types if name not in folder_keys)
    share = Layout(names, folder_keys, types, frozenset(loader.untyped), frozenset(loader.repeated), kind == "jsonl")
    layout = part.layout(share)
    if kind == "jsonl" and not layout.names and scalar(con, "SELECT count(*) FROM malformed"):
        raise DataError("no line of the log is a JSON object; is it really JSON lines (one object a line)?")
    columns = loader.columns if layout == share else _fit(con, share, loader.columns, layout)
    if not layout.names:
        return RawLog({}, {}, False, tuple(files), blank=True)
    return RawLog(
        columns, {name: layout.types[name] for name in columns}, kind == "parquet",
        tuple(files), layout.repeated, untyped=layout.untyped, hint=loader.hint,
    )  # fmt: skip


def _fit(con: duckdb.DuckDBPyConnection, share: Layout, columns: dict[str, str], layout: Layout) -> dict[str, str]:
    """Give ``raw`` the columns of the whole input; gives the columns of its names."""
    keys = {key.lower(): columns[key] for key in share.keys}
    cells = {}
    for name in (*layout.names, *layout.keys):
        kind = layout.types[name]
        if name in layout.keys:
            cell = keys.get(name.lower(), "NULL")
        elif name not in share.names:
            cell = "NULL"
        elif kind == "VARCHAR" != share.types[name]:
            cell = exact_text(columns[name], share.types[name])
        else:
            cell = columns[name]
        cells[name] = f"CAST({cell} AS {kind})"
    fitted = {name: f"c{number}" for number, name in enumerate(cells)}
    selected = "".join(f"{cell} AS {fitted[name]}, " for name, cell in cells.items())
    con.execute("ALTER TABLE raw RENAME TO read")
    con.execute(f"CREATE TABLE raw AS SELECT {selected}__row FROM read")
    con.execute("DROP TABLE read")
    return fitted


def one_format(mapping: Mapping, files: list[Path]) -> str:
    """The format of all files.

    Raises:
        DataError: they have several, or a name tells none.
    """
    if mapping.format != "auto":
        return mapping.format
    formats = {format_of(file): file for file in files}
    if (strange := formats.get(None)) is not None:
        check_content(strange, None)
        raise DataError(
            f"cannot tell the format of {strange} by its name (known are {', '.join(sorted(SUFFIXES))}, {ALSO}); set 'format' in "
            "the mapping if it is one of these, or convert it"
        )
    if len(formats) > 1:
        raise DataError(
            f"the files are of several formats ({', '.join(map(str, formats))}); ingest one format at a time"
        )
    return str(next(iter(formats)))


def _folder_keys(loader: Loader, originals: dict[str, Path]) -> dict[str, str]:
    """Columns that folders named ``key=value`` add, as SQL of the file's name; a file's own column is never replaced.

    Args:
        loader: has read the files.
        originals: what was read → the file.
    """
    known = {name.lower() for name in loader.columns}
    spelling: dict[str, str] = {}  # genre= beside Genre= is one column, called as where it comes first
    values: dict[str, dict[str, str]] = defaultdict(dict)
    for source, file in originals.items():
        for part in file.parent.parts:
            key, equals, value = part.partition("=")
            key = unquote(key)  # as Spark and Arrow write signs that a path may not have
            if equals and key and key.lower() not in known and value != NO_VALUE:
                values[spelling.setdefault(key.lower(), key)][source] = unquote(value)
    cells = {}
    for key, by_file in values.items():
        cases = " ".join(f"WHEN {quoted(source)} THEN {quoted(value)}" for source, value in by_file.items())
        loader.untyped.add(key)
        cells[loader.column(key)] = f"CASE __file {cases} END"
    return cells


def _load_parquet(loader: Loader, files: list[Path]) -> None:
    """Files by their schema, so that a column that is whole numbers here and doubles there is not rounded."""
    groups = _by_schema(loader.con, files)
    kinds: dict[str, set[str]] = defaultdict(set)
    for schema, members in groups.items():
        written = pq.read_schema(members[0]).names
        loader.repeated |= {name for name in written if written.count(name) > 1}
        for name, kind in schema:
            kinds[name].add(family(kind))
    for schema, members in groups.items():
        cells = []
        for name, kind in schema:
            cell = identifier(name)
            if len(kinds[name]) > 1:
                cell = exact_text(cell, kind)
                loader.untyped.add(name)
            cells.append(f"{cell} AS {loader.column(name)}")
        loader.parts.append(
            f"SELECT {', '.join(cells)}, __file FROM read_parquet({file_list(members)}, "
            "hive_partitioning=false, filename='__file')"
        )


def _by_schema(con: duckdb.DuckDBPyConnection, files: list[Path]) -> dict[tuple[tuple[str, str], ...], list[Path]]:
    """Parquet files by the names and DuckDB types of their columns, without those that have none."""
    groups: dict[tuple[tuple[str, str], ...], list[Path]] = defaultdict(list)
    for file in files:
        if not pq.read_schema(file).names:  # what pandas writes of nothing
            continue
        described = con.execute(
            f"DESCRIBE SELECT * FROM read_parquet({file_list([file])}, hive_partitioning=false)"
        ).fetchall()
        groups[tuple((row[0], row[1]) for row in described)].append(file)
    if len(groups) > 1:
        names = [{name for name, _ in schema} for schema in groups]
        if any(other != names[0] for other in names):
            log.warning("the files have different columns; they are joined by name, and empty where a file has none")
    return groups


def in_order_of_rows(con: duckdb.DuckDBPyConnection, mapping: Mapping, kind: str, files: list[Path]) -> list[Path]:
    """Files in the order in which ``load_raw`` numbers their rows.

    Args:
        con: any connection.
        mapping: how they are written.
        kind: their format.
        files: the log.
    """
    if kind == "jsonl":
        return files
    groups = _by_schema(con, files).values() if kind == "parquet" else by_header(mapping.csv, files).values()
    return list(dict.fromkeys([*(file for group in groups for file in group), *files]))


def exact_text(cell: str, kind: str) -> str:
    """SQL of a typed cell's text, the same for 1, 1.0 and 1.00; numbers that a double cannot hold exactly keep their point.

    >>> exact_text("r.c0", "BIGINT")
    'CAST(r.c0 AS VARCHAR)'
    """
    text = f"CAST({cell} AS VARCHAR)"
    if kind.startswith("DECIMAL"):
        return f"regexp_replace({text}, '(\\.[0-9]*[1-9])0+$|\\.0+$', '\\1')"
    if kind not in {"FLOAT", "DOUBLE"}:
        return text
    whole = f"{cell} = trunc({cell}) AND abs({cell}) < {EXACT_DOUBLE}"
    return (
        f"CASE WHEN NOT isfinite({cell}) THEN NULL WHEN {whole} THEN CAST(TRY_CAST({cell} AS BIGINT) AS VARCHAR) "
        f"ELSE {text} END"
    )


def _load_jsonl(loader: Loader, files: list[Path]) -> None:
    con = loader.con
    texts = cleaned(loader, files, clean_json)
    con.execute("CREATE TABLE lines (line VARCHAR, __file VARCHAR)")
    if texts:
        con.execute(
            f"INSERT INTO lines SELECT line, __file FROM {LINE.format(files=file_list(texts))} WHERE trim(line) <> ''"
        )
    is_object = "CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE false END"
    con.execute(f"INSERT INTO malformed SELECT line, 'malformed_json' FROM lines WHERE NOT ({is_object})")
    con.execute(f"DELETE FROM lines WHERE NOT ({is_object})")
    con.execute("CREATE TABLE objects AS SELECT DISTINCT json_keys(line) AS keys FROM lines")
    keys = [row[0] for row in con.execute("SELECT DISTINCT unnest(keys) AS k FROM objects ORDER BY k").fetchall()]
    if scalar(con, "SELECT count(*) FROM objects WHERE len(keys) > list_unique(keys)"):
        repeated = "len(json_keys(line)) > list_unique(json_keys(line))"
        con.execute(f"INSERT INTO malformed SELECT line, 'repeated_key' FROM lines WHERE {repeated}")
        con.execute(f"DELETE FROM lines WHERE {repeated}")
    con.execute("DROP TABLE objects")
    if not keys:
        return
    no_numbers = scalar(con, f"SELECT count(*) FROM lines WHERE regexp_matches(line, {quoted(NO_NUMBER)})") > 0
    cells = ", ".join(f"{_json_cell(key, no_numbers)} AS {loader.column(key)}" for key in keys)
    loader.hint = _inner_rows(con, keys)
    loader.parts.append(f"SELECT {cells}, __file FROM lines")


def _json_cell(key: str, no_numbers: bool) -> str:
    """SQL of a key's value as text; null for what Python writes for no number (``NaN``), if there may be any."""
    path = _pointer(key)
    text = f"json_extract_string(line, {path})"
    if not no_numbers:
        return text
    return f"CASE WHEN json_type(line, {path}) <> 'DOUBLE' OR isfinite(TRY_CAST({text} AS DOUBLE)) THEN {text} END"


def _pointer(key: str) -> str:
    """SQL of a key of an object as a JSON pointer (RFC 6901)."""
    return quoted("/" + key.replace("~", "~0").replace("/", "~1"))


def _inner_rows(con: duckdb.DuckDBPyConnection, keys: list[str]) -> str:
    """A hint if the only object of a log has its rows in a list."""
    if scalar(con, "SELECT count(*) FROM lines") != 1:
        return ""
    lists = (key for key in keys if scalar(con, f"SELECT json_type(line, {_pointer(key)}) FROM lines") == "ARRAY")
    key = next(lists, None)
    return (
        f"; are its rows the list under '{one_line(key, 60)}'? Take them out, for example with jq '.[\"{key}\"][]'"
        if key
        else ""
    )


def raw_rows(con: duckdb.DuckDBPyConnection) -> int:
    """Rows of the input: those that could be split into columns and those that could not."""
    return int(scalar(con, "SELECT (SELECT count(*) FROM raw) + (SELECT count(*) FROM malformed)"))
