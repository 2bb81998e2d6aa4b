from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from core.errors import CorruptStateError, DataError
from core.files import write_json
from core.hours import Hour
from core.ports import free_port
from core.settings import ROOT, Settings, load_settings
from feature_repo.materialization import advance
from model_registry.store import download_version, experiment_name, model_name, open_mlflow, open_registry
from model_registry.tracking import Tracker
from pipeline.retention import retire_models
from pipeline.training import train_variant, train_variants
from serving.models import Models, record_file
from tests.conftest import TINY, place_tracking_store
from tests.servers import answers, process
from training.plots import learned_sigmas
from training.state import StateStore

OPEN = "from core.settings import load_settings; from model_registry.store import open_mlflow; open_mlflow(load_settings())"


@pytest.fixture(scope="module")
def trained(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Our module trained hour by hour on the tiny app's first day and a half."""
    settings = load_settings(
        var=tmp_path_factory.mktemp("tracking") / "var", source="simulator", variants=("matched_clock",),
        candidate_variant="matched_clock",
    )  # fmt: skip
    place_tracking_store(settings)
    shutil.copytree(app_settings.events_dir, settings.events_dir)
    until = TINY.first_hour + 36
    advance(settings, until + 1)
    train_variant(settings, "matched_clock", until - 6, save_every=100, log_model=False)
    train_variant(settings, "matched_clock", until, log_model=False)
    return settings


def tables_in(folder: Path) -> int:
    """Tables that the store has by now, wherever it is being made."""
    for path in folder.rglob("mlflow.db"):
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                return int(database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0])
        except sqlite3.OperationalError:
            return 0
    return 0


@pytest.mark.slow
def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path) -> None:
    """Kills early and late in MLflow's migrations; what they leave must not stand in the way."""
    settings = load_settings(var=tmp_path)
    environment = {**os.environ, "CLOCK_VAR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    folder = settings.workspace / "mlflow"
    for tables in (5, 40):
        process = subprocess.Popen([sys.executable, "-c", OPEN], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and tables_in(folder) < tables:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended by itself: nothing was killed"
        assert not (folder / "mlflow.db").exists()  # half made, it stands elsewhere
    assert open_mlflow(settings).search_experiments()
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".lock" and p.name != ".lock") == ["mlflow.db"]


def test_a_run_holds_its_hours_data_usage_and_drawings_and_a_repeat_adds_nothing(trained: Settings) -> None:
    variant = "matched_clock"
    tracker, states = Tracker(trained, variant), StateStore(trained.training_dir / "states", variant)
    head = states.head()
    assert head is not None
    for _ in range(2):
        tracker.log_plots(states, head)
        train_variant(trained, variant, head, log_model=False)
    run = tracker.client.get_run(tracker.run_of(head.day, states.info(head)))
    assert run.inputs is not None
    entries = [entry.dataset for entry in run.inputs.dataset_inputs]
    hours = [hour for entry in entries for hour in json.loads(entry.source)["hours"]]
    assert len(hours) == len(set(hours)) > 2
    assert head.key in hours
    assert sum(json.loads(str(entry.profile))["samples"] for entry in entries) > 0
    assert run.data.metrics["system/process_peak_memory_megabytes"] > 50
    steps = [m.step for m in tracker.client.get_metric_history(run.info.run_id, "auc")]
    assert len(steps) == len(set(steps)) > 2
    assert run.data.metrics["sessions"] > 0
    assert 0 < run.data.metrics["session_auc"] < 1
    names = {f.path for f in tracker.client.list_artifacts(run.info.run_id, "plots")}
    assert names == {"plots/auc_by_hour.png", "plots/calibration.png", "plots/kernel.png"}
    sigmas = learned_sigmas(states.load(head)[1])
    assert set(sigmas) == {f"{n}{o}" for n in ("genre", "mood", "language", "item") for o in ("", ", everybody")}


@pytest.mark.slow
def test_models_are_logged_when_they_can_be_offered_and_a_failing_variant_keeps_none_from_training(
    app_settings: Settings, tmp_path: Path
) -> None:
    """The last hour but one of a day, then the last; the baseline's chain breaks in between."""
    settings = load_settings(
        var=tmp_path, source="simulator", variants=("none", "hour_embedding", "cyclic"), candidate_variant="cyclic",
        baseline_variant="hour_embedding",
    )  # fmt: skip
    place_tracking_store(settings)
    shutil.copytree(app_settings.events_dir, settings.events_dir)
    before_last = Hour.of_day(TINY.first_hour.day) + 22
    advance(settings, before_last + 2)

    def logged(variant: str) -> int:
        client = open_mlflow(settings)
        experiment = client.get_experiment_by_name(experiment_name(settings, variant))
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert [run.info.status for run in runs] == ["FINISHED"]
        return len(client.search_logged_models([experiment.experiment_id]))

    versions = [each.version for each in train_variants(settings, settings.variants, before_last)]
    assert versions[0] is None
    assert None not in versions[1:]
    assert [logged(variant) for variant in settings.variants] == [0, 1, 1]
    states = {v: StateStore(settings.training_dir / "states", v) for v in settings.variants}
    (states["hour_embedding"].folder(before_last) / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CorruptStateError, match="hour_embedding"):
        train_variants(settings, settings.variants, before_last + 1)
    assert [states[v].head() for v in settings.variants] == [before_last + 1, before_last, before_last + 1]
    assert [logged(variant) for variant in settings.variants] == [1, 1, 2]


def test_a_logged_model_predicts_far_from_this_repository(trained: Settings, tmp_path: Path) -> None:
    """In a process that knows no path of the project: its code travels with the model."""
    variant = trained.candidate_variant
    head = StateStore(trained.training_dir / "states", variant).head()
    assert head is not None
    version = train_variant(trained, variant, head).version
    code = "import mlflow, sys; model = mlflow.pyfunc.load_model(sys.argv[1]); print(model.predict(model.input_example).to_json())"
    uri = f"models:/{model_name(trained)}/{version}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "MLFLOW_TRACKING_URI": trained.tracking_uri
    }
    done = subprocess.run(
        [sys.executable, "-c", code, uri], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]
    predictions = json.loads(done.stdout.strip().splitlines()[-1])
    assert 0 < predictions["finish"]["0"] < 1


