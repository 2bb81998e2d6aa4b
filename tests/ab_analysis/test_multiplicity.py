"""Corrected p-values against statsmodels, and the intervals that agree with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from ab_analysis.multiplicity import Correction, adjust, error_levels

METHODS: tuple[Correction, ...] = ("bonferroni", "holm", "fdr_bh")


def test_adjusted_p_values_are_holms_and_benjamini_hochbergs() -> None:
    p = {"one": 0.01, "two": 0.04, "three": 0.03, "unknown": math.nan}
    assert adjust(p, "holm") == pytest.approx(
        {"one": 0.03, "two": 0.06, "three": 0.06, "unknown": math.nan}, nan_ok=True
    )
    assert adjust(p, "fdr_bh") == pytest.approx(
        {"one": 0.03, "two": 0.04, "three": 0.04, "unknown": math.nan}, nan_ok=True
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_adjusted_p_values_are_those_of_statsmodels_to_the_bit(method: Correction, count: int) -> None:
    p = np.random.default_rng(count).uniform(size=count).round(2)  # some are equal
    expected = multipletests(p, method=method)[1].tolist()
    assert list(adjust({str(n): float(v) for n, v in enumerate(p)}, method).values()) == expected


@given(p_values=st.lists(st.floats(0, 1), max_size=8), method=st.sampled_from(METHODS), error=st.floats(0.001, 0.4))
def test_an_interval_leaves_zero_out_exactly_where_the_adjusted_p_value_is_below_the_error(
    p_values: list[float], method: Correction, error: float
) -> None:
    named = {str(n): p for n, p in enumerate(p_values)}
    adjusted, levels = adjust(named, method), error_levels(named, method, error)
    for name, p in named.items():
        assert error / max(len(named), 1) * (1 - 1e-12) <= levels[name] <= error
        if abs(p - levels[name]) > 1e-9 and abs(adjusted[name] - error) > 1e-9:
            assert (p < levels[name]) == (adjusted[name] < error)


def test_bonferronis_intervals_hold_together_and_those_of_what_is_found_hold_at_the_rate() -> None:
    """10 comparisons of which 5 have an effect, by simulation: the share of samples, and of intervals, that miss the truth."""
    rng = np.random.default_rng(5)
    truth, error, samples = np.array([0.0] * 5 + [3.0] * 5), 0.1, 2000
    any_missed = false_share = 0.0
    for z in rng.normal(truth, size=(samples, 10)):
        p_values = {str(n): math.erfc(abs(value) / math.sqrt(2)) for n, value in enumerate(z)}
        missed = {
            method: {
                n: _p(z[int(n)] - truth[int(n)]) < level for n, level in error_levels(p_values, method, error).items()
            }
            for method in METHODS
        }
        any_missed += any(missed["bonferroni"].values()) / samples
        rejected = [n for n, p in adjust(p_values, "fdr_bh").items() if p < error]
        false_share += sum(missed["fdr_bh"][n] for n in rejected) / max(len(rejected), 1) / samples
    noise = 3 * math.sqrt(error * (1 - error) / samples)
    assert 0.5 * error < any_missed < error + noise
    assert 0.3 * error < false_share < error + noise


def _p(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))
