"""A table of summary statistics gives what the users give whom it sums up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ab_analysis.checks import ExperimentCheck
from ab_analysis.comparisons import TableResult
from ab_analysis.summaries import analyze_summary
from ab_analysis.table import analyze_table
from ab_analysis.table_spec import TableSpec
from clock.commands import ab
from core import cli
from core.engine import engine
from core.errors import PlatformError
from core.settings import load_settings
from tests.ab_analysis.helpers import people


def summary_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A mean, a mean with a covariate, and a ratio with one, as a warehouse's query gives them."""
    rows: list[dict[str, Any]] = []
    for variant, users in frame.groupby("variant"):
        d, n, x = users.duration, users.days, users.duration_pre
        value = {"variant": variant, "users": len(users), "mean": d.mean(), "variance": d.var()}
        covariate = {"covariate_mean": x.mean(), "covariate_variance": x.var(), "covariate_covariance": d.cov(x)}
        ratio = {"denominator_mean": n.mean(), "denominator_variance": n.var(), "denominator_covariance": d.cov(n)}
        rows += [
            {**value, "metric": "days", "mean": n.mean(), "variance": n.var()},
            {**value, "metric": "duration", **covariate},
            {**value, "metric": "per_day", **covariate, **ratio, "covariate_denominator_covariance": n.cov(x)},
        ]
    return pd.DataFrame(rows)


def summarized(folder: Path, summary: pd.DataFrame, **options: Any) -> tuple[list[TableResult], list[ExperimentCheck]]:
    path = folder / "summary.csv"
    summary.to_csv(path, index=False)
    with engine(load_settings(var=folder)) as db:
        return analyze_summary(db, path, TableSpec(**{"variant": "variant", "control": "a", **options}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"correction": "holm", "alternative": "greater"},
        {"planned_users": 9000, "power": 0.8, "minimum_effect": 0.02},
    ],
)
def test_a_summary_gives_what_its_users_give(tmp_path: Path, options: dict[str, Any]) -> None:
    frame = people(users=3000)
    frame.to_parquet(tmp_path / "users.parquet", index=False)
    spec = TableSpec(
        "variant", "a", ("days", "duration"), ratios={"per_day": ("duration", "days")}, covariates={"duration": ("duration_pre",)},
        **options,
    )  # fmt: skip
    with engine(load_settings(var=tmp_path)) as db:
        of_users, checks = analyze_table(db, tmp_path / "users.parquet", spec)
    rows, checks_of_summary = summarized(tmp_path, summary_of(frame), **options)
    assert checks_of_summary == checks
    for row, other in zip(rows, of_users, strict=True):
        assert (row.metric, row.variant, row.method) == (other.metric, other.variant, other.method)
        for part in ("effect", "adjusted", "power"):
            one, two = getattr(row, part), getattr(other, part)
            assert (one is None) == (two is None)
            if one is not None:
                for key, value in vars(two).items():
                    assert getattr(one, key) == pytest.approx(value, rel=1e-8, nan_ok=True), key


def test_metrics_can_be_chosen_and_other_numbers_of_users_are_said(tmp_path: Path) -> None:
    summary = summary_of(people())
    assert {r.metric for r in summarized(tmp_path, summary, metrics=("per_day",))[0]} == {"per_day"}
    summary.loc[summary.metric == "per_day", "users"] -= 100
    rows, checks = summarized(tmp_path, summary)
    assert rows[-1].n_control == rows[0].n_control - 100
    assert "per_day: other numbers of users" in next(c.text for c in checks if c.name == "users")


def changed(column: str, value: Any, row: int = 0) -> Any:
    return lambda f: f.assign(**{column: np.where(np.arange(len(f)) == row, value, f[column])})


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (changed("variance", -1.0), {}, "metric 'days' of 'a': variance is below 0"),
        (changed("variance", np.nan), {}, "metric 'days' has no variance in some row"),
        (changed("mean", np.inf), {}, "mean is not a finite number"),
        (changed("users", 10.5), {}, "10.5 users; a whole number"),
        (changed("users", 0), {}, "0 users; a whole number"),
        (changed("covariate_covariance", 1e6, 1), {}, "a correlation is beyond 1"),
        (changed("covariate_mean", np.nan, 1), {}, "has no covariate_mean in some row"),
        (changed("metric", "duration"), {}, "metric 'duration' has two rows for variant = 'a'"),
        (lambda f: f.drop(index=0), {}, "metric 'days' has no row for variant = 'a'"),
        (lambda f: f.drop(columns="variance"), {}, "no column 'variance'"),
        (lambda f: f.drop(columns="covariate_denominator_covariance"), {}, "needs covariate_denominator_covariance"),
        (lambda f: f.assign(mean="much"), {}, "column 'mean' holds 'much', not a number"),
        (lambda f: f[f.variant == "b"], {}, "no user has variant = 'a'"),
        (lambda f: f.head(0), {}, "has no rows"),
        (lambda f: f, {"metrics": ("duraton",)}, "no metric 'duraton'; did you mean 'duration'?"),
        (lambda f: f, {"segments": ("group",)}, "--segment needs a row for each user"),
        (lambda f: f, {"ratios": {"r": ("a", "b")}}, "ratios and covariates are columns of the summary"),
    ],
)  # fmt: skip
def test_figures_that_no_users_have_are_refused_in_one_line(
    tmp_path: Path, change: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlatformError) as caught:
        summarized(tmp_path, change(summary_of(people(users=400))), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_reads_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))
    summary_of(people()).rename(columns={"variant": "arm"}).to_parquet(tmp_path / "s.parquet")
    arguments = f"analyze {tmp_path}/s.parquet --summary --variant arm --control a --correction holm"
    assert cli.call(ab.app, arguments.split()) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
