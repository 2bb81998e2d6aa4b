"""The DAG files: they parse fast without heavy libraries, say what they are, and raise alerts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.settings import ROOT
from tests.conftest import something_else, webhook

BAG = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
heavy = sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'mlflow', 'feast', 'evidently', 'ibis', 'duckdb'})

def policy_of(t):
    return getattr(t, 'partial_kwargs', {}).get('retry_policy') or getattr(t, 'retry_policy', None)
def assets_of(condition):
    return sorted(a.name for a in getattr(condition, 'objects', [condition])) if condition else []
def refusal(dag):
    try:
        DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable.resolve_partition_date('2026-11-23T10:00')
    except ValueError as error:
        return str(error)
from airflow.serialization.serialized_objects import DagSerialization
print(json.dumps({
    'refused': {d.dag_id: refusal(d) for d in bag.dags.values() if refusal(d)},
    'errors': bag.import_errors,
    'heavy': heavy,
    'seconds': {stat.file: stat.duration.total_seconds() for stat in bag.dagbag_stats},
    'dags': {d.dag_id: {'doc': bool(d.doc_md), 'tasks': sorted(d.task_ids), 'retries': [t.retries for t in d.tasks],
                        'serial': d.max_active_runs,
                        'linked': sorted(t.task_id for t in d.tasks if any(link.name == 'Page' for link in t.operator_extra_links)),
                        'fields': sorted(d.params),
                        'form': {k: p.value for k, p in d.params.items() if p.has_value},
                        'unrolled': [t.task_id for t in d.tasks
                                     if getattr(t, 'partial_kwargs', vars(t)).get('multiple_outputs')],
                        'policies': [policy_of(t) is not None for t in d.tasks if t.retries],
                        'waits_for': assets_of(getattr(d.timetable, 'asset_condition', None)),
                        'updates': sorted(a.name for t in d.tasks for a in t.outlets or ())} for d in bag.dags.values()},
}))
"""


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        **os.environ, "AIRFLOW_HOME": str(home), "PYTHONPATH": str(ROOT), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", BAG, str(ROOT / "dags")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_every_file_parses_without_heavy_libraries(bag: dict[str, Any]) -> None:
    assert bag["errors"] == {}
    assert bag["heavy"] == []
    assert set(bag["dags"]) == {
        "ingest_hour", "materialize_clock", "train_ranker", "promote_ranker", "report_day",
        "rollback_champion", "replay_training", "build_history", "backfill_hours", "report_experiments",
        "forget_user", "define_experiment", "change_experiment",
    }  # fmt: skip


def test_every_dag_explains_itself_and_runs_one_at_a_time(bag: dict[str, Any]) -> None:
    for dag_id, dag in bag["dags"].items():
        assert dag["doc"], dag_id
        drafts = 16  # wait for somebody side by side; they take turns to write
        assert dag["serial"] == (drafts if dag_id == "define_experiment" else 1), dag_id


def test_every_task_that_writes_a_page_links_it(bag: dict[str, Any]) -> None:
    assert {dag_id: dag["linked"] for dag_id, dag in bag["dags"].items() if dag["linked"]} == {
        "promote_ranker": ["evaluate_candidate"],
        "report_day": ["link_reports", "report_drift", "report_experiment", "report_importance"],
        "report_experiments": ["report_as_of"],
        "define_experiment": ["plan"],
        "change_experiment": ["report"],
    }


def test_the_link_is_that_of_the_running_task_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from core.settings import load_settings
    from dags import links

    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))
    ours, another = SimpleNamespace(id="1"), SimpleNamespace(id="2")
    monkeypatch.setattr(links, "get_current_context", lambda: {"ti": ours})
    links.link_page(load_settings().reports_dir / "ab" / "night" / "plan.html")
    assert links.PageLink().get_link(None, ti_key=ours) == "http://127.0.0.1:8090/ab/night/plan.html"
    assert links.PageLink().get_link(None, ti_key=another) == ""


