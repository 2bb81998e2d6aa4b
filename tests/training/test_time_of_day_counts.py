"""Decayed counts by local hour against a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.embedding import GrowingEmbedding
from training.time_of_day_counts import MEMORY_HOURS, WIDTH, TimeOfDayCounts

FIRST = 480_000


def test_counts_decay_by_the_hour_and_are_kept_by_local_hour_and_label() -> None:
    table, time_of_day_counts = GrowingEmbedding(4, seed=1, width=WIDTH), TimeOfDayCounts()
    table.grow(np.arange(3))
    draw = np.random.default_rng(5)
    expected, total, now = np.zeros((4, WIDTH)), np.zeros(WIDTH), FIRST
    for step in (0, 1, 50, 700, 40_000):  # the last one moves the epoch
        passed = step - (now - FIRST)
        now = FIRST + step
        expected, total = (x * math.exp(-passed / MEMORY_HOURS) for x in (expected, total))
        rows, hours = draw.integers(0, 4, 50), draw.uniform(0, 24, 50)
        labels = draw.integers(0, 2, 50)
        time_of_day_counts.begin(now, [table])
        time_of_day_counts.add(table, torch.from_numpy(rows), torch.from_numpy(hours), torch.from_numpy(labels).float())
        for row, hour, label in zip(rows, hours, labels, strict=True):
            column = int(hour) + 24 * (label == 0)
            total[column] += 1
            if row:
                expected[row, column] += 1
        good, bad = time_of_day_counts.read(table, torch.arange(4))
        np.testing.assert_allclose(torch.cat([good, bad], dim=1).numpy(), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(torch.cat(time_of_day_counts.totals(table)).numpy(), total, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_busy_hour_of_forty_days_is_counted_to_the_last_sample() -> None:
    """600,000 positives and 1,400,000 negatives a day at one time of day: more than a 32-bit sum can count by ones."""
    table, counts = GrowingEmbedding(4, seed=1, width=WIDTH), TimeOfDayCounts()
    table.grow(np.arange(1))
    positives, negatives, days = 600_000, 1_400_000, 40
    labels = (torch.arange(positives + negatives) < positives).float()
    rows, hours = torch.ones(len(labels), dtype=torch.int64), torch.full((len(labels),), 20.5)
    for day in range(days):
        counts.begin(FIRST + 24 * day, [table])
        counts.add(table, rows, hours, labels)
    weight = sum(math.exp(-24 * day / MEMORY_HOURS) for day in range(days))
    good, bad = counts.read(table, torch.tensor([1]))
    assert good[0, 20].item() == np.float32(positives * weight)
    assert bad[0, 20].item() == np.float32(negatives * weight)


def test_a_billion_counts_still_grow_by_one() -> None:
    table, counts = GrowingEmbedding(4, seed=1, width=WIDTH), TimeOfDayCounts()
    table.grow(np.arange(1))
    counts.begin(FIRST, [table])
    table.statistics[:2, 8] = 1e9
    for _ in range(3):
        counts.add(table, torch.tensor([1]), torch.tensor([8.0]), torch.tensor([1.0]))
    assert table.statistics[:2, 8].tolist() == [1e9 + 3, 1e9 + 3]
