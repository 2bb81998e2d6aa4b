"""The statistics against independent implementations: statsmodels, scipy, closed forms, least squares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from ab_analysis.effect import fieller, from_estimates
from ab_analysis.inference import Estimate, MetricSpec, compare, post_stratified, welch
from ab_analysis.moments import Cells, Moments
from ab_analysis.segments import shrink
from tests.ab_analysis.helpers import moments_of, people, sides

CLOSE: dict[str, Any] = {"rel": 1e-9, "abs": 1e-9}


def test_welch_agrees_with_statsmodels_to_nine_digits() -> None:
    frame = people()
    effect = compare(MetricSpec("d", "duration"), *sides(frame, ("duration",)), 0.95, adjusted=False)
    test = CompareMeans(*(DescrStatsW(frame.loc[frame.variant == v, "duration"]) for v in ("b", "a")))
    assert effect.p_value == pytest.approx(test.ttest_ind(usevar="unequal")[1], **CLOSE)
    assert effect.effect_ci == pytest.approx(test.tconfint_diff(usevar="unequal"), **CLOSE)
    assert effect.se == pytest.approx(test.std_meandiff_separatevar, **CLOSE)


@pytest.mark.parametrize("denominator", [None, "days"])
@pytest.mark.parametrize("covariate", [None, "duration_pre"])
def test_means_and_ratios_with_and_without_a_covariate_are_tea_tastings(
    denominator: str | None, covariate: str | None
) -> None:
    frame = people(users=500, lift=0.2, share=0.3)
    columns = tuple(c for c in ("duration", denominator, covariate) if c)
    spec = MetricSpec("d", "duration", denominator, (covariate,) if covariate else ())
    effect = compare(spec, *sides(frame, columns), 0.9, adjusted=bool(covariate))
    metric = tt.RatioOfMeans("duration", denominator, covariate, confidence_level=0.9)
    theirs = tt.Experiment(d=metric).analyze(frame, control="a")["d"]
    assert (effect.control, effect.treatment, effect.p_value) == pytest.approx(
        (theirs.control, theirs.treatment, theirs.pvalue), **CLOSE
    )
    assert effect.effect_ci == pytest.approx((theirs.effect_size_ci_lower, theirs.effect_size_ci_upper), **CLOSE)
    bounds = (theirs.rel_effect_size_ci_lower, theirs.rel_effect_size_ci_upper)
    assert effect.rel_effect_ci == pytest.approx(bounds, **CLOSE)


def test_cuped_is_welch_on_the_residuals_of_a_regression_to_nine_digits() -> None:
    """y − θ(x − x̄) with θ = cov(y, x) / var(x) over all users, then scipy's Welch test."""
    frame = people()
    effect = compare(
        MetricSpec("d", "duration", covariates=("duration_pre",)),
        *sides(frame, ("duration", "duration_pre")),
        0.95,
        adjusted=True,
    )
    x, y = frame.duration_pre, frame.duration
    adjusted = y - np.cov(y, x)[0, 1] / x.var() * (x - x.mean())
    treated = frame.variant == "b"
    expected = stats.ttest_ind(adjusted[treated], adjusted[~treated], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert effect.p_value == pytest.approx(expected.pvalue, **CLOSE)
    assert effect.effect_ci == pytest.approx((interval.low, interval.high), **CLOSE)
    assert effect.treatment == pytest.approx(adjusted[treated].mean(), **CLOSE)


def test_several_covariates_are_the_residuals_of_least_squares_also_where_they_repeat_each_other() -> None:
    frame = people().assign(again=lambda f: 2 * f.duration_pre + 1, constant=3.0)
    columns = ("duration", "duration_pre", "days_pre", "again", "constant")
    effect = compare(MetricSpec("d", "duration", covariates=columns[1:]), *sides(frame, columns), 0.95, adjusted=True)
    design = np.column_stack([np.ones(len(frame)), frame.duration_pre, frame.days_pre])
    residual = frame.duration - design @ np.linalg.lstsq(design, frame.duration, rcond=None)[0]
    treated = frame.variant == "b"
    expected = stats.ttest_ind(residual[treated], residual[~treated], equal_var=False)
    assert effect.p_value == pytest.approx(expected.pvalue, rel=1e-8)
    assert effect.effect == pytest.approx(residual[treated].mean() - residual[~treated].mean(), rel=1e-8)


def test_a_ratio_is_the_delta_method() -> None:
    """Var(ȳ/x̄) ≈ (s_yy − 2 R s_xy + R² s_xx) / (n x̄²), which is Welch on linearized values (statsmodels)."""
    frame = people()
    effect = compare(MetricSpec("r", "duration", "days"), *sides(frame, ("duration", "days")), 0.95, adjusted=False)
    linear = []
    for v in ("b", "a"):
        arm = frame[frame.variant == v]
        ratio = arm.duration.sum() / arm.days.sum()
        linear.append(DescrStatsW(ratio + (arm.duration - ratio * arm.days) / arm.days.mean()))
    test = CompareMeans(*linear)
    assert effect.effect == pytest.approx(linear[0].mean - linear[1].mean, **CLOSE)
    assert effect.effect_ci == pytest.approx(test.tconfint_diff(usevar="unequal"), **CLOSE)


def test_a_ratio_with_covariates_saves_what_a_regression_of_its_linearized_values_explains() -> None:
    frame = people(users=20_000, lift=0)
    columns = ("duration", "days", "duration_pre", "days_pre")
    t = MetricSpec("r", "duration", "days", columns[2:])
    plain, adjusted = (compare(t, *sides(frame, columns), 0.95, adjusted=a) for a in (False, True))
    linear = (frame.duration - frame.duration.sum() / frame.days.sum() * frame.days) / frame.days.mean()
    design = np.column_stack([np.ones(len(frame)), frame.duration_pre, frame.days_pre])
    left = linear - design @ np.linalg.lstsq(design, linear, rcond=None)[0]
    assert (adjusted.se / plain.se) ** 2 == pytest.approx(left.var() / linear.var(), abs=1e-3)
    assert abs(adjusted.effect - plain.effect) < 3 * plain.se


def test_cuped_shrinks_the_variance_by_the_squared_correlation() -> None:
    frame = people(users=30_000, lift=0)
    t = MetricSpec("d", "duration", covariates=("duration_pre",))
    plain, adjusted = (compare(t, *sides(frame, t.columns), 0.95, adjusted=a) for a in (False, True))
    rho = np.corrcoef(frame.duration, frame.duration_pre)[0, 1]
    assert 1 - (adjusted.se / plain.se) ** 2 == pytest.approx(rho**2, abs=1e-3)


def test_the_relative_interval_is_the_delta_method_on_the_log_scale() -> None:
    frame = people()
    control, treatment = sides(frame, ("duration",))
    effect = compare(MetricSpec("d", "duration"), control, treatment, 0.95, adjusted=False)
    variances = [m.variance("duration") / m.count / m.mean("duration") ** 2 for m in (control, treatment)]
    df = sum(variances) ** 2 / sum(v**2 / (m.count - 1) for v, m in zip(variances, (control, treatment), strict=True))
    half = stats.t.ppf(0.975, df) * math.sqrt(sum(variances))
    ratio = treatment.mean("duration") / control.mean("duration")
    assert effect.rel_effect_ci == pytest.approx((ratio * math.exp(-half) - 1, ratio * math.exp(half) - 1), **CLOSE)


def test_fieller_inverts_the_test_of_a_ratio() -> None:
    estimate = from_estimates(2.0, -0.5, 0.3, 0.4, 0.95)
    z = stats.norm.ppf(0.975)

    def score(rho: float) -> float:
        return abs(-0.5 - rho * 2.0) / math.hypot(0.4, rho * 0.3) - z

    low = optimize.brentq(score, -3, -0.25)
    high = optimize.brentq(score, -0.25, 3)
    assert fieller(estimate, 0.95) == pytest.approx((low - 1, high - 1), abs=1e-6)
    assert fieller(from_estimates(0.1, 1, 0.3, 0.4, 0.95), 0.95) == (-math.inf, math.inf)


def test_post_stratification_weights_strata_by_all_users() -> None:
    frame = people(share=0.4)
    names = sorted(frame.group.unique())
    cells = Cells(
        ("variant", "group"),
        {
            (v, g): moments_of(frame[(frame.variant == v) & (frame.group == g)], ("duration",))
            for v in "ab"
            for g in names
        },
    )
    stratified = post_stratified(MetricSpec("d", "duration"), cells, ("group",), "a", "b", 0.95)
    effect = variance = 0.0
    for g in names:
        stratum = frame[frame.group == g]
        a, b = (stratum.loc[stratum.variant == v, "duration"] for v in "ab")
        weight = len(stratum) / len(frame)
        effect += weight * (b.mean() - a.mean())
        variance += weight**2 * (a.var() / len(a) + b.var() / len(b))
    assert stratified.effect == pytest.approx(effect, **CLOSE)
    assert stratified.se == pytest.approx(math.sqrt(variance), **CLOSE)
    plain = compare(MetricSpec("d", "duration"), *sides(frame, ("duration",)), 0.95, adjusted=False)
    assert stratified.se < 0.8 * plain.se


def test_segments_are_drawn_together_as_far_as_they_are_alike() -> None:
    alike, p_same = shrink([0.05, 0.06, 0.04], [0.1, 0.1, 0.1])
    assert p_same > 0.9
    assert [s.effect for s in alike] == pytest.approx([0.05] * 3)
    apart, p_apart = shrink([0.5, 0.0, -0.5], [0.01] * 3)
    assert p_apart < 1e-6
    assert [s.effect for s in apart] == pytest.approx([0.5, 0.0, -0.5], abs=0.01)
    assert apart[0].se < 0.0101
    tau2 = combine_effects(np.array([0.5, 0.0, -0.5]), np.full(3, 1e-4), method_re="iterated").tau2
    assert apart[0].effect == pytest.approx(0.5 * tau2 / (tau2 + 1e-4), rel=1e-6)


def test_the_power_and_the_detectable_effect_are_those_of_the_normal_test() -> None:
    effect = from_estimates(10.0, 10.1, 0.06, 0.08, 0.95)
    assert effect.power(effect.detectable(0.8)) == pytest.approx(0.8, abs=1e-4)
    assert effect.power(0) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "why"),
    [([0.0] * 10, "all zero"), ([3.0] * 10, "all the same"), ([1.0], "one user")],
)
def test_what_cannot_be_tested_is_unknown_and_breaks_nothing(values: list[float], why: str) -> None:
    frame = pd.DataFrame({"y": values * 2, "variant": ["a"] * len(values) + ["b"] * len(values)})
    effect = compare(MetricSpec("y", "y"), *sides(frame, ("y",)), 0.95, adjusted=False)
    assert not effect.known, why
    assert math.isnan(effect.p_value)


