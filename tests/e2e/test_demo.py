"""The main job for real: the command line, Airflow's scheduler and executor, Feast, MLflow, the pages in a browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ab_analysis.changes import read_changes
from ab_analysis.experiment import load_named
from core.hours import Hour, day_hours
from core.ports import free_port
from core.settings import ROOT, Settings, load_settings
from evaluation.metrics import with_intervals
from evaluation.prediction_table import as_predictions
from events.store import EventStore
from model_registry.store import open_registry
from serving.request_log import read_requests
from simulation.config import SimulatorConfig
from tests.conftest import webhook
from training.trainer import read_predictions

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

VARIANTS = ("hour_embedding", "matched_clock")
# The app's last day begins first in Dubai, so the demo takes over late in a UTC day, of which few hours are left for the range.
APP = SimulatorConfig(
    days=4, users=150, items=80, experiment={"start_day": 2}, dirt={"damaged": 0.01},
    zones={"Asia/Dubai": 0.5, "Europe/London": 0.5},
)  # fmt: skip
ANYTHING = {"auc_margin": -1.0, "uauc_margin": -1.0}
# A policy that lets every candidate through at its first look: the way of a promotion is what is tested here.
POLICY: dict[str, Any] = {
    "min_hours": 1, "max_hours": 6, "min_samples": 20, "min_users": 2, "another_variant": ANYTHING, "same_variant": ANYTHING,
    "calibration": {"max_error": 1.0, "ratio": [0.0, 100.0]}, "max_drift_share": 1.0,
}  # fmt: skip


class Platform:
    """A workspace and the command line on it."""

    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in ("AIRFLOW_PORT", "MLFLOW_PORT", "REPORTS_PORT", "SERVING_PORT")}
        self.settings: Settings = load_settings(var=folder / "var", source="simulator", variants=VARIANTS)
        self.settings.workspace.mkdir(parents=True)
        (self.settings.workspace / "app.yaml").write_text(yaml.safe_dump(APP.model_dump(mode="json")))
        (self.settings.workspace / "policy.yaml").write_text(yaml.safe_dump(POLICY))

        self.first: dict[str, Any] = {}
        self.alerts: list[dict[str, Any]] = []

    def run(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            **extra,
            **{f"CLOCK_{k}": str(v) for k, v in self.ports.items()},
            "CLOCK_VAR": str(self.settings.var),
            "CLOCK_VARIANTS": json.dumps(VARIANTS),
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "--source", "simulator", *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1800,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    def ported(self) -> Settings:
        """Settings with the ports of what runs."""
        ports = {name.lower(): port for name, port in self.ports.items()}
        return load_settings(var=self.settings.var, source="simulator", variants=VARIANTS, **ports)

    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.settings.var / "demo" / "summary.json").read_text()))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The demo for one hour, on its own; then with the platform left running, for two: it continues the first."""
    made = Platform(tmp_path_factory.mktemp("demo"))
    made.run("demo", "--hours", "1")
    made.first = made.summary()
    with webhook() as (url, made.alerts):
        made.run("up", CLOCK_ALERT_WEBHOOK=url, CLOCK_HOUR_DEADLINE_MINUTES="0.1")
        try:
            made.run("demo", "--hours", "2")
            yield made
        finally:
            assert "stopped airflow-api-server" in made.run("down").stdout


def test_every_dag_succeeded_for_every_hour(platform: Platform) -> None:
    summary = platform.summary()
    assert summary["hours_airflow"] == 2
    for dag_id in ("ingest_hour", "materialize_clock", "train_ranker", "promote_ranker"):
        assert summary["dag_runs"][dag_id] == {"succeeded": 2, "failed": 0, "running": 0}
    assert summary["dag_runs"]["report_day"]["succeeded"] >= 1


