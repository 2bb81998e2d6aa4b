"""Log files of any supported format, as one raw table with every original cell."""

from __future__ import annotations

import glob
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import identifier, quoted, scalar
from core.errors import DataError
from events.mapping import CsvOptions, Mapping

SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
LINE = "read_csv({files}, columns={{'line': 'VARCHAR'}}, delim='\x01', quote='', escape='', header=false, \
auto_detect=false, max_line_size=16777216)"


@dataclass(frozen=True)
class RawLog:
    """A log loaded into the table ``raw``; lines that are no rows at all stand in ``malformed``.

    ``typed`` is true where the file itself says the types of its columns (Parquet).
    """

    columns: tuple[str, ...]
    typed: bool
    files: tuple[Path, ...]


def find_files(paths: list[str]) -> list[Path]:
    """Files under the given files, folders and globs, in order; ``DataError`` for what is not there."""
    found: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.is_file() and _format(p) and not p.name.startswith((".", "_"))]
            if not inside:
                raise DataError(f"folder '{text}' holds no log files ({', '.join(sorted(SUFFIXES))}, also .gz)")
            found += inside
        elif path.is_file():
            found.append(path)
        elif matches := [Path(p) for p in glob.glob(text, recursive=True) if Path(p).is_file()]:
            found += matches
        else:
            raise DataError(f"no such file: '{text}'; check the path (a file, a folder or a quoted glob)")
    files = sorted({p.resolve(): p for p in found}.values(), key=str)
    if not files:
        raise DataError("no log given: name its files on the command line or under 'paths' in the mapping")
    return files


def load_raw(con: duckdb.DuckDBPyConnection, mapping: Mapping, files: list[Path]) -> RawLog:
    """Load files into the tables ``raw`` and ``malformed(content, reason)`` of ``con``.

    Cells of text formats stay text; a row that cannot be split into its columns goes to
    ``malformed``. Every raw row carries ``__row``, its number over the whole input.

    Raises:
        DataError: a file is empty or cut short, or formats are mixed; nothing was written.
    """
    formats = {mapping.format if mapping.format != "auto" else _format(file) for file in files}
    if len(formats) != 1 or None in formats:
        raise DataError(f"cannot tell one format for {len(files)} file(s); set 'format' in the mapping")
    kind = formats.pop()
    for file in files:
        _check_whole(file, kind)
    con.execute("CREATE TABLE malformed (content VARCHAR, reason VARCHAR)")
    names = "[" + ", ".join(quoted(str(file)) for file in files) + "]"
    if kind == "parquet":
        con.execute(
            f"CREATE TABLE raw AS SELECT *, row_number() OVER () AS __row FROM read_parquet({names}, union_by_name=true)"
        )
    elif kind == "jsonl":
        _load_jsonl(con, names)
    else:
        _load_csv(con, mapping.csv, files, names)
    columns = [row[0] for row in con.execute("DESCRIBE raw").fetchall() if row[0] != "__row"]
    return RawLog(tuple(columns), kind == "parquet", tuple(files))


def _load_jsonl(con: duckdb.DuckDBPyConnection, names: str) -> None:
    con.execute(f"CREATE TABLE lines AS SELECT line FROM {LINE.format(files=names)} WHERE trim(line) <> ''")
    is_object = "CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE false END"
    con.execute(f"INSERT INTO malformed SELECT line, 'malformed_json' FROM lines WHERE NOT ({is_object})")
    con.execute(f"DELETE FROM lines WHERE NOT ({is_object})")
    keys = [r[0] for r in con.execute("SELECT DISTINCT unnest(json_keys(line)) AS k FROM lines ORDER BY k").fetchall()]
    if not keys:
        raise DataError("no line of the log is a JSON object; is it really JSON lines (one object a line)?")
    cells = ", ".join(
        f"""json_extract_string(line, {quoted('$."' + key + '"')}) AS {identifier(key)}""" for key in keys
    )
    con.execute(f"CREATE TABLE raw AS SELECT {cells}, row_number() OVER () AS __row FROM lines")
    con.execute("DROP TABLE lines")


def _load_csv(con: duckdb.DuckDBPyConnection, options: CsvOptions, files: list[Path], names: str) -> None:
    header = _csv_header(con, options, files)
    types = "{" + ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in header) + "}"
    con.execute(
        f"""CREATE TABLE raw AS SELECT *, row_number() OVER () AS __row FROM read_csv({names},
        columns={types}, auto_detect=false, header={str(options.header).lower()},
        delim={quoted(options.delimiter)}, quote={quoted(options.quote)}, escape={quoted(options.quote)},
        encoding={quoted(options.encoding)}, store_rejects=true, max_line_size=16777216)"""
    )
    con.execute(
        "INSERT INTO malformed SELECT any_value(csv_line), 'malformed_row' FROM reject_errors GROUP BY file_id, scan_id, line"
    )
    con.execute("DROP TABLE reject_errors")  # shared by every scan of the connection
    con.execute("DROP TABLE reject_scans")


def _csv_header(con: duckdb.DuckDBPyConnection, options: CsvOptions, files: list[Path]) -> list[str]:
    if not options.header:
        if not options.columns:
            raise DataError("csv.header is false: name the columns, in order, under csv.columns in the mapping")
        return list(options.columns)
    headers = set()
    for file in files:
        row = con.execute(
            f"""SELECT * FROM read_csv({quoted(str(file))}, all_varchar=true, header=false, auto_detect=false,
            columns={{'line': 'VARCHAR'}}, delim='\x01', quote='', escape='', encoding={quoted(options.encoding)}) LIMIT 1"""
        ).fetchall()
        cells = row[0][0].rstrip("\r").removeprefix("\ufeff").split(options.delimiter)
        headers.add(tuple(cell.strip().strip(options.quote) for cell in cells))
    if len(headers) > 1:
        raise DataError(f"the {len(files)} CSV files do not share one header; ingest each kind with its own mapping")
    return list(headers.pop())


def _format(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in {".gz", ".gzip"}:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def _check_whole(file: Path, kind: str | None) -> None:
    """Fail for a file that is empty or was cut short, before anything is read from it."""
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty (0 bytes); nothing was ingested. Remove it, or fetch it again")
    try:
        if kind == "parquet":
            pq.ParquetFile(file)
        elif file.suffix.lower() in {".gz", ".gzip"}:
            with gzip.open(file) as stream:
                while stream.read(1 << 20):
                    pass
    except (pa.ArrowInvalid, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{file} is damaged or was cut short ({str(error).splitlines()[0]}); nothing was ingested. "
            "Fetch the file again and repeat the command: rows already ingested are recognized"
        ) from None


def raw_rows(con: duckdb.DuckDBPyConnection) -> int:
    """Rows of the input: those that could be split into columns and those that could not."""
    return int(scalar(con, "SELECT (SELECT count(*) FROM raw) + (SELECT count(*) FROM malformed)"))
