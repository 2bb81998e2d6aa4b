from __future__ import annotations

import numpy as np
import torch

from training.embedding import GrowingEmbedding


def test_every_id_gets_a_row_of_its_own_and_keeps_it() -> None:
    table = GrowingEmbedding(4, seed=1)
    table.grow(np.array([30, 10, 20]))
    before = table.rows(np.array([10, 20, 30])).tolist()
    assert sorted(before) == [1, 2, 3]
    table.grow(np.arange(1000))
    assert table.rows(np.array([10, 20, 30])).tolist() == before
    assert len(set(table.rows(np.arange(1000)).tolist())) == 1000


def test_unknown_ids_fall_back_to_row_zero_in_any_shape() -> None:
    table = GrowingEmbedding(4, seed=1)
    assert table.rows(np.array([[1, 2]])).tolist() == [[0, 0]]
    table.grow(np.array([2]))
    assert table.rows(np.array([[1, 2]])).tolist() == [[0, 1]]


def test_a_step_moves_only_the_rows_that_were_used() -> None:
    table = GrowingEmbedding(4, seed=1)
    table.grow(np.array([1, 2, 3]))
    before = table.weight.data.clone()
    table(table.rows(np.array([2, 2]))).sum().backward()
    table.step(0.1)
    moved = (table.weight.data != before).any(dim=1).nonzero().ravel().tolist()
    assert moved == table.rows(np.array([2])).tolist()


def test_a_loaded_table_is_the_saved_one() -> None:
    table, other = GrowingEmbedding(4, seed=1), GrowingEmbedding(4, seed=1)
    table.grow(np.arange(600))
    other.load(table.state())
    keys = np.array([0, 599, 1234])
    assert torch.equal(other(other.rows(keys)), table(table.rows(keys)))
