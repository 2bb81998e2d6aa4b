"""A ranking loss within sessions, which may stand beside the cross-entropy of each sample.

The cross-entropy of a sample does not care which of a user's impressions came first. Here a positive competes with the
negatives that its user was shown in the same hour: the softmax cross-entropy of the positive among them (listwise; Cao et al.
2007, doi:10.1145/1273496.1273513). Beside the other loss scores stay probabilities (Sheng et al. 2023, arXiv 2208.06164; Lin
et al. 2024, arXiv 2403.14144).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class SessionSamples(NamedTuple):
    """What the loss reads of B samples with a known label.

    Attributes:
        sessions: any number that is one for all samples of a session and no others, shape (B,).
        labels: 0 or 1, shape (B,).
        logits: shape (B,).
    """

    sessions: Tensor
    labels: Tensor
    logits: Tensor


def session_loss(samples: SessionSamples) -> Tensor:
    """Sum over the positives of the negative log-likelihood that a positive is picked out of itself and its session's negatives.

    A positive whose session has no negative adds nothing. Time and memory are those of the samples, not of their pairs.

    Returns:
        Nats, a scalar.
    """
    _, sessions = torch.unique(samples.sessions, return_inverse=True)
    positive, count = samples.labels > 0.5, len(sessions)  # no more sessions than samples
    of_positive, of_negative = sessions[positive], sessions[~positive]
    negatives = samples.logits[~positive]
    highest = torch.full((count,), -torch.inf, device=negatives.device)
    highest = highest.scatter_reduce(0, of_negative, negatives.detach(), "amax")
    total = torch.zeros_like(highest).index_add(0, of_negative, torch.exp(negatives - highest[of_negative]))
    rivals = total[of_positive] > 0
    at = of_positive[rivals]
    return nn.functional.softplus(highest[at] + torch.log(total[at]) - samples.logits[positive][rivals]).sum()
