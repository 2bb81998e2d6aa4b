"""Which samples of an hour a process reads, and in which step it trains on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.sample_files import ROW_GROUP

LONG_HOUR = 4
"""Windows of row groups from which an hour is dealt by row groups."""


@dataclass(frozen=True)
class Deal:
    """An hour's samples in windows of consecutive ones, of which each process takes a consecutive share.

    In most hours a window is a batch, so that the steps have the samples that one process's steps have. A long hour's windows
    are as many row groups as there are processes: each reads its own ones only, and a batch has samples of several places
    of the window.

    Attributes:
        count: samples of the hour.
        batch: samples of a step.
        ranks: processes.
        row_group: rows of a row group of the hour's file.
    """

    count: int
    batch: int
    ranks: int
    row_group: int = ROW_GROUP

    @property
    def window(self) -> int:
        """Samples of a window; the last one may have fewer."""
        by_groups = self.ranks * self.row_group
        return by_groups if self.count >= LONG_HOUR * by_groups and by_groups > self.batch else self.batch

    def _windows(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.count, self.window):
            yield start, min(self.window, self.count - start)

    def rows(self, rank: int) -> np.ndarray:
        """Positions of the samples that a process takes, ascending."""
        parts = [np.arange(*self._share(start, size, rank)) for start, size in self._windows()]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _share(self, start: int, size: int, rank: int) -> tuple[int, int]:
        return start + size * rank // self.ranks, start + size * (rank + 1) // self.ranks

    def edges(self, rank: int) -> np.ndarray:
        """Where each step's samples end among those that a process takes, shape (steps,)."""
        done, ends = 0, []
        for start, size in self._windows():
            first, last = self._share(start, size, rank)
            steps = -(-size // self.batch)
            ends += [done + (last - first) * (step + 1) // steps for step in range(steps)]
            done += last - first
        return np.array(ends, dtype=np.int64)

    def samples(self) -> np.ndarray:
        """Samples of each step, of all processes together, shape (steps,)."""
        every = np.sum([self.edges(rank) for rank in range(self.ranks)], axis=0)
        return np.diff(every, prepend=0)
