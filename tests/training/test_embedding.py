from __future__ import annotations

import numpy as np
import pytest
import torch

from training.embedding import GrowingEmbedding
from training.sightings import PARTITIONS, SightingFilter


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


def test_ids_unseen_for_long_give_their_rows_back_and_the_others_keep_what_they_learned() -> None:
    table = GrowingEmbedding(4, seed=1, width=2)
    table.grow(np.arange(600), hour=10)
    table.grow(np.array([5, 7, 1000]), hour=20)
    table.statistics[table.rows(np.array([7]))] = 3.0
    before = table.weight[table.rows(np.array([5, 7, 1000]))].clone()
    assert table.expire(20) == 598
    assert table.size == 4
    assert torch.equal(table.weight[table.rows(np.array([5, 7, 1000]))], before)
    assert table.statistics[table.rows(np.array([5, 7]))].tolist() == [[0, 0], [3, 3]]
    assert table.rows(np.array([6])).tolist() == [0]
    assert table.grow(np.array([6]), hour=30) == 1
    assert table.expire(0) == 0


def test_a_step_is_row_wise_adagrad_on_the_sum_of_every_use() -> None:
    table = GrowingEmbedding(4, seed=1)
    table.grow(np.arange(5))
    start = table.weight.clone()
    for _ in range(2):
        rows, weights = torch.tensor([[1, 2], [2, 3]]), torch.tensor([[0.5, 1.0], [2.0, 0.0]])
        (
            table.bag(rows.ravel(), weights.ravel(), torch.arange(len(rows)) * rows.shape[1]).square().sum()
            + table(torch.tensor([1, 1])).sum()
        ).backward()
        table.step(0.1)
    plain, sums = start.clone().requires_grad_(), torch.zeros(len(start))
    for _ in range(2):
        bags = [0.5 * plain[1] + plain[2], 2.0 * plain[2]]
        loss = sum(b.square().sum() for b in bags) + 2 * plain[1].sum()
        (gradient,) = torch.autograd.grad(loss, plain)
        sums = sums + gradient.square().mean(dim=1)
        plain = (plain - 0.1 * gradient / (sums.sqrt() + 1e-8)[:, None]).detach().requires_grad_()
    assert torch.allclose(table.weight, plain, atol=1e-6)


def test_the_sums_of_an_hour_s_rows_decay_once_and_the_others_stay() -> None:
    table = GrowingEmbedding(4, 1, decay=0.5)
    table.grow(np.array([1, 2, 3]), 1)
    table.accumulator[: table.size] = torch.tensor([8.0, 1.0, 2.0, 4.0])
    table.mark_saved()
    table.grow(np.array([2, 2, 2, 9]), 2)
    assert table.accumulator[: table.size].tolist() == [4.0, 1.0, 1.0, 4.0, 0.0]
    delta = table.delta()
    assert delta is not None
    assert delta["rows"].tolist() == [0, 2, 4]
    table.grow(np.array([], dtype=np.int64), 3)
    assert table.accumulator[: table.size].tolist() == [2.0, 1.0, 1.0, 4.0, 0.0]


@pytest.mark.parametrize("after", [1, 2])
def test_the_sums_decay_once_in_an_hour_that_comes_in_pieces(after: int) -> None:
    hour = np.array([1, 2, 2, 3, 1, 9, 3, 3, 2])
    accumulators = []
    for pieces in (1, 4):
        filter_ = SightingFilter(after, 16 * PARTITIONS) if after > 1 else None
        table = GrowingEmbedding(4, 1, sightings=filter_, decay=0.5)
        table.grow(np.repeat([1, 2, 3], 2), 1)
        table.accumulator[: table.size] = torch.tensor([8.0, 1.0, 2.0, 4.0])
        for number in (2, 3):
            for piece in np.array_split(hour, pieces):
                table.grow(piece, number)
        accumulators.append(table.accumulator[: table.size].tolist())
    assert accumulators[0] == accumulators[1]
    assert accumulators[0][:4] == [2.0, 0.25, 0.5, 1.0]


def test_with_decay_a_row_that_is_trained_often_goes_on_learning() -> None:
    moved = {}
    for decay in (1.0, 0.5):
        table = GrowingEmbedding(4, 1, decay=decay)
        for hour in range(200):
            table.grow(np.array([7]), hour)
            before = table.weight[1].clone()
            table(torch.tensor([1])).sum().backward()
            table.step(0.1)
            moved[decay] = float((table.weight[1] - before).abs().sum())
    assert moved[0.5] == pytest.approx(4 * 0.1 / 2**0.5, rel=1e-3)  # 1 + ½ + ¼ + … = 2
    assert moved[1.0] == pytest.approx(4 * 0.1 / 200**0.5, rel=1e-3)


@pytest.mark.parametrize("smallest", [0, 1, -5])
def test_a_key_has_the_same_row_in_whatever_company_it_is_looked_up(smallest: int) -> None:
    table, draws = GrowingEmbedding(4, seed=1), np.random.default_rng(0)
    for known in (draws.integers(smallest, 9000, 3000), draws.integers(smallest, 9500, 3000)):
        table.grow(known)
        asked = np.concatenate(
            [draws.integers(-50, 10_000, 5000), np.iinfo(np.int64).max - np.arange(2), [smallest, -1, -2]]
        )
        alone = [int(table.rows(key)[0]) for key in asked[:, None]]
        assert table.rows(asked).tolist() == alone
        assert [table.keys[row - 1] if row else None for row in alone] == [
            key if key in {*table.keys} else None for key in asked
        ]
