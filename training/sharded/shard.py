"""One process's rows of a growing table: the ids that hash to it, each with a row of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.lookup import positions
from training.checkpoint_delta import Tensors
from training.embedding import UNKNOWN, GrowingEmbedding, first_embeddings
from training.group import DistributedGroup
from training.sightings import SightingFilter, owners


class TableShard(GrowingEmbedding):
    """A process's part of a table.

    Rows are numbered twice: here, and as they would be in one process, where ids are in the order in which they came. The
    second numbers go into checkpoints, which any number of processes can read, and decide what a new row starts with, so that
    a row has the same first embedding however many processes there are. Row 0, of ids without a row, is trained in process 0
    and counted in all.

    Attributes:
        numbers: of each row here, its number in the whole table, ascending, shape (size,).
        total: rows of the whole table.
    """

    def __init__(
        self,
        dim: int,
        seed: int,
        width: int,
        group: DistributedGroup,
        sightings: SightingFilter | None = None,
        decay: float = 1.0,
    ) -> None:
        mine = sightings.part(group.rank, group.size) if sightings is not None else None
        super().__init__(dim, seed, width, mine, decay)
        self.group = group
        self.numbers, self.total = np.zeros(1, dtype=np.int64), 1

    @classmethod
    def of(cls, table: GrowingEmbedding, group: DistributedGroup) -> TableShard:
        """This process's part of a table that no key has come to."""
        return cls(table.dim, table.seed, table.width, group, table.sightings, table.decay)

    def by_owner(self, keys: np.ndarray) -> list[np.ndarray]:
        """Positions of the keys that belong to each process."""
        owner = owners(keys, self.group.size)
        return [np.flatnonzero(owner == rank) for rank in range(self.group.size)]

    def grow(self, keys: np.ndarray, hour: int = 0) -> int:
        """Give new keys of all processes a row each, in the process that they belong to; all processes call it together.

        Returns:
            How many were new, in all processes.
        """
        mine, counts = self._gathered(keys)
        unknown = self.rows(mine).numpy() == UNKNOWN
        new, before = mine[unknown], self.size
        if self.sightings is not None and counts is not None:
            self.sightings.begin(sum(self.group.all_gather(self.sightings.filled)))
            new = new[self.sightings.admit(new, counts[unknown])]
        every = np.sort(self.group.gather(torch.from_numpy(new)).numpy())
        if len(new):
            self.append(new)
            place = np.searchsorted(every, new)
            self.numbers = np.concatenate([self.numbers, self.total + place])
            for at, rows in first_embeddings(self.seed, self.total, len(every), self.dim):
                first, last = np.searchsorted(place, [at, at + len(rows)])
                self.weight[before + first : before + last] = rows[torch.from_numpy(place[first:last] - at)]
        self.total += len(every)
        self.note_seen(self.rows(mine), hour)
        return len(every)

    def _gathered(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The distinct keys of all processes that belong here, ascending, and how often they occur where that decides anything."""
        keys, counts = np.unique(keys, return_counts=True)
        owned = self.by_owner(keys)
        theirs = torch.cat(self.group.exchange([torch.from_numpy(keys[at]) for at in owned])).numpy()
        mine, place = np.unique(theirs, return_inverse=True)
        if self.sightings is None:
            return mine, None
        occurred = torch.cat(self.group.exchange([torch.from_numpy(counts[at]) for at in owned])).numpy()
        sums = np.zeros(len(mine), dtype=np.int64)
        np.add.at(sums, place, occurred)
        return mine, sums

    def expire(self, before: int) -> int:
        """Forget the keys of all processes that were last seen before an hour; all processes call it together.

        Returns:
            How many were forgotten, in all processes.
        """
        stay = np.concatenate([[True], (self.seen[1 : self.size] >= before).numpy()])
        kept = self.numbers[stay]
        gone = np.sort(self.group.gather(torch.from_numpy(self.numbers[~stay])).numpy())
        if len(gone):
            super().expire(before)
            self.numbers = kept - np.searchsorted(gone, kept)
            self.total -= len(gone)
            self.touch_all()
        return len(gone)

    def shard(self, *, changed: bool) -> Tensors:
        """The tensors of a checkpoint's part.

        Args:
            changed: only what the last checkpoint lacks; else everything.

        Returns:
            ``keys`` and ``key_numbers``; ``rows``, numbers of the rows that follow, and their parts; sightings of keys without one.
        """
        first = self._saved_size if changed else 1
        touched = self._touched if changed else None
        rows = torch.arange(self.size) if touched is None else touched[: self.size].nonzero().ravel()
        if not self.group.first:
            rows = rows[rows > 0]  # row 0 is process 0's
        counted = {} if self.sightings is None else self.sightings.delta() if changed else self.sightings.state()
        return {
            "keys": torch.from_numpy(self.keys[first - 1 :].copy()),
            "key_numbers": torch.from_numpy(self.numbers[first:].copy()),
            "rows": torch.from_numpy(self.numbers[rows.numpy()]),
            **{name: getattr(self, name)[rows] for name in self.parts},
            **counted,
        }

    @property
    def nbytes(self) -> int:
        """Size of this part in a whole checkpoint."""
        counted = 0 if self.sightings is None else self.sightings.nbytes
        return self.size * sum(getattr(self, part)[:1].nbytes for part in self.parts) + self.keys.nbytes + counted

    def take(self, keys: np.ndarray, numbers: np.ndarray, total: int) -> None:
        """Begin with the ids of a checkpoint that belong here; room for their rows is made by ``reserve`` or ``move_into``.

        Args:
            keys: theirs.
            numbers: of their rows in the whole table, ascending.
            total: rows of the whole table.
        """
        self.keys = keys
        order = np.argsort(keys, kind="stable")
        self._sorted, self._rows, self._by_key = keys[order], order + 1, None
        self.numbers, self.total = np.concatenate([[0], numbers]), total
        self.touch_all()

    def reserve(self) -> None:
        """Make room for the rows of all ids outside of a collection."""
        self._reserve(0)

    @property
    def capacity(self) -> int:
        """Rows to make room for."""
        return max(len(self.weight), 1 << (self.size - 1).bit_length())

    def restart(self) -> None:
        """As in one process: what a row begins with is decided by its number in the whole table."""
        for at, first in first_embeddings(self.seed, 1, self.total - 1, self.dim):
            begin, end = np.searchsorted(self.numbers, [1 + at, 1 + at + len(first)])
            self.weight[begin:end] = first[torch.from_numpy(self.numbers[begin:end] - 1 - at)]
        self.touch_all()

    def take_rows(self, numbers: np.ndarray, parts: Tensors) -> None:
        """Take rows of a checkpoint; those that do not belong here are passed over.

        Args:
            numbers: of the rows in the whole table, shape (N,).
            parts: theirs by name, each with N rows; a part that is not among them stays as it is.
        """
        at, mine = positions(self.numbers, numbers)
        here = np.flatnonzero(mine)
        rows, source = torch.from_numpy(at[here]), torch.from_numpy(here)
        for name, values in parts.items():
            getattr(self, name)[rows] = values[source].to(getattr(self, name).dtype)

    def move_into(self, weight: Tensor, accumulator: Tensor) -> None:
        """Let embeddings and their sums lie in other, larger tensors from now on; what is kept beside them grows to their length."""
        kept = min(self.size, len(self.weight))  # ids may have been taken whose rows are still to come
        for name, target in (("weight", weight), ("accumulator", accumulator)):
            target.zero_()
            target[:kept] = getattr(self, name)[:kept]
            setattr(self, name, target)
        for name in ("seen", "statistics"):
            source = getattr(self, name)
            if len(source) < len(weight):
                wide = source.new_zeros(len(weight), *source.shape[1:])
                wide[:kept] = source[:kept]
                setattr(self, name, wide)
        if self._touched is not None and len(self._touched) < len(weight):
            self._touched = torch.cat([self._touched, self._touched.new_zeros(len(weight) - len(self._touched))])
