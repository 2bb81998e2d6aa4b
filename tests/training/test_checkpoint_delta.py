"""Checkpoints of a growing table as deltas, against whole ones."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.checkpoint_delta import Tensors, apply
from training.embedding import GrowingEmbedding
from training.sightings import PARTITIONS, SightingFilter


def named(parts: dict[str, torch.Tensor]) -> Tensors:
    return {f"tables.users.{name}": tensor.clone() for name, tensor in parts.items()}


def bits(tensors: Tensors) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {name: (tuple(t.shape), np.asarray(t).tobytes()) for name, t in sorted(tensors.items())}


def train(table: GrowingEmbedding, keys: list[int], hour: int) -> None:
    """What an hour does to a table."""
    table.grow(np.array(keys, dtype=np.int64), hour)
    (table(table.rows(np.array([*keys, -1]))) - 1).square().sum().backward()
    table.step(0.1)


HOURS = st.lists(st.lists(st.integers(0, 600), max_size=300), min_size=1, max_size=6)


@given(hours=HOURS, expire=st.integers(0, 8), after=st.integers(1, 3))
def test_deltas_make_the_last_checkpoint_to_the_bit(hours: list[list[int]], expire: int, after: int) -> None:
    sightings = SightingFilter(after, 16 * PARTITIONS) if after > 1 else None
    table, chain = GrowingEmbedding(3, 1, 0, sightings), list[Tensors]()
    for hour, keys in enumerate(hours):
        if hour == expire:
            table.expire(hour - 1)
        train(table, keys, hour)
        delta = table.delta()
        chain = [*chain, named(delta)] if delta is not None else [named(table.state())]
        table.mark_saved()
        assert bits(apply(chain)) == bits(named(table.state()))


def test_a_delta_has_only_what_was_touched_since_the_checkpoint() -> None:
    table = GrowingEmbedding(3, seed=1)
    train(table, [7, 5, 9], 1)
    table.mark_saved()
    train(table, [5, 11], 2)
    delta = table.delta()
    assert delta is not None
    assert delta["keys"].tolist() == [11]
    assert delta["rows"].tolist() == sorted([0, *table.rows(np.array([5, 11])).tolist()])
    assert delta["weight"].shape == (3, 3)


def test_a_row_that_was_read_and_learned_nothing_is_in_no_delta() -> None:
    table = GrowingEmbedding(3, seed=1)
    train(table, [7, 5], 1)
    table.mark_saved()
    (table(table.rows(np.array([7, 5]))) * torch.tensor([[0.0], [1.0]])).sum().backward()
    table.step(0.1)
    delta = table.delta()
    assert delta is not None
    assert delta["rows"].tolist() == table.rows(np.array([5])).tolist()


def test_without_a_checkpoint_or_when_rows_have_moved_there_is_no_delta() -> None:
    table = GrowingEmbedding(3, seed=1)
    train(table, [7, 5], 1)
    assert table.delta() is None
    table.mark_saved()
    assert table.delta() is not None
    train(table, [9], 2)
    assert table.expire(2) == 2
    assert table.delta() is None
