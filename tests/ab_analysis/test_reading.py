"""How an effect is read: the p-value fits the interval under every rule, and the chance to be better is Bayes' rule."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import norm

from ab_analysis.experiment import Experiment
from ab_analysis.reading import PRIOR_SD, EffectReading, Interval, chance_to_be_better
from ab_analysis.report_tables import effects, worse_secondary
from ab_analysis.results import MetricResult
from ab_analysis.stopping import interval_multiplier, p_under_rule
from stats.sequential import mixture_p_value

Rule = Literal["fixed", "always_valid", "group_sequential"]
RULES: tuple[Rule, ...] = ("fixed", "always_valid", "group_sequential")


def experiment_of(rule: Rule) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "a", "variants": {"control": 0.5, "treatment": 0.5}, "control": "control", "start": "2026-03-01",
            "end": "2026-03-07", "stopping": {"rule": rule},
        }
    )  # fmt: skip


@pytest.mark.slow
@given(
    rule=st.sampled_from(RULES),
    day=st.integers(1, 7),
    comparisons=st.integers(1, 6),
    z=st.floats(-8, 8, allow_nan=False),
)
@example(rule="group_sequential", day=1, comparisons=2, z=2.2250738585072014e-308)  # was a little above 1
def test_a_p_value_is_below_the_error_exactly_where_the_interval_leaves_zero_out(
    rule: Rule, day: int, comparisons: int, z: float
) -> None:
    experiment = experiment_of(rule)
    multiplier = interval_multiplier(experiment, day, comparisons)
    p = p_under_rule(experiment, day, comparisons, z)
    if multiplier is None:
        assert p is None
        return
    assert p is not None
    assert 0 <= p <= 1
    if abs(abs(z) - multiplier) > 1e-6:
        assert (p < 1 - experiment.confidence) == (abs(z) > multiplier)


@pytest.mark.parametrize("rule", RULES)
def test_a_larger_effect_never_has_a_larger_p_value(rule: Rule) -> None:
    experiment = experiment_of(rule)
    values = [p_under_rule(experiment, 7, 2, z) for z in np.linspace(0, 9, 60)]
    assert all(p is not None for p in values)
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    assert values[0] == pytest.approx(1)


def test_an_always_valid_p_value_holds_its_error_over_all_looks() -> None:
    """Of random walks without an effect, no more than the error ever has a p-value below it, however often one looks."""
    rng = np.random.default_rng(7)
    looks, walks, alpha = 300, 1000, 0.1
    paths = np.cumsum(rng.normal(size=(walks, looks)), axis=1) / np.sqrt(np.arange(1, looks + 1))
    ever = np.zeros(walks, dtype=bool)
    for look in range(looks):
        largest = np.abs(paths[:, look])
        ever |= np.array([mixture_p_value((look + 1) / looks, alpha, z) < alpha for z in largest])
    assert 0 < ever.mean() < alpha + 3 * math.sqrt(alpha * (1 - alpha) / walks)


@given(lift=st.floats(-0.3, 0.3), error=st.floats(0.002, 0.2))
def test_the_chance_to_be_better_is_that_of_prior_times_likelihood_on_a_grid(lift: float, error: float) -> None:
    half = norm.ppf(0.975) * error
    lifts = np.linspace(-1.5, 1.5, 60_000)
    weights = norm.pdf(lifts, 0, PRIOR_SD) * norm.pdf(lift, lifts, error)
    expected = weights[lifts > 0].sum() / weights.sum()
    bounds = (lift - half, lift + half)
    assert chance_to_be_better(lift, bounds, 0.95) == pytest.approx(expected, abs=2e-3)
    assert chance_to_be_better(lift, bounds, 0.95, "down") == pytest.approx(1 - expected, abs=2e-3)


def test_without_a_lift_there_is_no_chance() -> None:
    assert chance_to_be_better(math.nan, (math.nan, math.nan), 0.95) is None
    assert chance_to_be_better(0.1, (0.05, math.inf), 0.95) is None


def test_the_chance_of_a_lift_beyond_all_measure_is_still_a_chance() -> None:
    assert chance_to_be_better(5e296, (-8e297, 4e298), 0.95) == pytest.approx(0.5, abs=0.01)
    assert chance_to_be_better(2e-200, (1e-200, 3e-200), 0.95) == pytest.approx(norm.cdf(2 * norm.ppf(0.975)))


@pytest.mark.parametrize(("p_value", "told"), [(0.0104, "p = 0.01"), (3e-7, "p < 0.0001")])
def test_a_worse_secondary_metric_is_named_by_the_p_value_of_the_table(p_value: float, told: str) -> None:
    """And not by the one that is corrected for the number of metrics, which stands in the table of methods."""
    result = MetricResult(
        metric="skips", variant="b", role="secondary", method="welch", headline=True, n_control=9, n_treatment=9, control=2.0,
        treatment=2.1, effect=0.1, effect_ci=(0.0, 0.2), rel_effect=0.05, rel_effect_ci=(0.0, 0.1), adjusted_ci=(0.01, 0.09),
        adjusted_effect_ci=(0.02, 0.18), p_value=p_value, p_adjusted=0.031, variance_reduction=0.0, detectable=0.1, power=0.5,
    )  # fmt: skip
    both = Interval(0.05, (0.01, 0.09))
    reading = EffectReading(result, "skips", "", -1, both, both, p_value, None, None)
    arms = SimpleNamespace(control="a", treatments=("b",), truth={})
    assert worse_secondary([reading, replace(reading, side=0)]) == [f"skips (b) +5.00%, {told}"]
    assert f">{told.removeprefix('p = ').removeprefix('p ')}<" in effects(arms, [reading], {}).__html__().unescape()
