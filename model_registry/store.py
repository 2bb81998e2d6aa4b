"""Where MLflow is: its client, the names of the source's experiments and model, the files of a version."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from core.environment import QUIET_MLFLOW
from core.errors import NotReadyError
from core.files import exclusive_lock, replaced_directory, scratch_directory
from core.settings import Settings
from model_registry.registry import Registry

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVICE_USER = "interest-clock"
"""The platform's own login at a tracking server that wants one."""
HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""Seconds of patience with a tracking server, not MLflow's minutes: the task that asks is retried as a whole."""


def model_name(settings: Settings) -> str:
    """Name of the registered model of a source."""
    return f"{settings.source}-ranker"


def experiment_name(settings: Settings, variant: str) -> str:
    """Name of a variant's MLflow experiment."""
    return f"{settings.source}/{variant}"


def open_mlflow(settings: Settings) -> MlflowClient:
    """A client on the settings' tracking store, which is created here, once, if it is a new file.

    Raises:
        NotReadyError: the tracking server does not answer.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, value in {**QUIET_MLFLOW, **HTTP}.items():
        os.environ.setdefault(name, value)
    if settings.in_production:
        os.environ["MLFLOW_TRACKING_USERNAME"] = SERVICE_USER
        os.environ["MLFLOW_TRACKING_PASSWORD"] = settings.secret("mlflow_service")
    import mlflow
    from mlflow.exceptions import MlflowException

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.WARNING)
    (settings.workspace / "mlflow").mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(settings.workspace / "mlflow" / ".lock"):
            _create_store(settings)  # before there is a client: its constructor would make the store in place
            client = mlflow.MlflowClient(settings.tracking_uri)
            mlflow.set_tracking_uri(settings.tracking_uri)
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise NotReadyError(
            f"MLflow at {settings.tracking_uri} does not answer ({error}); start it, then retry"
        ) from None
    return client


def _create_store(settings: Settings) -> None:
    """Make a new SQLite store in a separate folder, then move it: a crash leaves no half-migrated one.

    The folder is emptied first: a journal left by a killed process would be applied to the new file.
    """
    prefix = "sqlite:///"
    path = Path(settings.tracking_uri.removeprefix(prefix))
    if not settings.tracking_uri.startswith(prefix) or path.exists():
        return
    import mlflow

    with scratch_directory(path.parent / "new") as folder:
        half = folder / path.name
        mlflow.MlflowClient(f"{prefix}{half}").search_experiments(max_results=1)
        half.replace(path)


def open_registry(settings: Settings) -> Registry:
    """The registered model of the source."""
    return Registry(open_mlflow(settings), model_name(settings), moves_file(settings))


def moves_file(settings: Settings) -> Path:
    """The audit trail of the registered model's aliases."""
    return settings.workspace / "registry" / "moves.jsonl"


def download_version(settings: Settings, version: str) -> Path:
    """The state folder of a registered version, downloaded once.

    Raises:
        NotReadyError: the version or its artifacts do not exist.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    open_mlflow(settings)
    target = settings.training_dir / "versions" / version
    uri = f"models:/{model_name(settings)}/{version}"
    if not target.exists():
        try:
            with replaced_directory(target) as folder:
                download_artifacts(uri, dst_path=str(folder))
        except (MlflowException, OSError) as error:
            raise NotReadyError(
                f"version {version} of {model_name(settings)} has no usable artifacts: {error}"
            ) from None
    state = downloaded_version(settings, version)
    if state is None:
        raise NotReadyError(f"version {version} of {model_name(settings)} holds no trained state; register another")
    return state


def downloaded_version(settings: Settings, version: str) -> Path | None:
    """The state folder of a registered version that was downloaded before, without asking MLflow; None where it was not."""
    states = list((settings.training_dir / "versions" / version).rglob("state.json"))
    return states[0].parent if states else None
