"""Checkpoints of several processes: each writes its rows, a manifest commits them together, and any number of processes reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
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


class StateReader:
    """Reads the part of a state that belongs to this process, whatever number of processes wrote it.

    First the ids, then the rows: between the two the shards' rows can be given the place where they are to stay, so that no
    process ever holds them twice.
    """

    def __init__(self, states: StateStore, hour: Hour) -> None:
        """Find the files.

        Args:
            states: of the variant.
            hour: of the state.

        Raises:
            CorruptStateError: a file does not match its digest.
        """
        self._chain = states.chain(hour)
        self._links = [(info, states.files(info)) for info in reversed(self._chain)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors in the state's own files by name; of a table's parts in several files one process's."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path in self._links[-1][1][:2]:
            with safe_open(path, "pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return shapes

    def read_ids(self, shards: Mapping[str, TableShard]) -> None:
        """Give the shards their ids; there need not be room for their rows yet."""
        for name, shard in shards.items():
            totals = [link.tables[name] for link, _ in self._links]
            ids = [pair for (_, files), before in zip(self._links, [1, *totals], strict=False)
                   for path in _table_files(files) for pair in _own_ids(_Part(path, name), before, shard)]  # fmt: skip
            keys, numbers = (np.concatenate(each) for each in zip(*ids, strict=True))
            del ids
            if np.any(numbers[1:] < numbers[:-1]):
                order = np.argsort(numbers)
                keys, numbers = keys[order], numbers[order]
            shard.take(keys, numbers, totals[-1])

    def read_rows(
        self, shards: Mapping[str, TableShard], parts: Mapping[str, tuple[str, ...]] | None = None
    ) -> tuple[StateInfo, Tensors]:
        """Give the shards their rows.

        Args:
            shards: have their ids, and room for their rows.
            parts: names of each table's tensors that are read; None for all of them. Embeddings that are not read begin anew.

        Returns:
            The state's description, and what belongs to no table.
        """
        for name, shard in shards.items():
            wanted = (*shard.parts, *SPARSE) if parts is None else parts[name]
            for path in (path for _, files in self._links for path in _table_files(files)):
                part = _Part(path, name)
                for rows, read in part.chunks([each for each in wanted if each not in SPARSE]):
                    shard.take_rows(rows, read)
                if shard.sightings is not None and "cells" in wanted:
                    shard.sightings.add(part.numpy("cells"), part.numpy("sightings"))
            if "weight" not in wanted:
                shard.restart()
        with safe_open(self._links[-1][1][0], "pt") as file:
            dense = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("tables.")}  # noqa: SIM118
        return replace(self._chain[0], layers=len(self._chain)), dense_tensors(dense)


def _table_files(files: list[Path]) -> list[Path]:
    """Those of a state's files that have tables: the shards, or the only one."""
    return files[1:] or files


def _own_ids(part: _Part, before: int, shard: TableShard) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys of a file that belong to a shard, and the numbers of their rows, some at a time."""
    numbered = part.has("key_numbers")
    for at, read in part.slices(["keys", *(["key_numbers"] if numbered else [])]):
        keys = read["keys"].numpy()
        numbers = read["key_numbers"].numpy() if numbered else before + at + np.arange(len(keys))
        here = owners(keys, shard.group.size) == shard.group.rank
        yield keys[here], numbers[here]


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
        numbered = self.has("rows")
        for at, read in self.slices([*parts, *(["rows"] if numbered else [])]):
            rows = read.pop("rows").numpy() if numbered else at + np.arange(len(read[parts[0]]))
            yield rows, read

    def slices(self, parts: Sequence[str]) -> Iterator[tuple[int, Tensors]]:
        """Parts of one length, some rows at a time, and the place of the first; once also where there are none."""
        with safe_open(self.path, "pt") as file:
            slices = {part: file.get_slice(self._name(part)) for part in parts}
            count = slices[parts[0]].get_shape()[0]
            for at in range(0, max(count, 1), READ_AT_ONCE):
                until = min(at + READ_AT_ONCE, count)
                yield at, {part: each[at:until] for part, each in slices.items()}
