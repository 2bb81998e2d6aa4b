"""The files of a state that several processes wrote: each has a part of every table, and together they are what one process writes.

A shard's tensors are named ``tables.<name>.<part>``: ``keys``, with ``key_numbers``, the numbers of their rows in the whole
table; and parts of other rows, whose numbers are ``rows``. In a whole state those are all of the process's rows, in a delta
(``training.checkpoint_delta``) those that changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.checkpoint_delta import Tensors
from training.sightings import SPARSE

SHARD_PATTERN = "shard-*.safetensors"
NUMBERING = frozenset({"keys", "key_numbers", "rows", *SPARSE})


def shard_path(folder: Path, rank: int, ranks: int) -> Path:
    """The file of one of several processes in a state's folder."""
    return folder / f"shard-{rank:03d}-of-{ranks:03d}.safetensors"


def table_names(names: Iterable[str]) -> list[str]:
    """The tables that tensors are of, from the tensors' names."""
    return sorted({name.split(".")[1] for name in names if name.startswith("tables.")})


def merged_shards(shards: Sequence[Tensors], *, whole: bool) -> Tensors:
    """The tables of a state as one process would have written them.

    Args:
        shards: tensors of every process's file.
        whole: whether the state is whole, and not a delta.
    """
    merged: Tensors = {}
    for table in table_names(shards[0]):
        prefix = f"tables.{table}."
        numbers, order = _joined(shards, prefix + "key_numbers").sort()
        merged[prefix + "keys"] = _joined(shards, prefix + "keys")[order]
        rows, order = _joined(shards, prefix + "rows").sort()
        if not whole:
            merged[prefix + "rows"] = rows
        elif len(rows) != len(numbers) + 1:
            raise ValueError(f"{table}: {len(rows)} rows of {len(numbers)} keys")
        if prefix + "cells" in shards[0]:
            cells, order_of_cells = _joined(shards, prefix + "cells").sort()
            merged |= {
                prefix + "cells": cells,
                prefix + "sightings": _joined(shards, prefix + "sightings")[order_of_cells],
            }
        for name in shards[0]:
            if name.startswith(prefix) and name.removeprefix(prefix) not in NUMBERING:
                merged[name] = _joined(shards, name)[order]
    return merged


def _joined(shards: Sequence[Tensors], name: str) -> Tensor:
    return torch.cat([shard[name] for shard in shards])
