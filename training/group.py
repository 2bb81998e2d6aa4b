"""The processes that train one ranker together, and what they say to each other.

``torchrun`` starts the processes; without it there is a single one, for which nothing here has any effect.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import ConfigError, CorruptStateError, DataError, NotReadyError, PlatformError
from training.heartbeat import Heartbeat, signs_of_life

PATIENCE = timedelta(minutes=10)
"""Longest wait for another process. On one machine the launcher ends a group that stands still long before."""
ERRORS: dict[str, type[PlatformError]] = {
    error.__name__: error for error in (ConfigError, CorruptStateError, DataError, NotReadyError)
}
"""Errors that mean the same to all processes when one of them meets it."""
LOST = ("gloo", "onnection", "imed out")
"""In the message of PyTorch's error where another process has gone or does not answer."""

T = TypeVar("T")


class GroupLostError(NotReadyError):
    """Another process of the group has gone or does not answer. A retry starts all of them again."""


class Group:
    """The processes that train together: ``size`` of them, this one is number ``rank``. Here: one alone."""

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that logs and commits."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""

    def beat(self, doing: str) -> None:
        """Note that this process goes on."""

    def all_reduce(self, parameters: list[nn.Parameter]) -> None:
        """Replace each parameter's gradient by the sum of the processes' gradients."""

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        return [value]

    def together(self, work: Callable[[], T], doing: str) -> T:
        """Do something in every process; what goes wrong in one of them goes wrong in all."""
        del doing
        return work()

    def agree(self, what: str, value: str) -> None:
        """Check that all processes have the same.

        Raises:
            ConfigError: one has something else than the first.
        """
        values = self.all_gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ConfigError(f"rank {rank} has another {what} than rank 0: {other}, not {values[0]}")


class DistributedGroup(Group):
    """The processes that ``torchrun`` started, connected by gloo."""

    def __init__(self, heartbeat: Heartbeat | None = None) -> None:
        if not dist.is_initialized():
            with lost_becomes_error("meeting the other processes"):
                dist.init_process_group("gloo", timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._heartbeat = heartbeat
        self.beat("started")

    def beat(self, doing: str) -> None:
        """Note that this process goes on, and what with."""
        if self._heartbeat:
            self._heartbeat.beat(doing)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.beat("waiting for the others")
        with lost_becomes_error("waiting for the others"):
            dist.barrier()

    def all_reduce(self, parameters: list[nn.Parameter]) -> None:
        """Replace each parameter's gradient by the sum of the processes' gradients; one that no process has stays None."""
        self.beat("summing gradients")
        present = torch.tensor([float(p.grad is not None) for p in parameters])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([present, *(g.reshape(-1) for g in gradients)])
        with lost_becomes_error("summing gradients"):
            dist.all_reduce(flat)
        known, *parts = flat.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, has, part in zip(parameters, known.tolist(), parts, strict=True):
            parameter.grad = part.view_as(parameter) if has else None

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; small ones, as they are pickled."""
        self.beat("exchanging results")
        values: list[Any] = [None] * self.size
        with lost_becomes_error("exchanging results"):
            dist.all_gather_object(values, value)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the processes' tensors, which have one shape."""
        self.beat("exchanging sums")
        total = values.clone()
        with lost_becomes_error("exchanging sums"):
            dist.all_reduce(total)
        return total

    def exchange(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Send ``parts[r]`` to each process r.

        Args:
            parts: one for each process, of one type and of one shape but for the first dimension.

        Returns:
            What each process sent here, by rank.
        """
        self.beat("exchanging rows")
        sizes = torch.tensor([len(part) for part in parts])
        theirs = torch.empty_like(sizes)
        with lost_becomes_error("exchanging rows"):
            dist.all_to_all_single(theirs, sizes)
            received = parts[0].new_empty(int(theirs.sum()), *parts[0].shape[1:])
            dist.all_to_all_single(received, torch.cat(list(parts)), theirs.tolist(), sizes.tolist())
        return list(received.split(theirs.tolist()))

    def gather(self, part: Tensor) -> Tensor:
        """The processes' tensors one after the other, of one type and of one shape but for the first dimension."""
        return torch.cat(self.exchange([part] * self.size))

    def together(self, work: Callable[[], T], doing: str) -> T:
        """Do something in every process; what goes wrong in one of them goes wrong in all, with that one named.

        However long it takes, the process counts as going on.
        """
        result, failure = None, None
        try:
            with self._heartbeat.busy(doing) if self._heartbeat else nullcontext():
                result = work()
        except GroupLostError:
            raise
        except Exception as error:  # the others wait for this process: they have to be told
            failure = error
        said = self.all_gather(None if failure is None else (type(failure).__name__, str(failure)))
        if failure is not None:
            raise failure
        for rank, problem in enumerate(said):
            if problem is not None:
                name, text = problem
                kind = ERRORS.get(name)
                raise (kind or NotReadyError)(f"rank {rank}, {doing}: {text if kind else f'{name}: {text}'}")
        return result  # type: ignore[return-value]


@contextmanager
def lost_becomes_error(doing: str) -> Iterator[None]:
    """Within a ``with`` block, PyTorch's error where another process has gone becomes ``GroupLostError``."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST):
            raise
        line = str(error).strip().splitlines()[0]
        raise GroupLostError(f"another process of the group has gone or does not answer ({doing}): {line}") from error


def processes_started() -> int:
    """How many processes were started together, by ``torchrun`` or by ``pipeline.processes``; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Which of them this one is."""
    return int(os.environ.get("RANK", "0"))


def join_group(folder: Path) -> Group:
    """The group that this process was started in, else a group of one.

    Args:
        folder: for the processes' signs of life; each group has a folder in it.
    """
    if processes_started() == 1:
        return Group()
    return DistributedGroup(Heartbeat(signs_of_life(folder, os.environ.get("MASTER_PORT", "0")), process_rank()))
