"""Embedding tables without collisions that grow with new ids, forget old ones, and learn sparsely.

The idea is Monolith's (Liu et al. 2022, arXiv 2209.07663): every id has its own row, made when
the id is first trained on and given back when the id has not been seen for long. Row 0 stands for ids that have
no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from core.lookup import positions
from training.sightings import SightingFilter

UNKNOWN = 0
FIRST_CAPACITY = 256
INITIAL_SCALE = 0.05
DRAWN_AT_ONCE = 1 << 16
"""First embeddings that are drawn at a time; a multiple of 16, so that they are those of one draw."""
SPARSEST, FEW_KEYS = 8, 1024
"""Keys are looked up by position if they are so many times fewer than the largest of them at most, and so many are asked for."""


def distinct(rows: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """The distinct rows in ascending order, and the place of each row among them; rows are below ``capacity``."""
    if capacity > 4 * rows.numel():
        return torch.unique(rows, return_inverse=True)
    mark = torch.zeros(capacity, dtype=torch.bool, device=rows.device)
    mark[rows.reshape(-1)] = True
    return mark.nonzero().ravel(), (mark.cumsum(0) - 1)[rows]


class GrowingEmbedding(nn.Module):
    """Embeddings of int64 keys, with what else is kept about each of them.

    Attributes:
        weight: shape (capacity, dim); rows beyond ``size`` are unused.
        accumulator: sum of squared gradients of each row, shape (capacity,), for row-wise Adagrad.
        seen: hour since 1970 UTC in which each row was last trained on, shape (capacity,).
        statistics: counts of each row, float64, shape (capacity, width); see ``training.time_of_day_counts``.
        sightings: decides which new keys get a row; None where all do.
        decay: the accumulators of an hour's rows are multiplied by it before the hour is trained on.
    """

    weight: Tensor
    accumulator: Tensor
    seen: Tensor
    statistics: Tensor

    def __init__(
        self, dim: int, seed: int, width: int = 0, sightings: SightingFilter | None = None, decay: float = 1.0
    ) -> None:
        super().__init__()
        self.dim, self.seed, self.width, self.sightings, self.decay = dim, seed, width, sightings, decay
        self.keys = np.empty(0, dtype=np.int64)
        self._sorted, self._rows = self.keys, self.keys
        self._by_key: np.ndarray | None = None
        self._used: list[tuple[Tensor, Tensor]] = []
        self._touched: Tensor | None = None
        self._saved_size = 0
        self._decayed: int | None = None  # hour in which the accumulator of row 0 decayed last: it is never seen
        self.register_buffer("weight", torch.zeros(FIRST_CAPACITY, dim))
        self.register_buffer("accumulator", torch.zeros(FIRST_CAPACITY))
        self.register_buffer("seen", torch.zeros(FIRST_CAPACITY, dtype=torch.int32))
        self.register_buffer("statistics", torch.zeros(FIRST_CAPACITY, width, dtype=torch.float64))

    @property
    def size(self) -> int:
        """Rows in use, row 0 included."""
        return len(self.keys) + 1

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors with a row for each key that a checkpoint holds."""
        return ("weight", "accumulator", "seen", *(["statistics"] if self.width else []))

    def rows(self, keys: np.ndarray, dtype: torch.dtype = torch.int64) -> Tensor:
        """Row of each key, 0 where the key is unknown; any shape in, the same shape out, in the CPU's memory.

        Args:
            keys: int64.
            dtype: of the rows: int64, or int32 for half the memory where they are many.
        """
        if not len(self.keys):
            return torch.zeros(keys.shape, dtype=dtype)
        first, last = int(self._sorted[0]), int(self._sorted[-1])
        if keys.size > FEW_KEYS and first >= 0 and last < SPARSEST * len(self.keys):
            by_key = self._by_key
            if by_key is None:  # between two rows for keys that are smaller or larger than all
                by_key = np.zeros(last + 3, dtype=np.int32)
                by_key[self._sorted + 1] = self._rows
                self._by_key = by_key  # whole: other threads may read it
            return torch.from_numpy(np.take(by_key, keys + 1, mode="clip")).to(dtype)
        at, known = positions(self._sorted, keys)
        return torch.from_numpy(np.where(known, self._rows[at], UNKNOWN)).to(dtype)

    def grow(self, keys: np.ndarray, hour: int = 0) -> int:
        """Give new keys a row each, in ascending order, and note that all that have one were seen in ``hour``.

        Args:
            keys: of the hour's samples, as often as they occur.
            hour: since 1970 UTC.

        Returns:
            How many were new.
        """
        rows = self.rows(keys)
        new, before = self._admitted(keys[rows.numpy() == UNKNOWN]), self.size
        if len(new):
            self.append(new)
            for at, first in first_embeddings(self.seed, before, len(new), self.dim):
                self.weight[before + at : before + at + len(first)] = first
            rows = self.rows(keys)
        self.note_seen(rows, hour)
        return len(new)

    def _admitted(self, keys: np.ndarray) -> np.ndarray:
        """The distinct keys, of those without a row, that get one, ascending."""
        if self.sightings is None:
            return np.unique(keys)
        distinct_keys, counts = np.unique(keys, return_counts=True)
        self.sightings.begin(self.sightings.filled)
        return distinct_keys[self.sightings.admit(distinct_keys, counts)]

    def append(self, keys: np.ndarray) -> None:
        """Give distinct, ascending keys that have none a row each, where nothing but the embedding remains to be filled in."""
        at, before = np.searchsorted(self._sorted, keys), self.size
        self._sorted = np.insert(self._sorted, at, keys)
        self._rows = np.insert(self._rows, at, np.arange(before, before + len(keys)))
        self._by_key = None
        self.keys = np.concatenate([self.keys, keys])
        self._reserve(before)
        for name in ("accumulator", "statistics"):  # what an id that has expired left
            getattr(self, name)[before : self.size] = 0

    def note_seen(self, rows: Tensor, hour: int) -> None:
        """Note that rows' keys were seen in an hour, of which samples are about to be trained on: all, or a piece."""
        rows = rows[rows != UNKNOWN] if self.sightings is not None else rows
        if self.decay < 1:
            self._decay_accumulators(rows, hour)
        self.seen[rows] = hour
        self.touch(rows)

    def _decay_accumulators(self, rows: Tensor, hour: int) -> None:
        """Multiply the accumulators of rows by ``decay``, once in an hour however often they occur in however many pieces of it."""
        at = distinct(rows, len(self.accumulator))[0]
        at = at[(self.seen[at] != hour).to(at.device)]
        if self._decayed != hour:
            at, self._decayed = torch.cat([at.new_tensor([UNKNOWN]), at]), hour
        self.accumulator[at] = self.accumulator[at] * self.decay
        self.touch(at)

    def touch(self, rows: Tensor) -> None:
        """Note that rows are no longer as in the last checkpoint."""
        if self._touched is not None:
            self._touched[rows] = True

    def touch_all(self) -> None:
        """Note that nothing is as in the last checkpoint, or that rows have moved."""
        self._touched = None

    def mark_saved(self) -> None:
        """Note that a checkpoint holds the table as it is now: the next ``delta`` leads on from here."""
        self._touched, self._saved_size = self.weight.new_zeros(len(self.weight), dtype=torch.bool), self.size
        if self.sightings is not None:
            self.sightings.mark_saved()

    @property
    def has_delta(self) -> bool:
        """Whether the last checkpoint can serve as a base: there is one, and neither rows nor counts of sightings have moved."""
        return self._touched is not None and not (self.sightings is not None and self.sightings.moved)

    def expire(self, before: int) -> int:
        """Forget the keys that were last seen before an hour; the rows that stay close up, in order.

        Returns:
            How many were forgotten.
        """
        stay = (self.seen[1 : self.size] >= before).cpu().numpy()
        gone = len(stay) - int(stay.sum())
        if gone:
            at = torch.from_numpy(np.flatnonzero(np.concatenate([[True], stay])))
            kept = {name: getattr(self, name)[at] for name in ("weight", "accumulator", "seen", "statistics")}
            self.load({"keys": torch.from_numpy(self.keys[stay]), **kept})
        return gone

    def add_counts(self, rows: Tensor, columns: Tensor, weight: float) -> None:
        """Count samples in the statistics, and all of them in row 0's.

        Args:
            rows: of the samples, shape (B,); ``UNKNOWN`` counts in the sum only.
            columns: of the statistics, shape (B,).
            weight: of each sample.
        """
        inside = rows != UNKNOWN
        used, at = distinct(rows[inside], len(self.statistics))
        counts = torch.bincount(at * self.width + columns[inside], minlength=len(used) * self.width)
        self.statistics[used] += weight * counts.view(-1, self.width)
        self.statistics[UNKNOWN] += weight * torch.bincount(columns, minlength=self.width)
        self.touch(used)
        self.touch(rows.new_tensor([UNKNOWN]))

    def scale_counts(self, factor: float) -> None:
        """Multiply all statistics."""
        self.statistics *= factor
        self.touch_all()

    def forward(self, rows: Tensor) -> Tensor:
        """Embeddings of rows: any shape in, that shape + (dim,) out."""
        local, at = self._gather(rows)
        return local.index_select(0, at.reshape(-1)).view(*rows.shape, self.dim)

    def bag(self, rows: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
        """Weighted sums of embeddings.

        Args:
            rows: of all bags, one bag after the other, shape (M,).
            weights: theirs, shape (M,).
            offsets: where each bag begins, shape (N,).

        Returns:
            Shape (N, dim).
        """
        local, at = self._gather(rows)
        return nn.functional.embedding_bag(at, local, offsets, mode="sum", per_sample_weights=weights)

    def sums(self, rows: Tensor, weights: Tensor, groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each group of columns the weighted sum of its embeddings: rows and weights (N, M) in, (N, dim) out for each."""
        local, at = self._gather(rows)
        return [
            nn.functional.embedding_bag(at[:, columns], local, mode="sum", per_sample_weights=weights[:, columns])
            for columns in groups
        ]

    def _gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that a batch uses, once each, as a separate leaf: no gradient is larger than the batch."""
        used, at = distinct(rows.long(), len(self.weight))
        local = self.weight.index_select(0, used)
        if torch.is_grad_enabled():
            local.requires_grad_()
            self._used.append((used, local))
        return local, at

    def squared(self) -> Tensor:
        """Sum of the squares of the rows that were used since the last step; the gradient goes to these rows."""
        parts = [local.square().sum() for _, local in self._used]
        return torch.stack(parts).sum() if parts else self.weight.new_zeros(())

    def state(self) -> dict[str, Tensor]:
        """Tensors of the used rows, for a checkpoint, and of the sightings of keys without one."""
        rows = {name: getattr(self, name)[: self.size].cpu() for name in self.parts}
        return {"keys": torch.from_numpy(self.keys), **rows, **(self.sightings.state() if self.sightings else {})}

    def delta(self) -> dict[str, Tensor] | None:
        """The keys and rows that were added or changed since ``mark_saved``, with the rows' numbers; see ``checkpoint_delta``.

        Returns:
            None if the last checkpoint cannot serve as a base: there is none, rows have moved, or all of them changed.
        """
        if self._touched is None or not self.has_delta:
            return None
        rows = self._touched[: self.size].nonzero().ravel()
        parts = {name: getattr(self, name)[rows].cpu() for name in self.parts}
        sightings = self.sightings.delta() if self.sightings else {}
        new = torch.from_numpy(self.keys[self._saved_size - 1 :].copy())
        return {"keys": new, "rows": rows.cpu(), **parts, **sightings}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a checkpoint's tensors; a part that it lacks stays what it is in an empty table."""
        self.keys = state["keys"].numpy().copy()
        order = np.argsort(self.keys, kind="stable")
        self._sorted, self._rows, self._by_key = self.keys[order], order + 1, None
        self._reserve(0)
        for name in self.parts:
            if name in state:
                getattr(self, name)[: self.size] = state[name]
        if self.sightings is not None and "cells" in state:
            self.sightings.load(state["cells"], state["sightings"])
        self.touch_all()

    def restart(self) -> None:
        """Let every row have the embedding that it would begin with, had all keys come at once in their rows' order."""
        for at, first in first_embeddings(self.seed, 1, self.size - 1, self.dim):
            self.weight[1 + at : 1 + at + len(first)] = first
        self.touch_all()

    def _reserve(self, used: int) -> None:
        """Make room for every key, keeping the first ``used`` rows."""
        if self.size <= len(self.weight):
            return
        capacity = 1 << (self.size - 1).bit_length()
        for name in ("weight", "accumulator", "seen", "statistics"):
            old = getattr(self, name)
            wide = old.new_zeros(capacity, *old.shape[1:])
            wide[:used] = old[:used]
            setattr(self, name, wide)
        if self._touched is not None:
            self._touched = torch.cat([self._touched, self._touched.new_zeros(capacity - len(self._touched))])

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Row-wise Adagrad on the rows that were used since the last step."""
        used = [(rows, local.grad) for rows, local in self._used if local.grad is not None]
        self._used = []
        if not used:
            return
        at, gradient = used[0] if len(used) == 1 else merged(used, self.dim)  # the rows of one use are distinct
        sums = self.accumulator.index_select(0, at) + gradient.square().mean(dim=1)
        self.accumulator.index_copy_(0, at, sums)
        step = rate * gradient / (sums.sqrt() + 1e-8)[:, None]
        self.weight.index_copy_(0, at, self.weight.index_select(0, at) - step)
        if self._touched is not None:
            self.touch(at[gradient.any(dim=1)])


def first_embeddings(seed: int, before: int, count: int, dim: int) -> Iterator[tuple[int, Tensor]]:
    """What the rows of new keys start with: a function of the table's seed and of its rows before them.

    Args:
        seed: of the table.
        before: rows of the whole table before them.
        count: rows to fill.
        dim: their width.

    Yields:
        The position of the first row of a chunk, and the chunk, shape (rows, dim).
    """
    draws = torch.Generator().manual_seed(seed * 1_000_003 + before)
    at = 0
    while at < count:
        rest = count - at
        rows = (
            rest if rest < DRAWN_AT_ONCE + 16 else DRAWN_AT_ONCE
        )  # PyTorch draws the last 16 numbers of a tensor in another way
        yield at, INITIAL_SCALE * torch.randn(rows, dim, generator=draws)
        at += rows


def merged(parts: list[tuple[Tensor, Tensor]], dim: int) -> tuple[Tensor, Tensor]:
    """Distinct rows and the sum of their gradients, from (rows, gradients) of several uses.

    Args:
        parts: rows (N,) with gradients (N, dim).
        dim: width of a gradient.

    Returns:
        Distinct rows (M,) in ascending order, and their gradients (M, dim).

    >>> rows, sums = merged([(torch.tensor([3, 1]), torch.tensor([[1.0], [2.0]])), (torch.tensor([3]), torch.ones(1, 1))], 1)
    >>> rows.tolist(), sums.ravel().tolist()
    ([1, 3], [2.0, 2.0])
    """
    at, inverse = torch.unique(torch.cat([rows for rows, _ in parts]), return_inverse=True)
    gradients = torch.cat([gradient for _, gradient in parts])
    return at, gradients.new_zeros(len(at), dim).index_add_(0, inverse, gradients)
