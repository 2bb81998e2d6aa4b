"""Whole hours on the tiny app, without Airflow: repeated, killed, late, replayed; the state stays the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest

from core.errors import DataError, NotReadyError
from core.files import write_parquet
from core.hours import Hour
from core.ports import free_port, port_is_free
from core.settings import ROOT, Settings, load_settings
from evaluation.gate_decision import GateDecision, ModelVersion
from events.ingest import close_hours
from events.store import EventStore
from model_registry.registry import Registry
from model_registry.store import experiment_name, open_mlflow, open_registry
from operations.fingerprint import fingerprint
from operations.processes import (
    ServiceProcess,
    left_running,
    log_folder,
    require_running,
    rotate_logs,
    running,
    start,
    stop,
    wait_for,
    with_free_ports,
)
from pipeline.due import next_due_hour
from pipeline.history import build_history
from pipeline.hour import run_hour
from pipeline.promotion import VersionScores, apply_decision, evaluate_candidate, rollback, watch_champion
from pipeline.source import Source, ingest_hour, load_source, save_app_source, save_source
from pipeline.training import replay, stale_hours, train_hour
from simulation.config import SimulatorConfig
from simulation.workspace import app_log
from tests import forked
from tests.conftest import SMALL_POLICY, place_tracking_store, small_log, write_app, write_mapping
from training.state import StateStore

pytestmark = pytest.mark.slow

VARIANTS = ("hour_embedding", "matched_clock")
APP = SimulatorConfig(days=4, users=150, items=80, experiment={"start_day": 2}, dirt={"damaged": 0.01, "late": 0.02})
HISTORY_KILLS = (("1/4", 0.2), ("2/4", 0.5), ("3/4", 0.0), ("figures of", 0.0), ("registered as version 1", 0.0))
"""Words of the progress and seconds after them: in ingestion, clocks, samples, training, registration."""
HOUR_KILLS = (
    (("reading", 0.1), ("rows:", 0.5)),
    (("history of clock_slots", 0.0), ("figures of", 0.0)),
    (("registered as version", 0.0),),
)
TAKEOVER = APP.first_hour + 60


def workspace(folder: Path) -> Settings:
    """A workspace for the tiny app, nothing done yet."""
    settings = load_settings(var=folder / "var", source="simulator", variants=VARIANTS)
    write_app(settings.workspace, APP, SMALL_POLICY)
    save_app_source(settings)
    return settings


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = workspace(tmp_path_factory.mktemp("undisturbed"))
    place_tracking_store(settings)
    build_history(settings, TAKEOVER)
    for n in range(3):
        run_hour(settings, TAKEOVER + n)
    return settings


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The history is built too, by processes that are killed on the way."""
    settings = workspace(tmp_path_factory.mktemp("disturbed"))
    place_tracking_store(settings)  # its own making is killed in tests/model_registry
    for words, delay in HISTORY_KILLS:
        kill_after(settings, words, delay, "history", TAKEOVER.key)
    finish(settings, "history", TAKEOVER.key)
    return settings


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "CLOCK_VAR": str(settings.var),
        "CLOCK_VARIANTS": json.dumps(VARIANTS),
        "PYTHONPATH": str(ROOT),
    }


def kill_after(settings: Settings, words: str, delay: float, *arguments: str) -> None:
    """Start the command line and end it, and all it started, with SIGKILL so many seconds after its progress says words.

    What ends before is not killed, and would show nothing: an error.
    """
    fork = forked.start("pipeline", "--source", settings.source, *arguments, environment=environment(settings))
    with fork.stdout, fork.stderr:
        said = []
        for line in fork.stderr:
            said.append(line)
            if words in line:
                break
        else:
            pytest.fail(f"{arguments} never said '{words}', so it was not killed there:\n{''.join(said)[-3000:]}")
        time.sleep(delay)
        assert fork.process.is_alive(), f"{arguments} ended by itself within {delay} s of '{words}': nothing was killed"
        assert fork.process.pid is not None
        os.killpg(fork.process.pid, signal.SIGKILL)
        fork.process.join()
    assert fork.process.exitcode == -signal.SIGKILL


