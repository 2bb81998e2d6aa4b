"""``make up`` and ``make down``: the whole local platform, left running."""

from __future__ import annotations

from core.settings import Settings
from operations.processes import start, stop
from operations.services import (
    airflow_services,
    feast_ui_service,
    has_feature_store,
    migrate_airflow,
    page_services,
    serving_service,
    streaming_service,
)
from pages.index import write_index


def up(settings: Settings) -> None:
    """Start Airflow, the UIs of MLflow and Feast, the report pages and the ranking service; say where they are."""
    migrate_airflow(settings)
    write_index(settings)
    services = [*page_services(settings), *airflow_services(settings), serving_service(settings)]
    if has_feature_store(settings):
        services.append(feast_ui_service(settings))
        feast = f"http://127.0.0.1:{settings.feast_port}"
    else:
        feast = "not started: no features yet; run 'clock up' again after the first hour"
    if settings.streaming:
        services.append(streaming_service(settings))
    start(settings, services)
    print(
        f"Airflow   http://127.0.0.1:{settings.airflow_port}\n"
        f"MLflow    http://127.0.0.1:{settings.mlflow_port}\n"
        f"Feast     {feast}\n"
        f"Reports   http://127.0.0.1:{settings.reports_port}\n"
        f"Ranking   http://127.0.0.1:{settings.serving_port}/docs\n"
        + ("Lane      follows the log; 'clock stream status' shows how far it is\n" if settings.streaming else "")
        + f"Logs in {settings.workspace / 'logs'}; 'make down SOURCE={settings.source}' stops everything."
    )


def down(settings: Settings) -> None:
    """Stop what ``up`` started."""
    stopped = stop(settings)
    print(f"stopped {', '.join(stopped)}" if stopped else f"nothing of '{settings.source}' was running")
