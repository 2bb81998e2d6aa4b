"""Intervals for looking more than once."""

from __future__ import annotations

import numpy as np
import pytest

from ab_analysis.experiment import Experiment
from ab_analysis.stopping import interval_multiplier
from core.errors import ConfigError
from stats.sequential import mixture_limit

AB = {"name": "test", "variants": {"a": 1, "b": 1}, "control": "a", "start": "2026-03-02", "end": "2026-03-15"}


def of(rule: str, **more: object) -> Experiment:
    return Experiment(**{**AB, "stopping": {"rule": rule, **more}})


def test_one_planned_look_allows_none_before_the_end() -> None:
    assert interval_multiplier(of("fixed"), 13.9, 1) is None
    assert interval_multiplier(of("fixed"), 14, 1) == pytest.approx(1.959964, abs=1e-5)
    assert interval_multiplier(of("fixed"), 14, 2) == pytest.approx(2.241403, abs=1e-5)


def test_without_an_end_one_look_never_comes() -> None:
    experiment = Experiment(**{**AB, "end": None, "stopping": {"rule": "fixed"}})
    assert interval_multiplier(experiment, 400, 1) is None


def test_a_group_sequential_plan_is_wide_early_and_nearly_one_look_at_its_end() -> None:
    widths = [interval_multiplier(of("group_sequential"), d, 1) for d in range(1, 15)]
    assert widths == sorted(widths, reverse=True)  # type: ignore[type-var]
    assert widths[-1] == pytest.approx(2.08, abs=0.08)
    assert interval_multiplier(of("group_sequential", first_look_days=3), 2, 1) is None


@pytest.mark.parametrize(
    ("start", "days"), [("2026-03-14T20:00:00Z", 1), ("2026-03-13T20:00:00Z", 2), ("2026-03-02T06:00:00Z", 13)]
)
def test_a_group_sequential_plan_that_starts_within_a_day_spends_its_error_by_its_end(start: str, days: int) -> None:
    experiment = Experiment(**{**AB, "start": start, "stopping": {"rule": "group_sequential"}})
    looks = np.array([*range(1, days + 1), experiment.planned_days])
    limits = [interval_multiplier(experiment, look, 1) for look in looks]
    assert days < looks[-1] < days + 1
    steps = np.random.default_rng(5).normal(size=(100_000, len(looks))) * np.sqrt(np.diff(looks, prepend=0))
    crossed = (np.abs(steps.cumsum(axis=1) / np.sqrt(looks)) > limits).any(axis=1).mean()
    assert 0.045 < crossed < 0.052


def test_an_always_valid_interval_exists_after_the_end_too() -> None:
    multipliers = [interval_multiplier(of("always_valid"), d, 1) for d in (1, 7, 14, 28, 280)]
    assert all(f is not None and f > 2.5 for f in multipliers)
    assert min(multipliers) == multipliers[2]  # type: ignore[type-var]


def test_the_mixture_keeps_its_error_over_a_thousand_looks() -> None:
    """Robbins' boundary against a random walk that is looked at after every step; the error is spent over all time."""
    rng = np.random.default_rng(3)
    steps = np.arange(1, 1001)
    limits = np.array([mixture_limit(n / 300, 0.05) for n in steps])
    walks = rng.normal(size=(20_000, 1000)).cumsum(axis=1) / np.sqrt(steps)
    crossed = (np.abs(walks) > limits).any(axis=1).mean()
    assert 0.015 < crossed < 0.05


def test_a_look_without_information_is_refused() -> None:
    with pytest.raises(ConfigError, match="information"):
        mixture_limit(0, 0.05)
