"""An experiment of the simulated app, from its log to the page: figures, checks, decision, the same bytes again."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from ab_analysis import checks, model_covariate
from ab_analysis.analysis import Analysis, analyze
from ab_analysis.changes import RegisteredExperiment
from ab_analysis.decision import decide
from ab_analysis.experiment import Experiment, load_experiment
from ab_analysis.experiment_plan import make_plan
from ab_analysis.model_covariate import add_model_covariates
from ab_analysis.overview import write_overview
from ab_analysis.reading import read_effects
from ab_analysis.report import analyze_experiment, write_report, write_reports
from ab_analysis.report_file import AboutExperiment, ReportedDecision, ReportedResult, ReportFile, read_report
from ab_analysis.user_table import Counts, build_user_table
from core.engine import engine
from core.errors import DataError, NotReadyError
from core.files import write_json
from core.hours import Hour, day_hours
from core.page_template import interval
from core.settings import Settings, load_settings
from events.ingest import ingest
from events.store import EventStore
from simulation.config import SimulatorConfig
from simulation.log import AppLog
from simulation.workspace import write_experiment
from tests.browser import draw_charts, fits_every_screen, opened
from tests.conftest import NOW

if TYPE_CHECKING:
    from playwright.sync_api import Browser

APP = SimulatorConfig(
    days=8,
    users=700,
    items=120,
    experiment={"start_day": 4, "activity_lift": 0.5, "session_lift": 0.4},
    dirt={"damaged": 0.001},
)
END = APP.end_hour


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An app with an effect that cannot be overlooked."""
    settings = load_settings(var=tmp_path_factory.mktemp("ab") / "var", source="simulator")
    log = AppLog(APP, settings.workspace / "app")
    log.write_hours(APP.first_hour, END)
    ingest(str(log.prepare()), [str(log.root / "log")], settings, now=NOW)
    (settings.workspace / "app.yaml").write_text(yaml.safe_dump(APP.model_dump(mode="json")))
    path = write_experiment(settings, END)
    path.write_text(path.read_text().replace("max_worse: 0.05", "max_worse: 0.3"))  # few users: a wide margin
    return settings


@pytest.fixture
def workspace(app: Settings, tmp_path: Path) -> Settings:
    """The app's events with their own reports."""
    settings = load_settings(var=tmp_path / "var", source="simulator")
    settings.workspace.mkdir(parents=True)
    (settings.workspace / "events").symlink_to(app.events_dir)
    (settings.workspace / "experiments").mkdir()
    (settings.experiments_dir / "clock_ranker.yaml").write_text((app.experiments_dir / "clock_ranker.yaml").read_text())
    return settings


def experiment_of(app: Settings, **changes: Any) -> Experiment:
    content = yaml.safe_load((app.experiments_dir / "clock_ranker.yaml").read_text())
    return Experiment(**{**content, **changes})


def analysis_of(app: Settings, until: Hour = END, **changes: Any) -> Analysis:
    store = EventStore(app.events_dir)
    plan = make_plan(app, experiment_of(app, **changes), tuple(store.facets))
    with engine(app) as db:
        return analyze(db, plan, build_user_table(db, store, plan, until), seed=1)


@pytest.mark.slow
def test_the_true_effects_lie_in_the_intervals_and_the_decision_is_to_ship(app: Settings) -> None:
    analysis = analysis_of(app)
    assert analysis.decision.verdict == "ship"
    assert analysis.decision.sentence.startswith("Ship: active days up +")
    truths = {r.metric: r for r in analysis.results if r.headline and r.truth is not None}
    assert set(truths) == {"active_days", "duration_hours", "finishes", "likes", "skips"}
    for metric, r in truths.items():
        assert r.truth is not None
        assert r.rel_effect_ci[0] < r.truth < r.rel_effect_ci[1], metric
    by_method = {r.method: r for r in analysis.results if r.metric == "active_days"}
    assert by_method["cuped"].headline
    assert by_method["cuped"].variance_reduction > 0.05
    assert {r.method for r in analysis.results if r.metric == "duration_p90"} == {"quantile"}
    assert not [c for c in analysis.checks if c.level == "fail"]