def test_old_versions_go_and_named_ones_and_the_way_back_stay(trained: Settings) -> None:
    variant = trained.candidate_variant
    states = StateStore(trained.training_dir / "states", variant)
    head = states.head()
    assert head is not None
    tracker = Tracker(trained, variant)
    versions = [tracker.log_model(states, hour, register=True) for hour in states.hours()[-6:]]
    models = open_registry(trained)
    models.move("champion", str(versions[0]), "first")
    models.move("champion", str(versions[1]), "better")
    keep = load_settings(var=trained.var, source=trained.source, variants=trained.variants, keep_models=2)
    retired = retire_models(keep)
    left = {str(v.version) for v in models.client.search_model_versions(f"name = '{models.name}'")}
    newest = sorted({int(str(v)) for v in versions})[-2:]
    assert left == {str(versions[0]), str(versions[1]), *map(str, newest)}
    assert retired["versions"] == 2
    assert retired["models"] >= 2
    assert models.rollback("worse").version == str(versions[0])
    assert download_version(keep, str(versions[0])).exists()
    assert retire_models(keep) == {"versions": 1, "models": 1}  # what the champion was rolled back from
    assert retire_models(keep) == {"versions": 0, "models": 0}
    experiment = models.client.get_experiment_by_name(experiment_name(trained, variant))
    assert experiment is not None
    folder = Path(experiment.artifact_location.removeprefix("file://")) / "models"
    assert len(list(folder.rglob("state.json"))) == len(models.client.search_logged_models([experiment.experiment_id]))


@pytest.fixture
def registered(trained: Settings, tmp_path: Path) -> tuple[Settings, list[str]]:
    """A registry of its own, of which two versions are kept however they are called, and its
    seven versions, the oldest first."""
    variant = trained.candidate_variant
    settings = load_settings(
        var=tmp_path / "var", source=trained.source, variants=(variant,), candidate_variant=variant, keep_models=2
    )
    place_tracking_store(settings)
    states, tracker = StateStore(trained.training_dir / "states", variant), Tracker(settings, variant)
    return settings, [str(tracker.log_model(states, hour, register=True)) for hour in states.hours()[-7:]]


def versions_left(settings: Settings) -> set[str]:
    models = open_registry(settings)
    return {str(v.version) for v in models.client.search_model_versions(f"name = '{models.name}'")}


