"""Checkpoints as large as what changed: a whole one, and layers of the rows that each later one has anew.

A checkpoint is a dictionary of tensors. Those of a growing table are named ``tables.<name>.<part>``: ``keys``,
shape (n,), and parts of 4-byte numbers, shape (n + 1, …), whose row 0 has no key. A layer has only the keys and
rows that came or changed, and ``rows``, the numbers of the latter; other tensors it has whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def _tables(tensors: Tensors) -> dict[str, list[str]]:
    """Names of each table's parts but its keys, by what they begin with."""
    names = [name.removesuffix(".keys") for name in tensors if name.startswith("tables.") and name.endswith(".keys")]
    return {t: [name for name in tensors if name.startswith(f"{t}.") and name != f"{t}.keys"] for t in names}


def _alone(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("tables.")}


def layer(before: Tensors, after: Tensors) -> Tensors | None:
    """What ``after`` has that ``before`` has not, to the bit; None where keys went, for then rows have moved."""
    found = _alone(after)
    for table, parts in _tables(after).items():
        known, keys = before[f"{table}.keys"], after[f"{table}.keys"]
        rows = len(known) + 1
        if not torch.equal(known, keys[: len(known)]):
            return None
        changed = torch.ones(len(keys) + 1, dtype=torch.bool)
        changed[:rows] = False
        for name in parts:
            one, other = (t[name][:rows].view(torch.int32).reshape(rows, -1) for t in (before, after))
            changed[:rows] |= (one != other).any(dim=1)
        at = changed.nonzero().ravel()
        found |= {f"{table}.keys": keys[len(known) :].clone(), f"{table}.rows": at}
        found |= {name: after[name][at] for name in parts}
    return found


def laid(layers: Sequence[Tensors]) -> Tensors:
    """The checkpoint that a whole one and the layers after it make."""
    if len(layers) == 1:
        return layers[0]
    whole = _alone(layers[-1])
    for table, parts in _tables(layers[0]).items():
        keys = torch.cat([each[f"{table}.keys"] for each in layers])
        whole[f"{table}.keys"] = keys
        for name in parts:
            first = layers[0][name]
            rows = first.new_zeros(len(keys) + 1, *first.shape[1:])
            rows[: len(first)] = first
            for each in layers[1:]:
                rows[each[f"{table}.rows"]] = each[name]
            whole[name] = rows
    return whole


def table_bytes(tensors: Tensors) -> int:
    """Size of the tables, bytes."""
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("tables."))