@pytest.mark.slow
def test_the_decision_says_by_which_correction_its_p_value_is(app: Settings) -> None:
    primary = ("active_days", "duration_hours")
    for count, told in ((2, " by Holm)"), (1, ")")):
        analysis = analysis_of(app, primary=primary[:count], secondary=("likes",), stopping={"rule": "fixed"})
        first = analysis.of("active_days")[0]
        assert f"p = {first.p_adjusted:.2g}{told}" in analysis.decision.sentence


@pytest.mark.slow
def test_every_method_finds_the_same_effect_with_its_own_width(app: Settings) -> None:
    analysis = analysis_of(
        app,
        model_covariates=("duration_hours",),
        strata=("activity",),
        covariates={"duration_hours": ("duration_hours", "finishes")},
    )
    rows = {r.method: r for r in analysis.results if r.metric == "duration_hours"}
    assert set(rows) == {"welch", "cuped", "cupac", "post_stratified"}
    assert [m for m, r in rows.items() if r.headline] == ["cupac"]
    half = (rows["welch"].effect_ci[1] - rows["welch"].effect_ci[0]) / 2
    assert all(abs(r.effect - rows["welch"].effect) < half for r in rows.values())
    assert all(0 < rows[m].variance_reduction < 1 for m in ("cuped", "cupac", "post_stratified"))


@pytest.mark.slow
def test_the_models_prediction_of_a_user_does_not_know_the_user(app: Settings) -> None:
    """Cross-fitting: with a covariate that says nothing, the prediction says nothing either."""
    rng = np.random.default_rng(1)
    n = 3000
    users = pa.table(
        {
            "user_id": np.arange(n) * 17 + 3,
            "y": rng.normal(size=n),
            "noise": rng.normal(size=n),
            "habit": rng.normal(size=n),
        }
    )
    users = users.append_column("z", pa.array(users["habit"].to_numpy() ** 2 + rng.normal(0, 0.5, n)))
    with engine(app) as db:
        db.register("users", users)
        assert add_model_covariates(db, ["y", "z"], ["noise", "habit"], 0) == ["y_model", "z_model"]
        out = db.arrow("SELECT * FROM users_with_models ORDER BY user_id").to_pandas()
        again = db.arrow("SELECT * FROM users_with_models ORDER BY user_id").to_pandas()
    assert abs(np.corrcoef(out.y, out.y_model)[0, 1]) < 0.06
    assert np.corrcoef(out.z, out.z_model)[0, 1] > 0.8
    assert out.equals(again)