def test_the_summary_is_what_the_stores_hold(platform: Platform) -> None:
    summary, settings = platform.summary(), platform.settings
    store = EventStore(settings.events_dir)
    assert summary["events"]["kept"] == sum(store.read(h, verify=True).num_rows for h in store.hours())
    events = summary["events"]
    assert events["in"] == events["kept"] + events["duplicates"] + events["quarantined"]
    start, end = map(Hour.parse, summary["metrics_window"])
    for variant in VARIANTS:
        again = with_intervals(as_predictions(read_predictions(settings, variant, start, end)))
        assert summary["metrics"][variant]["auc"]["value"] == pytest.approx(again["auc"].value, abs=1e-12)
    champion = open_registry(settings).get("champion")
    assert champion is not None
    assert summary["champion"] == {
        "name": "simulator-ranker", "version": str(champion.version), "variant": champion.tags["variant"],
    }  # fmt: skip
    assert summary["champion"]["variant"] == "matched_clock"
    assert [m["previous"] for m in summary["promotions"]][:2] == [None, "1"]
    assert summary["feast_online_rows"] > 50
    assert summary["ab"]["clock_ranker"]["duration_hours"]["true_rel_effect"] > 0
    assert all(Path(page).exists() for page in summary["reports"])
    assert {Path(page).parent.name for page in summary["reports"]} >= {"clock_ranker", "gate", "drift"}


def test_people_met_the_ranking_service_and_both_variants(platform: Platform) -> None:
    settings = platform.settings
    store = EventStore(settings.events_dir)
    live = store.hours()[-2:]
    asked = [read_requests(settings, hour) for hour in live]
    assert all(rows.num_rows > 5 for rows in asked)
    assert all(degraded is None for rows in asked for degraded in rows["degraded"].to_pylist())
    for hour, rows in zip(
        live, asked, strict=True
    ):  # a session that began in the hour before goes on with its features
        assert {hour.number} <= set(rows["features_as_of"].to_pylist()) <= {hour.number - 1, hour.number}
    # the second hour is ranked by what the first one led to
    assert set(asked[1]["version"].to_pylist()) - set(asked[0]["version"].to_pylist())
    shown = {(r["user_id"], item) for rows in asked for r in rows.to_pylist() for item in r["items"]}
    users, items = {user for user, _ in shown}, {item for _, item in shown}
    events = [(e["user_id"], e["item_id"]) for hour in live for e in store.read(hour).to_pylist()]
    # who and what was new to the log had no number yet when it was asked for
    old = {(user, item) for user, item in events if user in users and item in items}
    assert old <= shown
    assert len(old) > 0.5 * len(set(events))
    exposed = [r for hour in live for r in store.read_exposures(hour).to_pylist() if r["experiment"] == "served"]
    assert {r["variant"] for r in exposed} == {"champion", "challenger"}


