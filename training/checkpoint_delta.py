"""Checkpoints as large as what changed: a full one, and deltas with the rows that each later one changed.

A checkpoint is a dictionary of tensors. Those of a growing table are named ``tables.<name>.<part>``: ``keys``,
shape (n,), and parts of 4-byte numbers, shape (n + 1, …), whose row 0 has no key. A delta has only the keys and
rows that are new or changed, and ``rows``, the numbers of the latter; all other tensors it has in full.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def diff(before: Tensors, after: Tensors) -> Tensors | None:
    """The delta that leads from one checkpoint to a later one, compared bit for bit.

    Args:
        before: a full checkpoint.
        after: a full checkpoint whose tables have the same keys in the same order, and possibly more at the end.

    Returns:
        The delta; None where keys were removed, for then rows have moved.
    """
    delta = dense_tensors(after)
    for table, parts in _parts_of_tables(after).items():
        known, keys = before[f"{table}.keys"], after[f"{table}.keys"]
        rows = len(known) + 1
        if not torch.equal(known, keys[: len(known)]):
            return None
        changed = torch.ones(len(keys) + 1, dtype=torch.bool)
        changed[:rows] = False
        for name in parts:
            old, new = (t[name][:rows].view(torch.int32).reshape(rows, -1) for t in (before, after))
            changed[:rows] |= (old != new).any(dim=1)
        at = changed.nonzero().ravel()
        delta |= {f"{table}.keys": keys[len(known) :].clone(), f"{table}.rows": at}
        delta |= {name: after[name][at] for name in parts}
    return delta


def apply(checkpoints: Sequence[Tensors]) -> Tensors:
    """The full checkpoint that a full one and the deltas after it make, in the order in which they were saved."""
    if len(checkpoints) == 1:
        return checkpoints[0]
    full = dense_tensors(checkpoints[-1])
    for table, parts in _parts_of_tables(checkpoints[0]).items():
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
    """Names of each table's parts but its keys, by the name's beginning."""
    names = [name.removesuffix(".keys") for name in tensors if name.startswith("tables.") and name.endswith(".keys")]
    return {t: [name for name in tensors if name.startswith(f"{t}.") and name != f"{t}.keys"] for t in names}
