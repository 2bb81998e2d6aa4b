"""A chain goes on when the ranker's configuration changes: what fits is taken over from its last state, the rest begins anew.

A table's rows fit where they are as wide as before, a layer where all its weights have the shape that they had and the ranker
still reads and predicts the same. Ids are kept in any case, counts while they are of the same label. So the first state of
the new configuration follows from the last one of the old and from the hour's samples, like any other: until it is written,
nothing has changed on disk, and a retry takes over the same again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from training.attributes import NUMERIC, of_type
from training.checkpoint_delta import Tensors
from training.config import label_of
from training.embedding import GrowingEmbedding
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.sightings import SPARSE
from training.state import untrained_ranker
from training.state_info import StateInfo, WarmStart
from training.weight_average import PREFIX

Shapes = Mapping[str, Sequence[int]]
"""Shapes of a state's tensors by name."""


@dataclass(frozen=True)
class TakeOver:
    """What a ranker takes over from a state that was trained with another configuration.

    Attributes:
        before: that state.
        info: description of the ranker before any training with the new configuration. Its parent is that state.
        parts: names of each table's tensors that are taken over.
        parameters: names of the dense parameters that are.
    """

    before: StateInfo
    info: StateInfo
    parts: Mapping[str, tuple[str, ...]]
    parameters: frozenset[str]

    @classmethod
    def of(
        cls, before: StateInfo, after: StateInfo, shapes: Shapes, ranker: Ranker, tables: Mapping[str, GrowingEmbedding]
    ) -> TakeOver:
        """Compare a state with a ranker of another configuration.

        Args:
            before: the state.
            after: description of the ranker.
            shapes: of the state's tensors.
            ranker: untrained.
            tables: where its rows are kept in this process.
        """
        parts = {name: _fitting_parts(name, table, shapes, before, after) for name, table in tables.items()}
        layers, fresh_layers = _fitting_layers(ranker, shapes, before, after)
        counted = [name for name, table in tables.items() if table.width]
        record = WarmStart(
            hour=before.hour,
            changes=tuple(_changes(before, after)),
            tables=tuple(name for name in tables if "weight" in parts[name]),
            fresh_tables=tuple(name for name in tables if "weight" not in parts[name]),
            layers=tuple(layers),
            fresh_layers=tuple(fresh_layers),
            fresh_counts=tuple(name for name in counted if "statistics" not in parts[name]),
        )
        info = replace(after, parent=before.digest, samples_seen=before.samples_seen, warm_start=record)
        return cls(before, info, parts, frozenset(name for names in layers.values() for name in names))

    def fill(self, ranker: Ranker, optimizer: Optimizer, tensors: Tensors) -> None:
        """Take over what belongs to no table: weights with Adam's moments and their average, bins of numbers, the time that counts are of.

        Args:
            ranker, optimizer: untrained.
            tensors: of the state.
        """
        with torch.no_grad():
            for name, parameter in ranker.named_parameters():
                if name in self.parameters:
                    parameter.copy_(tensors[f"dense.{name}"])
        optimizer.load({**self._moments(ranker, tensors), **self._averages(tensors)})
        if label_of(self.before.heads) == label_of(self.info.heads):
            ranker.time_of_day_counts.span.copy_(tensors["rhythm"])
        columns = [field.column for field in of_type(self.before.attributes, *NUMERIC)]
        for at, column in enumerate(ranker.numbers.columns):
            if column in columns:
                ranker.numbers.edges[at] = tensors["numbers.edges"][columns.index(column)].numpy()
                ranker.numbers.weights[at] = float(tensors["numbers.weights"][columns.index(column)])

    def fill_tables(self, tables: Mapping[str, GrowingEmbedding], tensors: Tensors) -> None:
        """Take over the tables of a state that is in memory."""
        for name, table in tables.items():
            table.load({part: tensors[f"tables.{name}.{part}"] for part in ("keys", *self.parts[name])})
            if "weight" not in self.parts[name]:
                table.restart()

    def _averages(self, tensors: Tensors) -> Tensors:
        """The averages of the parameters that are taken over; of a state without an average, their weights."""
        return {f"{PREFIX}{p}": tensors.get(f"{PREFIX}{p}", tensors[f"dense.{p}"]) for p in self.parameters}

    def _moments(self, ranker: Ranker, tensors: Tensors) -> Tensors:
        """Adam's moments of the parameters that are taken over; a checkpoint names them by their position."""
        positions = {name: at for at, name in enumerate(_trained(untrained_ranker(self.before)))}
        moments: Tensors = {}
        for at, name in enumerate(_trained(ranker)):
            prefix = f"adam.{positions.get(name)}."
            if name in self.parameters:
                moments |= {
                    f"adam.{at}.{k.removeprefix(prefix)}": t for k, t in tensors.items() if k.startswith(prefix)
                }
        return moments


