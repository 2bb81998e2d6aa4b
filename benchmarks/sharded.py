"""Training by several processes beside one: samples per second, bytes exchanged, memory of each process, loading in another number."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.result import Result, alone
from benchmarks.training import HOURS, PER_HOUR, UNTIL, bench_settings, config_of, prepare
from core.environment import platform_environment
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from pipeline.processes import run_group
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.samples import SampleStore
from training.state import StateStore
from training.state_info import new_info

VARIANT = "gaussian_clock"
IDS = 4_000_000
STALL_SECONDS = 300.0
PEERS = {"torchrec": "plain TorchRec, nothing saved", "ddp": "DDP with dense gradients, nothing saved"}
TODAYS_BYTES = 215.1
"""Bytes a sample that two processes sent before tables were sharded, at a tenth of the size; measured once, with commit bdfd9a7."""


def bench_sharded(scale: float) -> list[Result]:
    """Two processes beside one on the training bench's hours, and 1, 2 and 4 processes with 4 million ids.

    Each process has a core. ``train_sharded_core`` is by the core-seconds of the busiest process, waiting left out: what other work
    on the machine leaves as it is.
    """
    with tempfile.TemporaryDirectory() as folder:
        var = Path(folder)
        alone(prepare, var, [VARIANT], scale, 1)
        settings = bench_settings(var)
        last = UNTIL + HOURS - 1
        alone(_build_samples, var)
        rows = int(PER_HOUR * scale) * HOURS
        one, two = (_hours(settings, processes, last) for processes in (1, 2))
        speeds = [rows / max(each["seconds"] for each in measured) for measured in (one, two)]
        cores = [max(each["cpu"] for each in measured) for measured in (one, two)]
        sent = sum(each["bytes"] for each in two) / rows
        results = [
            Result("train_sharded", speeds[1], "/s", "one process", speeds[0], speeds[1] / speeds[0]),
            Result("train_sharded_core", rows / cores[1], "/s", "one process", rows / cores[0], cores[0] / cores[1]),
            Result(
                "train_sharded_bytes", sent, "B", "whole tables in every process", TODAYS_BYTES, TODAYS_BYTES / sent
            ),
        ]
        results += [each for name in PEERS for each in _peer(settings, name, last, speeds[1], rows / cores[1])]
        return results + _loads(settings, var / "large", int(IDS * scale))


def _build_samples(var: Path) -> None:
    settings = bench_settings(var)
    SampleStore(settings, EventStore(settings.events_dir)).build([UNTIL + n for n in range(HOURS)])


def _run(settings: Settings, processes: int, *arguments: str, module: str = "sharded_worker") -> list[dict[str, float]]:
    environment = {**platform_environment(settings), "OMP_NUM_THREADS": "1"}
    output = run_group(
        f"benchmarks.{module}", *arguments, processes=processes, environment=environment,
        folder=settings.training_dir / "processes", stall_seconds=STALL_SECONDS,
    )  # fmt: skip
    measured: list[dict[str, float]] = json.loads(output.splitlines()[-1])
    return measured


def _hours(settings: Settings, processes: int, last: Hour) -> list[dict[str, float]]:
    StateStore(settings.training_dir / "states", VARIANT).drop_after(UNTIL - 1)
    return _run(settings, processes, "hours", VARIANT, last.key)


def _peer(settings: Settings, name: str, last: Hour, speed: float, by_core: float) -> list[Result]:
    """The same ranker in two processes as a library's examples do it, by the clock and by the busiest process's core."""
    measured = _run(settings, 2, name, VARIANT, last.key, module="sharded_peers")
    rows = measured[0]["rows"]
    seconds, cores = (max(each[unit] for each in measured) for unit in ("seconds", "cpu"))
    peer = PEERS[name]
    return [
        Result(f"train_sharded_{name}", speed, "/s", peer, rows / seconds, speed / (rows / seconds)),
        Result(f"train_sharded_{name}_core", by_core, "/s", peer, rows / cores, by_core / (rows / cores)),
    ]


def _loads(settings: Settings, folder: Path, ids: int) -> list[Result]:
    """Memory of each of 2 and 4 processes with a state's tables beside one process's; the time to load them."""
    alone(_write_large, settings.var, folder, ids)
    loads = {n: _run(settings, n, "load", str(folder), VARIANT, (UNTIL - 1).key) for n in (1, 2, 4)}
    shutil.rmtree(folder)
    memory = {n: max(each["memory"] for each in measured) for n, measured in loads.items()}
    results = [
        Result(f"train_sharded_memory_{n}", memory[n], "GB", "one process", memory[1], memory[1] / memory[n])
        for n in (2, 4)
    ]
    seconds = max(each["seconds"] for n in (2, 4) for each in loads[n])
    return [*results, Result("train_reshard", seconds, "s", "the bar", 20.0, 20.0 / seconds)]


def _write_large(var: Path, folder: Path, ids: int) -> None:
    """A state of many users, in one piece."""
    settings = bench_settings(var)
    store, config = EventStore(settings.events_dir), config_of(settings, VARIANT, threads=1)
    ranker = Ranker(config, store.facets, store.behaviors)
    ranker.users.grow(np.arange(ids), UNTIL.number)
    info = replace(new_info(config, store.facets, store.behaviors), hour=(UNTIL - 1).key)
    StateStore(folder, VARIANT).save(info, ranker, Optimizer(ranker))
