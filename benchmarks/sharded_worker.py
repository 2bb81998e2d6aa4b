"""What each process of a group does in the bench of training by several processes; the first prints what all of them measured."""

from __future__ import annotations

import inspect
import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from benchmarks.training import config_of
from core import cli
from core.hours import Hour
from core.settings import Settings, load_settings
from events.store import EventStore
from training.group import DistributedGroup, Group, join_group, process_rank
from training.samples import SampleStore
from training.sharded.trainer import ShardedTrainer
from training.state import StateStore
from training.trainer import Trainer

app = cli.App()


def join_on_a_core() -> tuple[Settings, Group]:
    """The settings and the group of this process, which keeps to a core of its own."""
    settings = load_settings(device="cpu", history_days=1)
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {available[process_rank() % len(available)]})  # a core each
    return settings, join_group(settings.training_dir / "processes")


def _trainer(settings: Settings, group: Group, variant: str) -> Trainer:
    """A trainer of one thread."""
    samples = SampleStore(settings, EventStore(settings.events_dir))
    config = config_of(settings, variant, threads=1)
    if isinstance(group, DistributedGroup):
        return ShardedTrainer(settings, variant, samples, config, group=group)
    return Trainer(settings, variant, samples, config)


@app.command()
def hours(variant: str, until: str) -> None:
    """Test, train and save hours, each from the state before; imports and resuming are not timed."""
    settings, group = join_on_a_core()
    trainer = _trainer(settings, group, variant)
    sent = count_bytes()
    steps = trainer.steps(Hour.parse(until))
    next(steps)
    group.wait()
    begun, sent[0], cpu = time.perf_counter(), 0, time.process_time()
    for _ in steps:
        pass
    measured = group.all_gather(
        {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "bytes": sent[0]}
    )
    if group.first:
        print(json.dumps(measured))


@app.command()
def load(folder: str, variant: str, hour: str) -> None:
    """Resume from a state; how long it takes, and the memory that it takes on top of the process's."""
    settings, group = join_on_a_core()
    trainer = _trainer(settings, group, variant)
    trainer.states = StateStore(Path(folder), variant)
    trainer._fresh()  # libraries are loaded by it
    process, before = psutil.Process(), psutil.Process().memory_info().rss
    group.wait()
    begun = time.perf_counter()
    loaded = trainer._load(Hour.parse(hour))
    group.wait()
    seconds = time.perf_counter() - begun
    measured = group.all_gather({"seconds": seconds, "memory": (process.memory_info().rss - before) / 1e9})
    del loaded
    if group.first:
        print(json.dumps(measured))


def count_bytes() -> list[int]:
    """A counter of the bytes that this process sends to others from now on, in exchanges and sums."""
    sent = [0]
    exchange, reduce = dist.all_to_all_single, dist.all_reduce
    signature = inspect.signature(exchange)

    def counting(*arguments: Any, **options: Any) -> Any:
        called = signature.bind(*arguments, **options).arguments
        data, split = called["input"], called.get("input_split_sizes")
        row = data[:1].nbytes if len(data) else 0
        kept = split[dist.get_rank()] * row if split else data.nbytes // dist.get_world_size()
        sent[0] += data.nbytes - kept
        return exchange(*arguments, **options)

    def summing(data: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent[0] += 2 * data.nbytes * (dist.get_world_size() - 1) // dist.get_world_size()  # what a ring sends
        return reduce(data, *arguments, **options)

    setattr(dist, "all_to_all_single", counting)  # noqa: B010
    setattr(dist, "all_reduce", summing)  # noqa: B010
    return sent


if __name__ == "__main__":
    cli.run(app)
