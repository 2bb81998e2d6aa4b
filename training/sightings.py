"""Counts sightings of ids that have no row yet, in bounded memory: a counting filter.

As in Monolith (Liu et al. 2022, arXiv 2209.07663, section 2.2.1) an id is given a row once it was seen often enough. Here the
filter is a count-min sketch with conservative updates (Estan and Varghese 2002, doi:10.1145/633025.633056): it may count
too much, where ids share all of their cells, and never too little. It does not depend on the order of ids within an hour.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
PARTITION_BITS = 16
PARTITIONS = 1 << PARTITION_BITS
"""Ids are spread over so many partitions by hash. A process holds consecutive ones of them, and a filter's cells in their order."""
CELLS_OF_A_KEY = 4
MOST_SIGHTINGS = 255
FULL = 0.5
"""Share of filled cells from which on a new generation begins. A generation takes an unseen id for a seen one in 1 of 16 cases then."""
GENERATIONS = 2
"""The present one and the one before: what was seen before that is forgotten."""
SPARSE = ("cells", "sightings")
"""Names of a filter's tensors in a checkpoint of its table: numbers of the cells that are filled or have changed, and their counts."""


def partitions(keys: np.ndarray) -> np.ndarray:
    """The partition of each int64 key, by a multiplicative hash (Knuth), shape (N,)."""
    mixed = keys.astype(np.uint64) * HASH_FACTOR
    return (mixed >> np.uint64(64 - PARTITION_BITS)).astype(np.int64)


def owners(keys: np.ndarray, ranks: int) -> np.ndarray:
    """The process of several that each int64 key belongs to, shape (N,).

    >>> owners(np.arange(8), 2).tolist()
    [0, 1, 0, 1, 0, 0, 1, 0]
    """
    return partitions(keys) * ranks // PARTITIONS


