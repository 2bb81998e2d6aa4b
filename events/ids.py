"""String ids become integers once, and keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.documents import did_you_mean
from core.duck import file_list
from core.errors import DataError
from core.files import FROM_BACKUP, read_json, write_parquet
from core.id_text import parse_int64, strip_blanks, without_point

NO_IDS = "(SELECT CAST(NULL AS VARCHAR) AS key, CAST(NULL AS BIGINT) AS id WHERE false)"
SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("id", pa.int64(), nullable=False)])


MOST_DELTAS = 256
"""So many files are appended to a base before they are merged with it; fewer where they hold a fourth of its ids."""


MOST_HINTS = 10_000
"""Ids among which one is looked for that is similar to a mistyped one."""


def id_path(root: Path, kind: str) -> Path:
    """The base of the ids of a kind (``user`` or ``item``) in an event store.

    Beside it lie deltas, ``user.<first id>.parquet``. A file is never changed, but a base that takes its deltas in.
    """
    return root / "_ids" / f"{kind}.parquet"


def id_kinds(root: Path) -> dict[str, str]:
    """Kinds of ids (int, string) that a source's first events fixed, by user and item."""
    path = root / "_ids" / "kinds.json"
    return dict(read_json(path, FROM_BACKUP)) if path.exists() else {}


def id_files(path: Path) -> list[Path]:
    """The files that hold the ids, in the order of the ids: the base and the deltas that it does not hold yet."""
    covered = pq.read_metadata(path).num_rows if path.exists() else 0
    base = [path] if path.exists() else []
    return [*base, *(delta for delta in _deltas(path) if _first_id(delta) > covered)]


def read_ids(files: Sequence[Path]) -> pa.Table:
    """The keys and ids of files."""
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files]) if files else SCHEMA.empty_table()


class NewIds(NamedTuple):
    """A file of ids that was written, and where it belongs.

    Attributes:
        file: the file.
        place: where it belongs.
        merged: files that it takes in.
    """

    file: Path
    place: Path
    merged: tuple[Path, ...]

    def put(self) -> None:
        """Put the file where it belongs."""
        self.file.replace(self.place)
        for merged in self.merged:
            merged.unlink(missing_ok=True)


def extend_ids(con: duckdb.DuckDBPyConnection, path: Path, query: str) -> str:
    """Give every new key an id, in the order of ``query``, and append it to the mapping.

    Args:
        con: connection in which ``query`` runs.
        path: base of the mapping, see ``id_path``; ids count from 1 in order of first appearance.
        query: SELECT of (key, first_seen), one row a key; ids follow first_seen, then key.

    Returns:
        A table expression of (key, id) that covers every key of the query.
    """
    drop_merged_ids(path)
    if new := new_ids(con, path, query, path.parent):
        new.put()
    files = id_files(path)
    return f"read_parquet({file_list(files)})" if files else NO_IDS


def drop_merged_ids(path: Path) -> None:
    """Remove files that a base took in, and that a crash left.

    Args:
        path: base of a mapping.
    """
    for merged in set(_deltas(path)) - set(id_files(path)):
        merged.unlink()


def new_ids(con: duckdb.DuckDBPyConnection, path: Path, query: str, folder: Path) -> NewIds | None:
    """Write the ids of new keys to a folder, None where no key is new.

    Args:
        con: as of ``extend_ids``, like the next two.
        path: base of the mapping.
        query: of (key, first_seen).
        folder: where the file goes until it is ``put``.
    """
    files = id_files(path)
    known = f"read_parquet({file_list(files)})" if files else NO_IDS
    keys = con.sql(f"SELECT key FROM ({query}) ANTI JOIN {known} USING (key) ORDER BY first_seen, key").to_arrow_table()
    if not keys.num_rows:
        return None
    rows = [pq.read_metadata(file).num_rows for file in files]
    first = sum(rows) + 1
    new = pa.table([keys["key"].cast(pa.string()), pa.array(range(first, first + keys.num_rows))], schema=SCHEMA)
    if not files or len(files) > MOST_DELTAS or 4 * (sum(rows[1:]) + len(new)) >= rows[0]:
        place, table, merged = path, pa.concat_tables([read_ids(files), new]), tuple(files[1:])
    else:
        place, table, merged = path.with_name(f"{path.stem}.{first:012d}.parquet"), new, ()
    write_parquet(folder / place.name, table)
    return NewIds(folder / place.name, place, merged)


def ingested_id(root: Path, kind: str, key: str) -> str:
    """An id that a person gives as it stands in the log, as ingestion reads it: 3 for 3.0, unless the log's ids are texts.

    Args:
        root: of the event store; before its first events every id counts as one of a log with whole numbers.
        kind: ``user`` or ``item``.
        key: the id.
    """
    bare = strip_blanks(key)
    return bare if id_kinds(root).get(kind) == "string" else without_point(bare)


def log_ids(root: Path, kind: str, ids: Sequence[int]) -> dict[int, str]:
    """The ids that a source's log has for the platform's integers; integer ids are their own.

    Args:
        root: of the event store.
        kind: ``user`` or ``item``.
        ids: the platform's.

    Returns:
        Platform's id → the log's; an id without an entry is a whole number in the log too, and becomes its text.
    """
    known = read_ids(id_files(id_path(root, kind)))
    known = known.filter(pc.is_in(known["id"], pa.array(ids, pa.int64())))
    return {number: str(number) for number in ids} | dict(
        zip(known["id"].to_pylist(), known["key"].to_pylist(), strict=True)
    )


def platform_ids(root: Path, kind: str, keys: Sequence[str]) -> list[int]:
    """The platform's integers for ids as they stand in the log; the inverse of ``log_ids``.

    Args:
        root: of the event store.
        kind: ``user`` or ``item``.
        keys: the log's ids.

    Raises:
        DataError: the log has no such id; the message says what its ids look like.
    """
    keys = [ingested_id(root, kind, key) for key in keys]
    if id_kinds(root).get(kind) == "int":
        return [_whole_number(root, kind, key) for key in keys]
    table = read_ids(id_files(id_path(root, kind)))
    known = table.filter(pc.is_in(table["key"], pa.array(keys, pa.string())))
    numbers = dict(zip(known["key"].to_pylist(), known["id"].to_pylist(), strict=True))
    if unknown := [key for key in keys if key not in numbers]:
        names = table["key"].slice(0, MOST_HINTS).to_pylist()
        hint = did_you_mean(unknown[0], names) or (f", for example '{names[0]}'" if names else "")
        raise DataError(f"no {kind} '{unknown[0]}' in the log; give a {kind}'s id as it stands in the log{hint}")
    return [numbers[key] for key in keys]


def _whole_number(root: Path, kind: str, key: str) -> int:
    """The integer that an id of a log with whole numbers is; ``DataError`` where it is none."""
    if (number := parse_int64(key)) is not None:
        return number
    example = _first_number(root, kind)
    raise DataError(
        f"'{key}' is not {'an' if kind == 'item' else 'a'} {kind} id: in this log they are whole numbers"
        + (f", for example {example}" if example is not None else "")
    )


def _first_number(root: Path, kind: str) -> int | None:
    """An id of the first hour that has events."""
    for file in sorted(root.glob("hour=*/events.parquet")):
        if ids := pq.ParquetFile(file).read([f"{kind}_id"])[0].slice(0, 1).to_pylist():
            return int(ids[0])
    return None


def _deltas(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.[0-9]*.parquet"))


def _first_id(delta: Path) -> int:
    return int(delta.name.split(".")[1])