def test_a_second_run_continues_and_counts_nothing_twice(platform: Platform) -> None:
    first, second = platform.first, platform.summary()
    assert first["hours_airflow"] == 1
    assert second["hours_airflow"] == 2
    assert second["hours_bulk"] == first["hours_bulk"]
    assert second["events"]["in"] > first["events"]["in"]
    store = EventStore(platform.settings.events_dir)
    ids = [i for h in store.hours() for i in store.read(h)["event_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == second["events"]["kept"]


def test_pages_open_in_a_browser_a_person_approves_and_rolls_back_and_alerts_arrive(
    platform: Platform, chromium: Browser
) -> None:
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    approve_and_roll_back(platform, platform.alerts, page)
    page.close()


def test_an_analysts_day_from_the_plan_to_the_conclusion_needs_no_shell(platform: Platform, chromium: Browser) -> None:
    from operations.processes import wait_for

    settings = platform.ported()
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    path, start = settings.experiments_dir / "by_hand.yaml", APP.day(APP.experiment.start_day)
    form = {"name": "by_hand", "why": "to see whether it can be done", "owner": "an analyst", "start": str(start)}
    fill_form(page, settings, "define_experiment", **form).wait_for(state="hidden", timeout=60_000)
    leave(page)
    plan = settings.reports_dir / "ab" / "by_hand" / "plan.html"
    wait_for(plan.exists, "the plan", 120)
    assert not path.exists()
    approve_in_the_browser(page, settings, "Save the experiment by_hand?")
    wait_for(path.exists, "the experiment's file", 120)
    experiment = load_named(settings.experiments_dir, "by_hand")
    assert (experiment.owner, experiment.start_time.date()) == ("an analyst", start)
    for action, why in (("stop", "all is seen"), ("conclude", "it can be done")):
        fields = {"experiment": "by_hand", "why": why}
        fill_form(page, settings, "change_experiment", choose=action, **fields).wait_for(state="hidden", timeout=60_000)
        leave(page)
        wait_for(partial(last_change_is, settings, action), action, 120)
    wait_for(lambda: "it can be done" in (settings.reports_dir / "ab" / "index.html").read_text(), "the index", 120)
    page.goto(f"{settings.live_reports_url}/ab/index.html")
    row = page.locator("#experiments tr", has=page.get_by_role("link", name="by_hand"))
    assert "ended" in row.inner_text()
    row.get_by_role("link").click()
    page.get_by_role("heading", name="by_hand").first.wait_for()  # its plan: nobody was exposed to it
    page.close()


def last_change_is(settings: Settings, action: str) -> bool:
    return read_changes(settings.experiments_dir, "by_hand")[-1].action.startswith(action)


def approve_in_the_browser(page: Page, settings: Settings, subject: str) -> None:
    """Follow the first page's link to a question that waits in Airflow, and approve."""
    from operations.processes import wait_for

    def waits() -> bool:
        page.goto(f"{settings.live_reports_url}/index.html")
        return page.locator("dd", has_text=subject).count() == 1

    wait_for(waits, f"{subject} on the first page", 120)
    link = page.locator("dt:has(+ dd)", has=page.get_by_role("link", name="define_experiment: approve")).get_by_role(
        "link"
    )
    page.goto(str(link.get_attribute("href")))
    page.get_by_role("button", name="Approve").first.click(timeout=60_000)
    page.wait_for_timeout(1000)
    leave(page)


def report_as_of_a_past_day(settings: Settings) -> str:
    """Write the experiment's report as of its first day again, through Airflow: the same bytes as at the day."""
    from operations.airflow_api import AirflowApi
    from operations.processes import wait_for
    from pipeline.reports import report_experiment

    day = APP.day(APP.experiment.start_day)
    until = day_hours(day)[-1] + 1
    page = Path(report_experiment(settings, "clock_ranker", until).report or "")
    before = page.read_bytes()
    page.unlink()
    api = AirflowApi(settings)
    run = api.trigger("report_experiments", conf={"experiment": "", "first": str(day), "last": str(day)})

    def ended() -> bool:
        state = next(r.state for r in api.runs("report_experiments") if r.run_id == run)
        assert state != "failed"
        return bool(state == "success")

    wait_for(ended, "the report of a past day", 300)
    assert page.read_bytes() == before
    return until.key


def fill_form(page: Page, settings: Settings, dag_id: str, choose: str = "", **fields: str) -> Any:
    """Open a DAG's trigger form, fill it in and press its button; returns the form.

    Args:
        page: of the browser.
        settings: name Airflow's port.
        dag_id: of the DAG.
        choose: what to choose in the field ``action``, as it begins; empty: what is there.
        fields: name → text.
    """
    page.goto(f"http://127.0.0.1:{settings.airflow_port}/dags/{dag_id}", timeout=120_000)
    page.get_by_role("button", name="Trigger").first.click(timeout=120_000)
    form = page.get_by_role("dialog")
    for name, text in fields.items():
        field = form.locator(f"#element_{name}")
        field.wait_for(state="attached", timeout=60_000)
        unfold_until_visible(form, field)
        field.fill(text, timeout=60_000)
    if choose:
        form.locator("#element_action").click(timeout=60_000)
        page.get_by_role("option").filter(has_text=re.compile(f"^{choose}")).click(timeout=60_000)
    form.get_by_role("button", name="Trigger", exact=True).click(timeout=60_000)
    return form


def unfold_until_visible(form: Locator, field: Locator) -> None:
    """Open the sections of a form, one after the other, until a field is seen; Airflow folds all but one."""
    for name in form.locator("button[aria-expanded]").all_inner_texts():
        if field.is_visible():
            return
        if name.strip():
            form.get_by_role("button", name=name.strip(), exact=True).click(timeout=60_000)
            form.page.wait_for_timeout(500)


def start_the_hour_from_the_form(page: Page, settings: Settings, following: str) -> None:
    """Click through the real form: an hour in a wrong form is refused; an empty form runs the next hour that is due."""
    from operations.airflow_api import AirflowApi
    from operations.processes import wait_for

    api = AirflowApi(settings)
    before = {r.run_id for r in api.runs("ingest_hour")}
    form = fill_form(page, settings, "ingest_hour", hour=f"{following}:00")
    form.get_by_text("does not match").first.wait_for(timeout=60_000)
    assert {r.run_id for r in api.runs("ingest_hour")} == before
    fill_form(page, settings, "ingest_hour").wait_for(state="hidden", timeout=60_000)
    leave(page)
    (run,) = {r.run_id for r in api.runs("ingest_hour")} - before
    wait_for(lambda: api.state("ingest_hour", run) == "success", "the hour started from the form", 300)
    assert EventStore(settings.events_dir).hours()[-1].key == following


def leave(page: Page) -> None:
    """Go to an empty page: Airflow's, left open, draws itself again and again, which takes half a core."""
    page.goto("about:blank")


def run_the_chain_from_its_forms(page: Page, settings: Settings) -> None:
    """The other hourly DAGs run for the hour in their forms, what follows too; a range leaves its day's report nothing to
    wait for, though the day began in bulk."""
    from operations.airflow_api import AirflowApi
    from operations.airflow_driver import HOURLY
    from operations.processes import wait_for

    api = AirflowApi(settings)

    def ended_of(wanted: dict[str, int]) -> bool:
        runs = api.runs(*HOURLY)
        ended, number = all(run.state in {"success", "failed"} for run in runs), Counter(run.dag_id for run in runs)
        return ended and all(number[dag_id] == expected for dag_id, expected in wanted.items())

    hour = EventStore(settings.events_dir).hours()[-1]
    last = day_hours(hour.day)[-1]
    wait_for(partial(ended_of, {}), "runs under way", 300)
    for started, dag_id in enumerate(HOURLY[1:], 1):
        wanted = {name: len(api.runs(name)) + 1 for name in HOURLY[started:]}
        fill_form(page, settings, dag_id, hour=hour.key).wait_for(state="hidden", timeout=60_000)
        leave(page)
        wait_for(partial(ended_of, wanted), f"{dag_id} and what follows it", 300)
    assert not [run for run in api.runs("report_day") if run.partition_key == str(hour.day)]
    fields = {"first": (hour + 1).key, "last": last.key}
    fill_form(page, settings, "backfill_hours", **fields).wait_for(state="hidden", timeout=60_000)
    leave(page)
    wait_for(
        lambda: str(hour.day) in {r.partition_key for r in api.runs("report_day") if r.state == "success"},
        "the report of the day whose last hours were a range", 900,
    )  # fmt: skip
    assert EventStore(settings.events_dir).hours()[-1] == last
    wait_for(partial(ended_of, {}), "the gate of the last hours", 300)
    assert all(run.state == "success" for run in api.runs("promote_ranker"))


def a_partition_of_another_form_fails_at_once(api: Any) -> None:
    from operations.processes import wait_for

    run = api.trigger("ingest_hour", partition="2026-11-23T10:00")
    wait_for(lambda: api.state("ingest_hour", run) == "failed", "the run without an hour to fail")
    tries = {task.task_id: task.try_number for task in api.tasks("ingest_hour", run)}
    assert tries == {"ingest": 1, "watch_experiments": 0}


def errors_of(alerts: list[dict[str, Any]], title: str) -> list[str]:
    return [alert["details"]["error"] for alert in alerts if alert["title"] == title]


def approve_and_roll_back(platform: Platform, alerts: list[dict[str, Any]], page: Page) -> None:
    from operations.airflow_api import AirflowApi
    from operations.processes import wait_for

    settings = platform.ported()
    for port, path, words in (
        (settings.airflow_port, "/dags", ["ingest_hour", "promote_ranker"]),
        (settings.mlflow_port, "/#/models/simulator-ranker", ["simulator-ranker", "matched_clock"]),
        (settings.reports_port, "/", ["Is everything fresh?", "Experiments", "Models", "Data drift"]),
        (settings.reports_port, "/ab/index.html", ["clock_ranker", "Together"]),
        (
            settings.reports_port,
            f"/ab/clock_ranker/{report_as_of_a_past_day(settings)}.html",
            ["Effects relative to control"],
        ),
    ):
        page.goto(f"http://127.0.0.1:{port}{path}")
        for word in words:
            page.get_by_text(word).first.wait_for(timeout=60_000)
    leave(page)
    api = AirflowApi(settings)
    models = open_registry(settings)
    asks = {**POLICY, "require_approval": True}
    (settings.workspace / "policy.yaml").write_text(yaml.safe_dump(asks))
    before = models.get("champion")
    assert before is not None
    following = (EventStore(settings.events_dir).hours()[-1] + 1).key
    start_the_hour_from_the_form(page, settings, following)
    wait_for(lambda: bool(api.waiting("promote_ranker")), "the approval to be asked for")
    for dag_id in ("materialize_clock", "train_ranker", "promote_ranker"):
        assert following in {r.partition_key for r in api.runs(dag_id)}, dag_id
    assert str(open_registry(settings).get("champion").version) == str(before.version)  # type: ignore[union-attr]
    run, subject = api.waiting("promote_ranker")[0]
    assert "matched_clock" in subject

    def through() -> bool:
        # An answer within a second of the question can make Airflow ask again: a person would answer again.
        if api.waiting("promote_ranker"):
            time.sleep(3)
            api.answer("promote_ranker", run, "approve", "Approve")
        return next(r.state for r in api.runs("promote_ranker") if r.run_id == run) == "success"

    wait_for(through, "the promotion", 300)
    promoted = open_registry(settings).get("champion")
    assert promoted is not None
    assert int(promoted.version) > int(before.version)
    version = next(v.version for v in models.client.search_model_versions(f"name = '{models.name}'"))
    champion = models.get("champion")
    assert champion is not None
    if str(version) == str(champion.version):
        version = next(
            v.version
            for v in models.client.search_model_versions(f"name = '{models.name}'")
            if str(v.version) != str(champion.version)
        )
    run = api.trigger("rollback_champion", conf={"reason": "end-to-end test", "version": str(version)})
    wait_for(
        lambda: next(r.state for r in api.runs("rollback_champion") if r.run_id == run) == "success",
        "the rollback",
    )
    after = open_registry(settings).get("champion")
    assert after is not None
    assert str(after.version) == str(version)
    titles = {alert["title"] for alert in alerts}
    assert "promote_ranker is not through after 0.1 minutes" in titles
    run = api.trigger("rollback_champion", conf={"reason": "to a version that is not there", "version": "9999"})
    wait_for(
        lambda: next(r.state for r in api.runs("rollback_champion") if r.run_id == run) == "failed",
        "the impossible rollback to fail",
    )
    wait_for(lambda: bool(errors_of(alerts, "rollback_champion.rollback failed")), "the alert of the failed task")
    assert "no version 9999" in errors_of(alerts, "rollback_champion.rollback failed")[0]
    (settings.workspace / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    run_the_chain_from_its_forms(page, settings)
    a_partition_of_another_form_fails_at_once(api)
