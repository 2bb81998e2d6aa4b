"""What processes of a group do in tests: each command runs in every one of them (``pipeline.processes.run_group``)."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from core import cli
from core.errors import DataError
from core.hours import Hour
from core.settings import load_settings
from training.group import DistributedGroup, join_group
from training.sharded.shard import TableShard
from training.sharded.trainer import ShardedTrainer
from training.sightings import PARTITIONS, SightingFilter

app = cli.App()
SMALL_FILE = 4096


def joined(folder: str) -> DistributedGroup:
    group = join_group(Path(folder))
    assert isinstance(group, DistributedGroup)
    return group


@app.command()
def exchange(folder: str) -> None:
    """Rows to every process, of different numbers, and sums of gradients that not everybody has."""
    group = joined(folder)
    sent = [torch.full((group.rank + to, 2), 10 * group.rank + to) for to in range(group.size)]
    got = [part.tolist() for part in group.exchange(sent)]
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), 1.0 + group.rank)
    if group.rank == 1:
        parameters[1].grad = torch.ones(2)
    group.all_reduce(parameters)
    gradients = [None if p.grad is None else p.grad.tolist() for p in parameters]
    everything = group.all_gather((got, gradients, group.gather(torch.tensor([group.rank])).tolist()))
    if group.first:
        print(json.dumps(everything))


def rounds() -> list[tuple[int, np.ndarray]]:
    """Ids of hours: of the first only some come again."""
    draw = np.random.default_rng(3)
    return [(hour, draw.integers(-500, 500, 400) * 31) for hour in (1, 40, 60, 61)]


@app.command()
def grow(folder: str, after: int, decay: float) -> None:
    """A table grows and forgets; each process has every second of the ids. The parts are written beside the signs of life."""
    group = joined(folder)
    table = TableShard(5, 7, 2, group, SightingFilter(after, 16 * PARTITIONS) if after > 1 else None, decay)
    for hour, keys in rounds():
        table.grow(keys[group.rank :: group.size], hour)
        if hour < 60:  # afterwards they decay
            table.accumulator[: table.size] = torch.from_numpy(table.numbers).float()
        table.statistics[: table.size] = torch.from_numpy(table.numbers)[:, None].double()
        if hour == 40:
            print(table.expire(30))
            table.mark_saved()
            save_file(table.shard(changed=False), Path(folder) / f"whole-{group.rank}")
    save_file(table.shard(changed=True), Path(folder) / f"delta-{group.rank}")


@app.command()
def one_fails(folder: str) -> None:
    """Rank 1 cannot read its data."""
    group = joined(folder)

    def read() -> None:
        if group.rank == 1:
            raise DataError("the file is torn")

    group.together(read, "reading")


@app.command()
def differ(folder: str) -> None:
    """Rank 1 has another configuration."""
    group = joined(folder)
    group.agree("plan", f"plan {group.rank}")


@app.command()
def one_hangs(folder: str) -> None:
    """Rank 1 never comes."""
    group = joined(folder)
    group.beat("thinking")
    if group.rank == 1:
        time.sleep(600)
    group.wait()


@app.command()
def one_stops(folder: str) -> None:
    """Rank 1 is stopped by somebody."""
    group = joined(folder)
    group.wait()
    if group.rank == 1:
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGSTOP)
    group.wait()


@app.command()
def disk_full(folder: str, variant: str, until: str) -> None:
    """Rank 1 can write small files only."""
    group = joined(folder)
    if group.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, SMALL_FILE))
    ShardedTrainer(load_settings(), variant, group=group).train(Hour.parse(until))


if __name__ == "__main__":
    cli.run(app)
