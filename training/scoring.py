"""Scoring with a ranker: all that a logged model needs besides the ranker itself."""

from __future__ import annotations

import numpy as np
import torch

from training.ahead import cores, side_by_side
from training.batch import Batch, HourKeys
from training.ranker import Ranker
from training.tensors import to_batch


@torch.no_grad()
def predict(ranker: Ranker, keys: HourKeys, batch_size: int = 4096) -> np.ndarray:
    """Probability of each behavior, shape (samples, heads)."""
    return score(ranker, to_batch(keys, ranker), batch_size)


@torch.no_grad()
def score(ranker: Ranker, samples: Batch, batch_size: int = 4096) -> np.ndarray:
    """The same of samples that are looked up already; the cores share the work, as batches do not depend on one another."""
    if ranker.training:  # to ask every module costs as much as to look a request's rows up
        ranker.eval()
    parts = list(ranker.parts(samples, batch_size))

    @torch.no_grad()
    def scores(part: Batch) -> list[np.ndarray]:
        return [torch.sigmoid(ranker(batch)).cpu().numpy() for batch in ranker.batches(part, batch_size)]

    threads = cores() // torch.get_num_threads() if ranker.device.type == "cpu" else 1
    probabilities = [batch for part in side_by_side(scores, parts, threads) for batch in part]
    return np.concatenate(probabilities) if probabilities else np.empty((0, len(ranker.heads)), np.float32)