def test_the_form_as_it_opens_is_an_experiment_but_for_name_and_day(bag: dict[str, Any]) -> None:
    from ab_analysis.experiment import parse_experiment
    from ab_analysis.form import ExperimentForm

    form = dict(bag["dags"]["define_experiment"]["form"])
    assert form.pop("replace") is False
    text = ExperimentForm.read({**form, "name": "night", "start": "2026-03-10"}).text()
    experiment = parse_experiment(text, Path("night.yaml"))
    assert experiment.treatments == ("treatment",)
    assert experiment.guardrails["skip_rate"].max_worse == 0.02
    assert set(bag["dags"]["define_experiment"]["fields"]) == {*ExperimentForm.model_fields, "why", "replace"}


def test_a_result_is_one_xcom_and_not_one_for_each_of_its_keys(bag: dict[str, Any]) -> None:
    assert {dag_id: dag["unrolled"] for dag_id, dag in bag["dags"].items() if dag["unrolled"]} == {}


def test_the_hourly_dags_are_chained_by_their_assets(bag: dict[str, Any]) -> None:
    chain = {
        "ingest_hour": ([], ["events"]),
        "materialize_clock": (["events"], ["clocks"]),
        "train_ranker": (["clocks"], ["ranker_states"]),
        "promote_ranker": (["ranker_states"], ["champion"]),
        "report_day": (["champion"], []),
    }
    assert {name: (bag["dags"][name]["waits_for"], bag["dags"][name]["updates"]) for name in chain} == chain


def test_every_task_that_is_retried_tells_transient_from_permanent_errors(bag: dict[str, Any]) -> None:
    """The policy holds the errors' classes: a name would be resolved only when a task fails."""
    from airflow.sdk import RetryAction

    from core.errors import ConfigError, CorruptStateError, DataError, NotReadyError
    from dags.common import RETRY

    hourly = ("ingest_hour", "materialize_clock", "train_ranker", "promote_ranker", "report_day")
    assert all(bag["dags"][name]["policies"] and all(bag["dags"][name]["policies"]) for name in hourly)
    actions: dict[type, RetryAction] = {}
    for rule in RETRY.rules:
        for error in rule.exception if isinstance(rule.exception, list) else [rule.exception]:
            assert isinstance(error, type)
            actions[error] = rule.action
    assert actions == {
        NotReadyError: RetryAction.RETRY,
        ConfigError: RetryAction.FAIL, DataError: RetryAction.FAIL, CorruptStateError: RetryAction.FAIL,
    }  # fmt: skip


def test_a_person_can_stand_between_the_gate_and_the_promotion(bag: dict[str, Any]) -> None:
    assert bag["dags"]["promote_ranker"]["tasks"] == [
        "announce_hour",
        "apply_decision",
        "approve",
        "evaluate_candidate",
    ]


def test_experiments_and_the_champion_are_watched_while_a_person_is_waited_for(bag: dict[str, Any]) -> None:
    assert bag["dags"]["ingest_hour"]["tasks"] == ["ingest", "watch_experiments"]
    assert bag["dags"]["train_ranker"]["tasks"] == ["test_then_train", "watch_champion"]


