"""Rows by hour, as executors of Spark hand them over."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc


def hours_of(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each hour, by the column ``hour``.

    >>> batches = [pa.record_batch({"hour": [7, 7], "n": [1, 2]}), pa.record_batch({"hour": [7, 9], "n": [3, 4]})]
    >>> [(hour, rows["n"].to_pylist()) for hour, rows in hours_of(iter(batches))]
    [(7, [1, 2, 3]), (9, [4])]

    Args:
        batches: in which the rows of an hour follow each other.
    """
    pending: list[pa.RecordBatch] = []
    hour = 0
    for batch in batches:
        for part in pc.unique(batch["hour"]).to_pylist():
            if pending and part != hour:
                yield hour, pa.Table.from_batches(pending)
                pending = []
            hour = part
            pending.append(batch.filter(pc.equal(batch["hour"], part)))
    if pending:
        yield hour, pa.Table.from_batches(pending)
