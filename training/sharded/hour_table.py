"""A table as a ranker sees it during an hour: the ids of this process's samples, and the embeddings fetched for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from core.lookup import positions
from training.embedding import UNKNOWN, distinct
from training.sharded.shard import TableShard


class HourTable(nn.Module):
    """Stands where ``GrowingEmbedding`` stands in one process, with what a ranker, its time module and its counts call.

    Attributes:
        shard: this process's rows of the table.
        statistics: counts of the hour's ids, shape (ids + 1, width); row 0 has the sum over everything.
        counts: what the hour's samples add to them, whole numbers.
        used: which of the ids' embeddings were trained since the hour was opened, shape (ids + 1,).
    """

    def __init__(self, shard: TableShard) -> None:
        super().__init__()
        self.dim, self.width = shard.dim, shard.width
        self._parts = [shard]  # no module of this one
        self.close()

    @property
    def shard(self) -> TableShard:
        return self._parts[0]

    def close(self) -> None:
        """Know no id."""
        self.open(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), torch.empty(0, self.width))

    def open(self, keys: np.ndarray, places: np.ndarray, statistics: Tensor) -> None:
        """Know the ids of an hour.

        Args:
            keys: distinct ids that have a row, ascending, shape (N,).
            places: number of each one's row over all processes, shape (N,).
            statistics: theirs, shape (N, width).
        """
        self._keys = keys
        self.places = torch.from_numpy(np.concatenate([[UNKNOWN], places]))
        self.statistics = torch.cat([self.shard.statistics[:1], statistics.to(self.shard.statistics.dtype)])
        self.counts: Tensor | None = None
        self.used = torch.zeros(len(self.places), dtype=torch.bool)
        self._at = torch.full((len(self.places),), -1)
        self._fetched, self._local = torch.empty(0, dtype=torch.int64), torch.empty(0, self.dim)

    def rows(self, keys: np.ndarray, dtype: torch.dtype = torch.int64) -> Tensor:
        """Number of each key among the hour's, 0 where it has no row, as ``GrowingEmbedding.rows``."""
        at, known = positions(self._keys, keys)
        return torch.from_numpy(np.where(known, at + 1, UNKNOWN)).to(dtype)

    def wanted(self, rows: Sequence[Tensor]) -> Tensor:
        """The distinct rows of several look-ups."""
        flat = torch.cat([torch.empty(0, dtype=torch.int64), *(each.reshape(-1) for each in rows)])
        return distinct(flat, len(self.places))[0]

    def hold(self, rows: Tensor, embeddings: Tensor) -> None:
        """Answer look-ups with fetched embeddings until the next ones are fetched.

        Args:
            rows: distinct, shape (N,).
            embeddings: theirs, shape (N, dim).
        """
        self._at[self._fetched] = -1
        self._at[rows] = torch.arange(len(rows))
        self._fetched, self._local = rows, embeddings
        if torch.is_grad_enabled():
            self.used[rows] = True

    def _positions(self, rows: Tensor) -> Tensor:
        """Where rows lie among the fetched ones; PyTorch refuses −1, of a row that was not fetched."""
        return self._at.index_select(0, rows.reshape(-1)).view(rows.shape)

    def forward(self, rows: Tensor) -> Tensor:
        """Embeddings of rows: any shape in, that shape + (dim,) out."""
        return self._local.index_select(0, self._positions(rows).reshape(-1)).view(*rows.shape, self.dim)

    def bag(self, rows: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
        """Weighted sums of embeddings, as ``GrowingEmbedding.bag``."""
        at = self._positions(rows)
        return nn.functional.embedding_bag(at, self._local, offsets, mode="sum", per_sample_weights=weights)

    def sums(self, rows: Tensor, weights: Tensor, groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each group of columns the weighted sum of its embeddings, as ``GrowingEmbedding.sums``."""
        at = self._positions(rows)
        return [
            nn.functional.embedding_bag(at[:, columns], self._local, mode="sum", per_sample_weights=weights[:, columns])
            for columns in groups
        ]

    def squared(self) -> Tensor:
        """Sum of the squares of the fetched rows."""
        return self._local.square().sum()

    def add_counts(self, rows: Tensor, columns: Tensor, weight: float) -> None:
        """Count samples, each row's and, in row 0, all of them; ``weight`` is applied when the processes' counts are added up."""
        del weight
        if self.counts is None:
            self.counts = torch.zeros(self.statistics.shape, dtype=torch.int64)
        cells, inside = len(self.places) * self.width, rows != UNKNOWN
        self.counts += torch.bincount(rows[inside] * self.width + columns[inside], minlength=cells).view(-1, self.width)
        self.counts[UNKNOWN] += torch.bincount(columns, minlength=self.width)

    def scale_counts(self, factor: float) -> None:
        """Multiply all statistics of this process's rows."""
        self.shard.scale_counts(factor)