@pytest.mark.parametrize("rows", [75, 90, 150])
def test_a_model_learns_from_a_sample_of_many_users_in_every_fold(
    app: Settings, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Of 2,800 users each 28th, 24th and 14th by the hash: as of millions where a model learns from 100,000."""
    rng = np.random.default_rng(2)
    habit = rng.normal(size=2800)
    users = pa.table({"user_id": np.arange(2800), "y": habit + rng.normal(0, 0.1, 2800), "habit": habit})
    monkeypatch.setattr(model_covariate, "MOST_TRAINING_ROWS", rows)
    with engine(app) as db:
        db.register("users", users)
        assert add_model_covariates(db, ["y"], ["habit"], 0) == ["y_model"]
        out = db.arrow("SELECT y, y_model FROM users_with_models").to_pandas()
    assert np.corrcoef(out.y, out.y_model)[0, 1] > 0.5


def test_before_the_end_of_one_planned_look_nothing_is_concluded(app: Settings) -> None:
    analysis = analysis_of(app, END - 24)
    assert analysis.decision.verdict == "keep_running"
    assert "An early look" in " ".join(c.text for c in analysis.warnings)
    assert {r.adjusted_ci for r in analysis.results} == {None}


@pytest.mark.slow
def test_daily_looks_under_a_sequential_rule_may_conclude(app: Settings) -> None:
    for rule in ("always_valid", "group_sequential"):
        analysis = analysis_of(app, END - 24, stopping={"rule": rule})
        assert analysis.decision.verdict == "ship"
        headlines = [r for r in analysis.results if r.headline]
        assert len(headlines) == 9
        for r in headlines:
            assert r.adjusted_ci is not None
            assert r.adjusted_ci[0] < r.rel_effect_ci[0]
            assert r.adjusted_ci[1] > r.rel_effect_ci[1]
        days = [p.day for p in analysis.points if p.metric == "active_days"]
        assert days == sorted(days)
        assert len(days) >= 3


@pytest.mark.slow
def test_a_guardrail_that_breaks_stops_and_one_that_is_open_keeps_running(app: Settings) -> None:
    skips: dict[str, Any] = {
        "guardrails": {"skips": {"max_worse": 0.02}},
        "secondary": ("likes",),
        "stopping": {"rule": "always_valid"},
    }
    assert analysis_of(app, **skips).decision.sentence.startswith("Stop: guardrail skips is worse by more than")
    narrow = {**skips, "guardrails": {"skip_rate": {"max_worse": 0.0001}}}
    assert analysis_of(app, END - 24, **narrow).decision.verdict == "keep_running"
    assert analysis_of(app, **narrow).decision.verdict == "person"


def test_a_metric_that_should_go_down_and_goes_up_is_worse(app: Settings) -> None:
    analysis = analysis_of(app, primary=("skips",), secondary=("likes",), guardrails={})
    assert analysis.decision.verdict == "stop"
    assert "skips up" in analysis.decision.sentence


def test_a_metric_below_zero_is_decided_by_its_own_unit(app: Settings) -> None:
    metrics = {"cost": {"sum": "0 - played_seconds", "better": "down"}}
    analysis = analysis_of(app, metrics=metrics, primary=("cost",), secondary=("likes",))
    assert analysis.of("cost")[0].effect_ci[1] < 0
    assert analysis.decision.verdict == "ship"


def test_a_guardrail_below_zero_that_gets_worse_is_broken(app: Settings) -> None:
    """More hours played are worse for minus the hours: the harm lies in the absolute effect, whatever the lift's base."""
    analysis = analysis_of(
        app, metrics={"saved": {"sum": "-1 * played_seconds / 3600"}}, guardrails={"saved": {"max_worse": 0}},
        secondary=("likes",),
    )  # fmt: skip
    (row,) = analysis.of("saved")
    assert row.control < 0
    assert row.effect_ci[1] < 0
    assert row.rel_effect == pytest.approx(row.effect / abs(row.control))
    assert row.rel_effect_ci[1] < 0
    assert analysis.decision.sentence.startswith("Stop: guardrail saved is worse by more than its margin")


def test_an_expression_that_fails_on_an_event_is_named(app: Settings) -> None:
    with pytest.raises(DataError, match=r"metric 'm', 'CAST\(genre AS INT\)', cannot be computed for an event"):
        analysis_of(app, metrics={"m": {"sum": "CAST(genre AS INT)"}}, secondary=("m",))


@pytest.mark.slow
def test_an_experiment_without_exposures_does_not_stop_the_others(workspace: Settings) -> None:
    content = yaml.safe_load((workspace.experiments_dir / "clock_ranker.yaml").read_text())
    (workspace.experiments_dir / "another.yaml").write_text(yaml.safe_dump({**content, "name": "another"}))
    outcomes = {o.experiment: o for o in write_reports(workspace, ["another", "clock_ranker"], END)}
    assert "no such experiment" in outcomes["another"].reason
    assert outcomes["clock_ranker"].report is not None


def test_variants_that_are_other_than_registered_are_named_where_nobody_has_them(app: Settings) -> None:
    planned, renamed = experiment_of(app), experiment_of(app, variants={"control": 0.5, "b": 0.5})
    store = EventStore(app.events_dir)
    plan = make_plan(app, renamed, tuple(store.facets))
    with engine(app) as db:
        counts = build_user_table(db, store, plan, END)
        with pytest.raises(
            NotReadyError,
            match=r"variant \['b'\] .* the experiment file differs from registered.json, .* \(variants; its variants were control, "
            r"treatment\): put the file back, or give the changed experiment a name and a start of its own",
        ):
            analyze(db, plan, counts, registered=RegisteredExperiment.of(planned))
        said = (
            rf"wait until more are exposed, or look .* \({counts.unknown} users are in variants that it does not name\)"
        )
        for registered in (None, RegisteredExperiment.of(renamed)):
            with pytest.raises(NotReadyError, match=said):
                analyze(db, plan, counts, registered=registered)


def test_a_failed_check_forbids_a_conclusion(app: Settings) -> None:
    analysis = analysis_of(app, variants={"control": 0.7, "treatment": 0.3})
    assert analysis.decision.verdict == "no_conclusion"
    assert "Sample-ratio mismatch" in analysis.decision.sentence
    assert analysis.warnings[0].level == "fail"


@pytest.mark.slow
def test_three_variants_are_compared_with_the_control_and_corrected_for_it(app: Settings) -> None:
    with pytest.raises(NotReadyError, match=r"variant \['third'\] of 'clock_ranker' has fewer than two users"):
        analysis_of(app, variants={"control": 1, "treatment": 1, "third": 1})
    store = EventStore(app.events_dir)
    experiment = experiment_of(
        app, variants={"control": 0.33, "treatment": 0.33, "third": 0.33}, stopping={"rule": "always_valid"}
    )
    plan = make_plan(app, experiment, tuple(store.facets))
    with engine(app) as db:
        counts = build_user_table(db, store, plan, END)
        db.table(
            "base", "SELECT * REPLACE (CASE WHEN user_id % 3 = 0 THEN 'third' ELSE variant END AS variant) FROM base"
        )
        counts = type(counts)(
            **{
                **vars(counts),
                "analyzed": (n := dict(db.rows("SELECT variant, count(*) FROM users GROUP BY 1"))),
                "assigned": n,
            }
        )
        three = analyze(db, plan, counts)
    assert {r.variant for r in three.results} == {"treatment", "third"}
    assert "treatment: " in three.decision.sentence
    two = analysis_of(app, stopping={"rule": "always_valid"})
    width = {len(a.users): (r := a.of("active_days")[0]).adjusted_ci[1] - r.rel_effect for a in (three, two)}  # type: ignore[index]
    assert width[3] > width[2]


def test_segments_are_shrunk_and_corrected_and_small_ones_left_out(app: Settings) -> None:
    analysis = analysis_of(
        app, segments={"activity": {"of": "active_days", "edges": [1, 3, 4]}, "genre": {"top": "genre"}}
    )
    assert {s.segment for s in analysis.segments} == {"activity", "genre"}
    assert min(min(s.n_control, s.n_treatment) for s in analysis.segments) >= 30
    assert all(s.p_fdr >= s.p_value for s in analysis.segments)
    for metric in ("active_days", "duration_hours"):
        by_activity = [s for s in analysis.segments if s.metric == metric and s.segment == "activity"]
        assert [s.value for s in by_activity] == [
            v for v in ("under 1", "1 to under 3", "3 to under 4", "4 or more") if v in {s.value for s in by_activity}
        ]
        raw, shrunk = ([getattr(s, k) for s in by_activity] for k in ("rel_effect", "shrunk"))
        assert max(shrunk) - min(shrunk) <= max(raw) - min(raw)


@pytest.mark.slow
def test_the_page_is_the_same_every_time_also_for_a_past_day_and_needs_no_network(workspace: Settings) -> None:
    experiment = load_experiment(workspace.experiments_dir / "clock_ranker.yaml")
    early = write_report(workspace, experiment, END - 24).page
    first = {p: p.read_bytes() for p in early.parent.iterdir() if p.stem == early.stem}
    assert {p.suffix for p in first} == {".html", ".json", ".csv"}
    final = write_report(workspace, experiment, END + 48)
    assert final.page.stem == END.key
    assert (final.page.parent / "final.html").exists()
    write_report(workspace, experiment, END - 24)
    for path, before in first.items():
        changed = [(a, b) for a, b in zip(before.splitlines(), path.read_bytes().splitlines(), strict=True) if a != b]
        assert not changed, path
    text = final.page.read_text()
    assert len(text) < 1_500_000
    assert text.count("<figure") == text.count('<svg xmlns="') == 16
    assert "src=" not in text
    assert 'href="http' not in text
    content = json.loads(final.page.with_suffix(".json").read_text())
    assert content["decision"]["verdict"] == "ship"
    table = list(csv.DictReader(final.page.with_suffix(".csv").read_text().splitlines()))
    assert len(table) == len(content["results"])
    assert float(table[0]["effect"]) == content["results"][0]["effect"]
    assert "NaN" not in final.page.with_suffix(".json").read_text()


@pytest.mark.slow
def test_a_report_that_keeps_what_closed_days_add_is_that_of_all_events(workspace: Settings) -> None:
    store = EventStore(workspace.events_dir)
    genre = {"activity": {"of": "active_days", "edges": [1, 3]}, "genre": {"top": "genre"}}
    for changes in ({"segments": genre}, {"trigger": "local_hour >= 12"}):
        experiment = experiment_of(workspace, **changes)
        for until in (END - 41, END - 5, END):
            plan, analysis, _ = analyze_experiment(workspace, experiment, until)
            with engine(workspace) as db:
                counts = build_user_table(db, store, plan, until)
                whole = analyze(db, plan, counts, registered=None, seed=workspace.seed)
            unlike = {"edited after start"}
            assert replace(analysis, checks=tuple(c for c in analysis.checks if c.name not in unlike)) == whole
            _, look, _ = analyze_experiment(workspace, experiment, until, with_days=False)
            assert look.decision == whole.decision
            assert not look.points


@pytest.mark.slow
def test_no_report_is_of_days_that_the_log_does_not_have(workspace: Settings) -> None:
    last = EventStore(workspace.events_dir).hours()[-1]
    experiment = experiment_of(workspace, end=str(last.day + timedelta(days=9)))
    for until in (day_hours(last.day)[-1] + 2, last + 24 * 365):
        with pytest.raises(NotReadyError, match=f"no report as of .* yet: the log ends with {last}; give a day up to"):
            write_report(workspace, experiment, until)
    assert not (workspace.reports_dir / "ab").exists()
    assert write_report(workspace, experiment, day_hours(last.day)[-1] + 1).page.exists()


@pytest.mark.slow
def test_a_page_has_the_same_bytes_whatever_was_kept(workspace: Settings) -> None:
    experiment = load_experiment(workspace.experiments_dir / "clock_ranker.yaml")
    for until in (END - 48, END - 3):
        write_report(workspace, experiment, until)
    page = write_report(workspace, experiment, END - 1).page
    before = page.read_bytes()
    shutil.rmtree(workspace.experiment_days_dir)
    assert write_report(workspace, experiment, END - 1).page.read_bytes() == before


@pytest.mark.slow
def test_pages_fit_wide_and_narrow_screens_light_and_dark_and_ask_nobody(
    workspace: Settings, chromium: Browser
) -> None:
    experiment = load_experiment(workspace.experiments_dir / "clock_ranker.yaml")
    report = write_report(workspace, experiment, END)
    lifts = {f"{r.rel_effect:+.2%}" for r in report.analysis.results if r.headline}
    for path in (report.page, write_overview(workspace)):
        fits_every_screen(chromium, path)
    for width in (1300, 400):
        for scripts in (True, False):
            with opened(chromium, report.page, width, scripts=scripts) as page:
                assert lifts <= set(page.locator("#effects td:visible").all_inner_texts())
                assert page.locator("figure svg:visible").count() >= 9


@pytest.mark.slow
def test_a_reader_sorts_filters_and_chooses_and_the_address_keeps_the_view(
    workspace: Settings, chromium: Browser
) -> None:
    report = write_report(workspace, load_experiment(workspace.experiments_dir / "clock_ranker.yaml"), END)
    secondary = [r for r in report.analysis.results if r.headline and r.role == "secondary"]
    rows = "#effects tbody tr:visible:not(.group)"
    with opened(chromium, report.page) as page:
        page.get_by_role("button", name="lift", exact=True).click()
        shown = page.locator(rows).all_inner_texts()
        by_lift = [f"{r.rel_effect:+.2%}" for r in sorted(secondary, key=lambda r: -r.rel_effect)]
        assert [next(text for text in row.split("\t") if "%" in text) for row in shown[-len(secondary) :]] == by_lift
        page.get_by_role("searchbox", name="Filter rows of effects").fill("skip")
        assert len(page.locator(rows).all()) == 2
        assert [group.split()[0] for group in page.locator("#effects tr.group:visible").all_inner_texts()] == [
            "Guardrails",
            "Secondary",
        ]
        page.locator("select[data-choice=scale]").select_option("absolute")
        draw_charts(page)
        assert page.locator("figure[data-scale=relative]:visible").count() == 0
        address = page.evaluate("location.hash")
    with opened(chromium, report.page, fragment=address) as page:
        assert len(page.locator(rows).all()) == 2
        assert page.locator("select[data-choice=scale]").input_value() == "absolute"
        assert page.get_by_role("columnheader", name="lift").first.get_attribute("aria-sort") == "descending"
        with page.expect_download() as started:
            page.locator(".controls:has(+ #effects)").get_by_role("button", name="Download CSV").click()
        table = list(csv.DictReader(Path(started.value.path()).read_text().splitlines()))
        assert [row["metric"] for row in table] == ["skip rate", "skips"]
        assert "interval of the effect" in table[0]
        assert "interval of the lift" not in table[0]


@pytest.mark.slow
def test_hovering_an_effect_shows_its_exact_figures(workspace: Settings, chromium: Browser) -> None:
    report = write_report(workspace, load_experiment(workspace.experiments_dir / "clock_ranker.yaml"), END)
    first = report.analysis.of("active_days")[0]
    with opened(chromium, report.page) as page:
        draw_charts(page)
        page.locator("figure[data-scale=relative] .mark-symbol path").first.hover(force=True)
        shown = page.locator("#vg-tooltip-element").inner_text()
        assert f"{first.rel_effect:+.2%}" in shown
        assert first.adjusted_ci is not None
        assert f"{first.adjusted_ci[0]:+.2%} to {first.adjusted_ci[1]:+.2%}" in shown


@pytest.mark.slow
def test_a_copied_table_is_markdown(workspace: Settings, chromium: Browser) -> None:
    report = write_report(workspace, load_experiment(workspace.experiments_dir / "clock_ranker.yaml"), END)
    with opened(chromium, report.page) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy result as Markdown").click()
        lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0] == "# Experiment clock_ranker"
    assert lines[2] == report.analysis.decision.sentence
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len([r for r in report.analysis.results if r.headline])
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.slow
def test_a_secondary_metric_that_is_worse_is_said_beside_the_decision(workspace: Settings) -> None:
    experiment = load_experiment(workspace.experiments_dir / "clock_ranker.yaml")
    report = write_report(workspace, experiment, END)
    plan = make_plan(workspace, experiment, tuple(EventStore(workspace.events_dir).facets))
    readings = read_effects(plan, report.analysis, {name: name for name in plan.metrics})
    (worse,) = [e for e in readings if e.result.metric == "skips"]
    text = report.page.read_text()
    assert f"which block nothing: skips (treatment) {worse.relative.effect:+.2%}, p < 0.0001." in text.replace(
        "&lt;", "<"
    )
    assert worse.p_value is not None
    assert worse.p_value < 1e-4
    assert f"each of the {len(experiment.secondary)} metrics by itself" in text