@pytest.mark.parametrize(
    ("verdict", "answer", "approved"),
    [
        ("needs_person", {"chosen_options": ["Approve"]}, True), ("needs_person", {"chosen_options": ["Reject"]}, False),
        ("promote", None, False),
    ],
)  # fmt: skip
def test_a_rejection_is_applied_too_so_that_the_next_challenger_is_put_up(
    monkeypatch: pytest.MonkeyPatch, verdict: str, answer: dict[str, Any] | None, approved: bool
) -> None:
    from airflow.sdk.bases.skipmixin import SkipMixin

    from dags import hourly
    from evaluation.gate_decision import GateDecision, ModelVersion
    from pipeline import promotion

    decision = GateDecision(cast(Any, verdict), "", ModelVersion("7", "none", "2026-03-02T10"), None, ())
    results = {"evaluate_candidate": decision.as_json(), "approve": answer}
    pull = SimpleNamespace(xcom_pull=lambda task_ids, key="return_value": results[task_ids])
    applied: list[tuple[str, bool]] = []
    monkeypatch.setattr(hourly, "get_current_context", lambda: {"ti": pull})
    monkeypatch.setattr(hourly, "settings_and_hour", lambda: (None, None))

    def apply(_settings: object, _hour: object, decided: GateDecision, *, approved: bool) -> list[object]:
        applied.append((decided.verdict, approved))
        return []

    monkeypatch.setattr(promotion, "apply_decision", apply)
    dag = hourly.approve.dag
    assert dag is not None
    cast(Any, dag.get_task("apply_decision")).python_callable()
    assert applied == [(verdict, approved)]
    assert not isinstance(hourly.approve, SkipMixin), "what follows would be skipped"


def test_a_full_disk_is_cleared_before_a_log_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    from dags import daily
    from operations import airflow_records, processes
    from pipeline import retention

    done: list[str] = []

    def retire(_settings: object) -> dict[str, int]:
        done.append("state")
        return {}

    def rotate(_settings: object) -> int:
        assert done == ["state", "records"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(retention, "retire_state", retire)
    monkeypatch.setattr(airflow_records, "retire_records", lambda *_: done.append("records"))
    monkeypatch.setattr(processes, "rotate_logs", rotate)
    with pytest.raises(OSError, match="No space left"):
        cast(Any, daily.retire_state).function()


def test_a_failed_task_and_a_missed_deadline_reach_the_webhook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dags.common import notify_deadline, notify_failure

    context = {
        "ti": SimpleNamespace(dag_id="train_ranker", task_id="test_then_train"),
        "dag_run": SimpleNamespace(run_id="manual__1", partition_key="2026-03-02T10"),
        "exception": ValueError("no samples"),
    }
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))
    with webhook() as (url, taken):
        monkeypatch.setenv("CLOCK_ALERT_WEBHOOK", url)
        notify_failure(context)
        notify_deadline("train_ranker")
    assert [m["title"] for m in taken] == [
        "train_ranker.test_then_train failed",
        "train_ranker is not through after 45 minutes",
    ]
    assert taken[0]["details"] == {"run": "manual__1", "hour": "2026-03-02T10", "error": "no samples"}


def test_a_webhook_that_is_down_breaks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from core.alerts import send_alert
    from core.settings import load_settings

    down = load_settings(var=tmp_path, alert_webhook="http://127.0.0.1:9/")
    assert send_alert(down, "nobody listens") is False


@pytest.mark.parametrize("place", ["http://hooks:port/x", "http://[::1/x", "http://127.0.0.1:{port}/"])
def test_a_webhook_that_is_none_breaks_nothing(tmp_path: Path, place: str) -> None:
    from core.alerts import send_alert
    from core.settings import load_settings

    with something_else() as port:
        assert send_alert(load_settings(var=tmp_path, alert_webhook=place.format(port=port)), "a title") is False


class FakeOutlets(dict[Any, Any]):
    """Asset → what a task announces for it."""

    def __missing__(self, asset: Any) -> SimpleNamespace:
        keys: list[str] = []

        def add(partitions: str | list[str]) -> None:
            keys.extend([partitions] if isinstance(partitions, str) else partitions)

        self[asset] = SimpleNamespace(keys=keys, add_partitions=add)
        return self[asset]


def context_of(run_id: str, *, partition: str | None = None, hour: str | None = None, dag: str = "ingest_hour") -> Any:
    """What Airflow gives to a task of an hourly DAG."""
    from dags.common import EVENTS

    return {
        "dag_run": SimpleNamespace(run_id=run_id, dag_id=dag, partition_key=partition),
        "params": {"hour": hour},
        "task": SimpleNamespace(outlets=[EVENTS]),
        "outlet_events": FakeOutlets(),
    }


