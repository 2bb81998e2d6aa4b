from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.settings import load_settings
from training.config import RankerConfig, load_ranker_config
from training.time_perception import (
    AdaptiveClock,
    Clocks,
    GaussianClock,
    Moment,
    NaiveClock,
    build_time_perception,
    circular_distance,
    gaussian_weights,
)

CENTRES = torch.arange(24, dtype=torch.float32) + 0.5


def config(variant: str = "gaussian_clock") -> RankerConfig:
    return RankerConfig(variant=variant, dim=4)  # type: ignore[arg-type]


def clocks(filled: list[int], users: int = 1) -> Clocks:
    slots = torch.zeros(users, 24, 8)
    slots[:, filled] = torch.randn(users, len(filled), 8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(users, 24, dtype=torch.bool)
    mask[:, filled] = True
    return Clocks(slots, mask, torch.zeros(1, dtype=torch.int64))


def moment(hours: float) -> Moment:
    return Moment(torch.tensor([hours]), torch.tensor([0]))


@given(st.floats(0, 23.99), st.floats(0, 23.99))
def test_distance_goes_the_short_way_round_and_is_symmetric(a: float, b: float) -> None:
    there = float(circular_distance(torch.tensor(a), torch.tensor(b)))
    back = float(circular_distance(torch.tensor(b), torch.tensor(a)))
    plain = abs(a - b)
    assert there == pytest.approx(min(plain, 24 - plain), abs=1e-4)
    assert there == pytest.approx(back, abs=1e-4)


def test_gaussian_weights_are_the_normal_density_and_cross_midnight() -> None:
    late, early = gaussian_weights(torch.tensor([23.75, 0.25]), CENTRES, 1.0)
    assert float(late[23]) == pytest.approx(float(early[0]), rel=1e-5)
    assert float(late[0]) == pytest.approx(math.exp(-0.5 * 0.75**2) / math.sqrt(2 * math.pi), rel=1e-5)
    assert float(late.sum()) == pytest.approx(1, abs=1e-3)


def test_gaussian_clock_is_the_weighted_sum_of_the_slots() -> None:
    module, some = GaussianClock(config(), 8), clocks([7, 8, 9])
    found = module(moment(8.5), some)[0]
    weights = [math.exp(-0.5 * d**2) / math.sqrt(2 * math.pi) for d in (1, 0, 1)]
    expected = sum(w * some.slots[0, s] for w, s in zip(weights, (7, 8, 9), strict=True))
    assert torch.allclose(found, expected, atol=1e-6)


def test_naive_clock_takes_the_slot_of_the_hour() -> None:
    some = clocks([8])
    assert torch.equal(NaiveClock(config(), 8)(moment(8.99), some)[0], some.slots[0, 8])
    assert not NaiveClock(config(), 8)(moment(9.0), some).any()


@pytest.mark.parametrize("minutes", [15, 30, 120])
def test_a_finer_clock_blends_the_same_hours_at_the_same_scale(minutes: int) -> None:
    module = GaussianClock(config().model_copy(update={"slot_minutes": minutes}), 8)
    weights = module.weights(moment(8.5))[0]
    assert len(weights) == 24 * 60 // minutes
    assert float(weights.sum()) == pytest.approx(1, abs=1e-2)
    assert float(weights @ module.centres) == pytest.approx(8.5, abs=0.05 if minutes < 120 else 0.6)


def test_the_weekend_has_a_clock_of_its_own() -> None:
    split = config().model_copy(update={"split_weekend": True})
    friday, saturday = (Moment(torch.tensor([8.5]), torch.tensor([day])) for day in (4, 5))
    weights = GaussianClock(split, 8).weights(friday)[0], GaussianClock(split, 8).weights(saturday)[0]
    assert not weights[0][24:].any()
    assert not weights[1][:24].any()
    assert torch.equal(weights[0][:24], weights[1][24:])
    assert (int(friday.slot(split)), int(saturday.slot(split))) == (8, 32)


def test_adaptive_clock_gives_empty_slots_no_weight_and_an_empty_clock_nothing() -> None:
    module = AdaptiveClock(config("adaptive_clock"), 8)
    only = clocks([3])
    assert torch.allclose(module(moment(20.0), only)[0], only.slots[0, 3], atol=1e-6)
    assert not module(moment(20.0), clocks([])).any()


@pytest.mark.parametrize("variant", ["none", "hour_embedding", "naive_clock", "adaptive_clock", "gaussian_clock"])
def test_every_module_gives_the_width_it_states(variant: str) -> None:
    module = build_time_perception(config(variant), 2)
    assert module(moment(5.0), clocks([5])).shape == (1, module.width)


def test_an_unknown_variant_is_named(tmp_path: object) -> None:
    with pytest.raises(Exception, match="variant"):
        load_ranker_config(load_settings(), "sundial")
