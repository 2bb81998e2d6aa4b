"""``clock ab``: a plain table of somebody else's experiment, planning, assignment, reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ab_analysis.checks import sample_ratio
from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.inference import MetricSpec
from ab_analysis.metrics import load_catalog
from ab_analysis.planning import plan_from_history
from ab_analysis.power import Design, plan_row
from clock.commands import ab
from core import cli
from core.engine import engine
from core.errors import NotReadyError, PlatformError
from core.settings import ROOT, Settings
from events.store import EventStore
from tests.ab_analysis.helpers import moments_of, people

TABLE = ("--variant", "variant", "--control", "a")


def run(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a person starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "ab_analysis", *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def call(*arguments: object) -> None:
    """The same in this process."""
    assert cli.call(ab.app, [str(a) for a in arguments]) == 0


def refused(*arguments: object) -> str:
    with pytest.raises(PlatformError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))


@pytest.fixture
def frame() -> pd.DataFrame:
    return people(users=4000)


def saved(frame: pd.DataFrame, folder: Path, kind: str = "csv") -> Path:
    path = folder / f"table.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_form_of_the_issue_gives_an_object_a_row(tmp_path: Path, frame: pd.DataFrame, kind: str) -> None:
    out = tmp_path / "out.json"
    done = run(
        "analyze", saved(frame, tmp_path, kind), *TABLE, "--metric", "duration", "--covariate", "duration=duration_pre",
        "--ratio", "per_day=duration/days", "--json", out,
    )  # fmt: skip
    rows = json.loads(out.read_text())
    assert [(r["metric"], r["method"]) for r in rows] == [
        ("duration", "welch"), ("duration", "cuped"), ("per_day", "welch"), ("per_day", "cuped"),
    ]  # fmt: skip
    a, b = (frame.loc[frame.variant == v, "duration"] for v in "ab")
    expected = stats.ttest_ind(b, a, equal_var=False)
    first = rows[0]
    assert (first["variant"], first["n_control"], first["n_treatment"]) == ("b", len(a), len(b))
    assert first["p_value"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert first["effect_ci"] == pytest.approx(list(expected.confidence_interval(0.95)), rel=1e-9)
    assert first["control"] == pytest.approx(a.mean(), rel=1e-9)
    x = frame.duration_pre
    adjusted = frame.duration - np.cov(frame.duration, x)[0, 1] / x.var() * (x - x.mean())
    cuped = stats.ttest_ind(adjusted[frame.variant == "b"], adjusted[frame.variant == "a"], equal_var=False)
    assert rows[1]["p_value"] == pytest.approx(cuped.pvalue, rel=1e-9)
    assert set(first) == {
        "metric", "variant", "method", "n_control", "n_treatment", "control", "treatment", "effect", "effect_ci", "rel_effect",
        "rel_effect_ci", "p_value",
    }  # fmt: skip
    assert "Sample ratio as planned" in done.stderr


def test_users_without_a_pre_period_are_kept_and_adjusted_for(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.loc[frame.index % 4 == 0, "duration_pre"] = np.nan
    options = ("--metric", "duration", "--covariate", "duration=duration_pre", "--json", tmp_path / "o.json")
    call("analyze", saved(frame, tmp_path), *TABLE, *options)
    welch, cuped = json.loads((tmp_path / "o.json").read_text())
    assert cuped["n_control"] + cuped["n_treatment"] == len(frame)
    design = np.column_stack([np.ones(len(frame)), frame.duration_pre.fillna(0), frame.duration_pre.isna()])
    residual = frame.duration - design @ np.linalg.lstsq(design, frame.duration, rcond=None)[0]
    expected = stats.ttest_ind(residual[frame.variant == "b"], residual[frame.variant == "a"], equal_var=False)
    assert cuped["p_value"] == pytest.approx(expected.pvalue, rel=1e-7)
    assert welch["p_value"] != cuped["p_value"]


def test_segments_strata_and_three_variants(
    tmp_path: Path, frame: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    frame.loc[frame.user % 3 == 0, "variant"] = "c"
    call(
        "analyze", saved(frame, tmp_path), *TABLE, "--metric", "duration", "--segment", "group", "--stratum", "group",
        "--shares", "a=1,b=1,c=1", "--user", "user", "--json", tmp_path / "o.json",
    )  # fmt: skip
    rows = json.loads((tmp_path / "o.json").read_text())
    assert {(r["variant"], r["method"]) for r in rows if "segment" not in r} == {
        (v, m) for v in "bc" for m in ("welch", "post_stratified")
    }
    assert {r["segment_value"] for r in rows if "segment" in r} == {"light", "middle", "heavy"}
    assert "where group = light" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, ("--metric", "duraton"), "no column 'duraton'; did you mean 'duration'?"),
        ({}, ("--metric", "duration", "--covariate", "duration=duration"), "must be measured before exposure"),
        ({}, ("--metric", "duration", "--covariate", "days=days_pre"), "there is no such --metric or --ratio"),
        ({}, ("--metric", "duration", "--covariate", "duration"), "write NAME=VALUE"),
        ({}, ("--ratio", "r=duration"), "write NAME=NUMERATOR/DENOMINATOR"),
        ({}, (), "nothing to analyze: give --metric, --ratio or --quantile"),
        ({}, ("--metric", "days", "--lower-is-better", "days"), "give --html, too"),
        ({}, ("--metric", "days", "--ratio", "days=duration/days"), "'days' is the name of a metric and of a ratio"),
        ({}, ("--metric", "days", "--minimum-effect", "1e-200"), "from 0.000001 to 10"),
        ({}, ("--metric", "duration", "--segment", "variant"), "a column named 'variant' cannot be"),
        ({}, ("--metric", "group"), "'group' holds"),
        ({}, ("--metric", "duration", "--segment", "user"), "segment 'user' has 400 values"),
        ({}, ("--metric", "duration", "--stratum", "user"), "stratum 'user' has 400 values"),
        ({}, ("--metric", "duration", "--shares", "a=0.5,b=0.3,c=0.2"), "a variant without users"),
        ({}, ("--metric", "duration", "--shares", "a=1"), "names no share for b"),
        ({}, ("--metric", "duration", "--shares", "a=x,b=1"), "write VARIANT=SHARE"),
        ({"variant": "b"}, ("--metric", "duration"), "no user has variant = 'a'"),
        ({"variant": "a"}, ("--metric", "duration"), "there is nothing to compare"),
        ({"variant": [None] + ["a", "b"] * 199 + ["a"]}, ("--metric", "duration"), "1 rows have no variant"),
        ({"duration": [np.inf] + [1.0] * 399}, ("--metric", "duration"), "duration (1 users)"),
        ({"duration": [np.nan] + [1.0] * 399}, ("--metric", "duration"), "duration (1 users)"),
        ({"user": 7}, ("--metric", "duration", "--user", "user"), "1 users are in two variants"),
    ],
)  # fmt: skip
def test_a_wrong_table_or_option_says_what_to_do(
    tmp_path: Path, change: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    path = saved(people(users=400).assign(**change), tmp_path, "parquet")
    assert message in refused("analyze", path, *TABLE, *options)


def test_a_user_who_is_there_twice_in_one_variant_is_refused(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = saved(pd.concat([frame, frame.head(3)]), tmp_path)
    assert "3 users appear more than once" in refused("analyze", path, *TABLE, "--metric", "duration", "--user", "user")


def test_a_covariate_that_the_treatment_moved_is_refused(tmp_path: Path) -> None:
    frame = people(users=4000, lift=0.5).assign(late=lambda f: f.duration + 1)
    options = ("--metric", "days", "--covariate", "days=late")
    assert "measured after exposure" in refused("analyze", saved(frame, tmp_path), *TABLE, *options)


def test_a_metric_of_zeros_is_said_and_null_in_the_answer(
    tmp_path: Path, frame: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(frame.assign(nothing=0), tmp_path)
    call("analyze", path, *TABLE, "--metric", "nothing", "--json", tmp_path / "o.json")
    assert "cannot be tested" in capsys.readouterr().out
    assert json.loads((tmp_path / "o.json").read_text())[0]["p_value"] is None


def test_a_sample_ratio_mismatch_is_shouted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(people(users=3000, share=0.6), tmp_path)
    call("analyze", path, *TABLE, "--metric", "days")
    assert "FAIL: Sample-ratio mismatch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("users", "level", "state", "words"),
    [
        ({"a": 5000, "b": 5050}, "ok", "ok", "Sample ratio as planned"),
        ({"a": 5000, "b": 5268}, "ok", "close", "Close to failing, which it does below 0.001"),
        ({"a": 5000, "b": 5400}, "fail", "fail", "Sample-ratio mismatch"),
    ],
)
def test_a_sample_ratio_that_nearly_fails_is_told_from_one_as_planned(
    users: dict[str, int], level: str, state: str, words: str
) -> None:
    check = sample_ratio({"a": 1, "b": 1}, users)
    assert (check.level, check.state) == (level, state)
    assert words in check.text


@pytest.mark.parametrize("path", ["none.csv", "text.parquet"])
def test_a_file_that_is_none_says_so(tmp_path: Path, path: str) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    message = refused("analyze", tmp_path / path, *TABLE, "--metric", "days")
    assert "no table at" in message or "cannot be read as Parquet" in message


@pytest.mark.slow
def test_help_teaches_and_the_example_is_complete(tmp_path: Path) -> None:
    assert "--covariate duration=duration_pre" in run("analyze", "--help").stdout
    example = tmp_path / "clock_ranker.yaml"
    example.write_text(run("init").stdout)
    assert json.loads(run("schema").stdout)["properties"]["stopping"]
    done = run("assign", example, "-", stdin="\n".join(map(str, range(1000))))
    lines = done.stdout.splitlines()
    assert lines[0] == "user,variant"
    assert len(lines) == 1001
    assert "treatment: " in done.stderr
    users = tmp_path / "users.csv"
    users.write_text("country,uid\nx,1\ny,2\n")
    out = run("assign", example, users, "--column", "uid").stdout.splitlines()
    assert out[1:] == [line for line in lines if line.split(",")[0] in {"1", "2"}]
    assert "did you mean 'uid'" in refused("assign", example, users, "--column", "uidd")


@pytest.mark.slow
def test_planning_on_a_history_says_how_many_users_and_days(app_settings: Settings) -> None:
    experiment = Experiment(name="next", variants={"a": 1, "b": 1}, control="a", start="2027-01-01", pre_days=2)
    store = EventStore(app_settings.events_dir)
    plan = ExperimentPlan(experiment, load_catalog(), tuple(store.facets))
    with engine(app_settings) as db:
        rows = plan_from_history(db, store, plan, [1, 2])
        with pytest.raises(NotReadyError, match="plan fewer --days"):
            plan_from_history(db, store, plan, [400])
    assert {(r.days, r.metric, r.method) for r in rows} >= {
        (1, "duration_hours", "welch"),
        (2, "duration_hours", "cuped"),
    }
    two = {r.method: r for r in rows if r.days == 2 and r.metric == "duration_hours"}
    assert two["cuped"].detectable < two["welch"].detectable
    assert two["cuped"].users_needed < two["welch"].users_needed
    assert two["welch"].users == len({u for h in store.hours()[-48:] for u in store.read(h)["user_id"].to_pylist()})


def test_a_plan_is_the_textbooks() -> None:
    """n per variant = 2 (z₀.₉₇₅ + z₀.₈)² σ² / δ², for a small effect; detectable and needed users are inverse to each other."""
    frame = people(users=20_000, lift=0)
    design = Design({"a": 1, "b": 1}, "a", minimum_effect=0.02)
    moments = moments_of(frame, ("duration", "duration_pre"))
    t = MetricSpec("duration", "duration", covariates=("duration_pre",))
    plain, adjusted = (plan_row(design, t, moments, adjusted=a) for a in (False, True))
    assert plain is not None
    assert adjusted is not None
    delta = 0.02 * frame.duration.mean()
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert plain.users_needed == pytest.approx(4 * z**2 * frame.duration.var() / delta**2, rel=1e-3)
    rho = np.corrcoef(frame.duration, frame.duration_pre)[0, 1]
    assert adjusted.users_needed == pytest.approx(plain.users_needed * (1 - rho**2), rel=1e-3)
    assert plain.detectable == pytest.approx(0.02 * np.sqrt(plain.users_needed / 20_000), rel=1e-3)
    experiment = Experiment(
        name="next", variants={"a": 1, "b": 1}, control="a", start="2027-01-01", minimum_effect=0.02
    )
    held_out = plan_row(Design.of(experiment, held_out=0.2), t, moments, 14, adjusted=False)
    assert held_out is not None
    assert (held_out.users, held_out.users_needed) == (16_000, plain.users_needed)


def test_who_is_held_out_is_assigned_to_nothing_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "simulator" / "experiments"
    folder.mkdir(parents=True)
    keys = "variants: {a: 0.2, b: 0.8}\ncontrol: a\nstart: 2026-03-10\n"
    (folder / "all.yaml").write_text(f"name: all\nholdout: true\n{keys}")
    (tmp_path / "next.yaml").write_text(f"name: next\n{keys}")
    (tmp_path / "users.txt").write_text("\n".join(map(str, range(1000))))
    call("assign", tmp_path / "next.yaml", tmp_path / "users.txt")
    told = capsys.readouterr()
    assigned = {line.split(",")[0] for line in told.out.splitlines()[1:]}
    assert f"held out by all: {1000 - len(assigned):,} users" in told.err
    call("assign", folder / "all.yaml", tmp_path / "users.txt")
    held_out = {line.split(",")[0] for line in capsys.readouterr().out.splitlines() if line.endswith(",a")}
    assert held_out == {str(n) for n in range(1000)} - assigned
