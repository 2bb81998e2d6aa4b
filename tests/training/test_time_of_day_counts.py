"""Decayed counts by local hour against a loop."""

from __future__ import annotations

import math

import numpy as np
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