@pytest.mark.slow
def test_an_edit_after_the_first_report_is_flagged_and_a_new_owner_is_none(workspace: Settings) -> None:
    path = workspace.experiments_dir / "clock_ranker.yaml"
    analyze_experiment(workspace, load_experiment(path), END)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "owner": "somebody else"}))
    _, analysis, _ = analyze_experiment(workspace, load_experiment(path), END)
    assert not [c for c in analysis.checks if c.name.startswith("edited")]
    path.write_text(yaml.safe_dump({**content, "primary": ["likes"], "secondary": []}))
    page = write_report(workspace, load_experiment(path), END).page
    assert "The experiment file was edited after the start: primary, secondary changed" in page.read_text()


@pytest.mark.slow
def test_what_a_person_wrote_is_escaped(workspace: Settings, chromium: Browser) -> None:
    path = workspace.experiments_dir / "clock_ranker.yaml"
    evil = "</script><script>alert(1)</script>"
    metrics = {"m": {"count": "finish", "title": evil, "description": '"><img onerror=x>'}}
    content = {
        **yaml.safe_load(path.read_text()),
        "owner": evil,
        "hypothesis": evil,
        "secondary": ["m"],
        "metrics": metrics,
    }
    path.write_text(yaml.safe_dump(content))
    page = write_report(workspace, load_experiment(path), END).page
    for text in (page.read_text(), write_overview(workspace).read_text()):
        assert evil not in text
        assert "<img" not in text
        assert "&lt;script&gt;" in text
    with opened(chromium, page) as shown:
        draw_charts(shown)
        assert shown.locator("img").count() == 0


