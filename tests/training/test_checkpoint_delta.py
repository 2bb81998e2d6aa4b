from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.checkpoint_delta import Tensors, apply, diff

VALUES = torch.tensor([0.0, -0.0, 1.5, float("nan"), float("inf")])


def checkpoint(keys: list[int], seed: int) -> Tensors:
    draws = torch.Generator().manual_seed(seed)
    pick = torch.randint(0, len(VALUES), (len(keys) + 1, 3), generator=draws)
    return {
        "dense.weight": torch.rand(4, generator=draws),
        "tables.users.keys": torch.tensor(keys, dtype=torch.int64),
        "tables.users.weight": VALUES[pick],
        "tables.users.seen": torch.randint(0, 2, (len(keys) + 1,), generator=draws, dtype=torch.int32),
    }


def bits(tensors: Tensors) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {name: (tuple(t.shape), np.asarray(t).tobytes()) for name, t in sorted(tensors.items())}


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), seed=st.integers(0, 1000), same=st.booleans())
def test_layers_make_the_last_checkpoint_to_the_bit(counts: list[int], seed: int, same: bool) -> None:
    states: list[Any] = []
    layers: list[Any] = []
    for n, size in enumerate(np.cumsum(counts).tolist()):
        state = checkpoint([10 - k for k in range(size)], seed if same else seed + n)
        found = diff(states[-1], state) if states else state
        assert found is not None
        states.append(state)
        layers.append(found)
        assert bits(apply(layers)) == bits(state)


def test_a_layer_has_only_rows_that_changed() -> None:
    before = checkpoint([7, 5, 9], 1)
    after = {name: tensor.clone() for name, tensor in before.items()}
    after["tables.users.weight"][2, 1] = 8.0
    found = diff(before, after)
    assert found is not None
    assert found["tables.users.rows"].tolist() == [2]
    assert found["tables.users.weight"].shape == (1, 3)
    assert found["tables.users.keys"].tolist() == []


def test_rows_that_moved_are_no_layer() -> None:
    before = checkpoint([7, 5, 9], 1)
    assert diff(before, checkpoint([7, 9], 1)) is None
    assert diff(before, checkpoint([7, 9, 5, 4], 1)) is None
