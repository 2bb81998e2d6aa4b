"""Checkpoints as large as what changed: a full one, and deltas with the rows that each later one changed.

A checkpoint is a dictionary of tensors. Those of a growing table are named ``tables.<name>.<part>``: ``keys``,
shape (n,), and parts of shape (n + 1, …), whose row 0 has no key. A delta has only the keys and rows that are new or were
touched since the checkpoint before it, and ``rows``, the numbers of the latter; of ``cells`` (``training.sightings``) those
that changed; all other tensors it has in full. The tables note what they touch (``training.embedding``), so no earlier
checkpoint is read to make one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.sightings import SPARSE, latest_cells

Tensors = dict[str, Tensor]
WITHOUT_ROWS = frozenset({"keys", *SPARSE})
"""Parts of a table that have no value for each of its rows."""


def apply(checkpoints: Sequence[Tensors]) -> Tensors:
    """The full checkpoint that a full one and the deltas after it make, in the order in which they were saved."""
    if len(checkpoints) == 1:
        return checkpoints[0]
    full = dense_tensors(checkpoints[-1])
    for table, parts in _parts_of_tables(checkpoints[0]).items():
        if f"{table}.cells" in checkpoints[0]:
            sparse = latest_cells([(each[f"{table}.cells"], each[f"{table}.sightings"]) for each in checkpoints])
            full |= {f"{table}.{name}": tensor for name, tensor in sparse.items()}
        keys = torch.cat([each[f"{table}.keys"] for each in checkpoints])
        full[f"{table}.keys"] = keys
        for name in parts:
            first = checkpoints[0][name]
            rows = first.new_zeros(len(keys) + 1, *first.shape[1:])
            rows[: len(first)] = first
            for delta in checkpoints[1:]:
                rows[delta[f"{table}.rows"]] = delta[name]
            full[name] = rows
    return full


def dense_tensors(tensors: Tensors) -> Tensors:
    """The tensors that belong to no table.

    >>> sorted(dense_tensors({"dense.head": torch.zeros(1), "tables.users.keys": torch.zeros(2)}))
    ['dense.head']
    """
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("tables.")}


def table_bytes(tensors: Tensors) -> int:
    """Size of the tables, bytes."""
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("tables."))


def _parts_of_tables(tensors: Tensors) -> dict[str, list[str]]:
    """Names of each table's parts with a value for each row, by the name's beginning."""
    names = [name.removesuffix(".keys") for name in tensors if name.startswith("tables.") and name.endswith(".keys")]
    return {
        table: [
            name for name in tensors if name.startswith(f"{table}.") and name.rpartition(".")[2] not in WITHOUT_ROWS
        ]
        for table in names
    }
