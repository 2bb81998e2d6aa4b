"""Old model versions go, those that an alias or a way back names stay."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys

from core.settings import Settings
from evaluation.registry import CHAMPION, PREDECESSOR

log = logging.getLogger("pipeline.retention")


def retire_models(settings: Settings) -> dict[str, int]:
    """Remove the model versions and logged models beyond the newest ``keep_models`` that nothing names.

    A version stays while an alias names it, or while it is a predecessor that a rollback could reach. Where the
    tracking store is a database of this machine its artifacts are removed as well (``mlflow gc``); on a server
    that is left to the server's own ``mlflow gc``.

    Returns:
        ``versions`` and ``models`` removed.
    """
    from pipeline.promotion import registry
    from training.tracking import experiment_name

    models = registry(settings)
    client, name = models.client, models.name
    found = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: int(v.version), reverse=True)
    named = {str(v) for m in client.search_registered_models(f"name = '{name}'") for v in m.aliases.values()}
    tags = {str(v.version): v.tags for v in found}
    champion = models.get(CHAMPION)
    way_back = str(champion.version) if champion else None
    while way_back in tags and (way_back := tags[way_back].get(PREDECESSOR)) and way_back not in named:
        named.add(way_back)
    old = [v for v in found[settings.keep_models :] if str(v.version) not in named]
    for version in old:
        client.delete_model_version(name, str(version.version))
        shutil.rmtree(settings.training_dir / "versions" / str(version.version), ignore_errors=True)
    gone = {str(v.version) for v in old}
    used = {str(v.source).rsplit("/", 1)[-1] for v in found if str(v.version) not in gone}  # models:/<logged model>
    unused = []
    for variant in settings.variants:
        experiment = client.get_experiment_by_name(experiment_name(settings, variant))
        if experiment is None:
            continue
        found_models = client.search_logged_models([experiment.experiment_id], max_results=5000)
        logged = sorted(found_models, key=lambda m: (m.creation_timestamp, m.model_id), reverse=True)
        unused += [m.model_id for m in logged[settings.keep_models :] if m.model_id not in used]
    for model in unused:
        client.delete_logged_model(model)
    if unused and not settings.tracking_uri.startswith("http"):
        _collect(settings, unused)
    log.info("retired %d model versions and %d logged models", len(old), len(unused))
    return {"versions": len(old), "models": len(unused)}


def _collect(settings: Settings, models: list[str]) -> None:
    """Remove the rows and artifacts of deleted logged models."""
    uri = settings.tracking_uri
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--logged-model-ids", ",".join(models)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        log.warning("mlflow gc left the artifacts of %d models: %s", len(models), done.stderr.strip()[-500:])