@pytest.mark.slow
def test_the_overview_links_every_experiment_and_says_what_they_amount_to(workspace: Settings) -> None:
    assert "No report yet." in write_overview(workspace).read_text()
    path = workspace.experiments_dir / "clock_ranker.yaml"
    write_report(workspace, load_experiment(path), END)
    text = write_overview(workspace).read_text()
    assert 'href="clock_ranker/final.html"' in text
    assert "1 of 1 experiments have ended; 1 to ship" in text
    assert "effects with a known truth" in text


@pytest.mark.slow
def test_a_holdout_shows_what_all_other_experiments_add_up_to(workspace: Settings) -> None:
    path = workspace.experiments_dir / "clock_ranker.yaml"
    conclusion = "conclusion: {outcome: not_shipped, note: it goes on}"
    path.write_text(f"{path.read_text()}holdout: true\n{conclusion}\n")
    report = write_report(workspace, load_experiment(path), END)
    assert report.analysis.decision.sentence.startswith("What was tried and shipped helps in all: active days up +")
    assert [c.level for c in report.analysis.checks if c.name == "held out"] == ["ok"]
    assert "users of control meet no other experiment" in report.page.read_text()
    text = write_overview(workspace).read_text()
    lift = report.analysis.of("active_days")[0].rel_effect
    assert "ended, holdout" in text
    assert "Concluded by people: 1 not shipped." in text
    assert f"all that was tried and shipped changes active days by {lift:+.2%}" in text
    assert "0 of 0 experiments have ended" in text


