"""An average of a ranker's dense weights over the hours past, which scores in the place of the weights as they are.

The weights at the end of an hour are those of its last steps; their exponential moving average keeps what the hours have in
common (Polyak and Juditsky 1992, SIAM J. Control Optim. 30(4); of one set of weights each, as Izmailov et al. 2018,
arXiv 1803.05407). Training goes on from the weights as they are. Embeddings of ids are not averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PREFIX = "average."
"""What a checkpoint calls the average of a parameter, before the parameter's name."""


class WeightAverage:
    """The exponential moving average of a model's parameters at the ends of hours.

    Args:
        parameters: that are trained, by name.
        half_life: after so many hours an hour's weights count half.

    Attributes:
        mean: the average, by name. A parameter that has none yet scores as it is, and begins with its weights at the end of an hour.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], half_life: float) -> None:
        self.parameters, self.decay = dict(parameters), 0.5 ** (1 / half_life)
        self.mean: dict[str, Tensor] = {}

    def add(self, decay: float | None = None) -> None:
        """Take in the weights as they are now, at the end of an hour.

        Args:
            decay: how much the average so far counts next to them; default: by the half-life.
        """
        self.mean = self._with_present(self.decay if decay is None else decay)

    @contextmanager
    def in_place(self, *, with_present: bool = False) -> Iterator[None]:
        """For the ``with`` block the parameters have the average's values; nothing is copied.

        Args:
            with_present: those that the average would have if the hour ended now.
        """
        values = self._with_present(self.decay) if with_present else self.mean
        before = {name: self.parameters[name].data for name in values}
        try:
            for name, value in values.items():
                self.parameters[name].data = value
            yield
        finally:
            for name, value in before.items():
                self.parameters[name].data = value

    def tensors(self) -> dict[str, Tensor]:
        """The average as a checkpoint has it, in the CPU's memory."""
        return {f"{PREFIX}{name}": tensor.cpu().clone() for name, tensor in self.mean.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's average; that of a checkpoint without one begins with its weights."""
        self.mean = {
            name: tensors[key].to(parameter.device, copy=True)
            for name, parameter in self.parameters.items()
            if (key := f"{PREFIX}{name}") in tensors or (key := f"dense.{name}") in tensors
        }

    @torch.no_grad()
    def _with_present(self, decay: float) -> dict[str, Tensor]:
        return {
            name: self.mean[name].lerp(p.detach(), 1 - decay) if name in self.mean else p.detach().clone()
            for name, p in self.parameters.items()
        }


def scoring_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's averages under the names of the weights that they score in the place of; empty where it has none."""
    return {f"dense.{name.removeprefix(PREFIX)}": t for name, t in tensors.items() if name.startswith(PREFIX)}
