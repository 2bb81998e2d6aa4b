"""Imports what the services import: a build of the image writes its bytecode so, and sees that nothing is missing."""

from __future__ import annotations

import importlib
import os

from core.environment import platform_environment
from core.settings import load_settings
from operations.services import airflow_environment

MODULES = (
    "serving.api", "operations.metrics", "operations.backup", "operations.doctor", "operations.init",  # the platform's services
    "airflow.__main__", "airflow.api_fastapi.main", "airflow.jobs.scheduler_job_runner", "airflow.jobs.triggerer_job_runner",
    "airflow.dag_processing.manager", "airflow.cli.commands.api_server_command", "airflow.sdk.execution_time.task_runner",
    "airflow.providers.celery.executors.celery_executor", "airflow.providers.celery.cli.celery_command",
    "airflow.providers.fab.auth_manager.cli_commands.utils", "airflow.providers.fab.auth_manager.fab_auth_manager",
    "mlflow.server.auth", "mlflow.server.fastapi_app", "mlflow.cli", "mlflow.store.artifact.s3_artifact_repo", "gunicorn.app.wsgiapp",
    "alembic.command", "psycopg", "redis", "uvicorn.workers", "uvloop",
    "altair", "evidently", "plotly.graph_objects", "polars", "sklearn.ensemble", "tea_tasting", "vl_convert",  # reports
    "operations.preload",  # last: it tells the garbage collector to leave alone what is imported
)  # fmt: skip


def import_all() -> None:
    """Import every module of every service into this process."""
    settings = load_settings()
    os.environ.update(platform_environment(settings) | airflow_environment(settings))
    for name in MODULES:
        importlib.import_module(name)


if __name__ == "__main__":
    import_all()
