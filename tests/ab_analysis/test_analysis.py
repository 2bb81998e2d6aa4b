"""Analysis of experiments: against statsmodels, a hand-written CUPED, and the simulated app's known truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from ab_analysis.analysis import analyze, verdict
from ab_analysis.experiment import METRICS, Experiment, load_experiment
from ab_analysis.report import write_report
from ab_analysis.user_table import UserTable, user_table
from core.errors import ConfigError, NotReadyError
from core.hours import Hour
from core.settings import Settings, load_settings
from events.ingest import ingest
from events.store import EventStore
from tests.conftest import NOW

AB = {"name": "test", "variants": {"a": 0.5, "b": 0.5}, "control": "a", "start": "2026-03-02"}


def made_up(lift: float = 0.1, users: int = 3000, share: float = 0.5, seed: int = 4) -> UserTable:
    rng = np.random.default_rng(seed)
    variant = np.where(rng.uniform(size=users) < share, "b", "a")
    columns: dict[str, object] = {"user_id": np.arange(users), "variant": variant, "is_new": np.zeros(users, bool)}
    for metric in METRICS:
        before = rng.gamma(3, 1, users)
        columns[f"{metric}_pre"] = before
        columns[metric] = before * (1 + lift * (variant == "b")) + rng.normal(0, 1, users)
    return UserTable(pa.table(columns), 0, 0, pa.table({}), Hour.parse("2026-03-09T00"))


def test_welch_agrees_with_statsmodels() -> None:
    table = made_up()
    found = analyze(Experiment(**AB), table).of("active_days", "welch")[0]
    frame = table.users.to_pandas()
    sides = [DescrStatsW(frame.loc[frame.variant == v, "active_days"]) for v in ("b", "a")]
    test = CompareMeans(*sides)
    _, p_value, _ = test.ttest_ind(usevar="unequal")
    assert found.p_value == pytest.approx(p_value, abs=1e-9)
    assert found.effect_ci == pytest.approx(test.tconfint_diff(usevar="unequal"), abs=1e-9)


def test_cuped_is_the_regression_adjusted_difference_and_shrinks_as_theory_says() -> None:
    table = made_up()
    analysis = analyze(Experiment(**AB), table)
    found = analysis.of("duration_hours")[0]
    frame = table.users.to_pandas()
    y, x, treated = frame["duration_hours"], frame["duration_hours_pre"], frame.variant == "b"
    parts = [(y[m], x[m]) for m in (treated, ~treated)]
    theta = sum(np.cov(a, b)[0, 1] * len(a) for a, b in parts) / sum(b.var(ddof=1) * len(b) for _, b in parts)
    by_hand = (parts[0][0] - theta * parts[0][1]).mean() - (parts[1][0] - theta * parts[1][1]).mean()
    assert found.effect == pytest.approx(by_hand, rel=2e-3)
    rho = np.corrcoef(y, x)[0, 1]
    assert found.variance_reduction == pytest.approx(rho**2, abs=0.05)
    assert found.effect_ci[0] < 0.3 < found.effect_ci[1]  # 10 % of the mean 3


def test_a_broken_sample_ratio_forbids_a_conclusion() -> None:
    experiment = Experiment(**AB)
    analysis = analyze(experiment, made_up(share=0.6))
    assert analysis.sample_ratio_p_value < 0.001
    assert "Sample-ratio mismatch" in analysis.warnings[0]
    assert verdict(experiment, analysis).startswith("No conclusion")


def test_three_variants_are_each_compared_with_the_control() -> None:
    table = made_up()
    third = pa.array(["c" if n % 3 == 0 else v for n, v in enumerate(table.users["variant"].to_pylist())])
    users = table.users.set_column(1, "variant", third)
    experiment = Experiment(**{**AB, "variants": {"a": 1, "b": 1, "c": 1}})
    analysis = analyze(experiment, UserTable(users, 0, 0, pa.table({}), table.until))
    assert {r.variant for r in analysis.results} == {"b", "c"}
    assert 0 <= analysis.sample_ratio_p_value <= 1


@pytest.fixture(scope="module")
def app(app_settings: Settings) -> tuple[Settings, Experiment]:
    from pipeline.app import write_experiment
    from tests.conftest import TINY

    (app_settings.workspace / "app.yaml").write_text(yaml.safe_dump(TINY.model_dump(mode="json")))
    return app_settings, load_experiment(write_experiment(app_settings, TINY.end_hour))


def test_the_user_table_counts_from_exposure_on(app: tuple[Settings, Experiment]) -> None:
    from tests.conftest import TINY

    settings, experiment = app
    store = EventStore(settings.events_dir)
    users = user_table(settings, store, experiment, TINY.end_hour).users.to_pylist()
    log = [r for h in store.hours() for r in store.read(h).to_pylist()]
    assert len(users) > 20
    for user in users[:10]:
        own = [r for r in log if r["user_id"] == user["user_id"]]
        after = [r for r in own if r["timestamp"] >= user["exposure"]]
        before = [r for r in own if r["timestamp"] < experiment.start_time]
        assert user["finishes"] == sum(r["finish"] for r in after)
        assert user["finishes_pre"] == sum(r["finish"] for r in before)
        assert user["active_days"] == len({r["local_time"].date() for r in after})
        assert user["duration_hours"] == pytest.approx(sum(r["played_seconds"] for r in after) / 3600)


def test_the_report_is_the_same_every_time_and_needs_no_network(app: tuple[Settings, Experiment]) -> None:
    from tests.conftest import TINY

    settings, experiment = app
    analysis, path = write_report(settings, experiment, TINY.end_hour)
    first = path.read_bytes()
    _, again = write_report(settings, experiment, TINY.end_hour)
    assert again.read_bytes() == first
    text = first.decode()
    assert "<svg role=" in text
    assert "src=" not in text
    assert json.loads(path.with_suffix(".json").read_text())["experiment"] == experiment.name
    assert {r.truth is not None for r in analysis.results} == {True}


def test_a_log_without_the_experiment_says_so(app: tuple[Settings, Experiment]) -> None:
    settings, _ = app
    with pytest.raises(NotReadyError, match="no such experiment"):
        user_table(
            settings,
            EventStore(settings.events_dir),
            Experiment(**{**AB, "name": "other"}),
            Hour.parse("2026-03-06T00"),
        )


def test_users_seen_in_two_variants_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "exposures").mkdir()
    rows = [f"u{n},t1,2026-03-02T0{h}:00:00Z,100,100,rock" for n in range(8) for h in range(3)]
    (tmp_path / "log" / "day.csv").write_text("uid,track,ts,played,length,genre\n" + "\n".join(rows) + "\n")
    seen = [f"test,{'ab'[n % 2]},u{n},2026-03-02T01:00:00Z" for n in range(8)] + [
        "test,b,u0,2026-03-02T02:00:00Z",
        "test,z,u1,2026-03-02T02:00:00Z",
    ]
    (tmp_path / "exposures" / "day.csv").write_text("experiment,variant,uid,ts\n" + "\n".join(seen) + "\n")
    from tests.conftest import write_mapping

    extra = "exposures: {path: '../exposures/{name}', user_id: uid, timestamp: {column: ts}}\n"
    settings = load_settings(var=tmp_path / "var", source="test")
    ingest(str(write_mapping(tmp_path, extra)), [str(tmp_path / "log" / "day.csv")], settings, now=NOW)
    table = user_table(settings, EventStore(settings.events_dir), Experiment(**AB), Hour.parse("2026-03-03T00"))
    assert (table.crossed, table.unknown, table.users.num_rows) == (1, 1, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../../etc"}, "lower-case letters"),
        ({"name": "<script>"}, "lower-case letters"),
        ({"control": "c"}, "none of the variants"),
        ({"variants": {"a": 1}}, "at least two"),
        ({"end": "2026-03-01"}, "before start"),
        ({"primary": ["clicks"]}, "unknown metrics"),
        ({"varients": {}}, "varients"),
    ],
)
def test_a_wrong_experiment_file_names_what_is_wrong(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({**AB, **change}))
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)