def test_means_around_zero_have_an_absolute_interval_and_no_false_relative_one() -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"y": rng.normal(0, 1, 400), "variant": ["a", "b"] * 200})
    effect = compare(MetricSpec("y", "y"), *sides(frame, ("y",)), 0.95, adjusted=False)
    assert effect.known
    assert effect.lift_withheld
    assert all(map(math.isnan, (effect.rel_effect, *effect.rel_effect_ci)))


samples = st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 2), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(samples, min_size=2, max_size=4))
def test_groups_together_have_the_moments_of_all_their_users(parts: list[list[tuple[float, float]]]) -> None:
    frames = [pd.DataFrame(p, columns=["x", "y"]) for p in parts]
    merged = sum((moments_of(f, ("x", "y")) for f in frames[1:]), moments_of(frames[0], ("x", "y")))
    whole = moments_of(pd.concat(frames), ("x", "y"))
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.means, whole.means, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(merged.comoments, whole.comoments, rtol=1e-7, atol=1e-2)


@settings(max_examples=40, deadline=None)
@given(samples, st.floats(-3, 3), st.floats(-3, 3))
def test_a_combination_of_columns_has_its_own_moments(part: list[tuple[float, float]], a: float, b: float) -> None:
    frame = pd.DataFrame(part, columns=["x", "y"]).assign(z=lambda f: a * f.x + b * f.y)
    combined: Moments = moments_of(frame[["x", "y"]], ("x", "y")).with_combination("z", {"x": a, "y": b})
    whole = moments_of(frame, ("x", "y", "z"))
    np.testing.assert_allclose(combined.means, whole.means, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(combined.comoments, whole.comoments, rtol=1e-7, atol=1e-1)


def test_a_ratio_that_is_the_same_for_every_user_has_no_error_and_one_of_a_constant_has_its_denominators() -> None:
    frame = people(users=400).assign(twice=lambda f: 2 * f.days, one=1.0)
    frame.loc[frame.variant == "b", "twice"] = 3 * frame.days
    same = compare(MetricSpec("r", "twice", "days"), *sides(frame, ("twice", "days")), 0.95, adjusted=False)
    assert (same.effect, same.se) == (pytest.approx(1), 0)
    constant = compare(MetricSpec("r", "one", "days"), *sides(frame, ("one", "days")), 0.95, adjusted=False)
    days = {v: frame.loc[frame.variant == v, "days"] for v in "ab"}
    assert constant.se == pytest.approx(math.sqrt(sum(d.var() / len(d) / d.mean() ** 4 for d in days.values())))


def test_a_mean_that_may_as_well_be_0_has_an_effect_and_no_lift_and_says_nothing_else() -> None:
    effect = welch(Estimate(40, 0.07, 0.3, 0.3), Estimate(40, 0.0003, 0.7, 0.7), 0.95)
    assert effect.known
    assert effect.lift_withheld
    assert all(map(math.isnan, effect.rel_effect_ci))