def cells_of(keys: np.ndarray, size: int) -> np.ndarray:
    """Numbers of the ids' cells in a generation of a filter, all in the id's partition; shape (N, ``CELLS_OF_A_KEY``).

    Args:
        keys: int64, shape (N,).
        size: cells of the filter.
    """
    mixed = keys.astype(np.uint64)  # splitmix64's finalizer (Steele et al. 2014, doi:10.1145/2660193.2660195)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    width = size // PARTITIONS
    shifts = np.arange(CELLS_OF_A_KEY, dtype=np.uint64) * np.uint64(64 // CELLS_OF_A_KEY)
    inside = ((mixed[:, None] >> shifts) % np.uint64(width)).astype(np.int64)
    return partitions(keys)[:, None] * width + inside


class SightingFilter:
    """Says of ids without a row which of them have been seen often enough to get one.

    Attributes:
        after: sightings from which on an id gets a row.
        size: cells of the whole filter, in each generation.
        first, last: partitions [first, last) that are counted here.
    """

    def __init__(self, after: int, size: int, rank: int = 0, ranks: int = 1) -> None:
        """An empty filter.

        Args:
            after: sightings from which on an id gets a row, at most ``MOST_SIGHTINGS``.
            size: cells, a multiple of ``PARTITIONS``.
            rank, ranks: of the process that counts here and of all; the ids that it counts are those it owns.
        """
        self.after, self.size = after, size
        self.first, self.last = (-(-PARTITIONS * n // ranks) for n in (rank, rank + 1))
        self._counts: np.ndarray | None = None
        self._loaded: tuple[np.ndarray, np.ndarray] | None = None
        self._changed: list[np.ndarray] = []
        self.moved = False

    @property
    def width(self) -> int:
        """Cells of a partition."""
        return self.size // PARTITIONS

    @property
    def nbytes(self) -> int:
        """Size in a whole checkpoint."""
        return 5 * int(np.count_nonzero(self.counts))

    def part(self, rank: int, ranks: int) -> SightingFilter:
        """An empty filter of the ids that one of several processes owns."""
        return SightingFilter(self.after, self.size, rank, ranks)

    @property
    def counts(self) -> np.ndarray:
        """Cells of both generations, shape (2, cells); made when they are first needed, as serving does not need them."""
        if self._counts is None:
            self._counts = np.zeros((GENERATIONS, (self.last - self.first) * self.width), dtype=np.uint8)
            if self._loaded is not None:
                self._place(*self._loaded)
                self._loaded = None
        return self._counts

    @property
    def filled(self) -> int:
        """Cells of the present generation that are in use here."""
        return int(np.count_nonzero(self.counts[0]))

    def begin(self, filled: int) -> None:
        """Before an hour is counted: begin a new generation if the present one is full.

        Args:
            filled: cells in use, of all processes.
        """
        if filled > FULL * self.size:
            counts = self.counts
            counts[1] = counts[0]
            counts[0] = 0
            self.moved = True

    def admit(self, keys: np.ndarray, sightings: np.ndarray) -> np.ndarray:
        """Count an hour's sightings.

        Args:
            keys: distinct ids without a row, of the partitions that are counted here, shape (N,).
            sightings: how often each was seen in the hour, shape (N,).

        Returns:
            For each id whether it has been seen often enough, shape (N,).
        """
        present, before = self.counts
        cells = cells_of(keys, self.size) - self.first * self.width
        counted = present[cells].min(axis=1) + sightings
        new = np.minimum(counted, MOST_SIGHTINGS).astype(np.uint8)
        np.maximum.at(present, cells, new[:, None])
        self._changed.append(np.unique(cells))
        enough: np.ndarray = counted + before[cells].min(axis=1) >= self.after
        return enough

    def state(self) -> dict[str, Tensor]:
        """The filled cells, for a checkpoint; a cell's number counts both generations of the whole filter."""
        return self._sparse(np.flatnonzero(self.counts.reshape(-1)))

    def delta(self) -> dict[str, Tensor]:
        """The cells that changed since ``mark_saved``; a new generation (``moved``) has no delta."""
        changed = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *self._changed]))
        return self._sparse(changed)

    def _sparse(self, at: np.ndarray) -> dict[str, Tensor]:
        generation, cell = np.divmod(at, self.counts.shape[1])
        numbers = generation * self.size + cell + self.first * self.width
        return {
            "cells": torch.from_numpy(numbers.astype(np.int32)),
            "sightings": torch.from_numpy(self.counts.reshape(-1)[at]),
        }

    def mark_saved(self) -> None:
        """Note that a checkpoint holds the filter as it is now."""
        self._changed, self.moved = [], False

    def load(self, cells: Tensor, sightings: Tensor) -> None:
        """Take a checkpoint's cells, as ``state`` gives them; those that are counted elsewhere are passed over."""
        self._counts, self._loaded = None, (cells.numpy().astype(np.int64), sightings.numpy().copy())

    def add(self, cells: np.ndarray, sightings: np.ndarray) -> None:
        """Take cells of a checkpoint beside those that are here."""
        _ = self.counts
        self._place(cells.astype(np.int64), sightings)

    def _place(self, cells: np.ndarray, sightings: np.ndarray) -> None:
        generation, cell = np.divmod(cells, self.size)
        cell -= self.first * self.width
        counts = self.counts
        here = (cell >= 0) & (cell < counts.shape[1])
        counts[generation[here], cell[here]] = sightings[here]


def latest_cells(parts: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The cells of a filter after several checkpoints, each with what changed since the one before.

    >>> latest_cells([(torch.tensor([3, 5]), torch.tensor([1, 2])), (torch.tensor([5]), torch.tensor([4]))])["sightings"].tolist()
    [1, 4]
    """
    cells, sightings = (np.concatenate([part[at].numpy() for part in reversed(parts)]) for at in (0, 1))
    numbers, first = np.unique(cells, return_index=True)
    return {"cells": torch.from_numpy(numbers), "sightings": torch.from_numpy(sightings[first])}
