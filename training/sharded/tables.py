"""A ranker's tables over all processes: ids are looked up once for an hour, embeddings once for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from training.config import RankerConfig
from training.group import DistributedGroup, lost_becomes_error
from training.ranker import Ranker
from training.sharded.collection import RowWiseCollection
from training.sharded.hour_table import HourTable
from training.sharded.shard import TableShard


class ShardedTables:
    """The shards of this process, TorchRec's collection that their embeddings lie in, and the hour that is open."""

    def __init__(self, ranker: Ranker, group: DistributedGroup) -> None:
        """Put sharded tables in the place of an untrained ranker's own ones."""
        self.group, self.config = group, ranker.config
        self.shards = {name: TableShard.of(table, group) for name, table in ranker.tables.items()}
        self.hour = {name: HourTable(shard) for name, shard in self.shards.items()}
        self._collection = self._make()
        for name, table in self.hour.items():
            setattr(ranker, name, table)

    def _make(self) -> RowWiseCollection:
        config: RankerConfig = self.config
        capacities = {name: shard.capacity for name, shard in self.shards.items()}
        largest = [max(sizes) for sizes in zip(*self.group.all_gather(list(capacities.values())), strict=True)]
        with lost_becomes_error("placing the tables"):
            made = RowWiseCollection(config.dim, dict(zip(capacities, largest, strict=True)), config.embedding_rate)
        for name, shard in self.shards.items():
            shard.move_into(made.weights[name], made.accumulators[name])
        return made

    def make_room(self) -> None:
        """Let the collection be as large as the shards have become; all processes call it together."""
        inside = all(
            shard.weight.data_ptr() == self._collection.weights[name].data_ptr() and shard.size <= len(shard.weight)
            for name, shard in self.shards.items()
        )
        if not all(self.group.all_gather(inside)):
            self._collection = self._make()

    def expire(self, before: int) -> None:
        """Forget ids that were last seen before an hour."""
        for shard in self.shards.values():
            shard.expire(before)

    def grow(self, keys: Mapping[str, np.ndarray], hour: int) -> None:
        """Give new ids of all processes rows."""
        for name, shard in self.shards.items():
            shard.grow(keys[name], hour)
        self.make_room()

    def open(self, keys: Mapping[str, np.ndarray]) -> None:
        """Look up the ids of this process's samples, where the processes hold them, with their statistics."""
        for name, shard in self.shards.items():
            wanted = np.unique(keys[name])
            asked = shard.by_owner(wanted)
            requests = self.group.exchange([torch.from_numpy(wanted[at]) for at in asked])
            answers = [shard.rows(request.numpy()) for request in requests]
            rows = self.group.exchange(answers)
            statistics = torch.zeros(len(wanted), shard.width, dtype=shard.statistics.dtype)
            if shard.width:
                for at, part in zip(
                    asked, self.group.exchange([shard.statistics[each] for each in answers]), strict=True
                ):
                    statistics[torch.from_numpy(at)] = part
            capacity, places = self._collection.capacities[name], np.zeros(len(wanted), dtype=np.int64)
            for rank, (at, local) in enumerate(zip(asked, rows, strict=True)):
                places[at] = np.where(local.numpy() > 0, rank * capacity + local.numpy(), 0)
            known = places > 0
            self.hour[name].open(wanted[known], places[known], statistics[torch.from_numpy(known)])

    def fetch(self, reads: Mapping[str, Sequence[Tensor]]) -> Tensor:
        """Fetch the embeddings that a batch reads; all processes call it together, also one without samples.

        Returns:
            Zero, with a gradient: added to a loss, it lets every process take part in the backward pass.
        """
        self.group.beat("fetching embeddings")
        rows = {name: table.wanted(reads[name]) for name, table in self.hour.items()}
        with lost_becomes_error("fetching embeddings"):
            fetched = self._collection({name: self.hour[name].places[each] for name, each in rows.items()})
        for name, table in self.hour.items():
            table.hold(rows[name], fetched[name])
        return torch.stack([0.0 * each.sum() for each in fetched.values()]).sum()

    def settle(self, weight: float) -> None:
        """After an hour: note in their processes which rows were trained, and add up what was counted.

        Args:
            weight: of a sample in the statistics.
        """
        for name, table in self.hour.items():
            shard, capacity = self.shards[name], self._collection.capacities[name]
            counted = self.group.all_gather(table.counts is not None)
            changed = table.used.clone()
            if table.counts is not None:
                changed |= table.counts.any(dim=1)
            changed[0] = False
            rows = changed.nonzero().ravel()
            rank, local = table.places[rows] // capacity, table.places[rows] % capacity
            chosen = [rank == r for r in range(self.group.size)]
            trained = self.group.exchange([local[mask] for mask in chosen])
            for part in trained:
                shard.touch(part)
            shard.touch(torch.tensor([0]))
            if not any(counted):
                continue
            counts = torch.zeros(table.statistics.shape, dtype=torch.int64) if table.counts is None else table.counts
            theirs = self.group.exchange([counts[rows[mask]] for mask in chosen])
            sums = torch.zeros(shard.size, shard.width, dtype=torch.int64)
            for part, count in zip(trained, theirs, strict=True):
                sums.index_add_(0, part, count)
            filled = sums.any(dim=1).nonzero().ravel()
            shard.statistics[filled] += weight * sums[filled]
            shard.statistics[0] += weight * self.group.sum(counts[0])