def test_held_out_users_who_met_another_experiment_are_said(app: Settings) -> None:
    counts = Counts(
        END, {"control": 9, "treatment": 9}, {"control": 9, "treatment": 9}, 0, 0, 0, 0, met_by_held_out={"next": 3}
    )
    (check,) = [c for c in checks.counted(experiment_of(app, holdout=True), counts) if c.name == "held out"]
    assert (check.level, "next (3)" in check.text) == ("warn", True)


@pytest.mark.slow
def test_the_overview_has_a_row_for_what_runs_is_planned_ended_or_cannot_be_read(
    workspace: Settings, chromium: Browser
) -> None:
    path = workspace.experiments_dir / "clock_ranker.yaml"
    content = yaml.safe_load(path.read_text())
    for until in (END - 48, END - 24, END):
        write_report(workspace, load_experiment(path), until)
    later = {"name": "later", "start": f"{APP.day(30)}T00:00:00Z", "end": str(APP.day(40)), "owner": "somebody"}
    open_end = {"name": "open", "start": f"{APP.day(6)}T00:00:00Z", "end": str((END + 30).day)}
    for changes in (later, open_end):
        (workspace.experiments_dir / f"{changes['name']}.yaml").write_text(yaml.safe_dump({**content, **changes}))
    (workspace.experiments_dir / "broken.yaml").write_text("name: broken\nvariants: {a: 1}\n")
    overview = write_overview(workspace)
    fits_every_screen(chromium, overview)
    with opened(chromium, overview) as page:
        rows = [row.split("\t") for row in page.locator("#experiments tbody tr:not(.note)").all_inner_texts()]
        assert [row[:2] for row in rows] == [
            ["broken", "wrong file"],
            ["open", "running, 2 days left"],
            ["later", "planned"],
            ["clock_ranker", "ended"],
        ]
        assert "variants" in page.locator("#experiments tr.note").first.inner_text()
        line = page.get_by_role("img", name="Lift so far")
        report = read_report(overview.parent / "clock_ranker" / "final.json")
        headline = next(r for r in report.results if r.headline and r.metric == report.about.primary[0])
        days = [p for p in report.points if p.metric == headline.metric and p.so_far.rel_effect is not None]
        assert str(line.get_attribute("aria-label")).count("%") == len(days) > 3
        assert interval(headline.adjusted_ci) in rows[-1]
        page.get_by_role("searchbox").fill("somebody")
        assert page.locator("#experiments tbody tr:visible:not(.note)").count() == 1


