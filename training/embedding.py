"""Embedding tables without collisions that grow with new ids, and their sparse optimiser.

The idea is Monolith's (Liu et al. 2022, arXiv 2209.07663): every id has a row of its own, made when
the id is first trained on. Row 0 stands for ids never seen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

UNKNOWN = 0
FIRST_CAPACITY = 256
INITIAL_SCALE = 0.05


class GrowingEmbedding(nn.Module):
    """Embeddings of int64 keys.

    Attributes:
        weight: shape (capacity, dim); rows beyond ``size`` are unused.
        accumulator: sum of squared gradients of each row, shape (capacity,), for row-wise Adagrad.
    """

    accumulator: Tensor

    def __init__(self, dim: int, seed: int, accumulator_start: float = 0.0) -> None:
        super().__init__()
        self.dim, self.seed, self.start = dim, seed, accumulator_start
        self.weight = nn.Parameter(torch.zeros(FIRST_CAPACITY, dim))
        self.register_buffer("accumulator", torch.full((FIRST_CAPACITY,), accumulator_start))
        self.keys = np.empty(0, dtype=np.int64)
        self._order = np.empty(0, dtype=np.int64)

    @property
    def size(self) -> int:
        """Rows in use, row 0 included."""
        return len(self.keys) + 1

    def rows(self, keys: np.ndarray) -> Tensor:
        """Row of each key, 0 where the key is unknown; any shape in, the same shape out."""
        if not len(self.keys):
            return torch.zeros(keys.shape, dtype=torch.int64)
        ranked = self.keys[self._order]
        at = np.searchsorted(ranked, keys).clip(max=len(ranked) - 1)
        return torch.from_numpy(np.where(ranked[at] == keys, self._order[at] + 1, UNKNOWN))

    def grow(self, keys: np.ndarray) -> int:
        """Give new keys a row each, in ascending order; returns how many were new."""
        new = np.setdiff1d(keys, self.keys)
        if len(new):
            self._set_keys(np.concatenate([self.keys, new]))
        return len(new)

    def _set_keys(self, keys: np.ndarray) -> None:
        before = self.size
        self.keys = keys
        self._order = np.argsort(keys, kind="stable")
        if self.size > len(self.weight):
            capacity = 1 << (self.size - 1).bit_length()
            weight, sums = torch.zeros(capacity, self.dim), torch.full((capacity,), self.start)
            weight[:before] = self.weight.data[:before]
            sums[:before] = self.accumulator[:before]
            self.weight = nn.Parameter(weight)
            self.accumulator = sums
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + before)
        self.weight.data[before : self.size] = INITIAL_SCALE * torch.randn(
            self.size - before, self.dim, generator=draws
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Embeddings of rows: any shape in, that shape + (dim,) out. The gradient is sparse."""
        return nn.functional.embedding(rows, self.weight, sparse=True)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the used rows, for a checkpoint."""
        return {
            "keys": torch.from_numpy(self.keys.copy()),
            "weight": self.weight.data[: self.size].clone(),
            "accumulator": self.accumulator[: self.size].clone(),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a checkpoint's tensors."""
        self._set_keys(state["keys"].numpy().copy())
        self.weight.data[: self.size] = state["weight"]
        self.accumulator[: self.size] = state["accumulator"]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Row-wise Adagrad on the rows that the last backward pass touched."""
        gradient = self.weight.grad
        if gradient is None:
            return
        gradient = gradient.coalesce()
        at, values = gradient.indices()[0], gradient.values()
        self.accumulator[at] += values.square().mean(dim=1)
        self.weight.data[at] -= rate * values / (self.accumulator[at].sqrt() + 1e-8)[:, None]
        self.weight.grad = None
