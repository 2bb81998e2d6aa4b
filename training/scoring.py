"""Scoring with a ranker: all that a logged model needs besides the ranker itself."""

from __future__ import annotations

import numpy as np
import torch

from training.batch import HourKeys
from training.embedding import ALONE
from training.group import Group
from training.ranker import Ranker
from training.tensors import to_batch


@torch.no_grad()
def predict(ranker: Ranker, keys: HourKeys, batch_size: int = 4096, group: Group = ALONE) -> np.ndarray:
    """Probability of each behavior, shape (samples, heads); the processes of a group share the work."""
    ranker.eval()
    mine = group.shard(to_batch(keys, ranker))
    probabilities = [torch.sigmoid(ranker(batch)).cpu().numpy() for batch in ranker.batches(mine, batch_size)]
    scored = np.concatenate(probabilities) if probabilities else np.empty((0, len(ranker.heads)), np.float32)
    return np.concatenate(group.all_gather(scored))