def test_the_overview_reads_intervals_at_the_confidence_of_their_experiments(settings: Settings) -> None:
    """Of the same estimates in intervals of 95 % or 80 %, the totals are the same."""
    told = []
    for confidence in (0.95, 0.8):
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * 0.01
        for name, effect, verdict in (("one", 0.03, "ship"), ("two", 0.0, "no_effect"), ("three", -0.02, "stop")):
            result = ReportedResult(
                metric="likes", variant="b", method="welch", headline=True, effect=effect, effect_ci=(effect - half, effect + half),
                rel_effect=effect, rel_effect_ci=(effect - half, effect + half), p_value=0.5, truth=effect,
            )  # fmt: skip
            about = AboutExperiment(
                hypothesis="", owner="", start="2026-03-02T00:00:00Z", end="2026-03-03", primary=("likes",), confidence=confidence
            )  # fmt: skip
            decision = ReportedDecision(verdict=verdict, sentence="", variant="b")
            report = ReportFile(
                experiment=name, until="2026-03-04T00", users={"a": 9, "b": 9}, about=about, decision=decision, checks=(), results=(result,)
            )  # fmt: skip
            write_json(settings.reports_dir / "ab" / name / "final.json", report.model_dump(mode="json"))
        told.append(write_overview(settings).read_text().partition("<h2>Together</h2>")[2])
    assert "3 lie in their interval\n(expected 95%)" in told[0]
    assert told[1] == told[0].replace("(expected 95%)", "(expected 80%)")