@pytest.mark.parametrize(
    ("run_id", "partition", "form", "hour"),
    [
        ("manual__2026-11-27T02:05:11+00:00", "2026-11-23T10", None, "2026-11-23T10"),
        ("manual__2026-11-27T02:05:11+00:00", None, "2026-11-23T11", "2026-11-23T11"),
        ("manual__2026-11-27T02:05:11+00:00", "2026-11-23T10", "2026-11-23T10", "2026-11-23T10"),
        ("2026-11-23T12", None, None, "2026-11-23T12"),
        ("again__2026-11-23T13", None, "", "2026-11-23T13"),
    ],
)
def test_a_run_announces_the_hour_it_was_given(
    monkeypatch: pytest.MonkeyPatch, run_id: str, partition: str | None, form: str | None, hour: str
) -> None:
    from dags import common

    context = context_of(run_id, partition=partition, hour=form)
    monkeypatch.setattr(common, "get_current_context", lambda: context)
    assert common.settings_and_hour()[1].key == hour
    assert context["outlet_events"][common.EVENTS].keys == [hour]


def test_a_run_without_an_hour_takes_the_next_one_due_and_keeps_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from core.hours import Hour
    from dags import common
    from events.store import EventStore

    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))
    store = EventStore(common.load_settings().events_dir)
    first = Hour.parse("2026-03-02T23")
    store.partition(first).mkdir(parents=True)
    (store.partition(first) / "manifest.json").write_text("{}")
    context = context_of("manual__2026-11-27T02:05:11+00:00")
    monkeypatch.setattr(common, "get_current_context", lambda: context)
    assert common.settings_and_hour()[1] == first + 1
    store.partition(first + 1).mkdir()
    (store.partition(first + 1) / "manifest.json").write_text("{}")
    assert common.settings_and_hour()[1] == first + 1, "a retry or a cleared run keeps its hour"
    context["dag_run"].run_id = "manual__2026-11-27T02:06:12+00:00"
    assert common.settings_and_hour()[1] == first + 2


def test_a_partition_of_another_form_is_refused_when_a_run_is_triggered(bag: dict[str, Any]) -> None:
    """``ingest_hour`` takes its partition at run time: there the task refuses it (the next test)."""
    refused = bag["refused"]
    assert set(refused) == {"materialize_clock", "train_ranker", "promote_ranker", "report_day"}
    assert all("2026-11-23T10:00" in message for message in refused.values()), refused


@pytest.mark.parametrize(
    ("partition", "form", "words"),
    [
        ("2026-11-23T10:00", None, "2026-11-23T10"), (None, "2026-11-23T25", "not an hour"), (None, " 2026-11-23T10", "not an hour"),
        (None, "2026-02-30T00", "not an hour"), (None, "9999-12-31T23", "not an hour"), ("2026-11-23", None, "not an hour"),
        ("2026-11-23T10", "2026-11-23T11", "two hours"),
    ],
)  # fmt: skip
def test_what_is_no_hour_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, partition: str | None, form: str | None, words: str
) -> None:
    from airflow.sdk import RetryAction

    from core.errors import ConfigError
    from dags import common

    context = context_of("manual__1", partition=partition, hour=form)
    monkeypatch.setattr(common, "get_current_context", lambda: context)
    with pytest.raises(ConfigError, match=words) as error:
        common.settings_and_hour()
    assert common.RETRY.evaluate(error.value, 1, 3).action is RetryAction.FAIL


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ("2026-11-23T10", "2026-11-23T09", "lies before the first"),
        ("2026-01-01T00", "2026-11-23T09", "are 7,834 hours; at most 1,000 at once"),
        ("2026-11-23", "2026-11-23T09", "'2026-11-23' is not an hour"),
        ("2026-11-23T10:00", "2026-11-23T11", "'2026-11-23T10:00' is not an hour"),
        ("٢٠٢٦-11-23T10", "2026-11-23T11", "is not an hour"),
        ("0001-01-01T00", "2026-11-23T11", "is not an hour"),
        ("2026-11-23T10", "9999-12-31T23", "is not an hour"),
        ("2026-11-23T10", "2026-11-31T00", "is not an hour"),
    ],
)
def test_a_range_that_cannot_be_run_is_refused_before_anything_starts(first: str, last: str, words: str) -> None:
    from core.errors import ConfigError
    from dags.by_hand import hours_between

    with pytest.raises(ConfigError, match=words):
        hours_between(first, last)


