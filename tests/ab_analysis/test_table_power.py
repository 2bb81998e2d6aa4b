"""``clock ab power``: what an experiment could find, from a table of the time before it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ab_analysis.quantiles import Quantile
from ab_analysis.table_power import design_of, power_of_table
from ab_analysis.table_spec import TableSpec
from clock.commands import ab
from core import cli
from core.engine import engine
from core.errors import ConfigError, PlatformError
from core.settings import load_settings
from tests.ab_analysis.helpers import people

METRIC = "--metric duration --covariate duration=duration_pre --minimum-effect 0.02"


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))


def planned(folder: Path, options: str, frame: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    table, out = folder / "t.csv", folder / "o.json"
    (people(users=4000, lift=0) if frame is None else frame).drop(columns="variant").to_csv(table, index=False)
    assert cli.call(ab.app, ["power", str(table), *options.split(), "--json", str(out)]) == 0
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


def test_the_users_needed_are_the_textbooks_and_cuped_saves_what_the_past_explains(tmp_path: Path) -> None:
    """n = 4 (z₀.₉₇₅ + z₀.₈)² σ² / δ² in two equal arms."""
    frame = people(users=4000, lift=0)
    plain, adjusted = planned(tmp_path, METRIC)
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    needed = 4 * z**2 * frame.duration.var() / (0.02 * frame.duration.mean()) ** 2
    assert plain["users_needed"] == pytest.approx(needed, rel=1e-3)
    rho = np.corrcoef(frame.duration, frame.duration_pre)[0, 1]
    assert adjusted["users_needed"] == pytest.approx(needed * (1 - rho**2), rel=1e-3)
    assert adjusted["variance_reduction"] == pytest.approx(rho**2, rel=1e-9)
    assert "days" not in plain


def test_other_numbers_of_users_and_other_shares_are_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (whole, _), (quarter, _), (uneven, _) = (
        planned(tmp_path, f"{METRIC} {options}")
        for options in ("", "--users 1000", "--shares small=1,large=3 --control large")
    )
    assert (quarter["users"], uneven["users"]) == (1000, 4000)
    assert quarter["detectable"] == pytest.approx(2 * whole["detectable"], rel=1e-3)
    # 1/n₁ + 1/n₂ of a quarter and three quarters is 4/3 of that of two halves.
    assert uneven["detectable"] == pytest.approx(whole["detectable"] * math.sqrt(4 / 3), rel=1e-3)
    assert "small 25%, large 75%" in capsys.readouterr().out


def test_clusters_are_planned_as_what_is_assigned(tmp_path: Path) -> None:
    frame = people(users=4000, lift=0)
    frame["home"] = frame.user // 4
    frame["duration"] += np.random.default_rng(2).normal(0, 2, 1000)[frame.home]
    (of_users, _), (of_homes, _) = (
        planned(tmp_path, f"{METRIC} {options}", frame) for options in ("", "--cluster home")
    )
    assert of_homes["users"] == 1000
    assert of_homes["detectable"] > 1.3 * of_users["detectable"]
    alone, single = (planned(tmp_path, f"{METRIC} {options}", frame) for options in ("", "--cluster user"))
    assert [r["users_needed"] for r in single] == [r["users_needed"] for r in alone]


def test_a_metric_that_does_not_vary_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = planned(tmp_path, "--metric one --metric days --minimum-effect 0.02", people().assign(one=1))
    assert [r["metric"] for r in rows] == ["days"]
    assert "not planned, for being the same for every user, or 0 on average: one" in capsys.readouterr().out


@pytest.mark.parametrize("options", ["--ratio r=double/days", "--ratio r=days/zero", "--metric one --cluster pair"])
def test_a_ratio_that_does_not_vary_or_has_no_denominator_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    frame = people(users=200).assign(double=lambda f: 2 * f.days, zero=0.0, one=1.0, pair=np.arange(200) // 3)
    assert planned(tmp_path, f"{options} --minimum-effect 0.1", frame) == []
    assert "not planned, for being the same for every user, or 0 on average" in capsys.readouterr().out


def test_a_ratio_of_a_constant_to_what_varies_is_planned(tmp_path: Path) -> None:
    frame = people(users=400).assign(one=1.0, z=np.arange(400) % 3 + 1.0)
    (row,) = planned(tmp_path, "--ratio r=one/z --minimum-effect 0.1", frame)
    assert row["sd"] == pytest.approx(frame.z.std() / frame.z.mean() ** 2)


def test_a_covariate_that_explains_everything_leaves_nothing_to_plan(tmp_path: Path) -> None:
    frame = people(users=400).assign(double=lambda f: 2 * f.duration)
    rows = planned(tmp_path, "--metric duration --covariate duration=double --minimum-effect 0.1", frame)
    assert [row["method"] for row in rows] == ["welch"]


def test_a_metric_whose_mean_is_as_good_as_0_is_named_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = people(users=400)
    frame["change"] = np.where(frame.user % 2, 1e200, -1e200) + 1e185
    assert planned(tmp_path, "--metric change --metric days --minimum-effect 0.000001", frame)[-1]["metric"] == "days"
    assert "or 0 on average: change" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (f"{METRIC} --users 1", "--users 1: at least 2"),
        (f"{METRIC} --power 2", "--power 2: between 0.5 and 1"),
        ("--metric duration --minimum-effect 0", "a relative effect from 0.000001 to 10"),
        ("--metric duration --minimum-effect 1e-200", "a relative effect from 0.000001 to 10"),
        (f"{METRIC} --shares a=1", "--shares names 1 variant"),
        (f"{METRIC} --shares a=1,b=1 --control c", "--control c: --shares names a, b"),
        (f"{METRIC} --confidence 1", "--confidence 1.0 must lie between"),
        ("--minimum-effect 0.1", "nothing to analyze: give --metric or --ratio"),
        ("--metric none --minimum-effect 0.1", "no column 'none'"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(PlatformError) as caught:
        planned(tmp_path, options, people(users=100))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_table_and_quantiles_cannot_be_planned(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="fewer than two users"):
        planned(tmp_path, METRIC, people(users=100).head(1))
    spec = TableSpec("", "", quantiles={"p90": Quantile("days", 0.9)})
    with engine(load_settings(var=tmp_path)) as db, pytest.raises(ConfigError, match="--quantile cannot be planned"):
        power_of_table(db, tmp_path / "t.csv", spec, design_of(None, None, minimum_effect=0.1))