def test_no_pre_period_is_said_and_welch_decides(app: Settings) -> None:
    analysis = analysis_of(app, pre_days=0, segments={}, start=f"{APP.day(4)}T00:00:00Z")
    assert {r.method for r in analysis.results} == {"welch", "quantile"}
    assert "shown without CUPED" in " ".join(c.text for c in analysis.warnings)


def test_a_metric_that_is_the_same_for_everybody_is_said_and_the_rest_is_tested(app: Settings) -> None:
    metrics = {"never": {"count": "played_seconds < -1"}}
    analysis = analysis_of(app, metrics=metrics, secondary=("never", "likes"))
    assert "never cannot be tested" in " ".join(c.text for c in analysis.warnings)
    assert analysis.of("likes")[0].p_value < 1
    row = next(r for r in analysis.as_json()["results"] if r["metric"] == "never")
    assert row["effect"] is None


def test_a_log_without_the_experiment_says_so(app: Settings) -> None:
    with pytest.raises(NotReadyError, match="no such experiment"):
        analysis_of(app, name="other")


def test_variants_that_differed_before_fail_the_check(app: Settings) -> None:
    """Treated by what they did before the start: an A/A failure."""
    store = EventStore(app.events_dir)
    plan = make_plan(app, experiment_of(app), tuple(store.facets))
    with engine(app) as db:
        counts = build_user_table(db, store, plan, END)
        db.table(
            "base",
            "SELECT * REPLACE (CASE WHEN plays_pre > 30 THEN 'treatment' ELSE 'control' END AS variant) FROM base",
        )
        analysis = analyze(db, plan, counts)
    failed = [c for c in analysis.checks if c.name == "pre-period"]
    assert failed[0].level == "fail"
    assert "A/A check failed" in failed[0].text


def test_variants_that_start_on_different_days_fail_the_check(app: Settings) -> None:
    store = EventStore(app.events_dir)
    plan = make_plan(app, experiment_of(app), tuple(store.facets))
    with engine(app) as db:
        build_user_table(db, store, plan, END)
        db.table(
            "base", "SELECT * REPLACE (exposure_day + CAST(variant = 'treatment' AS INTEGER) AS exposure_day) FROM base"
        )
        assert checks.exposure_days(db, plan.experiment).level == "fail"


def test_too_few_days_of_arrival_are_neither_passed_nor_a_warning(workspace: Settings) -> None:
    experiment = load_experiment(workspace.experiments_dir / "clock_ranker.yaml")
    report = write_report(workspace, experiment, END - 97)
    exposure = [c for c in report.analysis.checks if c.name == "exposure"]
    assert [(c.level, c.state, c.warns) for c in exposure] == [("skipped", "skipped", False)]
    assert exposure[0] not in report.analysis.warnings
    assert '<span class="soft">skipped</span> <strong>exposure</strong>' in report.page.read_text()


@pytest.mark.slow
def test_missing_hours_are_named(workspace: Settings, app: Settings) -> None:
    folder = workspace.workspace / "events"
    folder.unlink()
    folder.mkdir()
    for path in app.events_dir.iterdir():
        if path.name != f"hour={(END - 30).key}":
            (folder / path.name).symlink_to(path)
    analysis = write_report(workspace, load_experiment(workspace.experiments_dir / "clock_ranker.yaml"), END).analysis
    assert f"1 hours are missing from the log: {(END - 30).key}" in " ".join(c.text for c in analysis.warnings)


def test_a_decision_without_any_figure_keeps_running(app: Settings) -> None:
    store = EventStore(app.events_dir)
    plan = make_plan(app, experiment_of(app, end=date(2027, 1, 1)), tuple(store.facets))
    assert decide(plan, [], [], END).sentence == "Keep running: nothing can be tested yet."
