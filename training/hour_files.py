"""What executors do for an hour's samples in their Python processes: tasks that write its files, which need no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from core.files import write_parquet
from core.hour_batches import hours_of
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from training.negatives import sampled_events


def hour_file(folder: Path, hour: int, name: str) -> Path:
    """Where a task writes a table of an hour, by the hour's number, which Spark reads from the folder's name."""
    return folder / name / f"hour={hour}" / f"{name}.parquet"


def write_sampled_events(settings: Settings, row_group: int, files: Sequence[tuple[Hour, Path]]) -> None:
    """Write the samples of hours without their features.

    Args:
        settings: of the workspace.
        row_group: rows of a row group.
        files: hours, ascending, each with its file.
    """
    paths, events = dict(files), EventStore(settings.events_dir)
    for hour, rows in sampled_events(settings, events, [*paths], events.source.negatives, settings.window_hours):
        write_parquet(paths[hour], rows, row_group=row_group)


@dataclass(frozen=True)
class FeatureWriter:
    """A task that writes features of hours, each hour to a file: the bytes that one process writes.

    Attributes:
        folder: of all files.
        name: of the table.
        schema: of the files.
        row_group: rows of a row group.
    """

    folder: Path
    name: str
    schema: pa.Schema
    row_group: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write a partition, in which the rows of an hour follow each other; gives one batch that tells how many rows."""
        written = 0
        for hour, table in hours_of(batches):
            rows = table.select(self.schema.names).cast(self.schema).combine_chunks()
            write_parquet(hour_file(self.folder, hour, self.name), rows, row_group=self.row_group)
            written += rows.num_rows
        yield pa.RecordBatch.from_pydict({"written": pa.array([written], pa.int64())})
