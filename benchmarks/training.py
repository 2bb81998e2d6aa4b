"""Speed of the hourly trainer on a model of a million ids: read, join, test, train, checkpoint; and of resuming."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.clocks import START, write_log
from benchmarks.result import Result, alone, in_own_process, peak_memory, timed
from core.hours import Hour, hour_range
from core.settings import Settings, load_settings
from events.store import EventStore
from feature_repo.clock import ClockState
from stats.circle import circular_distance, normal_density
from training.config import RankerConfig, load_ranker_config
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.samples import SampleStore
from training.state import WEIGHTS, StateStore
from training.state_info import new_info
from training.tensors import hour_keys
from training.trainer import Trainer, fit

USERS, ITEMS = 950_000, 50_000
PER_HOUR, HISTORY_HOURS, HOURS = 250_000, 24, 2
BATCH, SESSION, THREADS = 4096, 8, 1
PEER_BATCHES = 12
BARS = {"gaussian_clock": 110_000, "matched_clock": 80_000}
"""Samples a second on two cores."""
SIZES = (256, 1024, 4096, 16384)
"""Batches with which a GPU is compared with the CPU."""
UNTIL = START + HISTORY_HOURS


def bench_settings(var: Path, device: str = "cpu") -> Settings:
    """Settings of the bench's workspace."""
    return load_settings(var=var, source="bench", history_days=1, device=device)


def config_of(settings: Settings, variant: str, threads: int = THREADS) -> RankerConfig:
    """A ranker's configuration with the bench's batch size and threads."""
    return load_ranker_config(settings, variant).model_copy(update={"batch_size": BATCH, "threads": threads})


def prepare(var: Path, variants: list[str], scale: float, threads: int = THREADS) -> None:
    """Write events and clocks, and a state of each variant that knows every id."""
    settings = bench_settings(var)
    users, hours = int(USERS * scale), HISTORY_HOURS + HOURS
    store = write_log(settings, int(PER_HOUR * scale) * hours, users, hours, session=SESSION)
    clock = ClockState(settings, store)
    clock.rebuild(UNTIL, history=False)
    for n in range(1, HOURS):
        clock.refresh(UNTIL + n)
    for variant in variants:
        config = config_of(settings, variant, threads)
        ranker = Ranker(config, store.facets, store.behaviors)
        ranker.users.grow(np.arange(users), UNTIL.number)
        ranker.items.grow(np.arange(ITEMS), UNTIL.number)
        info = replace(new_info(config, store.facets, store.behaviors), hour=(UNTIL - 1).key)
        StateStore(settings.training_dir / "states", variant).save(info, ranker, Optimizer(ranker))


class Measured(NamedTuple):
    """What the hours of the bench took.

    Attributes:
        resume: seconds to load the last state, which builds on others.
        seconds: of all hours.
        core_seconds: the same on all cores.
        thread_seconds: of a core, of the thread that trains: what the others cannot take from it.
        memory: peak, GB.
    """

    resume: float
    seconds: float
    core_seconds: float
    thread_seconds: float
    memory: float


def _measure(var: Path, variant: str, device: str) -> Measured:
    """Train the hours as they come: each is joined and decoded while the one before it is trained on.

    Feast's imports and a GPU's start are not timed.
    """
    settings = bench_settings(var, device)
    StateStore(settings.training_dir / "states", variant).drop_after(UNTIL - 1)
    samples = SampleStore(settings, EventStore(settings.events_dir))
    assert samples.features.store is not None
    trainer = Trainer(settings, variant, samples, config_of(settings, variant))
    torch.zeros(1, device=trainer.device)
    last = UNTIL + HOURS - 1
    for hour in hour_range(UNTIL, last + 1):
        shutil.rmtree(samples.folder(hour), ignore_errors=True)
    begun, spent, training = time.perf_counter(), time.process_time(), time.thread_time()
    trainer.train(last)
    return Measured(
        seconds=time.perf_counter() - begun,
        core_seconds=time.process_time() - spent,
        thread_seconds=time.thread_time() - training,
        memory=peak_memory(),
        resume=timed(lambda: trainer.states.load(last, device=trainer.device)),
    )


