"""How a ranker learns: Adam on its dense parameters, row-wise Adagrad on its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from training.embedding import ALONE
from training.group import Group
from training.ranker import Ranker

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

    @torch.no_grad()
    def step(self) -> None:
        """Apply and clear the gradients; a parameter without one stays as it is."""
        parts: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
        for at, p in enumerate(self.parameters):
            if p.grad is not None:
                if at not in self.state:
                    self.state[at] = {"step": torch.tensor(0.0), **{name: torch.zeros_like(p) for name in MOMENTS}}
                parts.append((p, p.grad, self.state[at]))
        adam(
            [p for p, _, _ in parts],
            [gradient for _, gradient, _ in parts],
            [state["exp_avg"] for *_, state in parts],
            [state["exp_avg_sq"] for *_, state in parts],
            [],
            [state["step"] for *_, state in parts],
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
        for parameter in self.parameters:
            parameter.grad = None


class Optimizer:
    """Adam on the dense parameters; row-wise Adagrad on the tables."""

    def __init__(self, ranker: Ranker, group: Group = ALONE) -> None:
        self.ranker, self.group = ranker, group
        self.dense = DenseAdam(ranker.dense_parameters(), ranker.config.dense_rate)

    def step(self) -> None:
        """Apply the gradients of the last backward pass and clear them."""
        self.group.all_reduce(self.dense.parameters)
        self.dense.step()
        for table in self.ranker.tables.values():
            table.step(self.ranker.config.embedding_rate, self.group)

    def tensors(self) -> dict[str, Tensor]:
        """Adam's moments by the position of their parameter."""
        return {
            f"adam.{at}.{name}": value.cpu() for at, state in self.dense.state.items() for name, value in state.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's moments; the count of steps stays in the CPU's memory, as PyTorch wants it."""
        self.dense.state = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, at, name = key.split(".")
                device = self.dense.parameters[int(at)].device if name in MOMENTS else value.device
                self.dense.state.setdefault(int(at), {})[name] = value.to(device, copy=True)
