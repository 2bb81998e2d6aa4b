"""Features as serving saw them, kept so that training can use the very same.

Layout below the workspace's ``serving/log``::

    hour=2026-11-23T10/<kind>-<writer>-<number>.parquet

``kind`` is ``slots``, ``profiles`` or ``history`` (features that held from that hour's start), ``readers`` (the users whose
features were read, once per writer), or one of serving's own (``requests``, ``shadow``).
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.files import write_parquet
from core.hours import Hour
from core.settings import Settings
from feature_repo.retrieval import Features

KINDS = tuple(f.name for f in fields(Features))


def served_folder(settings: Settings, hour: Hour) -> Path:
    """Folder of an hour's log."""
    return settings.workspace / "serving" / "log" / f"hour={hour.key}"


def served_hours(settings: Settings) -> list[Path]:
    """Folders of the hours that have a log."""
    return sorted((settings.workspace / "serving" / "log").glob("hour=*"))


def write_part(settings: Settings, hour: Hour, kind: str, rows: pa.Table, part: str) -> None:
    """Add rows to an hour's log, as a separate file, by rename.

    Args:
        settings: of the workspace.
        hour: whose log it is.
        kind: of the rows; see the module.
        rows: to add.
        part: a name that no other writer gives.
    """
    write_parquet(served_folder(settings, hour) / f"{kind}-{part}.parquet", rows)


def read_parts(settings: Settings, hour: Hour, kind: str) -> pa.Table:
    """All rows of a kind of an hour's log; a table without columns where there are none."""
    parts = [pq.ParquetFile(p).read() for p in sorted(served_folder(settings, hour).glob(f"{kind}-*.parquet"))]
    return pa.concat_tables(parts, promote_options="default") if parts else pa.table({})


def served_features(settings: Settings, hour: Hour) -> tuple[Features, list[int]]:
    """Features that serving used as of an hour.

    Returns:
        The features, and the users that they were read for; one without any has no rows.
    """
    asked = read_parts(settings, hour, "readers")
    users = sorted(set(asked["user_id"].to_pylist())) if asked.num_rows else []
    tables = {}
    for kind in KINDS:
        rows = read_parts(settings, hour, kind)
        keys = [n for n in ("user_id", "hour", "slot") if n in rows.column_names]
        if rows.num_rows:  # several processes may have read the same
            rows = rows.take(_first_of_each(rows, keys))
        tables[kind] = rows
    return Features(**tables), users


def prefer_served(settings: Settings, joined: Features, hours: list[Hour]) -> Features:
    """Features as training reads them: those that serving saw, where it read them.

    Args:
        settings: of the workspace.
        joined: features by the point-in-time join.
        hours: that they are of.

    Returns:
        ``joined``, with the rows of users whose features serving read in an hour replaced by what it saw.
    """
    tables = {kind: getattr(joined, kind) for kind in KINDS}
    for hour in hours:
        served, users = served_features(settings, hour)
        if not users:
            continue
        for kind in KINDS:
            rows, seen = tables[kind], getattr(served, kind)
            if rows.num_rows:
                replaced = pc.and_(pc.equal(rows["hour"], hour.number), pc.is_in(rows["user_id"], pa.array(users)))
                rows = rows.filter(pc.invert(replaced))
            if seen.num_rows:
                rows = (
                    pa.concat_tables([rows, seen.select(rows.column_names).cast(rows.schema)])
                    if rows.num_columns
                    else seen
                )
                keys = [(n, "ascending") for n in ("user_id", "hour", "slot") if n in rows.column_names]
                rows = rows.sort_by(keys)
            tables[kind] = rows
    return Features(**tables)


def _first_of_each(rows: pa.Table, keys: list[str]) -> pa.Array:
    """Positions of the first row of each key, in the order of the keys."""
    numbered = rows.select(keys).append_column("at", pa.array(range(rows.num_rows)))
    firsts = numbered.group_by(keys).aggregate([("at", "min")])
    return firsts.sort_by([(k, "ascending") for k in keys])["at_min"].combine_chunks()
