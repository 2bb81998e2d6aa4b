"""Checkpoints of several processes: each writes its rows, a manifest commits them together, and any number of processes reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from core.files import digest_file, replaced_directory
from core.hours import Hour
from training.checkpoint_delta import Tensors, dense_tensors, table_bytes
from training.group import DistributedGroup
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.shard_files import shard_path
from training.sharded.shard import TableShard
from training.sightings import SPARSE, owners
from training.state import WORTHWHILE, StateStore, dense_part, write_state
from training.state_info import StateInfo

READ_AT_ONCE = 1 << 18
"""Rows of a file that are in memory at a time: a process need not have room for others' rows."""


def save(
    states: StateStore,
    info: StateInfo,
    ranker: Ranker,
    optimizer: Optimizer,
    shards: Mapping[str, TableShard],
    group: DistributedGroup,
    *,
    since: StateInfo,
) -> StateInfo:
    """Write a state, every process its rows; all processes call it together. Either all of it is there afterwards or nothing.

    Args:
        states: of the variant.
        info: the state's description.
        ranker, optimizer: what all processes have alike.
        shards: this process's rows.
        group: the processes.
        since: the state that was loaded or last saved: what is written may build on it.

    Returns:
        The description as it was written.
    """
    hour = Hour.parse(info.hour)
    possible = all(shard.has_delta for shard in shards.values()) and states.is_base(since, hour)
    mine = shard_tensors(shards, changed=True) if possible else {}
    sizes = group.all_gather((possible, table_bytes(mine), sum(shard.nbytes for shard in shards.values())))
    if all(each[0] for each in sizes) and sum(s[1] for s in sizes) <= WORTHWHILE * sum(s[2] for s in sizes):
        on, layers = since.hour, since.layers + 1
    else:
        mine, on, layers = shard_tensors(shards, changed=False), "", 1
    rows = {name: shard.total for name, shard in shards.items()}
    with replaced_directory(states.folder(hour)) if group.first else nullcontext() as target:
        folder = next(path for path in group.all_gather(target) if path)
        path = shard_path(folder, group.rank, group.size)
        digest = group.together(lambda: write_shard(path, mine), "writing its part of the state")
        written = replace(info, tables=rows, builds_on=on, layers=layers, shards=tuple(group.all_gather(digest)))
        written = group.together(
            lambda: _write_first(folder, written, ranker, optimizer) if group.first else written, "writing the state"
        )
    group.wait()
    for shard in shards.values():
        shard.mark_saved()
    if group.first:
        states.drop_unneeded(hour)
    return group.all_gather(written)[0]


def shard_tensors(shards: Mapping[str, TableShard], *, changed: bool) -> Tensors:
    """The tensors of a process's file: all of its rows, or those that the last checkpoint lacks."""
    return {
        f"tables.{name}.{part}": tensor.contiguous()
        for name, shard in shards.items()
        for part, tensor in shard.shard(changed=changed).items()
    }


def write_shard(path: Path, tensors: Tensors) -> str:
    """Write a process's file; returns its digest."""
    save_file(tensors, path)
    return digest_file(path)


def _write_first(folder: Path, info: StateInfo, ranker: Ranker, optimizer: Optimizer) -> StateInfo:
    tensors = {name: t.contiguous() for name, t in {**dense_part(ranker), **optimizer.tensors()}.items()}
    return write_state(folder, info, tensors)


def tensor_shapes(states: StateStore, hour: Hour) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a state's own files by name; of a table's parts in several files one process's."""
    shapes = {}
    for path in states.files(states.info(hour))[:2]:
        with safe_open(path, "pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def load(
    states: StateStore,
    hour: Hour,
    shards: Mapping[str, TableShard],
    parts: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[StateInfo, Tensors]:
    """Read the rows of a state that belong to this process, whatever number of processes wrote it.

    Args:
        states: of the variant.
        hour: of the state.
        shards: to be filled; their embeddings then lie outside of TorchRec's collection.
        parts: names of each table's tensors that are read; None for all of them. Embeddings that are not read begin anew.

    Returns:
        The state's description, and what belongs to no table.

    Raises:
        CorruptStateError: a file does not match its digest.
    """
    chain = states.chain(hour)
    links = [(info, states.files(info)) for info in reversed(chain)]
    for name, shard in shards.items():
        totals = [link.tables[name] for link, _ in links]
        ids = [_own_ids(_Part(path, name), before, shard)
               for (_, files), before in zip(links, [1, *totals], strict=False) for path in _table_files(files)]  # fmt: skip
        keys, numbers = (np.concatenate(each) for each in zip(*ids, strict=True))
        order = np.argsort(numbers)
        shard.take(keys[order], numbers[order], totals[-1])
        wanted = shard.parts if parts is None else parts[name]
        for _, files in links:
            for path in _table_files(files):
                for rows, read in _Part(path, name).chunks([part for part in wanted if part not in SPARSE]):
                    shard.take_rows(rows, read)
        if "weight" not in wanted:
            shard.restart()
        for _, files in links if shard.sightings is not None and (parts is None or "cells" in parts[name]) else ():
            for path in _table_files(files):
                part = _Part(path, name)
                shard.sightings.add(part.numpy("cells"), part.numpy("sightings"))
    with safe_open(links[-1][1][0], "pt") as file:
        dense = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("tables.")}  # noqa: SIM118
    return replace(chain[0], layers=len(chain)), dense_tensors(dense)


def _table_files(files: list[Path]) -> list[Path]:
    """Those of a state's files that have tables: the shards, or the only one."""
    return files[1:] or files


def _own_ids(part: _Part, before: int, shard: TableShard) -> tuple[np.ndarray, np.ndarray]:
    """Keys of a file that belong to a shard, and the numbers of their rows."""
    keys = part.numpy("keys")
    numbers = part.numpy("key_numbers") if part.has("key_numbers") else before + np.arange(len(keys))
    here = owners(keys, shard.group.size) == shard.group.rank
    return keys[here], numbers[here]


@dataclass(frozen=True)
class _Part:
    """A table in a file of a state: a shard's, or that of a state in one piece."""

    path: Path
    table: str

    def _name(self, part: str) -> str:
        return f"tables.{self.table}.{part}"

    def has(self, part: str) -> bool:
        with safe_open(self.path, "pt") as file:
            return self._name(part) in file.keys()  # noqa: SIM118

    def numpy(self, part: str) -> np.ndarray:
        with safe_open(self.path, "pt") as file:
            array: np.ndarray = file.get_tensor(self._name(part)).numpy()
        return array

    def chunks(self, parts: Sequence[str]) -> Iterator[tuple[np.ndarray, Tensors]]:
        """Numbers of rows with the rows' parts, some at a time."""
        with safe_open(self.path, "pt") as file:
            slices = {part: file.get_slice(self._name(part)) for part in parts}
            count = slices[parts[0]].get_shape()[0]
            rows = file.get_tensor(self._name("rows")) if self.has("rows") else torch.arange(count)
            for at in range(0, count, READ_AT_ONCE):
                until = min(at + READ_AT_ONCE, count)
                yield rows[at:until].numpy(), {part: each[at:until] for part, each in slices.items()}