def _checkpoints(var: Path, variant: str) -> Result:
    """Size of the checkpoint that an hour writes."""
    states = StateStore(bench_settings(var).training_dir / "states", variant)
    full, delta = ((states.folder(h) / WEIGHTS).stat().st_size / 1e6 for h in (UNTIL - 1, UNTIL + HOURS - 1))
    return Result("train_checkpoint", delta, "MB", "a whole one", full, full / delta)


def bench_training(scale: float) -> list[Result]:
    """Samples per second over the whole hourly path; seconds to resume."""
    variants = [*BARS]
    with tempfile.TemporaryDirectory() as folder:
        var = Path(folder)
        in_own_process(prepare, var, variants, scale)
        settings = bench_settings(var)
        rows = int(PER_HOUR * scale) * HOURS
        results = []
        for variant in variants:
            resume, seconds, spent, training, memory = alone(_measure, var, variant, "cpu")
            if variant == variants[0]:
                plain = with_pandas(settings, UNTIL, int(USERS * scale))
            name = "train_throughput" if variant == variants[0] else f"train_throughput_{variant}"
            speed = rows / seconds
            results += [
                Result(name, speed, "/s", f"{variants[0]}, dense Adam, pandas loader", plain, speed / plain),
                Result(
                    f"{name}_core",
                    rows / spent,
                    "/s",
                    "half the bar",
                    BARS[variant] / 2,
                    rows / spent / BARS[variant] * 2,
                ),
                Result(
                    f"{name}_thread", rows / training, "/s", "the bar", BARS[variant], rows / training / BARS[variant]
                ),
                Result(f"{name}_memory", memory, "GB", "the platform's budget", 6.0, 6.0 / memory),
            ]
            if variant == variants[0]:
                results.append(Result("train_resume", resume, "s", "the bar", 5.0, 5.0 / resume))
                results.append(_checkpoints(var, variant))
            if torch.cuda.is_available():
                seconds = alone(_measure, var, variant, "cuda").seconds
                results.append(
                    Result(f"{name}_gpu", rows / seconds, "/s", "this machine's CPU", speed, rows / seconds / speed)
                )
                results += _fits(var, variant)
        return results


def _fits(var: Path, variant: str) -> list[Result]:
    """Training alone, without reading, joining and testing, by size of a batch: a GPU beside the CPU."""
    cpu, gpu = (alone(_fit_speeds, var, variant, device) for device in ("cpu", "cuda"))
    return [
        Result(f"fit_{variant}_{size}_gpu", gpu[size], "/s", "this machine's CPU", cpu[size], gpu[size] / cpu[size])
        for size in SIZES
    ]


def _fit_speeds(var: Path, variant: str, device: str) -> dict[int, float]:
    """Samples per second by batch size, on the first hour's samples."""
    settings = bench_settings(var, device)
    trainer = Trainer(settings, variant, config=config_of(settings, variant))
    _, ranker, optimizer = trainer.states.load(UNTIL - 1, device=trainer.device)
    keys = hour_keys(trainer.samples.read(UNTIL).tables, ranker)
    fit(ranker, optimizer, keys, UNTIL)
    speeds = {}
    for size in SIZES:
        ranker.config = ranker.config.model_copy(update={"batch_size": size})
        speeds[size] = len(keys) / timed(lambda: fit(ranker, optimizer, keys, UNTIL), 1)
    return speeds


