"""The ranking loss within sessions, against its definition written out, and what training with it leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.test_target_statistics import FIRST, hour_of, ranker
from training.batch import BY_USER
from training.optimizer import Optimizer
from training.session_loss import SessionSamples, session_loss
from training.tensors import to_batch
from training.trainer import batch_loss, fit


def loss_of(sessions: list[int], labels: list[int], logits: list[float]) -> torch.Tensor:
    return session_loss(
        SessionSamples(torch.tensor(sessions), torch.tensor(labels, dtype=torch.float32), torch.tensor(logits))
    )


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_softmax_cross_entropy_of_each_positive_among_its_sessions_negatives(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sessions, labels = draw.integers(-3, 4, 40) * 10**12, draw.integers(0, 2, 40)
    logits = draw.normal(size=40)
    expected = 0.0
    for s, y, z in zip(sessions, labels, logits, strict=True):
        rivals = np.exp(logits[(sessions == s) & (labels == 0)])
        expected += math.log((math.exp(z) + rivals.sum()) / math.exp(z)) if y else 0.0
    assert float(loss_of(sessions.tolist(), labels.tolist(), logits.tolist())) == pytest.approx(expected, rel=1e-5)


def test_it_is_nothing_where_nothing_competes_and_finite_for_any_logits() -> None:
    assert float(loss_of([1, 1, 2, 3], [1, 1, 0, 1], [0.3, -2.0, 1.0, 5.0])) == 0
    assert float(loss_of([], [], [])) == 0
    assert float(loss_of([1, 1, 1], [1, 0, 0], [-500.0, 500.0, 499.0])) == pytest.approx(1000.3133, abs=1e-3)
    assert float(loss_of([1, 1], [1, 0], [500.0, -500.0])) == 0


def test_what_a_whole_session_shares_has_no_slope() -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3), requires_grad=True)
    sessions, labels = torch.arange(12) % 3, torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1])
    session_loss(SessionSamples(sessions, labels, logits)).backward()
    slopes = logits.grad
    assert slopes is not None
    assert torch.bincount(sessions, slopes).abs().max() < 1e-6
    assert (slopes[labels == 1] < 0).all()
    assert (slopes[labels == 0] > 0).all()


def test_training_with_it_orders_within_sessions_and_unknown_outcomes_do_not_count() -> None:
    keys = hour_of(np.random.default_rng(5), FIRST, rows=400)
    users = np.unique(keys.users, return_inverse=True)[1]  # sessions that share one embedding
    by_user = {part: np.repeat(getattr(keys, part), users.max() + 1, axis=0) for part in BY_USER}
    keys = replace(keys, users=np.ones_like(keys.users), user_position=users, **by_user)
    within = {}
    for weight in (0.0, 30.0):
        model = ranker("none", session_loss=weight)
        optimizer = Optimizer(model)
        for step in range(6):
            fit(model, optimizer, keys, FIRST + step)
        batch = to_batch(keys, model)
        with torch.no_grad():
            logits = model(batch)
            whole = batch_loss(model, batch, 400)
            flipped = replace(batch, labels=torch.where(batch.known, batch.labels, 1 - batch.labels))
            assert float(batch_loss(model, flipped, 400)) == float(whole)
        known = batch.known[:, 0]
        samples = SessionSamples(batch.user_position[known], batch.labels[known, 0], logits[known, 0])
        within[weight] = float(session_loss(samples))
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
        plain = float(each[batch.known].sum()) / 400
        assert float(whole) == pytest.approx(plain + weight * within[weight] / 400, rel=1e-5)
    assert within[30.0] < within[0.0]
