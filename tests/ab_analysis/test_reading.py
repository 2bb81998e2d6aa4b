"""How an effect is read: the p-value fits the interval under every rule, and the chance to be better is Bayes' rule."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import norm

from ab_analysis.experiment import Experiment
from ab_analysis.metrics import Metric
from ab_analysis.reading import PRIOR_SD, chance_to_be_better
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


RESULT = MetricResult(
    metric="active_days", variant="treatment", role="primary", method="welch", headline=True, n_control=100, n_treatment=100,
    control=2.0, treatment=2.1, effect=0.1, effect_ci=(0.0, 0.2), rel_effect=0.05, rel_effect_ci=(0.0, 0.1), adjusted_ci=None,
    adjusted_effect_ci=None, p_value=0.05, p_adjusted=0.05, variance_reduction=0.0, detectable=0.1, power=0.5,
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
    result = replace(RESULT, rel_effect=lift, rel_effect_ci=(lift - half, lift + half))
    lifts = np.linspace(-1.5, 1.5, 60_000)
    weights = norm.pdf(lifts, 0, PRIOR_SD) * norm.pdf(lift, lifts, error)
    expected = weights[lifts > 0].sum() / weights.sum()
    for better, chance in (("up", expected), ("down", 1 - expected)):
        metric = Metric.model_validate({"count": "finish", "better": better})
        assert chance_to_be_better(experiment_of("fixed"), metric, result) == pytest.approx(chance, abs=2e-3)


def test_without_a_lift_there_is_no_chance() -> None:
    withheld = replace(RESULT, rel_effect=math.nan, rel_effect_ci=(math.nan, math.nan))
    assert chance_to_be_better(experiment_of("fixed"), Metric.model_validate({"count": "finish"}), withheld) is None
