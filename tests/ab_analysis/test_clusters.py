"""Quantiles and strata of users in clusters, beside a regression, a bootstrap and simulations whose truth is known."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from ab_analysis.comparisons import TableResult
from ab_analysis.quantiles import Quantile
from ab_analysis.table import analyze_table
from ab_analysis.table_spec import TableSpec
from core.engine import engine
from core.settings import load_settings
from core.sql_engine import Engine
from tests.ab_analysis.helpers import people

SHOPS, EACH = 80, 15
OF_SHOPS, OF_USERS = 0.7, 1.0
"""Standard deviations of the shops' and of their users' values."""
LIFT, SCALE = 0.5, 1.4
"""The variant's values are the control's, times ``SCALE``, plus ``LIFT``, where there is an effect."""
SPREAD = math.sqrt(OF_SHOPS**2 + OF_USERS**2)
QUANTILES = {"median": Quantile("spent", 0.5), "p90": Quantile("spent", 0.9)}


@contextmanager
def opened(folder: Path) -> Iterator[Engine]:
    with engine(load_settings(var=folder)) as db:
        yield db


def analyzed(db: Engine, folder: Path, frame: pd.DataFrame, **options: Any) -> list[TableResult]:
    path = folder / "table.parquet"
    frame.to_parquet(path, index=False)
    return analyze_table(
        db, path, TableSpec(**{"variant": "variant", "control": "a", "metrics": ("spent",), **options})
    )[0]


def shopping(seed: int, *, effect: bool, shops: int = SHOPS) -> pd.DataFrame:
    """Users of shops, half of which are assigned; a user's region and earlier spending tell something of the user's spending."""
    rng = np.random.default_rng(seed)
    shop = np.repeat(np.arange(shops), rng.poisson(EACH, shops) + 2)
    region = rng.integers(0, 3, len(shop))
    before = rng.normal(0, 1, len(shop))
    own = math.sqrt(OF_USERS**2 - 0.36 - 0.25 * 2 / 3)
    noise = 0.6 * before + 0.5 * (region - 1.0) + rng.normal(0, own, len(shop))
    spent = rng.normal(0, OF_SHOPS, shops)[shop] + noise
    variant = np.where(rng.permutation(shops)[shop] % 2 == 0, "a", "b")
    if effect:
        spent = np.where(variant == "b", SCALE * spent + LIFT, spent)
    return pd.DataFrame(
        {"shop": shop, "region": region.astype(str), "before": before, "spent": spent, "variant": variant}
    )


def test_post_stratified_clusters_have_the_error_of_a_regression_with_clustered_errors(tmp_path: Path) -> None:
    frame = shopping(1, effect=True)
    regions = frame.groupby(["shop"]).region.nunique()
    frame = frame[
        frame.shop.isin(regions[regions == 3].index)
    ]  # every shop has users of every region: one correction for all
    shops = frame.groupby("variant").shop.nunique()
    with opened(tmp_path) as db:
        row = analyzed(db, tmp_path, frame, cluster="shop", strata=("region",))[-1]
    assert row.method == "post_stratified"
    cells = pd.get_dummies(frame.region + frame.variant).astype(float)
    fit = sm.OLS(frame.spent, cells).fit(cov_type="cluster", cov_kwds={"groups": frame.shop, "use_correction": False})
    shares = frame.region.value_counts(normalize=True)
    weights = pd.Series({name: (1 if name.endswith("b") else -1) * shares[name[:-1]] for name in cells})
    assert row.effect.effect == pytest.approx(float(weights @ fit.params), rel=1e-9)
    both = [
        pd.Series({n: w for n, w in weights.items() if str(n).endswith(v)}).reindex(cells.columns).fillna(0)
        for v in "ab"
    ]
    of_arms = [float(w @ fit.cov_params() @ w) * shops[v] / (shops[v] - 1) for v, w in zip("ab", both, strict=True)]
    assert row.effect.se == pytest.approx(math.sqrt(sum(of_arms)), rel=1e-9)
    assert row.clusters == (shops["a"], shops["b"])


def test_strata_of_whole_clusters_have_the_error_of_a_stratified_sample_of_clusters(tmp_path: Path) -> None:
    frame = shopping(2, effect=True)
    frame["country"] = np.where(frame.shop % 5 == 0, "x", "y")
    with opened(tmp_path) as db:
        row = analyzed(db, tmp_path, frame, cluster="shop", strata=("country",))[-1]
    variance = 0.0
    for (country, _), cell in frame.groupby(["country", "variant"]):
        share = (frame.country == country).mean()
        sums = (cell.spent - cell.spent.mean()).groupby(cell.shop).sum()
        variance += share**2 * sums.pow(2).sum() * len(sums) / (len(sums) - 1) / len(cell) ** 2
    assert row.effect.se == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_clusters_of_one_user_are_users_in_strata_and_nearly_in_quantiles(tmp_path: Path) -> None:
    frame = people(users=1200)
    options: dict[str, Any] = {
        "metrics": ("duration",), "strata": ("group",), "covariates": {"duration": ("duration_pre",)},
        "quantiles": {"p75": Quantile("duration", 0.75)},
    }  # fmt: skip
    with opened(tmp_path) as db:
        rows = [analyzed(db, tmp_path, frame, **options, **more) for more in ({}, {"cluster": "user"})]
    for one, other in zip(*rows, strict=True):
        close = 0.01 if one.method == "quantile" else 1e-9
        assert (one.metric, one.method, one.n_control) == (other.metric, other.method, other.n_control)
        assert other.effect.effect == pytest.approx(one.effect.effect, rel=1e-9)
        assert other.effect.se == pytest.approx(one.effect.se, rel=close), one.method
        assert other.clusters == (other.n_control, other.n_treatment)


def test_a_quantiles_error_over_clusters_is_that_of_a_bootstrap_of_clusters(tmp_path: Path) -> None:
    frame = shopping(3, effect=False, shops=400)
    rng = np.random.default_rng(4)
    with opened(tmp_path) as db:
        rows = analyzed(db, tmp_path, frame, metrics=(), cluster="shop", quantiles=QUANTILES)
    for row in rows:
        share, errors = QUANTILES[row.metric].share, []
        for v in "ab":
            shops = [part.spent.to_numpy() for _, part in frame[frame.variant == v].groupby("shop")]
            drawn = [
                np.quantile(np.concatenate([shops[n] for n in rng.integers(0, len(shops), len(shops))]), share)
                for _ in range(400)
            ]
            errors.append(np.var(drawn))
        assert row.effect.se == pytest.approx(math.sqrt(sum(errors)), rel=0.12), row.metric
        assert row.clusters == (200, 200)
        assert row.n_control + row.n_treatment == len(frame)


@pytest.mark.slow
def test_intervals_over_clusters_hold_the_truth_as_often_as_they_say_and_without_an_effect_few_alarm(
    tmp_path: Path,
) -> None:
    samples = 150
    alarms, held = Counter[str](), Counter[str]()
    errors: dict[str, float] = defaultdict(float)
    options: dict[str, Any] = {"strata": ("region",), "covariates": {"spent": ("before",)}, "quantiles": QUANTILES}
    truths = {name: LIFT + (SCALE - 1) * SPREAD * NormalDist().inv_cdf(q.share) for name, q in QUANTILES.items()}
    with opened(tmp_path) as db:
        for seed in range(1000, 1000 + samples):
            still = shopping(seed, effect=False)
            for row in analyzed(db, tmp_path, still, cluster="shop", **options):
                alarms[f"{row.metric} {row.method}"] += row.effect.p_value < 0.05
            for row in analyzed(db, tmp_path, still, **options):
                alarms[f"users, {row.metric} {row.method}"] += row.effect.p_value < 0.05
            for row in analyzed(db, tmp_path, shopping(samples + seed, effect=True), cluster="shop", **options):
                low, high = row.effect.effect_ci
                held[f"{row.metric} {row.method}"] += low <= truths.get(row.metric, LIFT) <= high
                errors[f"{row.metric} {row.method}"] += row.effect.se
    print(dict(alarms), dict(held))
    assert set(held) == {"spent welch", "spent cuped", "spent post_stratified", "median quantile", "p90 quantile"}
    for name in held:  # 5 % of 150 samples, and three standard errors
        assert 0 <= alarms[name] / samples < 0.105, name
        assert held[name] / samples > 0.895, name
        assert alarms[f"users, {name}"] > 2 * alarms[name], name
    assert errors["spent post_stratified"] < errors["spent welch"]


def test_strata_without_two_clusters_of_both_variants_are_left_out(tmp_path: Path) -> None:
    frame = shopping(5, effect=False)
    rare = frame.shop.isin(frame[frame.variant == "a"].shop.unique()[:1])
    frame.loc[rare, "region"] = "rare"
    with opened(tmp_path) as db:
        row, without = (
            analyzed(db, tmp_path, table, cluster="shop", strata=("region",))[-1] for table in (frame, frame[~rare])
        )
        assert row.effect.effect == pytest.approx(without.effect.effect, rel=1e-12)
        alone = analyzed(db, tmp_path, frame.assign(region=frame.shop // 2), cluster="shop", strata=("region",))[-1]
        assert not alone.effect.known
