"""Runs of samples of one user at one minute, whose clock is summarized once: a list of candidates, or a positive and its negatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.batch import Batch, Moment


@dataclass(frozen=True)
class Runs:
    """R runs of consecutive samples.

    Attributes:
        of_sample: run of each sample, ascending, shape (B,).
        user_position: of each run's user, shape (R,).
        minutes: local minutes since 1970 of each run, shape (R,).
    """

    of_sample: Tensor
    user_position: Tensor
    minutes: Tensor

    def __len__(self) -> int:
        return len(self.minutes)

    @classmethod
    def of(cls, batch: Batch) -> Runs:
        """The runs of a batch."""
        user, minutes = batch.user_position, batch.minutes
        begins = torch.ones(len(batch), dtype=torch.bool, device=user.device)
        begins[1:] = (user[1:] != user[:-1]) | (minutes[1:] != minutes[:-1])
        return cls(begins.cumsum(0) - 1, user[begins], minutes[begins])

    @property
    def moment(self) -> Moment:
        return Moment(self.minutes)

    def per_sample(self, values: Tensor) -> Tensor:
        """Values of runs (R, …) for each of their samples (B, …)."""
        return values if len(values) == len(self.of_sample) else values.index_select(0, self.of_sample)

    def range_of(self, start: int, stop: int) -> tuple[int, int]:
        """The runs [first, last) that the samples [start, stop) are of."""
        if start >= stop:
            return 0, 0
        return int(self.of_sample[start]), int(self.of_sample[stop - 1]) + 1

    def slice(self, start: int, stop: int) -> Runs:
        """The runs of the samples [start, stop)."""
        first, last = self.range_of(start, stop)
        return Runs(self.of_sample[start:stop] - first, self.user_position[first:last], self.minutes[first:last])


@dataclass(frozen=True)
class Entries:
    """A sparse matrix by rows: E values of N owners (samples or runs), those of an owner side by side.

    Attributes:
        ends: number of the values up to and including each owner's, shape (N,).
        columns: tensors with one element for each value, shape (E,).
    """

    ends: Tensor
    columns: tuple[Tensor, ...]

    @classmethod
    def of(cls, owners: Tensor, count: int, *columns: Tensor) -> Entries:
        """Values of ``count`` owners; ``owners`` is the owner of each value, ascending."""
        return cls(torch.bincount(owners, minlength=count).cumsum(0), columns)

    @property
    def offsets(self) -> Tensor:
        """Where each owner's values begin, shape (N,)."""
        return torch.cat([self.ends.new_zeros(1), self.ends[:-1]])

    @property
    def owners(self) -> Tensor:
        """Owner of each value, shape (E,)."""
        counts = self.ends.diff(prepend=self.ends.new_zeros(1))
        return torch.repeat_interleave(counts, output_size=len(self.columns[0]))

    def slice(self, start: int, stop: int) -> Entries:
        """The values of the owners [start, stop)."""
        if start >= stop:
            return Entries(self.ends[:0], tuple(column[:0] for column in self.columns))
        first = int(self.ends[start - 1]) if start else 0
        return Entries(self.ends[start:stop] - first, tuple(c[first : int(self.ends[stop - 1])] for c in self.columns))
