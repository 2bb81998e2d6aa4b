"""The files of an hour's samples: all of them, or what one of several processes trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.files import digest_file, digest_text, exclusive_lock, recover_directories
from events.schema import OWNERS, Owner
from training.batch import SampleTables

FILES = ("samples", "slots", "profiles", "history")
"""Names of the files of an hour, in the order of the fields of ``SampleTables``."""
ROW_GROUP = 1 << 14
"""Rows of a row group: several processes that train together read different ones."""


@contextmanager
def writing_samples(root: Path) -> Iterator[None]:
    """For one writer of samples at a time, the others wait; what a crash left of a write is undone first.

    Args:
        root: folder of the hours' folders.
    """
    with exclusive_lock(root.parent / f".{root.name}.lock"):
        recover_directories(root)
        yield


def read_tables(folder: Path) -> SampleTables:
    """All samples in an hour's folder with their features."""
    extra = {
        f"{owner}_attributes": pq.ParquetFile(file).read()
        for owner, file in attribute_files(folder).items()
        if file.exists()
    }
    return SampleTables(*(pq.ParquetFile(folder / f"{name}.parquet").read() for name in FILES), **extra)


def count_rows(folder: Path) -> int:
    """How many samples an hour's folder has."""
    return int(pq.read_metadata(folder / f"{FILES[0]}.parquet").num_rows)


def read_part_of_tables(folder: Path, rows: np.ndarray) -> SampleTables:
    """Some samples in an hour's folder, with the features of their users and items only.

    Args:
        folder: of the hour.
        rows: positions of the samples, ascending; only the row groups that they lie in are read.
    """
    samples = read_rows(pq.ParquetFile(folder / f"{FILES[0]}.parquet"), rows)
    ids = {owner: pc.unique(samples[f"{owner}_id"]) for owner in OWNERS}
    features = [read_matching(folder / f"{name}.parquet", "user_id", ids["user"]) for name in FILES[1:]]
    extra = {
        f"{owner}_attributes": read_matching(file, f"{owner}_id", ids[owner])
        for owner, file in attribute_files(folder).items()
        if file.exists()
    }
    return SampleTables(samples, *features, **extra)


def read_rows(file: pq.ParquetFile, rows: np.ndarray) -> pa.Table:
    """Rows of a file by their ascending positions, from the row groups that they lie in."""
    ends = np.cumsum([file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)])
    inside = np.searchsorted(ends, rows, side="right")
    groups = np.unique(inside)
    if not len(rows):
        return file.schema_arrow.empty_table()
    read = [file.read_row_group(int(n)).take(rows[inside == n] - (ends[n - 1] if n else 0)) for n in groups]
    return pa.concat_tables(read).combine_chunks()


def read_matching(path: Path, key: str, ids: pa.Array) -> pa.Table:
    """The rows of a file that are of some ids, read one row group after the other."""
    file = pq.ParquetFile(path)
    groups = (file.read_row_group(n) for n in range(file.num_row_groups))
    parts = [group.filter(pc.is_in(group[key], ids)) for group in groups]
    return pa.concat_tables([file.schema_arrow.empty_table(), *parts]).combine_chunks()


def attribute_files(folder: Path) -> dict[Owner, Path]:
    """Files of an hour that are there where tables beside the log tell of its users or items."""
    return {owner: folder / f"{owner}_attributes.parquet" for owner in OWNERS}


def samples_digest(folder: Path, known: Mapping[Path, str] | None = None) -> str:
    """Digest that identifies the samples in an hour's folder: of all of its tables.

    Args:
        folder: of the hour.
        known: digests of some of its files.
    """
    files = [folder / f"{name}.parquet" for name in FILES]
    present = [*files, *(file for file in attribute_files(folder).values() if file.exists())]
    return digest_text(*((known or {}).get(file) or digest_file(file) for file in present))
