"""Time modules against loops over slots and behaviors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.errors import ConfigError
from core.settings import Settings, load_settings
from training.batch import Batch, Moment
from training.config import RankerConfig, load_ranker_config
from training.experts import MixtureOfExperts
from training.ranker import Ranker
from training.time_modules import MODULES, build_time_module
from training.time_modules.base import circular_distance, normal_density, slot_centres, slot_of, slot_weights
from training.time_modules.long_term import LongTermClock
from training.time_modules.matched import SCALE, SMALLEST_SHARE, MatchedClock
from training.time_modules.matches import NEVER_HOURS, AttributeCounts, Occurrences
from training.time_modules.runs import Runs
from training.time_of_day_counts import MEMORY_HOURS

MONDAY = 29_540_160  # local minutes since 1970 of a Monday's midnight
FACETS, K, LENGTH = 2, 3, 5


def config(variant: str = "gaussian_clock", **changes: Any) -> RankerConfig:
    return RankerConfig(variant=variant, dim=4, history_length=LENGTH, **changes)


def ranker(variant: str, **changes: Any) -> Ranker:
    """A ranker that knows ten users, items and values."""
    model = Ranker(config(variant, **changes), ["genre", "mood"], ["finish"])
    for table in model.tables.values():
        table.grow(np.arange(10))
    return model


def batch(at: list[float], filled: dict[int, list[int]] | None = None, slots: int = 24, **changes: Tensor) -> Batch:
    """One user at several times (hours from Monday's midnight); ``filled``: slot → value rows of both facets."""
    count = len(at)
    values = torch.zeros(1, slots, FACETS, K, dtype=torch.int64)
    for slot, slot_values in (filled or {}).items():
        values[0, slot, :, : len(slot_values)] = torch.tensor(slot_values)
    scores = (values > 0) * torch.tensor([3.0, 2.0, 1.0])
    parts: dict[str, Tensor] = {
        "users": torch.ones(count, dtype=torch.int64),
        "items": torch.full((count,), 2),
        "facets": torch.tensor([[1, 2]]).repeat(count, 1),
        "context": torch.zeros(count, 0, dtype=torch.int64),
        "attributes": torch.zeros(count, 0, dtype=torch.int64),
        "lists": torch.zeros(count, 0, 0, dtype=torch.int64),
        "minutes": MONDAY + (torch.tensor(at, dtype=torch.float64) * 60).round().long(),
        "dense": torch.zeros(count, 3),
        "user_position": torch.zeros(count, dtype=torch.int64),
        "clock_values": values,
        "clock_scores": scores,
        "slot_events": scores.sum(dim=(2, 3)),
        "recent_items": torch.zeros(1, LENGTH, dtype=torch.int64),
        "recent_minutes": torch.full((1, LENGTH), -1),
        "labels": torch.zeros(count, 1),
        "known": torch.ones(count, 1, dtype=torch.bool),
    }
    return Batch(**{**parts, **changes}, prepared=None)


@given(st.floats(0, 23.99), st.floats(0, 23.99))
def test_distance_goes_the_short_way_round_and_is_symmetric(a: float, b: float) -> None:
    forth = float(circular_distance(torch.tensor(a), torch.tensor(b)))
    back = float(circular_distance(torch.tensor(b), torch.tensor(a)))
    plain = abs(a - b)
    assert forth == pytest.approx(min(plain, 24 - plain), abs=1e-4)
    assert forth == pytest.approx(back, abs=1e-4)


def test_a_moment_knows_its_hour_and_weekday() -> None:
    moment = batch([8.5, 5 * 24 + 23.75]).moment
    assert moment.hours.tolist() == [8.5, 23.75]
    assert moment.weekday.tolist() == [0, 5]
    assert moment.weekend.tolist() == [False, True]


def test_gaussian_weights_are_the_normal_density_and_cross_midnight() -> None:
    late, early = slot_weights(batch([23.75, 0.25]).moment, config(), 1.0)
    assert float(late[23]) == pytest.approx(float(early[0]), rel=1e-5)
    assert float(late[0]) == pytest.approx(math.exp(-0.5 * 0.75**2) / math.sqrt(2 * math.pi), rel=1e-5)
    assert float(late.sum()) == pytest.approx(1, abs=1e-3)


def slot_vector(some: Batch, model: Ranker, slot: int) -> Tensor:
    """The score-weighted mean of a slot's embeddings, facets side by side, by a loop."""
    parts = []
    for facet in range(FACETS):
        rows, scores = some.clock_values[0, slot, facet], some.clock_scores[0, slot, facet]
        total = sum((s * model.values.weight[r] for r, s in zip(rows, scores, strict=True)), torch.zeros(4))
        parts.append(total / scores.sum() if scores.sum() else total)
    return torch.cat(parts)


@pytest.mark.parametrize("learned", [False, True])
def test_gaussian_clock_is_the_weighted_sum_of_the_slots(learned: bool) -> None:
    model, some = ranker("gaussian_clock", learn_sigma=learned), batch([8.5], {7: [1, 2], 8: [3], 9: [4, 5, 6]})
    weights = [math.exp(-0.5 * d**2) / math.sqrt(2 * math.pi) for d in (1, 0, 1)]
    expected = torch.stack([w * slot_vector(some, model, s) for w, s in zip(weights, (7, 8, 9), strict=True)]).sum(
        dim=0
    )
    assert torch.allclose(model.time(some, model)[0], expected, atol=1e-6)
    assert (model.time.log_sigma.requires_grad) == learned


def test_naive_clock_takes_the_slot_of_the_hour() -> None:
    model, some = ranker("naive_clock"), batch([8.99, 9.0], {8: [1, 4]})
    now, later = model.time(some, model)
    assert torch.allclose(now, slot_vector(some, model, 8), atol=1e-6)
    assert not later.any()


@pytest.mark.parametrize("minutes", [15, 30, 120])
def test_a_finer_clock_blends_the_same_hours_at_the_same_scale(minutes: int) -> None:
    fine = config(slot_minutes=minutes)
    weights = slot_weights(batch([8.5]).moment, fine, 1.0)[0]
    assert len(weights) == 24 * 60 // minutes
    assert float(weights.sum()) == pytest.approx(1, abs=1e-2)
    assert float(weights @ slot_centres(fine)) == pytest.approx(8.5, abs=0.05 if minutes < 120 else 0.6)


def test_the_weekend_has_a_clock_of_its_own() -> None:
    split = config(split_weekend=True)
    friday, saturday = (Moment(torch.tensor([MONDAY + day * 1440 + 510])) for day in (4, 5))
    weights = slot_weights(friday, split, 1.0)[0], slot_weights(saturday, split, torch.ones(2))[0, 0]
    assert not weights[0][24:].any()
    assert not weights[1][:24].any()
    assert torch.equal(weights[0][:24], weights[1][24:])
    assert (int(slot_of(friday, split)), int(slot_of(saturday, split))) == (8, 32)


def test_adaptive_clock_gives_empty_slots_no_weight_and_an_empty_clock_nothing() -> None:
    model, only = ranker("adaptive_clock"), batch([20.0], {3: [1, 2]})
    assert torch.allclose(model.time(only, model)[0], slot_vector(only, model, 3), atol=1e-6)
    assert not model.time(batch([20.0]), model).any()


def test_hour_embedding_and_cyclic_depend_on_the_time_alone() -> None:
    for variant in ("hour_embedding", "cyclic"):
        model = ranker(variant)
        now, again, later = model.time(batch([8.5, 8.5, 20.5], {3: [1]}), model)
        assert torch.equal(now, again)
        assert not torch.allclose(now, later)
    day, next_week = model.time(batch([8.5, 8.5 + 7 * 24]), model)
    assert torch.allclose(day, next_week, atol=1e-6)


def with_history(at: list[float], items: list[int], hours: list[float]) -> Batch:
    minutes = torch.tensor([[-1] * (LENGTH - len(hours)) + [MONDAY + round(h * 60) for h in hours]])
    rows = torch.tensor([[0] * (LENGTH - len(items)) + items])
    return batch(at, recent_items=rows, recent_minutes=minutes)


def test_long_term_clock_is_attention_over_the_most_relevant_behaviors() -> None:
    model = ranker("long_term_clock", attention_heads=2, picked=2)
    some = with_history([8.5], [3, 4, 5], [-30.0, -16.0, -3.0])
    module = model.time
    assert isinstance(module, LongTermClock)
    query = module.query(model.items.weight[2])
    alphas = torch.zeros(3, 2)
    for n, (item, gap) in enumerate(((3, 9.5), (4, 0.5), (5, 11.5))):
        shift = module.gap(torch.tensor([gap / 12, math.exp(-gap)]))
        key = module.behavior(model.items.weight[item])
        for head in range(2):
            part = slice(2 * head, 2 * head + 2)
            alphas[n, head] = query[part] @ key[part] / math.sqrt(2) + shift[head]
    best = alphas.mean(dim=1).topk(2).indices.tolist()
    weights = torch.softmax(alphas[best], dim=0)
    values = torch.stack([module.value(model.items.weight[3 + n]) for n in best])
    mixed = torch.cat([weights[:, h] @ values[:, 2 * h : 2 * h + 2] for h in range(2)])
    assert torch.allclose(module(some, model)[0], module.out(mixed), atol=1e-6)
    assert not module(batch([8.5]), model).any()


def test_matched_clock_is_the_four_shrunk_log_ratios() -> None:
    """Against a loop, for the facet ``genre`` and for the item."""
    model = ranker("matched_clock", sigma_hours=1.5)
    module, generator = model.time, torch.Generator().manual_seed(3)
    assert isinstance(module, MatchedClock)
    model.time_of_day_counts.begin(480_000, [model.items, model.values])
    for table in (model.items, model.values):
        for _ in range(3):
            rows = torch.randint(0, 5, (400,), generator=generator)
            hours = 24 * torch.rand(400, generator=generator)
            model.time_of_day_counts.add(table, rows, hours, (torch.rand(400, generator=generator) < 0.3).float())
    some = with_history([8.5], [2, 4, 2], [-16.0, -3.0, 1.0])
    filled = batch([8.5], {7: [1, 2], 8: [3], 20: [4, 1, 6]})
    some = batch(
        [8.5],
        {7: [1, 2], 8: [3], 20: [4, 1, 6]},
        recent_items=some.recent_items,
        recent_minutes=some.recent_minutes,
    )
    features = module(some, model)[0].detach() / SCALE

    def near(hours: float, sigma: float = 1.5) -> float:
        gap = abs(8.5 - hours) % 24
        return 24 * math.exp(-0.5 * (min(gap, 24 - gap) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))

    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    day_prior, now_prior = 10.0, 4.5
    everything = model.items.statistics[0].tolist()
    good_all, all_all = everything[:24], [g + b for g, b in zip(everything[:24], everything[24:], strict=True)]
    rate = (sum(good_all) + 1) / (sum(all_all) + 2)
    window = [near(h + 0.5) for h in range(24)]
    blend = lambda counts: sum(w * c for w, c in zip(window, counts, strict=True))  # noqa: E731
    usual = (blend(good_all) + now_prior * rate) / (blend(all_all) + now_prior)
    genre = (model.values.statistics[1].tolist(), (2.0 + 3.0, 2.0 * near(20.5) + 3.0 * near(7.5)))
    slots = {7: filled.slot_events[0, 7], 8: filled.slot_events[0, 8], 20: filled.slot_events[0, 20]}
    genre_events = (float(sum(slots.values())), sum(float(e) * near(s + 0.5) for s, e in slots.items()))
    ages = [24.5, 11.5, 7.5]
    kept = [math.exp(-a / MEMORY_HOURS) for a in ages]
    times = [near(8.0), near(21.0), near(1.0)]
    item_events = (sum(kept), sum(k * t for k, t in zip(kept, times, strict=True)))
    item = (model.items.statistics[2].tolist(), (kept[0] + kept[2], kept[0] * times[0] + kept[2] * times[2]))
    for at, ((counts, scores), events) in {0: (genre, genre_events), 2: (item, item_events)}.items():
        good, both = counts[:24], [g + b for g, b in zip(counts[:24], counts[24:], strict=True)]
        day = (sum(good) + day_prior * rate) / (sum(both) + day_prior)
        now = (blend(good) + now_prior * day) / (blend(both) + now_prior)
        share = max(sum(good) / sum(good_all), SMALLEST_SHARE)
        user_share = (scores[0] + day_prior * share) / (events[0] + day_prior)
        user_share_now = (scores[1] + now_prior * user_share) / (events[1] + now_prior)
        expected = [
            logit(day) - logit(rate),
            logit(now) - logit(day) - logit(usual) + logit(rate),
            math.log(user_share / share),
            math.log(user_share_now / user_share),
        ]
        assert features[4 * at : 4 * at + 4].tolist() == pytest.approx(expected, abs=2e-3)
    assert float(features[-2]) == pytest.approx(math.log(7.5), abs=1e-4)
    week = [math.exp(-0.5 * (g / 2.0) ** 2) for g in (24.5, 7.5)]
    assert float(features[-1]) == pytest.approx(math.log(sum(week) + 0.1), abs=1e-3)


@pytest.mark.parametrize("negatives", [0, 20])
def test_an_item_of_positives_only_has_finite_odds(negatives: int) -> None:
    """In a log of positives only, and where the item never was a negative."""
    model = ranker("matched_clock", target_statistics=True)
    model.time_of_day_counts.begin(480_000, [model.items, model.values])
    rows = torch.cat([torch.ones(200_000, dtype=torch.long), torch.full((negatives,), 2)])
    for table in (model.users, model.items, model.values):
        model.time_of_day_counts.add(table, rows, torch.full(rows.shape, 8.5), (rows == 1).float())
    score = model(batch([8.5], items=torch.tensor([1])))
    assert torch.isfinite(score).all()
    score.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_a_stranger_to_matched_clock_is_everybody() -> None:
    """Without clock, history and counts every ratio is 1, and the item was never taken."""
    model = ranker("matched_clock")
    features = model.time(batch([8.5]), model)[0].detach() / SCALE
    assert features[:12].abs().max() < 1e-5
    assert float(features[12]) == pytest.approx(math.log(NEVER_HOURS), abs=1e-4)


@pytest.mark.parametrize("cross_layers", [0, 2])
def test_every_head_mixes_the_experts_by_its_own_gate(cross_layers: int) -> None:
    model = Ranker(
        config("none", experts=3, hidden=(8, 5), cross_layers=cross_layers), ["genre", "mood"], ["finish", "like"]
    )
    seen: list[Tensor] = []
    model.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = model(batch([8.5, 20.0]))
    mixture, x0 = model.mlp, seen[0]
    assert isinstance(mixture, MixtureOfExperts)
    crossed = x0
    for layer in model.cross:
        crossed = x0 * layer(crossed) + crossed
    for head in range(2):
        gates = mixture.gates(x0)[:, 3 * head : 3 * head + 3].softmax(dim=1)
        deep = sum(gates[:, e : e + 1] * mixture.experts[e](x0) for e in range(3))
        read = torch.cat([deep, crossed], dim=1) if cross_layers else deep
        expected = read @ model.head.weight[head] + model.head.bias[head]
        assert torch.allclose(logits[:, head], expected, atol=1e-6)
    assert not torch.allclose(gates, torch.full_like(gates, 1 / 3), atol=1e-3)


@pytest.mark.parametrize("variant", sorted(MODULES))
def test_every_module_gives_the_width_it_states_and_every_weight_a_gradient(variant: str) -> None:
    model = ranker(variant, learn_sigma=True, sequence="din", experts=2)
    if model.time.needs_time_of_day_counts:
        model.time_of_day_counts.begin(480_000, [model.items, model.values])
        model.time_of_day_counts.add(
            model.items, torch.tensor([2, 3]), torch.tensor([8.0, 9.0]), torch.tensor([1.0, 0.0])
        )
    some = with_history([5.0, 8.25], [2, 3, 4, 2], [-50.0, -20.0, -3.0, 1.0])
    clock = batch([5.0], {4: [1, 3], 6: [2, 5]})
    some = Batch(**{**vars(some), "clock_values": clock.clock_values, "clock_scores": clock.clock_scores})
    assert build_time_module(model.config, FACETS)(some, model).shape == (2, model.time.width)
    model(some).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().sum() > 0, name


def test_a_wrong_config_is_named(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="no variant 'naive_clok'; did you mean 'naive_clock'"):
        load_ranker_config(settings, "naive_clok")
    config_file = settings.workspace / "ranker.yaml"
    config_file.parent.mkdir(parents=True)
    config_file.write_text("dim: 8\nvariants:\n  gaussian_clock: {sigma_hour: 2}\n")
    with pytest.raises(
        ConfigError, match=r"line 3: variants.gaussian_clock.sigma_hour: unknown key; did you mean 'sigma_hours'"
    ):
        load_ranker_config(settings, "gaussian_clock")
    config_file.write_text("dim: 8\nseed: 5\nvariants:\n  gaussian_clock: {sigma_hours: 2}\n")
    loaded = load_ranker_config(settings, "gaussian_clock")
    assert (loaded.dim, loaded.seed, loaded.sigma_hours, loaded.top_k) == (8, 5, 2, settings.top_k)
    assert load_ranker_config(settings, "none").sigma_hours == 1
    with pytest.raises(ConfigError, match="history_length is 0"):
        load_ranker_config(load_settings(history_length=0), "long_term_clock")
    with pytest.raises(ValueError, match="attention_heads"):
        config(attention_heads=3)


@pytest.mark.parametrize("variant", ["gaussian_clock", "matched_clock"])
@pytest.mark.parametrize("split_weekend", [False, True])
def test_samples_prepared_together_are_scored_as_each_batch_alone(variant: str, split_weekend: bool) -> None:
    """Runs of one user at one minute are cut by batches, and users come back; values and gradients are the same."""
    model = ranker(variant, split_weekend=split_weekend)
    drawn, count, users = np.random.default_rng(7), 40, 3
    if model.time.needs_time_of_day_counts:
        model.time_of_day_counts.begin(480_000, [model.items, model.values])
        rows, hours, labels = (torch.from_numpy(drawn.integers(0, top, 200)) for top in (10, 24, 2))
        model.time_of_day_counts.add(model.items, rows, hours, labels)
    minutes = MONDAY + 5 * 1440 + torch.from_numpy(np.sort(drawn.integers(0, 12, count))) * 61
    slots = model.config.slots
    values = torch.from_numpy(drawn.integers(0, 10, (users, slots, FACETS, K)))
    scores = torch.from_numpy(drawn.uniform(0.5, 3, values.shape).astype(np.float32)) * (values > 0)
    some = batch(
        [0.0] * count,
        minutes=minutes,
        user_position=torch.from_numpy(drawn.integers(0, users, count // 4).repeat(4)),
        items=torch.from_numpy(drawn.integers(0, 10, count)),
        facets=torch.from_numpy(drawn.integers(0, 10, (count, FACETS))),
        clock_values=values,
        clock_scores=scores,
        slot_events=scores.sum(dim=(2, 3)),
        recent_items=torch.from_numpy(drawn.integers(0, 10, (users, LENGTH))),
        recent_minutes=MONDAY + torch.from_numpy(drawn.integers(-3000, 3000, (users, LENGTH))),
    )
    assert len(Runs.of(some)) < count

    def gradients() -> list[Tensor]:
        gradients_now = [p.grad.clone() for p in model.dense_parameters() if p.grad is not None]
        model.zero_grad()
        return gradients_now

    results = []
    for batches in (list(some.batches(7)), list(model.batches(some, 7))):
        logits = torch.cat([model(part) for part in batches])
        (logits * torch.arange(1.0, count + 1)[:, None]).sum().backward()
        results.append([logits.detach(), *gradients()])
        for table in model.tables.values():
            table._used.clear()
    assert len(results[0]) == len(results[1]) > 1
    for alone, together in zip(*results, strict=True):
        assert torch.allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_the_slope_of_a_windowed_sum_is_the_one_of_a_traced_window() -> None:
    drawn = torch.Generator().manual_seed(5)
    square, weight = (torch.rand(12, generator=drawn) * 6) ** 2, torch.rand(12, generator=drawn)
    owner, attribute = torch.arange(12) // 3, torch.arange(12) % 2
    counts = AttributeCounts.of([Occurrences(owner, attribute, square, weight)], 4, 2)
    sigma = torch.tensor([0.8, 2.5], requires_grad=True)
    counts.now(sigma, slopes=True).of_sigma(sigma).square().sum().backward()
    ours, sigma.grad = sigma.grad, None
    window = weight * 24 * normal_density(square.sqrt(), sigma[attribute])
    traced = torch.zeros(8).index_add(0, owner * 2 + attribute, window)
    assert torch.allclose(counts.now(sigma, slopes=False).sums, traced.view(4, 2), rtol=1e-5)
    traced.square().sum().backward()
    assert ours is not None
    assert sigma.grad is not None
    assert torch.allclose(ours, sigma.grad, rtol=1e-4)