def test_a_range_holds_its_last_hour() -> None:
    from dags.by_hand import hours_between

    assert [h.key for h in hours_between("2026-11-23T23", "2026-11-24T00")] == ["2026-11-23T23", "2026-11-24T00"]


def test_what_is_not_there_yet_is_tried_again_and_wrong_data_is_not() -> None:
    from airflow.sdk import RetryAction

    from core.errors import CorruptStateError, DataError, NotReadyError
    from dags.common import RETRY

    actions = {
        error: RETRY.evaluate(error("why"), 1, 3).action for error in (NotReadyError, DataError, CorruptStateError)
    }
    assert actions == {
        NotReadyError: RetryAction.RETRY, DataError: RetryAction.FAIL, CorruptStateError: RetryAction.FAIL,
    }  # fmt: skip


def place_hours(settings: Any, *, ingested: list[str], trained: str) -> None:
    """Partitions and a state as ingestion and training leave them, as far as their names go."""
    from core.hours import Hour
    from events.store import EventStore
    from training.state import StateStore

    store = EventStore(settings.events_dir)
    for key in ingested:
        store.partition(Hour.parse(key)).mkdir(parents=True, exist_ok=True)
        (store.partition(Hour.parse(key)) / "manifest.json").write_text("{}")
    state = StateStore(settings.training_dir / "states", settings.candidate_variant).folder(Hour.parse(trained))
    state.mkdir(parents=True)
    (state / "state.json").write_text("{}")


class Announced(list[Any]):
    """An asset's events, as the latest come first."""

    def ascending(self, _: bool) -> Announced:
        return self

    def limit(self, _: int) -> Announced:
        return self


def announcements(monkeypatch: pytest.MonkeyPatch, before: list[str]) -> FakeOutlets:
    """Let the running task see earlier announcements; returns what it announces."""
    from dags import common

    outlets = FakeOutlets()
    events = {common.CHAMPION: Announced(SimpleNamespace(partition_key=key) for key in before)}
    monkeypatch.setattr(common, "get_current_context", lambda: {"inlet_events": events, "outlet_events": outlets})
    return outlets


def test_the_days_report_waits_for_no_hour_that_is_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from core.hours import Hour, day_hours, parse_day
    from core.settings import load_settings
    from dags import common

    settings = load_settings(var=tmp_path)
    day = [hour.key for hour in day_hours(parse_day("2026-11-23"))]
    place_hours(settings, ingested=day[5:20], trained=day[17])
    outlets = announcements(monkeypatch, before=[])
    common.announce_day(common.CHAMPION, settings, Hour.parse(day[17]))
    assert outlets[common.CHAMPION].keys == day[:18], "before the log, in bulk, and this one; not those still to train"
    outlets = announcements(monkeypatch, before=day[:17])
    common.announce_day(common.CHAMPION, settings, Hour.parse(day[17]))
    assert outlets[common.CHAMPION].keys == [day[17]]
    announcements(monkeypatch, before=day[:18])
    with pytest.raises(AirflowSkipException):
        common.announce_day(common.CHAMPION, settings, Hour.parse(day[17]))
