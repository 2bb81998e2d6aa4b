"""Adam by PyTorch's function is PyTorch's Adam, without its compiler."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from core.settings import ROOT
from tests.training.test_time_modules import batch, config
from training.optimizer import DenseAdam, Optimizer
from training.ranker import Ranker


def parameters() -> list[nn.Parameter]:
    drawn = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=drawn)) for shape in ((3, 4), (5,), (2, 2))]


@pytest.mark.slow
def test_it_is_the_bits_of_torch_optim_adam() -> None:
    """Also where a parameter has no gradient at first, or in between."""
    ours, theirs = parameters(), parameters()
    one, other = DenseAdam(ours, 0.01), torch.optim.Adam(theirs, lr=0.01)
    drawn = torch.Generator().manual_seed(4)
    for step in range(20):
        for at, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            if at != 1 or step % 3 == 1:
                p.grad = torch.randn(p.shape, generator=drawn)
                q.grad = p.grad.clone()
        one.step()
        other.step()
        other.zero_grad()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
        assert all(p.grad is None for p in ours)
    known = other.state_dict()["state"]
    assert one.state.keys() == known.keys()
    assert all(torch.equal(one.state[at][name], value) for at in known for name, value in known[at].items())


@pytest.mark.parametrize("variant", ["none", "matched_clock"])
def test_a_loaded_optimizer_goes_on_as_the_saved_one(variant: str) -> None:
    rankers = [Ranker(config(variant), ["genre", "mood"], ["finish"]) for _ in range(2)]
    first, second = (Optimizer(ranker) for ranker in rankers)
    if rankers[0].time.needs_time_of_day_counts:
        for ranker in rankers:
            ranker.time_of_day_counts.begin(480_000, [ranker.items, ranker.values])

    def learn(ranker: Ranker, optimizer: Optimizer) -> None:
        ranker(batch([8.5, 20.0])).square().sum().backward()
        optimizer.step()

    for ranker in rankers:
        for table in ranker.tables.values():
            table.grow(torch.arange(10).numpy())
    learn(rankers[0], first)
    for p, q in zip(rankers[1].parameters(), rankers[0].parameters(), strict=True):
        p.data.copy_(q.data)
    for name, table in rankers[1].tables.items():
        table.load(rankers[0].tables[name].state())
    saved = {name: value.clone() for name, value in first.tensors().items()}
    before = {name: value.clone() for name, value in saved.items()}
    second.load(saved)
    learn(rankers[0], first)
    learn(rankers[1], second)
    assert all(torch.equal(saved[name], value) for name, value in before.items())  # it took copies
    assert all(torch.equal(second.tensors()[name], value) for name, value in first.tensors().items())
    pairs = zip(rankers[0].dense_parameters(), rankers[1].dense_parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.slow
def test_training_does_not_import_the_compiler() -> None:
    code = """import sys
from tests.training.test_time_modules import batch, ranker
from training.optimizer import Optimizer
import training.trainer
model = ranker("gaussian_clock")
optimizer = Optimizer(model)
model(batch([8.5])).sum().backward()
optimizer.step()
assert optimizer.tensors()
assert "torch._dynamo" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=120)