def finish(settings: Settings, *arguments: str) -> None:
    """Run the command line to its end."""
    done = forked.run("pipeline", "--source", settings.source, *arguments, environment=environment(settings))
    assert done.returncode == 0, done.stderr


def test_killed_at_any_moment_and_started_again_the_state_equals_an_undisturbed_run(
    undisturbed: Settings, disturbed: Settings
) -> None:
    """SIGKILL walks through ingestion, clocks, samples, training and registration, in bulk and by the hour."""
    for n in range(3):
        hour = (TAKEOVER + n).key
        for words, delay in HOUR_KILLS[n]:
            kill_after(disturbed, words, delay, "hour", hour)
        finish(disturbed, "hour", hour)
    expected, actual = fingerprint(undisturbed), fingerprint(disturbed)
    assert sorted(actual) == sorted(expected)
    assert [name for name in expected if actual[name] != expected[name]] == []


def test_running_an_hour_again_changes_nothing(undisturbed: Settings) -> None:
    before = fingerprint(undisturbed)
    models = open_registry(undisturbed)
    versions = len(models.client.search_model_versions(f"name = '{models.name}'"))
    again = run_hour(undisturbed, TAKEOVER + 2)
    assert again.kept == 0
    assert again.moves == []
    assert fingerprint(undisturbed) == before
    assert len(models.client.search_model_versions(f"name = '{models.name}'")) == versions


def test_running_an_earlier_hour_again_takes_no_alias_back_and_keeps_its_decision(undisturbed: Settings) -> None:
    """As when a range of hours is run again, or a cleared run, after the gate has put another challenger up."""
    models, gate = open_registry(undisturbed), undisturbed.reports_dir / "gate"
    newest, challenger = models.newest("matched_clock"), models.get("challenger")
    assert newest is not None
    assert challenger is not None
    models.move("challenger", newest, "for this test")
    try:
        decisions = {path: path.read_bytes() for path in gate.iterdir()}
        assert [run_hour(undisturbed, TAKEOVER + n).moves for n in range(2)] == [[], []]
        assert {path: path.read_bytes() for path in gate.iterdir()} == decisions
        variant, trained_until = models.lineage(challenger)
        tested = ModelVersion(str(challenger.version), variant, trained_until.key)
        assert apply_decision(undisturbed, TAKEOVER, GateDecision("keep", "", tested, None, ())) == []
        behind = [models.get(alias) for alias in ("candidate", "challenger")]
        assert [str(version.version) for version in behind if version] == [newest, newest]
    finally:
        models.move("challenger", str(challenger.version), "for this test")


def test_every_hour_is_one_point_in_mlflow(undisturbed: Settings) -> None:
    client = open_mlflow(undisturbed)
    trained = [h for h in EventStore(undisturbed.events_dir).hours() if h < TAKEOVER + 3]
    for variant in VARIANTS:
        experiment = client.get_experiment_by_name(experiment_name(undisturbed, variant))
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert len(runs) == len({h.day for h in trained})
        steps = [m.step for run in runs for m in client.get_metric_history(run.info.run_id, "seconds")]
        assert sorted(steps) == [h.number for h in trained]
        last = max(runs, key=lambda r: r.data.tags["day"])
        head = StateStore(undisturbed.training_dir / "states", variant).info(TAKEOVER + 2)
        assert last.data.tags["state_digest"] == head.digest
        assert last.data.tags["parent_digest"] == head.parent


def test_a_registered_version_loads_from_mlflow_and_predicts(undisturbed: Settings) -> None:
    import mlflow

    models = open_registry(undisturbed)
    version = models.get("candidate")
    assert version is not None
    loaded = mlflow.pyfunc.load_model(f"models:/{models.name}/{version.version}")
    scores = loaded.predict(loaded.input_example)
    assert set(scores.columns) == {"finish", "like", "skip", "dislike", "share"}
    assert scores.to_numpy().min() > 0
    assert scores.to_numpy().max() < 1


