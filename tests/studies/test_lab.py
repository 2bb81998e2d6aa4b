"""The lab of the ranker studies on a tiny app: its runs are the trainer's, kept, and compared fairly."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from clock.commands import study
from core import cli
from core.errors import ConfigError
from core.hours import Hour
from core.settings import Settings
from evaluation.estimate import Estimate
from events.store import EventStore
from studies import admission, baselines, cold_start, decay, granularity, seasonal, sigma, streaming_vs_daily, variants
from studies.lab import Lab
from studies.log import first_evaluated_hour
from studies.paired import Panel, over_seeds
from studies.replay import AGES, Run
from studies.settings_study import compare_settings
from studies.tables import verdict
from tests.conftest import TINY
from training.samples import SampleStore
from training.trainer import Trainer, read_predictions

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.slow
def test_a_streaming_run_scores_as_the_hourly_trainer_does(small: Lab) -> None:
    (log,) = small.logs()
    run = Run("matched_clock", small.settings.seed)
    small.run([(log, run)])
    panel = Panel(small, log)
    scores = small.read(log, run)
    settings = log.settings
    hours = EventStore(settings.events_dir).hours()
    Trainer(settings, "matched_clock", SampleStore(settings, EventStore(settings.events_dir))).train(
        hours[-1], start=hours[0], save_every=1000
    )
    table = read_predictions(settings, "matched_clock", hours[0], hours[-1] + 1)
    assert np.array_equal(table["score"].to_numpy(), scores[panel.frame["known"]].astype(np.float32))
    assert np.array_equal(table["label"].to_numpy(), panel.frame["label"][panel.frame["known"]])
    assert np.array_equal(table["user_id"].to_numpy(), panel.frame["user"][panel.frame["known"]])


@pytest.mark.slow
def test_ages_begin_with_the_streaming_scores_and_days_are_tested_before_they_are_trained_on(small: Lab) -> None:
    (log,) = small.logs()
    runs = {mode: Run("hour_embedding", 1, mode=mode) for mode in ("streaming", "ages", "daily")}
    small.run((log, run) for run in runs.values())
    streaming, ages, daily = (small.read(log, run) for run in runs.values())
    assert ages.shape == (len(streaming), len(AGES))
    hour = Panel(small, log).frame["hour"]
    late = hour >= hour.min() + max(AGES) + 1
    assert np.array_equal(ages[:, 0], streaming)
    assert not np.array_equal(ages[late, 1], streaming[late])
    first_day = hour // 24 == hour.min() // 24
    untrained = np.abs(daily[first_day] - 0.5).max()
    assert untrained < np.abs(daily[~first_day] - 0.5).max()


@pytest.mark.slow
def test_the_study_of_variants_is_complete_and_continues_where_it_stopped(
    small: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    conclusion, page = variants.run(small)
    assert re.match(r"simulator: the paper's clock is (not established to be )?better than ", conclusion)
    results = json.loads((Path(page).parent / "results.json").read_text())
    assert set(results["logs"]["simulator"]["values"]) == set(variants.MODULES)
    text = Path(page).read_text()
    assert "data-chart" in text
    assert "make study NAME=variants SOURCE=simulator SEEDS=1" in text
    monkeypatch.setattr(small, "processes", None)  # a run that is done again would fail
    assert variants.run(small) == (conclusion, page)
    assert seasonal.run(small)[0].startswith("simulator: paper's clock less none")


@pytest.mark.slow
def test_thin_slots_borrow_with_a_strength_from_before_what_is_evaluated(small: Lab) -> None:
    assert cold_start.run(small)[0].startswith("simulator: paper's clock less none")
    borrowing = small.logs({"shrinkage": True})[0].settings
    fitted = json.loads((borrowing.features_dir / "shrinkage.json").read_text())
    hours = EventStore(borrowing.events_dir).hours()
    assert Hour.parse(fitted["as_of"]) == hours[0] + len(hours) // 2


@pytest.mark.slow
@pytest.mark.parametrize("study", [baselines, sigma, streaming_vs_daily])
def test_other_studies_on_fewer_runs(small: Lab, study: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "BASELINES", {n: baselines.BASELINES[n] for n in ("DCN-v2", "DCN-v2 with MMoE")})
    monkeypatch.setattr(sigma, "SIGMAS", (1.0, 3.0))
    monkeypatch.setattr(streaming_vs_daily, "VARIANTS", ("none", "hour_embedding", "gaussian_clock"))
    conclusion, page = study.run(small)  # type: ignore[attr-defined]
    assert conclusion.startswith("simulator: ")
    assert Path(page).exists()


@pytest.mark.slow
def test_settings_are_compared_on_the_same_samples(small: Lab) -> None:
    changes = {name: granularity.CHANGES[name] for name in ("60 minutes", "120 minutes")}
    conclusion, page = compare_settings(small, "granularity", changes, "60 minutes", ("gaussian_clock",))
    figures = json.loads((Path(page).parent / "results.json").read_text())["logs"]["simulator, gaussian clock"]
    assert set(figures["gaps"]["120 minutes"]) == {"auc", "uauc", "session_auc"}
    for metric, gap in figures["gaps"]["120 minutes"].items():
        a, b = (figures["values"][name][metric]["value"] for name in changes)
        assert gap["value"] == pytest.approx(b - a, abs=1e-12)
        assert a != b
    assert "simulator, gaussian clock" in conclusion
    frames = [Panel(small, small.logs(change)[0]).frame for change in changes.values()]
    assert all(np.array_equal(frames[0][name], frames[1][name]) for name in ("user", "label", "hour"))


def test_no_day_of_a_logs_first_half_is_evaluated() -> None:
    """A fortnight is evaluated in its second week; logs of more than twice the usual days, in the usual ones."""
    assert first_evaluated_hour(np.arange(100, 100 + 14 * 24), 42) == 100 + 7 * 24
    assert first_evaluated_hour(np.arange(16 * 24), 7) == 9 * 24
    assert first_evaluated_hour(np.arange(300 * 24), 42) == 258 * 24


def test_intervals_over_seeds_hold_users_and_seeds() -> None:
    same = [Estimate(0.1, np.array([0.01, -0.01]))] * 4
    figure = over_seeds(same)
    error = same[0].standard_error
    assert figure.interval == pytest.approx((0.1 - 1.959964 * error, 0.1 + 1.959964 * error), abs=1e-6)
    spread = over_seeds([Estimate(v, np.array([0.0, 0.0])) for v in (0.1, 0.2, 0.3, 0.4)])
    half = 1.959964 * np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2
    assert spread.interval == pytest.approx((0.25 - half, 0.25 + half), abs=1e-6)
    assert verdict({"wide": {"auc": spread}}, "narrow").startswith("wide is better than narrow")


@pytest.mark.slow
def test_a_wrong_call_says_what_to_do(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(settings.var))
    for arguments, message in (
        (["variant"], "no study 'variant'; did you mean 'variants'"),
        (["variants", "--seeds", "0"], "--seeds 0"),
        (["sigma", "--source", "foursquare"], "needs its log: SOURCE=foursquare DATA=PATH"),
    ):
        with pytest.raises(ConfigError, match=message):
            cli.call(study.app, arguments)


@pytest.mark.slow
def test_the_study_of_admission_counts_the_rows_that_are_kept(small: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "OPTIONS", {admission.BASE: {}, "after 3": {"admit_after": 3}})
    monkeypatch.setattr(admission, "MODULES", ("none",))
    conclusion, page = admission.run(small)
    assert conclusion.startswith("simulator, none: ")
    results = json.loads((Path(page).parent / "results.json").read_text())
    assert set(results["logs"]["simulator, none"]["gaps"]) == {"after 3"}
    at_once, later = (results["extra"]["simulator"][name] for name in (admission.BASE, "after 3"))
    (log,) = small.logs()
    frame = Panel(small, log).frame
    counts = np.unique(frame["user"], return_counts=True)[1]
    assert (at_once["users"], later["users"]) == (len(counts), int((counts >= 3).sum()))
    assert later["memory"] < at_once["memory"]
    assert (at_once["filter"], later["filter"]) == (0, 4 << 22)


@pytest.mark.slow
def test_the_study_of_decay_has_an_app_of_its_own(small: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    app = {**TINY.model_dump(mode="json"), "drift": 0.5}
    monkeypatch.setattr(decay, "APP", app)
    monkeypatch.setattr(decay, "OPTIONS", {decay.BASE: {}, "times 0.8 an hour": {"accumulator_decay": 0.8}})
    monkeypatch.setattr(decay, "MODULES", ("none",))
    _, page = decay.run(small)
    log = json.loads((Path(page).parent / "results.json").read_text())["logs"]["simulator, none"]
    assert log["values"][decay.BASE]["auc"] != log["values"]["times 0.8 an hour"]["auc"]
    assert (small.root / "drifting").is_dir()