class Plain(nn.Module):
    """The same ranker written the usual way: fixed tables, dense gradients, the clock summed slot by slot."""

    def __init__(self, users: int, values: int, heads: int, facets: int, dim: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, dim), nn.Embedding(ITEMS, dim)
        self.values = nn.Embedding(values + 1, dim)
        width = dim * (3 + 2 * facets) + 3
        self.cross = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32 + width, heads)

    def forward(self, part: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits of a batch's heads, shape (B, heads)."""
        user, item = self.users(part["user"]), self.items(part["item"])
        slots = (self.values(part["clock"]) * part["weight"][..., None]).sum(dim=3)  # (B, S, F, D)
        clock = (slots * part["near"][:, :, None, None]).sum(dim=1).flatten(1)
        x = torch.cat([user, item, self.values(part["facets"]).flatten(1), clock, user * item, part["dense"]], dim=1)
        return self.head(torch.cat([self.mlp(x), x * self.cross(x) + x], dim=1))


def with_pandas(settings: Settings, hour: Hour, users: int) -> float:
    """Samples per second of ``Plain`` with Adam and a loader of pandas merges, over a few batches."""
    drawn = SampleStore(settings, EventStore(settings.events_dir)).read(hour).tables
    heads = EventStore(settings.events_dir).behaviors
    facets = EventStore(settings.events_dir).facets
    slots, profiles = drawn.slots.to_pandas(), drawn.profiles.to_pandas()
    names = sorted({value for facet in facets for value in drawn.samples[facet].unique().to_pylist()})
    codes = {value: n + 1 for n, value in enumerate(names)}
    frame = drawn.samples.slice(0, BATCH * PEER_BATCHES).to_pandas()
    model = Plain(users, len(names), len(heads), len(facets), 16)
    adam = torch.optim.Adam(model.parameters())
    torch.set_num_threads(2)
    begun = time.perf_counter()
    for start in range(0, len(frame), BATCH):
        part = _batch(frame.iloc[start : start + BATCH], slots, profiles, facets, heads, codes)
        with torch.no_grad():
            model(part)
        loss = nn.functional.binary_cross_entropy_with_logits(model(part), part["labels"])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return len(frame) / (time.perf_counter() - begun)


def _batch(
    frame: pd.DataFrame,
    slots: pd.DataFrame,
    profiles: pd.DataFrame,
    facets: list[str],
    heads: list[str],
    codes: dict[str, int],
) -> dict[str, torch.Tensor]:
    rows = (
        frame.reset_index(drop=True)
        .merge(
            profiles[["user_id", "events", "finish"]].rename(columns={"finish": "finished"}), on="user_id", how="left"
        )
        .fillna({"events": 0, "finished": 0})
    )
    clocks = slots.merge(rows[["user_id"]].assign(row=rows.index), on="user_id")
    values = np.zeros((len(rows), 24, len(facets), 3), dtype=np.int64)
    weights = np.zeros(values.shape, dtype=np.float32)
    for f, facet in enumerate(facets):
        for row, slot, tops, scores in zip(
            clocks["row"], clocks["slot"], clocks[f"{facet}_values"], clocks[f"{facet}_scores"], strict=True
        ):
            total = sum(scores)
            for k, (value, score) in enumerate(zip(tops, scores, strict=True)):
                values[row, slot, f, k], weights[row, slot, f, k] = codes.get(value, 0), score / total
    local = rows["local_time"].dt.hour + rows["local_time"].dt.minute / 60
    near = normal_density(circular_distance(local.to_numpy()[:, None] - (np.arange(24) + 0.5)))
    dense = np.stack(
        [np.log1p(rows["events"]) / 5, rows["finished"] / rows["events"].clip(lower=1), rows["events"] > 0], axis=1
    )
    arrays: dict[str, np.ndarray] = {
        "user": rows["user_id"].to_numpy(),
        "item": rows["item_id"].to_numpy(),
        "facets": np.stack([rows[f].map(codes).fillna(0).astype(int) for f in facets], axis=1),
        "clock": values,
        "weight": weights,
        "near": near.astype(np.float32),
        "dense": dense.astype(np.float32),
        "labels": rows[heads].fillna(False).to_numpy(dtype=np.float32),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
