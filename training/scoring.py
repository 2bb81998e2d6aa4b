"""Scoring with a ranker: all that a logged model needs besides the ranker itself."""

from __future__ import annotations

import numpy as np
import torch

from training.batch import Batch, HourKeys
from training.ranker import Ranker
from training.tensors import to_batch


@torch.no_grad()
def predict(ranker: Ranker, keys: HourKeys, batch_size: int = 4096) -> np.ndarray:
    """Probability of each behavior, shape (samples, heads)."""
    return score(ranker, to_batch(keys, ranker), batch_size)


@torch.no_grad()
def score(ranker: Ranker, samples: Batch, batch_size: int = 4096) -> np.ndarray:
    """The same of samples that are looked up already."""
    ranker.eval()
    probabilities = [torch.sigmoid(ranker(batch)).cpu().numpy() for batch in ranker.batches(samples, batch_size)]
    return np.concatenate(probabilities) if probabilities else np.empty((0, len(ranker.heads)), np.float32)
