"""How a ranker learns: Adam on its dense parameters, row-wise Adagrad on its tables; and by which weights it is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from training.ranker import Ranker
from training.weight_average import WeightAverage

BETAS, EPSILON = (0.9, 0.999), 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


class DenseAdam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980), computed by PyTorch's function for it.

    ``torch.optim.Adam`` gives the same bits; but making one imports PyTorch's compiler, seconds of every process that
    trains, and an hour of a small service trains for less.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self.parameters, self.rate = list(parameters), rate
        self.state: dict[int, dict[str, Tensor]] = {}
        self._groups: list[_FlatGroup] = []
        self._grouped: list[int] = []

    def load(self, state: dict[int, dict[str, Tensor]]) -> None:
        """Take a checkpoint's moments and step counts by the position of their parameter."""
        self.state, self._groups, self._grouped = state, [], []

    @torch.no_grad()
    def step(self) -> None:
        """Apply and clear the gradients; a parameter without one stays as it is."""
        present = [at for at, p in enumerate(self.parameters) if p.grad is not None]
        if present != self._grouped:
            self._groups, self._grouped = self._flat_groups(present), present
        for group in self._groups:
            members = [self.parameters[at] for at in group.members]
            flat = torch.cat([p.reshape(-1) for p in members])
            gradient = torch.cat([p.grad.reshape(-1) for p in members if p.grad is not None])
            adam(
                [flat],
                [gradient],
                [group.moments[0]],
                [group.moments[1]],
                [],
                [group.step],
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=self.rate,
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )
            for p, part in zip(members, flat.split(group.sizes), strict=True):
                p.copy_(part.view_as(p))
        for parameter in self.parameters:
            parameter.grad = None

    def _flat_groups(self, present: Sequence[int]) -> list[_FlatGroup]:
        """The parameters with a gradient, by their number of steps so far; their state becomes a view of the group's."""
        by_steps: dict[float, list[int]] = {}
        for at in present:
            if at not in self.state:
                p = self.parameters[at]
                self.state[at] = {"step": torch.tensor(0.0), **{name: torch.zeros_like(p) for name in MOMENTS}}
            by_steps.setdefault(float(self.state[at]["step"]), []).append(at)
        groups = []
        for members in by_steps.values():
            sizes = [self.parameters[at].numel() for at in members]
            moments = [torch.cat([self.state[at][name].reshape(-1) for at in members]) for name in MOMENTS]
            step = self.state[members[0]]["step"].clone()
            for at, *parts in zip(members, *(flat.split(sizes) for flat in moments), strict=True):
                shape = self.parameters[at].shape
                views = {name: part.view(shape) for name, part in zip(MOMENTS, parts, strict=True)}
                self.state[at] = {"step": step, **views}
            groups.append(_FlatGroup(members, sizes, moments, step))
        return groups


class _FlatGroup(NamedTuple):
    """Parameters that have taken the same number of steps, updated as one vector: one operation each instead of one per parameter.

    Attributes:
        members: positions of the parameters.
        sizes: their numbers of elements.
        moments: Adam's first and second moment of all of them, flat.
        step: how many steps they have taken, a scalar.
    """

    members: list[int]
    sizes: list[int]
    moments: list[Tensor]
    step: Tensor


class Optimizer:
    """Adam on the dense parameters; row-wise Adagrad on the tables.

    Attributes:
        average: of the dense parameters, which scores in their place; None where they score themselves.
    """

    def __init__(self, ranker: Ranker) -> None:
        self.ranker = ranker
        self.dense = DenseAdam(ranker.dense_parameters(), ranker.config.dense_rate)
        half_life = ranker.config.average_hours
        self.average = WeightAverage(ranker.named_dense_parameters(), half_life) if half_life else None

    def step(self) -> None:
        """Apply the gradients of the last backward pass and clear them."""
        self.dense.step()
        for table in self.ranker.tables.values():
            table.step(self.ranker.config.embedding_rate)

    def end_hour(self) -> None:
        """An hour has been trained on: its weights enter the average."""
        if self.average is not None:
            self.average.add()

    @contextmanager
    def scoring(self, *, within_hour: bool = False) -> Iterator[None]:
        """For the ``with`` block the ranker has the weights that score; it must not be trained there.

        Args:
            within_hour: the ranker has been trained on a part of an hour: the average is what it would be if the hour ended now.
        """
        if self.average is None:
            yield
        else:
            with self.average.in_place(with_present=within_hour):
                yield

    def tensors(self) -> dict[str, Tensor]:
        """Adam's moments by the position of their parameter, and the average."""
        moments = {
            f"adam.{at}.{name}": value.cpu().clone()
            for at, state in self.dense.state.items()
            for name, value in state.items()
        }
        return moments if self.average is None else {**moments, **self.average.tensors()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's moments and average; the count of steps stays in the CPU's memory, as PyTorch wants it."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, at, name = key.split(".")
                device = self.dense.parameters[int(at)].device if name in MOMENTS else value.device
                moments.setdefault(int(at), {})[name] = value.to(device, copy=True)
        self.dense.load(moments)
        if self.average is not None:
            self.average.load(tensors)