def test_a_versions_description_says_what_it_is_what_the_gate_decided_and_where_its_pages_are(
    undisturbed: Settings,
) -> None:
    models = open_registry(undisturbed)
    versions = models.client.search_model_versions(f"name = '{models.name}'")
    judged = [v for v in versions if "gate_hour" in v.tags]
    assert judged
    for version in versions:
        text = str(version.description)
        assert f"time module `{version.tags['variant']}`, trained until {version.tags['hour']} UTC" in text
        assert f"({undisturbed.reports_url}/model.html)" in text
        if version in judged:
            page = undisturbed.reports_dir / "gate" / f"{version.tags['gate_hour']}.html"
            assert page.exists()
            assert undisturbed.page_url(page) in text
            assert version.tags["gate_verdict"].replace("_", " ") in text
        else:
            assert "The gate has not judged it yet." in text
        assert all(len(value) <= 250 for key, value in version.tags.items() if key.endswith("_reason"))


def test_the_newest_decision_is_on_the_first_page_at_once(undisturbed: Settings) -> None:
    newest = max((undisturbed.reports_dir / "gate").glob("*.html"))
    assert f'href="gate/{newest.name}"' in (undisturbed.reports_dir / "index.html").read_text()


def test_a_report_that_the_first_page_cannot_read_stops_no_decision(
    undisturbed: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = undisturbed.reports_dir / "ab" / "damaged" / "2026-03-02T00.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    try:
        assert evaluate_candidate(undisturbed, TAKEOVER + 2).candidate
    finally:
        shutil.rmtree(damaged.parent)
    assert "the first page stays as it was" in caplog.text


def test_a_version_scores_an_hour_once_until_its_samples_change(undisturbed: Settings) -> None:
    """Kept scores are read back as they are, whoever asks; those of other samples are made again."""
    hour, scores = TAKEOVER + 2, VersionScores(undisturbed)
    computed = scores.read("1", hour)
    path, at = scores.path("1", hour), computed.column_names.index("score")
    marked = computed.set_column(at, "score", pa.array(np.full(computed.num_rows, 0.25, np.float32)))
    write_parquet(path, marked)
    assert VersionScores(undisturbed).read("1", hour).equals(marked)
    write_parquet(path, marked.replace_schema_metadata({"samples": "others"}))
    again = VersionScores(undisturbed).read("1", hour)
    assert again.equals(computed)
    assert again.schema.metadata == computed.schema.metadata


def test_an_hour_that_was_skipped_is_named(undisturbed: Settings) -> None:
    from feature_repo.materialization import advance

    with pytest.raises(NotReadyError, match=f"hour {TAKEOVER + 3} has not been ingested"):
        advance(undisturbed, TAKEOVER + 5)


def test_late_events_mark_hours_stale_and_a_replay_brings_them_in(disturbed: Settings) -> None:
    store = EventStore(disturbed.events_dir)
    victim = next(h for h in reversed([h for h in store.hours() if h < TAKEOVER]) if store.manifest(h).rows > 3)
    log = app_log(disturbed).log_file(victim)
    import gzip

    lines = gzip.decompress(log.read_bytes()).decode().splitlines()
    late = [lines[0], *(",".join(["late-" + line.split(",", 1)[0], line.split(",", 1)[1]]) for line in lines[1:4])]
    (disturbed.workspace / "late.csv").write_text("\n".join(late) + "\n")
    from events.ingest import ingest
    from feature_repo.materialization import advance

    rows = sum(m.rows for m in store.manifests())
    account = ingest(load_source(disturbed).mapping, [str(disturbed.workspace / "late.csv")], disturbed)
    assert account.kept == 3
    assert sum(m.rows for m in store.manifests()) == rows + 3
    stale = stale_hours(disturbed)
    assert victim in stale
    head = StateStore(disturbed.training_dir / "states", VARIANTS[1]).head()
    assert head is not None
    before = StateStore(disturbed.training_dir / "states", VARIANTS[1]).info(head).digest
    advance(disturbed, head + 1)
    results = replay(disturbed, min(stale))
    assert {trained.hour for trained in results} == {head}
    assert stale_hours(disturbed) == []
    assert StateStore(disturbed.training_dir / "states", VARIANTS[1]).info(head).digest != before


def test_a_replay_from_before_the_log_is_one_of_all_hours(disturbed: Settings) -> None:
    """The trigger form's own hour is such a one."""
    states = StateStore(disturbed.training_dir / "states", VARIANTS[0])
    head = states.head()
    assert head is not None
    seen = states.info(head).samples_seen
    assert {trained.hour for trained in replay(disturbed, Hour.parse("2026-01-01T00"))} == {head}
    assert states.info(head).samples_seen == seen


@pytest.mark.parametrize("step", ["train", "evaluate", "apply", "watch", "rollback"])
def test_without_mlflow_every_step_says_so_and_promotes_nothing(
    undisturbed: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    hour = TAKEOVER + 2
    champion = open_registry(undisturbed).get("champion")
    moves = open_registry(undisturbed).moves()
    decision = GateDecision("promote", "", ModelVersion("1", "none", hour.key), None, ())
    with socket.socket() as taken:  # bound, not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        cut_off = load_settings(var=undisturbed.var, source="simulator", variants=VARIANTS, mlflow_uri=url)
        steps: dict[str, Callable[[], object]] = {
            "train": lambda: train_hour(cut_off, hour),
            "evaluate": lambda: evaluate_candidate(cut_off, hour),
            "apply": lambda: apply_decision(cut_off, hour, decision),
            "watch": lambda: watch_champion(cut_off, hour),
            "rollback": lambda: rollback(cut_off, "no server"),
        }
        with pytest.raises(NotReadyError, match="does not answer"):
            steps[step]()
    after = open_registry(undisturbed).get("champion")
    assert open_registry(undisturbed).moves() == moves
    assert (after and after.version) == (champion and champion.version)


def test_a_server_that_fails_is_never_taken_for_no_champion(
    undisturbed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two calls of one decision the server may go; "no champion" would let anything win."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow import MlflowClient

    models = open_registry(undisturbed)
    gone = MlflowClient("http://127.0.0.1:9")
    with pytest.raises(NotReadyError, match="who 'champion' of simulator-ranker is"):
        Registry(gone, models.name, models.trail).get("champion")


def test_a_log_with_a_file_an_hour_waits_for_a_missing_file(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test")
    mapping = write_mapping(tmp_path, "paths: ['log/{hour}.csv']\n")
    (tmp_path / "log").mkdir()
    small_log(2).to_csv(tmp_path / "log" / "2026-03-02T08.csv", index=False)
    save_source(settings, Source(str(mapping)))
    assert ingest_hour(settings, Hour.parse("2026-03-02T08")).kept == 2
    with pytest.raises(NotReadyError, match="has not arrived"):
        ingest_hour(settings, Hour.parse("2026-03-02T09"))


def test_a_log_with_several_files_an_hour_waits_until_there_is_one(tmp_path: Path) -> None:
    settings, hour = load_settings(var=tmp_path / "var", source="test"), Hour.parse("2026-03-02T08")
    save_source(settings, Source(str(write_mapping(tmp_path, "paths: ['log/{hour}/*.csv']\n"))))
    folder = tmp_path / "log" / hour.key
    with pytest.raises(NotReadyError, match="has not arrived"):
        ingest_hour(settings, hour)
    folder.mkdir(parents=True)
    (folder / "_half.csv").touch()  # a job is at work
    with pytest.raises(NotReadyError, match="has not arrived"):
        ingest_hour(settings, hour)
    rows = small_log(2)
    rows[:1].to_csv(folder / "app-1.csv", index=False)
    rows[1:].to_csv(folder / "app-2.csv", index=False)
    assert ingest_hour(settings, hour).kept == 2


@pytest.mark.parametrize("early", ["event", "exposure"])
def test_an_hour_whose_first_row_lies_in_the_file_of_the_hour_before_is_due_and_ingested_from_its_own(
    tmp_path: Path, early: str
) -> None:
    settings, first = load_settings(var=tmp_path / "var", source="test"), Hour.parse("2026-03-02T08")
    exposures = "exposures: {path: '../exposures/{name}', user_id: user, timestamp: {column: at}}\n"
    save_source(settings, Source(str(write_mapping(tmp_path, f"paths: ['log/{{hour}}.csv']\n{exposures}"))))
    rows = small_log(5)
    shown = pd.DataFrame(
        {"experiment": "new", "variant": "a", "user": ["u0", "u1"], "at": ["2026-03-02T08:30:00Z"] * 2}
    )
    if early == "event":
        rows.loc[1, "ts"] = "2026-03-02T09:00:00.2Z"
    else:
        shown.loc[1, "at"] = "2026-03-02T09:00:00.2Z"
    for folder in ("log", "exposures"):
        (tmp_path / folder).mkdir()
    for n in range(3):
        rows[2 * n : 2 * n + 2].to_csv(tmp_path / "log" / f"{(first + n).key}.csv", index=False)
        shown[: 0 if n else 2].to_csv(tmp_path / "exposures" / f"{(first + n).key}.csv", index=False)
    store = EventStore(settings.events_dir)
    ingest_hour(settings, first)
    assert store.has(first + 1)
    assert store.hours() == [first]
    assert next_due_hour(settings, "training") == first  # the next hour is not whole
    for n in (1, 2):
        assert next_due_hour(settings, "ingest") == first + n
        assert ingest_hour(settings, first + n).kept == len(rows[2 * n : 2 * n + 2])
    assert store.hours() == [first, first + 1, first + 2]
    assert sum(manifest.rows for manifest in store.manifests()) == len(rows)
    ingest_hour(settings, first)  # again: what is closed stays closed
    assert next_due_hour(settings, "ingest") == first + 3
    (store.root / "_closed.json").unlink()  # a workspace of before: each hour that has a folder is closed
    assert next_due_hour(settings, "ingest") == first + 3


def test_an_hour_that_has_only_rows_of_an_earlier_file_can_be_closed(tmp_path: Path) -> None:
    settings, first = load_settings(var=tmp_path / "var", source="test"), Hour.parse("2026-03-02T08")
    save_source(settings, Source(str(write_mapping(tmp_path, "paths: ['log/{hour}.csv']\n"))))
    rows = small_log(2).assign(ts=["2026-03-02T08:59:59Z", "2026-03-02T09:00:00.2Z"])
    (tmp_path / "log").mkdir()
    rows.to_csv(tmp_path / "log" / f"{first.key}.csv", index=False)
    ingest_hour(settings, first)
    store = EventStore(settings.events_dir)
    assert close_hours(store, first, first + 1) == [first + 1]
    assert close_hours(store, first, first + 1) == []
    assert next_due_hour(settings, "ingest") == first + 2
    assert store.count([first, first + 1]) == 2


def test_a_log_in_one_file_is_replayed_hour_by_hour(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test")
    small_log(6).to_csv(tmp_path / "log.csv", index=False)
    save_source(settings, Source(str(write_mapping(tmp_path)), (str(tmp_path / "log.csv"),)))
    kept = [ingest_hour(settings, Hour.parse(f"2026-03-02T{h:02d}")).kept for h in range(7, 12)]
    assert kept == [0, 2, 2, 2, 0]
    assert len(EventStore(settings.events_dir).hours()) == 5


def test_services_are_refused_a_taken_port_and_stopped_by_their_id(settings: Settings) -> None:
    port = free_port()
    serve = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    start(settings, [ServiceProcess("pages", serve, f"http://127.0.0.1:{port}/")])
    try:
        assert not port_is_free(port)
        with pytest.raises(NotReadyError, match="running already"):
            start(settings, [ServiceProcess("pages", serve, f"http://127.0.0.1:{port}/")])
        with pytest.raises(NotReadyError, match=f"port {port} of other is taken"):
            start(settings, [ServiceProcess("other", serve, f"http://127.0.0.1:{port}/")])
    finally:
        assert stop(settings) == ["pages"]
    assert port_is_free(port)
    with pytest.raises(NotReadyError, match="ended at once"):
        start(
            settings,
            [ServiceProcess("broken", (sys.executable, "-c", "raise SystemExit(3)"), f"http://127.0.0.1:{port}/")],
        )


def test_a_service_that_ends_by_itself_is_named_with_its_log(settings: Settings) -> None:
    port = free_port()
    serve = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    start(settings, [ServiceProcess("pages", serve, f"http://127.0.0.1:{port}/")])
    require_running(settings)
    process = psutil.Process(left_running(settings)["pages"].process.pid)
    process.kill()
    psutil.wait_procs([process], timeout=10)
    with pytest.raises(NotReadyError, match=r"pages has ended by itself; its log says why: .*pages\.log"):
        require_running(settings)
    stop(settings)
    require_running(settings)


def test_services_that_end_while_they_are_stopped_do_not_keep_the_others_running(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two shells stop them at the same time."""
    start(settings, [ServiceProcess(name, ("sleep", "100")) for name in "abc"])
    pids = {name: service.process.pid for name, service in left_running(settings).items()}
    children = psutil.Process.children

    def ended_meanwhile(process: psutil.Process, *, recursive: bool) -> list[psutil.Process]:
        if process.pid == pids["a"]:
            process.kill()
            process.wait()
        return children(process, recursive=recursive)

    monkeypatch.setattr(psutil.Process, "children", ended_meanwhile)
    assert stop(settings) == ["a", "b", "c"]
    assert not any(map(psutil.pid_exists, pids.values()))
    assert left_running(settings) == {}


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_services_end_with_an_owner_that_is_told_to_and_those_of_a_killed_one_at_the_next_start(
    settings: Settings, how: str
) -> None:
    port = free_port()
    serve = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    code = f"""
import os, signal
from core.settings import load_settings
from operations.processes import ServiceProcess, running
with running(load_settings(var={str(settings.var)!r}, source={settings.source!r}), [ServiceProcess("pages", {serve!r}, "http://127.0.0.1:{port}/")]):
    os.kill(os.getpid(), signal.{how})
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert ended.returncode == {"SIGKILL": -signal.SIGKILL, "SIGTERM": 128 + signal.SIGTERM}[how]
    assert port_is_free(port) == (how == "SIGTERM")
    start(settings, [ServiceProcess("pages", serve, f"http://127.0.0.1:{port}/")])
    assert stop(settings) == ["pages"]
    assert port_is_free(port)


def test_a_service_goes_on_in_its_log_after_what_was_in_it_has_been_moved(settings: Settings) -> None:
    code = "import time\nfor n in range(10**9):\n    print(n, flush=True)\n    time.sleep(0.01)"
    start(settings, [ServiceProcess("counter", (sys.executable, "-c", code))])
    written, moved = (log_folder(settings) / name for name in ("counter.log", "counter.log.1"))
    try:
        wait_for(lambda: written.stat().st_size > 200, "the service to write")
        assert rotate_logs(settings) == 0
        assert rotate_logs(settings, 200) == 1
        wait_for(lambda: written.stat().st_size > 0, "the service to go on")
    finally:
        stop(settings)
    before, after = ([int(line) for line in path.read_text().splitlines()] for path in (moved, written))
    assert before == list(range(len(before)))
    assert after == list(range(after[0], after[0] + len(after)))
    assert after[0] in {len(before), len(before) + 1}


def test_a_job_uses_the_services_that_were_left_running_and_leaves_them(settings: Settings) -> None:
    port = free_port()
    settings = load_settings(**{**settings.model_dump(), "reports_port": port})
    serve = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    service = ServiceProcess("reports", serve, f"http://127.0.0.1:{port}/")
    start(settings, [service])
    try:
        assert with_free_ports(settings)["reports_port"] == port
        with running(settings, [service]):
            assert list(left_running(settings)) == ["reports"]
        assert not port_is_free(port)
        elsewhere = ServiceProcess("reports", serve, f"http://127.0.0.1:{free_port()}/")
        with pytest.raises(NotReadyError, match="reports is running already"), running(settings, [elsewhere]):
            pass
    finally:
        assert stop(settings) == ["reports"]
    assert with_free_ports(settings)["reports_port"] == port
    assert left_running(settings) == {}


def test_the_champion_goes_back_by_hand(undisturbed: Settings) -> None:
    models = open_registry(undisturbed)
    for version in ("1", "2"):
        models.move("champion", version, "for the test")
    back = rollback(undisturbed, "a test")
    assert (back.version, back.who) == ("1", "a person")
    assert back.hour == EventStore(undisturbed.events_dir).hours()[-1].key
    with pytest.raises(DataError, match="version 1 is the champion already"):
        rollback(undisturbed, "once more", to="1")


def test_a_version_that_does_not_load_is_never_promoted(undisturbed: Settings) -> None:
    models = open_registry(undisturbed)
    source = str(undisturbed.workspace / "nowhere")
    broken = models.client.create_model_version(
        models.name, source=source, tags={"variant": "none", "hour": TAKEOVER.key}
    )
    before = models.get("champion")
    champion = ModelVersion(str(before.version), before.tags["variant"], before.tags["hour"]) if before else None
    candidate = ModelVersion(str(broken.version), "none", TAKEOVER.key)
    decision = GateDecision("promote", "test", candidate, champion, ())
    with pytest.raises(DataError, match="does not load and score"):
        apply_decision(undisturbed, TAKEOVER + 2, decision)
    after = models.get("champion")
    assert (after and after.version) == (before and before.version)
    models.client.delete_model_version(models.name, str(broken.version))


@pytest.fixture
def with_predecessor(undisturbed: Settings, tmp_path: Path) -> Settings:
    """A workspace whose champion is version 2, after version 1."""
    shutil.copytree(undisturbed.var, tmp_path / "var")
    settings = load_settings(var=tmp_path / "var", source="simulator", variants=VARIANTS)
    for version in ("1", "2"):
        open_registry(settings).move("champion", version, "for the test")
    return settings


def test_a_promotion_over_a_champion_that_was_rolled_back_is_left_to_the_next_hour(with_predecessor: Settings) -> None:
    settings, models = with_predecessor, open_registry(with_predecessor)
    newest = max(models.client.search_model_versions(f"name = '{models.name}'"), key=lambda each: int(each.version))
    candidate, champion = (ModelVersion(str(v), "none", TAKEOVER.key) for v in (newest.version, 2))
    models.rollback("it fell behind", hour=TAKEOVER)
    moves = len(models.moves())
    automatic = GateDecision("promote", "better", candidate, champion, ())
    assert apply_decision(settings, TAKEOVER + 2, automatic) == []
    assert len(models.moves()) == moves
    by_person = GateDecision("needs_person", "better", candidate, champion, ())
    with pytest.raises(DataError, match="is now version 1, not 2; somebody moved it"):
        apply_decision(settings, TAKEOVER + 2, by_person, approved=True)


def test_a_champion_that_falls_behind_its_predecessor_goes_back_by_itself(with_predecessor: Settings) -> None:
    settings = with_predecessor
    policy = settings.workspace / "policy.yaml"
    policy.write_text("{min_hours: 2, max_hours: 6, min_samples: 100, min_users: 10, rollback_hours: 3}")
    scores = VersionScores(settings)
    for hour in (TAKEOVER, TAKEOVER + 1, TAKEOVER + 2):
        table = scores.read("1", hour)
        labels = table["label"].to_numpy().astype(np.float32)
        at = table.column_names.index("score")
        for version, score in (("1", 0.2 + 0.6 * labels), ("2", 0.8 - 0.6 * labels)):
            write_parquet(scores.path(version, hour), table.set_column(at, "score", pa.array(score)))
    move = watch_champion(settings, TAKEOVER + 2)
    assert move is not None
    assert (move.previous, move.version) == ("2", "1")
    assert "automatic" in move.reason
    assert watch_champion(settings, TAKEOVER + 2) is None
