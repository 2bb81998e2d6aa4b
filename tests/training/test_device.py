"""Training on a GPU: what the CPU trains, the same bits every time, states that either can go on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from core.errors import ConfigError
from core.hours import Hour
from training.batch import HourKeys
from training.config import RankerConfig, Variant
from training.device import CPU, training_device
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.scoring import predict
from training.state import StateStore, ranker_tensors
from training.state_info import new_info
from training.trainer import fit

FIRST, HOURS = Hour.parse("2026-03-02T22"), 4
FACETS, HEADS = ("genre", "mood"), ("finish", "like")
USERS, ITEMS, SAMPLES, SLOTS, TOP, HISTORY = 60, 80, 600, 24, 3, 20
RANKERS = [
    *((variant, {}) for variant in get_args(Variant)),
    ("gaussian_clock", {"sequence": "din", "learn_sigma": True}),
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")


def hour_of(n: int) -> HourKeys:
    """Made-up samples of an hour."""
    rng = np.random.default_rng(n)
    who = rng.integers(0, USERS, SAMPLES)
    users, position = np.unique(who, return_inverse=True)
    minutes = (FIRST + n).number * 60 + rng.integers(0, 60, SAMPLES)
    known = rng.uniform(size=(len(users), SLOTS, len(FACETS), TOP)) < 0.4
    labels = (rng.uniform(size=(SAMPLES, len(HEADS))) < 0.4).astype(np.float32)
    history = rng.integers(0, ITEMS, (len(users), HISTORY)) + 1
    ago = np.sort(rng.integers(1, 20_000, (len(users), HISTORY)), axis=1)[:, ::-1]
    return HourKeys(
        users=who, items=rng.integers(0, ITEMS, SAMPLES) + 1, facets=rng.integers(1, 9, (SAMPLES, len(FACETS))),
        context=np.zeros((SAMPLES, 0), np.int64), categories=np.zeros((SAMPLES, 0), np.int64),
        numbers=np.zeros((SAMPLES, 0)), lists=np.zeros((SAMPLES, 0, 0), np.int64),
        minutes=minutes, dense=rng.uniform(size=(SAMPLES, 3)).astype(np.float32), user_position=position,
        clock_values=known * rng.integers(1, 9, known.shape),
        clock_scores=(known * rng.integers(1, 5, known.shape)).astype(np.float32),
        slot_events=rng.integers(0, 30, (len(users), SLOTS)).astype(np.float32), recent_items=history,
        recent_minutes=FIRST.number * 60 - ago, labels=labels, known=rng.uniform(size=labels.shape) < 0.9,
    )  # fmt: skip


def ranker_of(variant: str, changes: dict[str, Any], device: torch.device) -> tuple[Ranker, Optimizer]:
    config = RankerConfig(**{"variant": variant, "history_length": HISTORY, "batch_size": 128, **changes})
    ranker = Ranker(config, FACETS, HEADS).to(device)
    return ranker, Optimizer(ranker)


def read(ranker: Ranker, n: int) -> HourKeys:
    return hour_of(n).only(clock=ranker.time.needs_clock, recent_behaviors=ranker.needs_recent_behaviors)


def train(ranker: Ranker, optimizer: Optimizer, hours: range) -> np.ndarray:
    """Test, then train on every hour; all scores."""
    scores = []
    for n in hours:
        keys = read(ranker, n)
        scores.append(predict(ranker, keys))
        fit(ranker, optimizer, keys, FIRST + n)
    return np.concatenate(scores)


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    yield training_device("cuda")
    torch.use_deterministic_algorithms(False)


@needs_gpu
@pytest.mark.parametrize(("variant", "changes"), RANKERS)
def test_a_gpu_trains_what_the_cpu_trains_and_the_same_bits_every_time(
    variant: str, changes: dict[str, Any], gpu: torch.device
) -> None:
    on_cpu = train(*ranker_of(variant, changes, CPU), range(HOURS))
    (ranker, optimizer), again = (ranker_of(variant, changes, gpu) for _ in range(2))
    on_gpu = train(ranker, optimizer, range(HOURS))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=2e-3)
    np.testing.assert_array_equal(train(*again, range(HOURS)), on_gpu)
    for name, tensor in ranker_tensors(ranker).items():
        assert torch.equal(tensor, ranker_tensors(again[0])[name]), name


@needs_gpu
def test_small_batches_stay_on_the_cpu_unless_asked_otherwise(gpu: torch.device) -> None:
    assert training_device("auto", 256) == CPU
    assert training_device("auto", 4096) == training_device("cuda", 256) == gpu


@needs_gpu
def test_a_state_of_a_gpu_goes_on_anywhere(gpu: torch.device, tmp_path: Path) -> None:
    ranker, optimizer = ranker_of("matched_clock", {}, gpu)
    train(ranker, optimizer, range(2))
    states = StateStore(tmp_path, "matched_clock")
    info = new_info(ranker.config, FACETS, HEADS)
    states.save(type(info)(**{**vars(info), "hour": (FIRST + 1).key}), ranker, optimizer)
    expected = train(ranker, optimizer, range(2, HOURS))
    for device in (gpu, CPU):
        _, loaded, its = states.load(FIRST + 1, device=device)
        assert loaded.device == device
        continued = train(loaded, its, range(2, HOURS))
        np.testing.assert_allclose(continued, expected, atol=0 if device == gpu else 2e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a GPU here")
def test_asking_for_a_gpu_where_there_is_none_says_what_to_do() -> None:
    assert training_device("auto", 4096) == CPU
    with pytest.raises(ConfigError, match="CLOCK_DEVICE=cuda, and PyTorch sees no GPU here"):
        training_device("cuda")
