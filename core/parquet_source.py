"""Parquet tables as people have them: folders of parts, folders that name a value, columns that differ from part to part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from core.duck import identifier, parquet_union, quoted
from core.errors import DataError
from core.files import is_passed_over

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What writers call the folder of the rows without a value."""


@dataclass(frozen=True)
class ParquetSource:
    """A table in one or more Parquet files.

    Attributes:
        parts: its files.
        columns: their names; a name that a file repeats, upper and lower case aside, is repeated here.
        sql: what DuckDB selects from. Parts are joined by column names; a folder named ``key=value`` adds a column of text,
            and never replaces one that a file has.
    """

    parts: tuple[Path, ...]
    columns: tuple[str, ...]
    sql: str


def parquet_source(paths: Sequence[Path]) -> ParquetSource:
    """Look at the files of a table, or the parts in folders.

    Raises:
        DataError: a path or a folder's parts do not exist, or a file is not Parquet.
    """
    parts = tuple(part for path in paths for part in _parts(path))
    times = Counter(part.resolve() for part in parts)
    if repeated := next((part for part in reversed(parts) if times[part.resolve()] > 1), None):
        raise DataError(f"{repeated} is listed twice; its rows would count twice")
    columns = _columns(parts)
    known = {name.lower() for name in columns}
    groups: dict[tuple[tuple[str, str], ...], list[Path]] = defaultdict(list)
    for part in parts:
        groups[tuple((k, v) for k, v in _folder_values(part).items() if k.lower() not in known)].append(part)
    selects = []
    for values, members in groups.items():
        added = "".join(
            f", {'CAST(NULL AS VARCHAR)' if v == NO_VALUE else quoted(v)} AS {identifier(k)}" for k, v in values
        )
        selects.append(f"SELECT *{added} FROM {parquet_union(members)}")
    keys = dict.fromkeys(k for values in groups for k, _ in values)
    return ParquetSource(parts, (*columns, *keys), f"({' UNION ALL BY NAME '.join(selects)})")


def _parts(path: Path) -> list[Path]:
    """Files of a table."""
    if not path.exists():
        raise DataError(f"no such file: '{path}'")
    if not path.is_dir():
        return [path]
    parts = sorted(p for p in path.rglob("*.parquet") if p.is_file() and not is_passed_over(p, path))
    if not parts:
        raise DataError(f"folder '{path}' holds no Parquet files (*.parquet)")
    return parts


def _columns(parts: Sequence[Path]) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq  # 0.3 s that every command would take

    spellings: dict[str, tuple[str, ...]] = {}
    for part in parts:
        try:
            names = pq.read_schema(part).names
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{part} cannot be read as Parquet: {str(error).splitlines()[0].rstrip('.')}") from None
        times = Counter(name.lower() for name in names)
        for name in times:
            if times[name] > len(spellings.get(name, ())):
                spellings[name] = tuple(n for n in names if n.lower() == name)
    return tuple(name for group in spellings.values() for name in group)


def _folder_values(part: Path) -> dict[str, str]:
    pairs = (folder.partition("=") for folder in part.parent.parts)
    return {key: unquote(value) for key, equals, value in pairs if key and equals}
