"""Training by several processes: each takes a shard of every batch, all end with the same ranker.

``torchrun`` starts the processes; without it there is a single one, and nothing here has any effect. Tables and weights are
replicated in every process. What a batch does to them is the sum over the shards, so the figures are those of one
process up to the rounding of sums.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(minutes=30)


class _Sliceable(Protocol):
    def __len__(self) -> int: ...

    def slice(self, start: int, stop: int) -> Any: ...


T = TypeVar("T", bound=_Sliceable)


class Group:
    """The processes that train together: ``size`` of them, this one is number ``rank``. Here: one alone."""

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def shard(self, batch: T) -> T:
        """This process's share of a batch, possibly empty."""
        count = len(batch)
        if self.size == 1:
            return batch
        share: T = batch.slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)
        return share

    def wait(self) -> None:
        """Wait until all processes are here."""

    def all_reduce(self, parameters: list[nn.Parameter]) -> None:
        """Replace each parameter's gradient by the sum of the processes' gradients."""

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        return [value]

    def merge(self, part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Rows (N,) and gradients (N, dim) of all processes from those of each; see ``merged``."""
        return part


class DistributedGroup(Group):
    """The processes that ``torchrun`` started, connected by gloo."""

    def __init__(self) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def wait(self) -> None:
        """Wait until all processes are here."""
        dist.barrier()

    def all_reduce(self, parameters: list[nn.Parameter]) -> None:
        """Replace each parameter's gradient by the sum of the processes' gradients; no gradient counts as 0."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in gradients]).cpu()  # gloo's memory is the CPU's
        dist.all_reduce(flat)
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p).to(p.device)

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def merge(self, part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Rows (N,) and gradients (N, dim) of all processes from those of each; see ``merged``."""
        rows, gradients = part
        at, sums = merged(self.all_gather((rows.cpu(), gradients.cpu())), gradients.shape[1])
        return at.to(rows.device), sums.to(rows.device)


def start_group() -> Group:
    """The group that ``torchrun`` started this process in, else a group of one."""
    return DistributedGroup() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Group()


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
