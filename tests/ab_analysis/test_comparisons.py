"""How comparisons of a table are read: one-sided, corrected, at any look, over clusters, with power; each beside another library."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import tea_tasting as tt
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ab_analysis.clusters import USERS, of_clusters
from ab_analysis.comparisons import TableResult
from ab_analysis.effect import Alternative
from ab_analysis.inference import MetricSpec, compare
from ab_analysis.multiplicity import Correction
from ab_analysis.quantiles import Quantile
from ab_analysis.table import analyze_table
from ab_analysis.table_spec import TableSpec
from ab_analysis.table_text import as_object, text_table, told_reading
from clock.commands import ab
from core import cli
from core.engine import engine
from core.errors import ConfigError, DataError, PlatformError
from core.settings import load_settings
from stats.sequential import mixture_limit, mixture_p_value
from tests.ab_analysis.helpers import moments_of, people

METRICS = ("duration", "days")
RATIO = {"per_day": ("duration", "days")}


def analyze(folder: Path, frame: pd.DataFrame, **options: Any) -> list[TableResult]:
    path = folder / "table.parquet"
    frame.to_parquet(path, index=False)
    spec = TableSpec(**{"variant": "variant", "control": "a", "metrics": METRICS, **options})
    with engine(load_settings(var=folder)) as db:
        return analyze_table(db, path, spec)[0]


def arms(frame: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """Treatment and control."""
    return frame.loc[frame.variant == "b", column], frame.loc[frame.variant == "a", column]


@pytest.mark.parametrize("alternative", ["greater", "less"])
@pytest.mark.parametrize("lift", [0.1, -0.1])
def test_a_one_sided_test_is_scipys_and_its_lift_tea_tastings(
    tmp_path: Path, alternative: Alternative, lift: float
) -> None:
    frame = people(lift=lift)
    rows = analyze(tmp_path, frame, ratios=RATIO, alternative=alternative, confidence=0.9)
    expected = stats.ttest_ind(*arms(frame, "duration"), equal_var=False, alternative=alternative)
    assert rows[0].effect.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert rows[0].effect.effect_ci == pytest.approx(tuple(expected.confidence_interval(0.9)), rel=1e-9)
    options: Any = {"alternative": alternative, "confidence_level": 0.9}
    experiment = tt.Experiment(
        duration=tt.Mean("duration", **options), per_day=tt.RatioOfMeans("duration", "days", **options)
    )
    theirs = experiment.analyze(frame, control="a")
    for row in (rows[0], rows[2]):
        result = theirs[row.metric]
        assert row.effect.p_value == pytest.approx(result.pvalue, rel=1e-9)
        bounds = (result.rel_effect_size_ci_lower, result.rel_effect_size_ci_upper)
        finite = 0 if alternative == "greater" else 1
        assert row.effect.rel_effect_ci[finite] == pytest.approx(bounds[finite], rel=1e-9)
        assert math.isinf(row.effect.rel_effect_ci[1 - finite])


@pytest.mark.parametrize("correction", ["bonferroni", "holm", "fdr_bh"])
def test_corrected_p_values_are_those_of_statsmodels_over_the_methods_that_decide(
    tmp_path: Path, correction: Correction
) -> None:
    frame = people(users=2000, lift=0.07, seed=9)
    frame.loc[frame.user % 3 == 0, "variant"] = "c"
    rows = analyze(
        tmp_path,
        frame,
        ratios=RATIO,
        covariates={"duration": ("duration_pre",)},
        segments=("group",),
        correction=correction,
    )
    decide = [r for r in rows if not r.segment and (r.metric == "days" or r.method == "cuped")]
    assert len(decide) == 6
    assert all(r.adjusted is None for r in rows if not r.segment and r not in decide)
    for family in (decide, [r for r in rows if r.segment]):
        expected = multipletests([r.effect.p_value for r in family], method=correction)[1]
        adjusted = [r.adjusted for r in family if r.adjusted]
        assert [a.p_value for a in adjusted] == pytest.approx(expected, rel=1e-12)
        for a in adjusted:
            assert (a.p_value < 0.05) == (not a.effect_ci[0] <= 0 <= a.effect_ci[1])
            assert (a.effect_ci[0] > 0) == (a.rel_effect_ci[0] > 0)


def test_bonferronis_interval_is_welchs_of_the_smaller_error(tmp_path: Path) -> None:
    frame = people()
    rows = analyze(tmp_path, frame, correction="bonferroni")
    for row in rows:
        expected = stats.ttest_ind(*arms(frame, row.metric), equal_var=False).confidence_interval(1 - 0.05 / 2)
        assert row.adjusted is not None
        assert row.adjusted.effect_ci == pytest.approx(tuple(expected), rel=1e-9)


def test_a_reading_at_any_look_is_the_mixtures_and_agrees_with_its_interval(tmp_path: Path) -> None:
    frame = people(users=3000)
    plain = analyze(tmp_path, frame)
    rows = analyze(tmp_path, frame, planned_users=6000, quantiles={"p90": Quantile("duration", 0.9)})
    for row, one_look in zip(rows, plain, strict=False):
        assert row.adjusted is not None
        assert row.effect == one_look.effect
        assert row.adjusted.p_value == pytest.approx(mixture_p_value(0.5, 0.05, row.effect.z))
        half = mixture_limit(0.5, 0.05) * row.effect.se
        assert row.adjusted.effect_ci == pytest.approx((row.effect.effect - half, row.effect.effect + half))
    corrected = analyze(tmp_path, frame, planned_users=6000, correction="holm", ratios=RATIO)
    for row in corrected:
        assert row.adjusted is not None
        assert (row.adjusted.p_value < 0.05) == (not row.adjusted.effect_ci[0] <= 0 <= row.adjusted.effect_ci[1])


def clustered(clusters: int = 120, seed: int = 2, lift: float = 0.1) -> pd.DataFrame:
    """Users of shops; shops were assigned, in equal numbers, and those of a shop are alike."""
    rng = np.random.default_rng(seed)
    frame = people(users=clusters * 20, seed=seed, lift=0)
    shops = np.minimum(rng.integers(0, clusters, len(frame)), rng.integers(0, clusters, len(frame)))
    shops[:clusters] = np.arange(clusters)  # none is empty
    frame["shop"] = shops
    frame["variant"] = np.where(frame.shop % 2 == 0, "a", "b")
    frame["duration"] += rng.normal(0, 1, clusters)[frame.shop] + lift * (frame.variant == "b")
    return frame


def test_an_error_over_clusters_is_that_of_a_regression_with_clustered_errors(tmp_path: Path) -> None:
    frame = clustered()
    (row,) = analyze(tmp_path, frame, metrics=("duration",), cluster="shop")
    design = sm.add_constant((frame.variant == "b").astype(float))
    fit = sm.OLS(frame.duration, design).fit(
        cov_type="cluster", cov_kwds={"groups": frame.shop, "use_correction": False}
    )
    shops = frame.groupby("variant").shop.nunique()
    assert shops["a"] == shops["b"]
    small_sample = math.sqrt(shops["a"] / (shops["a"] - 1))
    assert row.effect.effect == pytest.approx(fit.params.iloc[1], rel=1e-9)
    assert row.effect.se == pytest.approx(fit.bse.iloc[1] * small_sample, rel=1e-9)
    assert row.clusters == (shops["a"], shops["b"])
    assert (row.n_control, row.n_treatment) == tuple((frame.variant == v).sum() for v in "ab")
    (of_users,) = analyze(tmp_path, frame, metrics=("duration",))
    assert row.effect.se > 1.5 * of_users.effect.se


def test_clusters_of_one_user_are_users(tmp_path: Path) -> None:
    options: Any = {"ratios": RATIO, "covariates": {"duration": ("duration_pre",)}, "segments": ("group",)}
    frame = people(users=1200)
    frame.loc[frame.user % 5 == 0, "duration_pre"] = np.nan
    for one, other in zip(
        analyze(tmp_path, frame, **options), analyze(tmp_path, frame, cluster="user", **options), strict=True
    ):
        assert other.effect.effect_ci == pytest.approx(one.effect.effect_ci, rel=1e-9)
        assert other.effect.p_value == pytest.approx(one.effect.p_value, rel=1e-7)
        assert (one.n_control, one.segment) == (other.n_control, other.segment)


def test_covariates_take_variance_off_clusters_too_and_leave_the_effect(tmp_path: Path) -> None:
    frame = clustered().assign(
        before=lambda f: f.duration + np.random.default_rng(1).normal(0, 0.5, len(f)) - 0.1 * (f.variant == "b")
    )
    plain, cuped = analyze(tmp_path, frame, metrics=("duration",), cluster="shop", covariates={"duration": ("before",)})
    assert cuped.effect.se < 0.5 * plain.effect.se
    assert cuped.effect.effect == pytest.approx(0.1, abs=3 * cuped.effect.se)


def test_without_an_effect_clusters_alarm_as_often_as_they_should_and_users_far_more_often() -> None:
    alarms = {"clusters": 0, "users": 0}
    samples = 300
    for seed in range(samples):
        frame = clustered(clusters=60, seed=seed, lift=0.0).assign(**{USERS: 1.0})
        sums = frame.groupby(["variant", "shop"], as_index=False)[["duration", USERS]].sum()
        for name, table, spec in (
            ("users", frame, MetricSpec("d", "duration")),
            ("clusters", sums, of_clusters(MetricSpec("d", "duration"))),
        ):
            a, b = (moments_of(table[table.variant == v], ("duration", USERS)) for v in "ab")
            alarms[name] += compare(spec, a, b, 0.95, adjusted=False).p_value < 0.05
    assert 0.02 * samples < alarms["clusters"] < 0.09 * samples
    assert alarms["users"] > 0.2 * samples


def test_what_is_told_of_clusters_that_are_few_or_differ_in_size(tmp_path: Path) -> None:
    frame = clustered(clusters=40)
    frame = frame[(frame.variant == "a") | (frame.user % 3 == 0)]
    path = tmp_path / "table.parquet"
    frame.to_parquet(path)
    with engine(load_settings(var=tmp_path)) as db:
        _, checks = analyze_table(db, path, TableSpec("variant", "a", ("duration",), cluster="shop"))
    assert "clusters expected" in checks[0].text
    assert {c.name: c.level for c in checks} == {"sample ratio": "ok", "clusters": "warn", "cluster sizes": "warn"}


def test_power_finds_what_is_detectable_as_often_as_was_asked(tmp_path: Path) -> None:
    frame = people(users=4000)
    (row,) = analyze(tmp_path, frame, metrics=("duration",), power=0.9, minimum_effect=0.03)
    assert row.power is not None
    control = frame[frame.variant == "a"]
    theirs = tt.Mean("duration", power=0.9, use_t=False, ratio=1, n_obs=len(frame)).solve_power(control)
    assert row.power.detectable_effect == pytest.approx(row.power.detectable * row.effect.control)
    assert row.power.detectable == pytest.approx(theirs[0].rel_effect_size, rel=0.05)
    assert row.power.users_needed == math.ceil(len(frame) * (row.power.detectable / 0.03) ** 2)
    (again,) = analyze(tmp_path, frame, metrics=("duration",), power=0.9, minimum_effect=row.power.detectable)
    assert again.power is not None
    assert again.power.power == pytest.approx(0.9, abs=1e-3)


def test_one_sided_or_corrected_power_is_that_of_the_limit_that_decides(tmp_path: Path) -> None:
    frame = people(users=4000)
    asked: dict[str, dict[str, Any]] = {
        "two-sided": {}, "greater": {"alternative": "greater"}, "corrected": {"correction": "holm"},
        "any look": {"planned_users": 4000},
    }  # fmt: skip
    size = {name: analyze(tmp_path, frame, power=0.8, **options)[0].power for name, options in asked.items()}
    assert all(size.values())
    detectable = {name: power.detectable for name, power in size.items() if power}
    assert detectable["greater"] < detectable["two-sided"] < detectable["corrected"] < detectable["any look"]
    z = stats.norm.ppf
    assert detectable["corrected"] / detectable["two-sided"] == pytest.approx(
        (z(1 - 0.05 / 4) + z(0.8)) / (z(0.975) + z(0.8)), rel=1e-9
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planned_users": 1}, "at least 2"),
        ({"planned_users": 100, "alternative": "greater"}, "two-sided limits only"),
        ({"power": 1.5}, "--power 1.5: between 0.5 and 1"),
        ({"minimum_effect": -0.1}, "a relative effect from 0.000001 to 10"),
        ({"cluster": "shops"}, "no column 'shops'; did you mean 'shop'?"),
        ({"cluster": "days"}, "cannot be a metric or covariate and a segment, stratum or cluster"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_answered_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        analyze(tmp_path, clustered(40), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(shop=f.user % 7), "7 values of 'shop' have users in two variants"),
        (lambda f: f.assign(shop=f.shop.where(f.user > 4).astype("Int64")), "5 rows have no shop"),
        (lambda f: f.assign(duration=f.duration.where(f.user > 2)), "duration (3 users)"),
    ],
)
def test_a_table_of_clusters_that_is_wrong_says_what_to_do(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        analyze(tmp_path, change(clustered(40)), cluster="shop")
    assert message in str(caught.value)


def test_what_was_asked_is_in_the_file_and_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))
    frame = clustered()
    frame.to_csv(tmp_path / "t.csv", index=False)
    arguments = (
        f"analyze {tmp_path}/t.csv --variant variant --control a --metric duration --metric days --covariate duration=duration_pre "
        f"--cluster shop --correction holm --alternative greater --minimum-effect 0.05 --json {tmp_path}/o.json"
    )
    assert cli.call(ab.app, arguments.split()) == 0
    first, second, _ = json.loads((tmp_path / "o.json").read_text())
    assert first["adjusted_ci"] is None
    assert second["adjusted_ci"][1] is None
    assert second["p_adjusted"] >= second["p_value"]
    assert {"clusters_control", "detectable", "detectable_effect", "power", "users_needed"} < set(second)
    told = capsys.readouterr()
    assert (
        "they ask whether the variant is greater than the control, they are corrected for 2 comparisons by Holm"
        in told.err
    )
    assert "∞)" in told.out
    assert "not counted" in told.out
    with pytest.raises(PlatformError, match="two-sided limits"):
        cli.call(ab.app, [*arguments.split(), "--sequential", "100"])


def test_lines_of_a_terminal_are_aligned(tmp_path: Path) -> None:
    spec = TableSpec("variant", "a", METRICS, power=0.8, minimum_effect=0.02, correction="holm")
    rows = analyze(tmp_path, people(users=500), power=0.8, minimum_effect=0.02, correction="holm")
    assert len({len(line) for line in text_table(rows, spec)}) == 1
    assert told_reading(TableSpec("variant", "a", METRICS), rows) == ""
    assert json.loads(json.dumps([as_object(row, spec) for row in rows]))
