"""Decayed counts by local hour against a loop."""

from __future__ import annotations

import math

import numpy as np
import torch

from training.embedding import GrowingEmbedding
from training.rhythm import MEMORY_HOURS, WIDTH, Rhythm

FIRST = 480_000


def test_counts_decay_by_the_hour_and_are_kept_by_local_hour_and_label() -> None:
    table, rhythm = GrowingEmbedding(4, seed=1, width=WIDTH), Rhythm()
    table.grow(np.arange(3))
    draw = np.random.default_rng(5)
    expected, total, now = np.zeros((4, WIDTH)), np.zeros(WIDTH), FIRST
    for step in (0, 1, 50, 700, 40_000):  # the last one moves the epoch
        passed = step - (now - FIRST)
        now = FIRST + step
        expected, total = (x * math.exp(-passed / MEMORY_HOURS) for x in (expected, total))
        rows, hours = draw.integers(0, 4, 50), draw.uniform(0, 24, 50)
        labels = draw.integers(0, 2, 50)
        rhythm.begin(now, [table])
        rhythm.add(table, torch.from_numpy(rows), torch.from_numpy(hours), torch.from_numpy(labels).float())
        for row, hour, label in zip(rows, hours, labels, strict=True):
            column = int(hour) + 24 * (label == 0)
            total[column] += 1
            if row:
                expected[row, column] += 1
        good, bad = rhythm.read(table, torch.arange(4))
        np.testing.assert_allclose(torch.cat([good, bad], dim=1).numpy(), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(torch.cat(rhythm.totals(table)).numpy(), total, rtol=1e-4, atol=1e-6)
