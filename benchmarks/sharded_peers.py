"""The same ranker and samples trained by several processes as the libraries' examples do it, beside ``training.sharded``.

``torchrec`` feeds the same sharded collection as TorchRec's examples: ids are rows of tables of a fixed size, every occurrence of an
id in a batch is looked up, dense layers are in ``DistributedDataParallel``. ``ddp`` holds every table whole in every process, with
dense gradients. Both test each hour before they train on it, and nothing else: no row is made or given back, nothing is saved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.sharded_worker import join_on_a_core
from benchmarks.training import UNTIL, config_of
from core import cli
from core.hours import Hour, hour_range
from core.settings import Settings
from events.store import EventStore
from training.batch import Batch, HourKeys
from training.config import RankerConfig
from training.embedding import GrowingEmbedding
from training.group import DistributedGroup
from training.ranker import Ranker
from training.samples import SampleStore
from training.sharded.collection import RowWiseCollection
from training.sharded.deal import Deal
from training.sharded.hour_table import HourTable
from training.sharded.shard import TableShard
from training.state import StateStore
from training.tensors import to_batch
from training.trainer import batch_loss, trained_keys

app = cli.App()
DDP_STEPS = 6
"""Steps that are measured where each of them sums the gradients of whole tables."""


class WholeTable(GrowingEmbedding):
    """A table that an optimizer of dense gradients trains."""

    def __init__(self, dim: int, seed: int, keys: np.ndarray) -> None:
        super().__init__(dim, seed)
        self.grow(keys)
        self.trained = nn.Parameter(self.weight[: self.size].clone())
        self.weight = self.weight[:1]  # in the parameter

    def _gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.trained, rows


class _Bench:
    """One process's samples, and the distinct ids of all."""

    def __init__(self, settings: Settings, group: DistributedGroup, variant: str, until: str) -> None:
        self.group, self.settings = group, settings
        self.store = SampleStore(settings, EventStore(settings.events_dir))
        self.config: RankerConfig = config_of(settings, variant, threads=1)
        self.hours = list(hour_range(UNTIL, Hour.parse(until) + 1))
        torch.set_num_threads(1)
        known = StateStore(settings.training_dir / "states", variant).tensors(UNTIL - 1)
        ranker, ids = self.ranker(), {"users": [], "items": [], "values": []}  # type: ignore[var-annotated]
        for hour in self.hours:
            for name, keys in trained_keys(ranker, self.keys(hour, ranker)[1]).items():
                ids[name].append(np.unique(keys))
        self.ids = {
            name: np.unique(
                group.gather(torch.from_numpy(np.concatenate([known[f"tables.{name}.keys"].numpy(), *parts])))
            )
            for name, parts in ids.items()
        }

    def ranker(self) -> Ranker:
        return Ranker(self.config, self.store.facets, self.store.heads)

    def keys(self, hour: Hour, ranker: Ranker) -> tuple[Deal, HourKeys]:
        deal = Deal(self.store.count(hour), self.config.batch_size, self.group.size)
        return deal, self.store.read_part(hour, deal.rows(self.group.rank)).keys(ranker)

    def measure(
        self, ranker: Ranker, test: Callable[[Batch], object], train: Callable[[Batch, int], None], steps: int
    ) -> None:
        """Run the hours, at most so many steps of each, and print what each process took for how many samples."""
        self.group.wait()
        begun, cpu, rows = time.perf_counter(), time.process_time(), 0
        for hour in self.hours:
            deal, keys = self.keys(hour, ranker)
            whole, edges, samples = to_batch(keys, ranker), deal.edges(self.group.rank)[:steps], deal.samples()[:steps]
            with torch.no_grad():
                for batch in ranker.cut(whole, edges.tolist()):
                    test(batch)
            for batch, count in zip(ranker.cut(whole, edges.tolist()), samples.tolist(), strict=True):
                train(batch, count)
            rows += int(samples.sum())
        self.group.wait()
        took = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "rows": rows}
        measured = self.group.all_gather(took)
        if self.group.first:
            print(json.dumps(measured))


@app.command()
def torchrec(variant: str, until: str) -> None:
    """As TorchRec's examples do it."""
    settings, group = join_on_a_core()
    assert isinstance(group, DistributedGroup)
    bench = _Bench(settings, group, variant, until)
    ranker, config = bench.ranker(), bench.config
    capacities = {name: -(-(len(keys) + 1) // group.size) for name, keys in bench.ids.items()}
    collection = RowWiseCollection(config.dim, capacities, config.embedding_rate)
    tables: Mapping[str, HourTable] = {name: HourTable(TableShard.of(t, group)) for name, t in ranker.tables.items()}
    for name, table in tables.items():
        table.open(
            bench.ids[name], np.arange(1, len(bench.ids[name]) + 1), torch.empty(len(bench.ids[name]), table.width)
        )
        setattr(ranker, name, table)
    dense = DistributedDataParallel(ranker)
    adam = torch.optim.Adam(ranker.dense_parameters(), config.dense_rate)

    def fetch(batch: Batch) -> None:
        rows = {name: torch.cat([r.reshape(-1) for r in read]) for name, read in ranker.reads(batch).items()}
        fetched = collection({name: tables[name].places[each] for name, each in rows.items()})
        for name, table in tables.items():
            table.hold(rows[name], fetched[name])

    def test(batch: Batch) -> Tensor:
        fetch(batch)
        return ranker(batch)

    def train(batch: Batch, count: int) -> None:
        fetch(batch)
        adam.zero_grad()
        batch_loss(ranker, batch, count, dense).backward()
        adam.step()

    bench.measure(ranker, test, train, 1 << 30)


@app.command()
def ddp(variant: str, until: str) -> None:
    """As DistributedDataParallel's tutorial does it."""
    settings, group = join_on_a_core()
    assert isinstance(group, DistributedGroup)
    bench = _Bench(settings, group, variant, until)
    bench.hours = bench.hours[:1]
    ranker, config = bench.ranker(), bench.config
    for name, table in ranker.tables.items():
        setattr(ranker, name, WholeTable(table.dim, table.seed, bench.ids[name]))
    tables = [table.trained for table in ranker.tables.values() if isinstance(table, WholeTable)]
    whole = {id(parameter) for parameter in tables}
    model = DistributedDataParallel(ranker, broadcast_buffers=False)
    optimizers = [
        torch.optim.Adam([p for p in ranker.dense_parameters() if id(p) not in whole], config.dense_rate),
        torch.optim.Adagrad(tables, config.embedding_rate),
    ]

    def train(batch: Batch, count: int) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        batch_loss(ranker, batch, count, model).backward()
        for optimizer in optimizers:
            optimizer.step()

    bench.measure(ranker, ranker, train, DDP_STEPS)


if __name__ == "__main__":
    cli.run(app)