def _trained(ranker: Ranker) -> list[str]:
    """Names of the dense parameters that learn, in the optimizer's order."""
    return [name for name, p in sorted(ranker.named_parameters()) if p.requires_grad]


def _fitting_parts(
    name: str, table: GrowingEmbedding, shapes: Shapes, before: StateInfo, after: StateInfo
) -> tuple[str, ...]:
    """Names of a table's tensors that a state has with the same width and meaning."""
    here = {part: tuple(getattr(table, part).shape[1:]) for part in table.parts}
    fitting = {part for part, width in here.items() if tuple(shapes.get(f"tables.{name}.{part}", (0, -1))[1:]) == width}
    if "weight" not in fitting:
        fitting -= {"accumulator"}
    if label_of(before.heads) != label_of(after.heads):
        fitting -= {"statistics"}
    counted = table.sightings is not None and f"tables.{name}.cells" in shapes
    same = counted and before.ranker_config.admission_cells == after.ranker_config.admission_cells
    return (*(part for part in table.parts if part in fitting), *(SPARSE if same else ()))


def _fitting_layers(
    ranker: Ranker, shapes: Shapes, before: StateInfo, after: StateInfo
) -> tuple[dict[str, list[str]], list[str]]:
    """Layers that are taken over, with their parameters, and those that are not; what is a setting is no layer."""
    trained_before = set(_trained(untrained_ranker(before)))
    same_meaning = all(
        getattr(before, name) == getattr(after, name) for name in ("facets", "context", "attributes", "heads")
    )
    layers: dict[str, list[str]] = defaultdict(list)
    for name in _trained(ranker):
        layers[name.rpartition(".")[0]].append(name)
    sizes = {name: tuple(p.shape) for name, p in ranker.named_parameters()}

    def fits(name: str) -> bool:
        return same_meaning and name in trained_before and tuple(shapes.get(f"dense.{name}", (-1,))) == sizes[name]

    taken = {layer: names for layer, names in layers.items() if all(map(fits, names))}
    return taken, [layer for layer in layers if layer not in taken]


def _changes(before: StateInfo, after: StateInfo) -> Iterable[str]:
    """What differs between two configurations, for a person."""
    old, new = (info.ranker_config.model_dump(mode="json") for info in (before, after))
    yield from (f"{name} {old[name]} → {new[name]}" for name in old if old[name] != new[name])
    for name in ("facets", "heads", "context"):
        ours, theirs = (list(getattr(info, name)) for info in (before, after))
        if ours != theirs:
            yield f"{name} {ours} → {theirs}"
    if before.attributes != after.attributes:
        was, now = ({(f.column, *asdict(f).values()) for f in info.attributes} for info in (before, after))
        changed = sorted({column for column, *_ in was ^ now}) or ["order"]
        yield f"attributes ({', '.join(changed)})"


def shapes_of(tensors: Mapping[str, torch.Tensor | np.ndarray]) -> Shapes:
    """Shapes of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