def test_versions_that_settings_experiments_and_the_service_name_stay(registered: tuple[Settings, list[str]]) -> None:
    """They can be loaded after a restart of the service, whose own copies are not the reason."""
    settings, (first_champion, by_shadow, by_experiment, serving, unnamed, champion, newest) = registered
    for version in (first_champion, by_shadow, champion):  # the way back leads through one that is named, and on
        open_registry(settings).move("champion", version, "better")
    settings.experiments_dir.mkdir(parents=True)
    (settings.experiments_dir / "pinned.yaml").write_text(
        "name: pinned\nvariants: {a: 1, b: 1}\ncontrol: a\nstart: 2026-03-02\n"
        f"models: {{a: champion, b: 'version:{by_experiment}'}}\n"
    )
    write_json(record_file(settings), {"challenger": {"version": serving, "folder": "no longer there"}})
    shadowed = settings.model_copy(update={"serving_shadow": f"version:{by_shadow}"})
    assert retire_models(shadowed)["versions"] == 1
    assert versions_left(settings) == {first_champion, by_shadow, by_experiment, serving, champion, newest}
    assert unnamed not in versions_left(settings)
    service = Models(shadowed)
    service.refresh({shadowed.serving_shadow, f"version:{by_experiment}"})
    assert {*service.names.values()} == {by_shadow, by_experiment}


def test_a_variant_that_is_no_longer_trained_keeps_its_newest_version_while_it_is_named(
    registered: tuple[Settings, list[str]],
) -> None:
    """As the ranker that does not change, which a holdout gives to those it holds out."""
    settings, (first, last_of_it, *others) = registered
    models = open_registry(settings)
    for version in (first, last_of_it):
        models.client.set_model_version_tag(models.name, version, "variant", "of_before")
    retire_models(settings.model_copy(update={"serving_shadow": "of_before"}))
    assert versions_left(settings) == {last_of_it, *others[-2:]}
    retire_models(settings.model_copy(update={"serving_shadow": "it's none"}))
    assert versions_left(settings) == {*others[-2:]}


@pytest.mark.slow
def test_with_a_tracking_server_the_artifacts_of_old_models_go_too(trained: Settings, tmp_path: Path) -> None:
    store = load_settings(var=tmp_path / "server", source="simulator")
    place_tracking_store(store)
    port, artifacts = free_port(), tmp_path / "artifacts"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", store.tracking_uri, "--artifacts-destination", str(artifacts),
    ]  # fmt: skip

    ready = partial(answers, f"http://127.0.0.1:{port}/health")
    with process(command, tmp_path / "server.log", ready, timeout_seconds=180, start_new_session=True):
        settings = load_settings(
            var=trained.var, source=trained.source, variants=trained.variants, keep_models=2,
            mlflow_uri=f"http://127.0.0.1:{port}",
        )  # fmt: skip
        tracker = Tracker(settings, "matched_clock")
        states = StateStore(trained.training_dir / "states", "matched_clock")
        for hour in states.hours()[-3:]:
            tracker.log_model(states, hour, register=False)
        assert len(list(artifacts.rglob("state.json"))) == 3
        assert retire_models(settings) == {"versions": 0, "models": 1}
        left = tracker.client.search_logged_models([tracker.experiment])
        kept = {path.parts[path.parts.index("models") + 1] for path in artifacts.rglob("state.json")}
        assert kept == {model.model_id for model in left}
        assert len(kept) == 2


def test_a_version_that_somebody_registered_in_mlflow_comes_from_where_its_logged_model_does(
    trained: Settings, tmp_path: Path
) -> None:
    """MLflow gives such a version none of the model's tags; one that the platform did not train is told from it."""
    variant, settings = "matched_clock", load_settings(var=tmp_path / "var", source=trained.source)
    place_tracking_store(settings)
    states = StateStore(trained.training_dir / "states", variant)
    head = states.head()
    assert head is not None
    tracker, models = Tracker(settings, variant), open_registry(settings)
    tracker.log_model(states, head, register=False)
    (logged,) = models.client.search_logged_models([tracker.experiment])
    models.client.create_registered_model(models.name)
    for alias, source in {"challenger": f"models:/{logged.model_id}", "champion": tmp_path.as_uri()}.items():
        version = models.client.create_model_version(models.name, source)
        models.client.set_registered_model_alias(models.name, alias, str(version.version))
    challenger, champion = models.get("challenger"), models.get("champion")
    assert challenger is not None
    assert models.lineage(challenger) == (variant, head)
    assert models.newest(variant, head.key) == str(challenger.version)
    assert champion is not None
    with pytest.raises(DataError, match=f"version {champion.version} of {models.name} was not trained by the platform"):
        models.lineage(champion)
