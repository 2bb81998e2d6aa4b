"""What is old goes: model versions that nothing names, and state, logs and run records beyond ``keep_days``."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from ab_analysis.experiment import find_experiments, load_experiment
from core.errors import ConfigError
from core.files import exclusive_lock, remove_files
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.served import served_hours
from model_registry.registry import CHAMPION, PREDECESSOR, Registry
from serving.routing import named_models
from training.state import StateStore

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

log = logging.getLogger("pipeline.retention")


def retire_models(settings: Settings) -> dict[str, int]:
    """Remove the model versions and logged models beyond the newest ``keep_models`` that nothing names.

    A version stays while an alias, the settings or an experiment file name it, while it serves, or while it is a predecessor that
    a rollback could reach. Artifacts are
    removed as well: through a tracking server where there is one, whose own ``mlflow gc`` then finds only rows; else, with
    the rows, by ``mlflow gc`` on this machine's database.

    Returns:
        ``versions`` and ``models`` removed.
    """
    from model_registry.store import experiment_name, open_registry
    from serving.models import served_versions

    models = open_registry(settings)
    client, name = models.client, models.name
    versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: int(v.version), reverse=True)
    named = {str(v) for m in client.search_registered_models(f"name = '{name}'") for v in m.aliases.values()}
    tags = {str(v.version): v.tags for v in versions}
    named |= {meant for model in named_models(settings) if (meant := models.resolve(model))}
    named |= served_versions(settings).keys() | _way_back(models, tags)
    old = [v for v in versions[settings.keep_models :] if str(v.version) not in named]
    for version in old:
        client.delete_model_version(name, str(version.version))
        shutil.rmtree(settings.training_dir / "versions" / str(version.version), ignore_errors=True)
    gone = {str(v.version) for v in old}
    used = {str(v.source).rsplit("/", 1)[-1] for v in versions if str(v.version) not in gone}  # models:/<logged model>
    unused: list[LoggedModel] = []
    for variant in settings.variants:
        experiment = client.get_experiment_by_name(experiment_name(settings, variant))
        if experiment is None:
            continue
        logged_models = client.search_logged_models([experiment.experiment_id], max_results=5000)
        logged = sorted(logged_models, key=lambda m: (m.creation_timestamp, m.model_id), reverse=True)
        unused += [m for m in logged[settings.keep_models :] if m.model_id not in used]
    on_server = settings.tracking_uri.startswith("http")
    for model in unused:
        if on_server:
            _delete_artifacts(model)
        client.delete_logged_model(model.model_id)
    if unused and not on_server:
        _collect(settings, [model.model_id for model in unused])
    log.info("retired %d model versions and %d logged models", len(old), len(unused))
    return {"versions": len(old), "models": len(unused)}


def _way_back(models: Registry, tags: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Predecessors of the champion that rollbacks could reach, one after the other.

    Args:
        models: the registered model.
        tags: of each of its versions.
    """
    champion, reached = models.get(CHAMPION), set[str]()
    version = str(champion.version) if champion else ""
    while (version := tags.get(version, {}).get(PREDECESSOR, "")) and version not in reached:
        reached.add(version)
    return reached


def retire_state(settings: Settings) -> dict[str, int]:
    """Remove samples, predictions, states, changes of features and served requests older than ``keep_days``.

    What closed days add to an experiment goes when the experiment ended before that, or has no file any more. Days count
    back from the clocks' hour, not from the wall clock: a log of last year keeps as much as a live one. The newest state of
    a variant, what it builds on, and all events stay.

    Returns:
        Folders and files removed of each kind.
    """
    clock = ClockState(settings, EventStore(settings.events_dir))
    if not settings.keep_days or clock.as_of is None:
        return {}
    cutoff = clock.as_of - 24 * settings.keep_days
    kinds = {
        "samples": settings.training_dir.glob("samples/hour=*"),
        "predictions": settings.training_dir.glob("predictions/*/*.parquet"),
        "served": served_hours(settings),
    }
    removed = {kind: _remove(paths, cutoff) for kind, paths in kinds.items()}
    removed["states"] = 0
    for variant in settings.variants:
        states = StateStore(settings.training_dir / "states", variant)
        removed["states"] += states.remove(hour for hour in states.hours()[:-1] if hour < cutoff)
    removed["changes"] = clock.retire(cutoff)
    removed["experiments"] = _retire_experiment_days(settings, cutoff)
    log.info("older than %s: removed %s", cutoff, ", ".join(f"{n} {kind}" for kind, n in removed.items()))
    return removed


def _retire_experiment_days(settings: Settings, cutoff: Hour) -> int:
    files = find_experiments(settings.experiments_dir)
    folders = [path for path in settings.experiment_days_dir.glob("*") if not _runs(files.get(path.name), cutoff)]
    for folder in folders:
        with exclusive_lock(folder / ".lock"):
            shutil.rmtree(folder)
    return len(folders)


def _runs(experiment: Path | None, cutoff: Hour) -> bool:
    """Whether an experiment has a file and has not ended before ``cutoff``; one whose file is wrong may be put right."""
    if experiment is None:
        return False
    try:
        end = load_experiment(experiment).end_hour
    except ConfigError:
        return True
    return end is None or end >= cutoff


def _remove(paths: Iterable[Path], cutoff: Hour) -> int:
    """Remove those of files and folders named by hour that are before ``cutoff``; with its last file goes a file's folder."""
    old = [path for path in paths if Hour.parse(path.name.removeprefix("hour=").split(".")[0]) < cutoff]
    for path in old:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            remove_files([path], path.parent.parent)
    return len(old)


def _delete_artifacts(model: LoggedModel) -> None:
    """Remove a logged model's artifacts from where the tracking server keeps them."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from requests import RequestException

    try:
        get_artifact_repository(model.artifact_location).delete_artifacts()
    except (MlflowException, RequestException, OSError) as error:  # the next day's run does not see it again: say where
        log.warning("the artifacts of logged model %s stay in %s: %s", model.model_id, model.artifact_location, error)


def _collect(settings: Settings, models: list[str]) -> None:
    """Remove the rows and artifacts of deleted logged models, as ``mlflow gc`` does; without its start of seconds."""
    from click import ClickException
    from mlflow.cli import gc
    from mlflow.exceptions import MlflowException

    uri = settings.tracking_uri
    options = ["--backend-store-uri", uri, "--tracking-uri", uri, "--logged-model-ids", ",".join(models)]
    try:
        with redirect_stdout(io.StringIO()):
            gc.main(options, standalone_mode=False)
    except (MlflowException, ClickException, OSError) as error:
        log.warning("mlflow gc left the artifacts of %d models: %s", len(models), error)
