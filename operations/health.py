"""Whether a service does its work, asked by container health checks: quick, without Airflow or MLflow imported."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from http.client import HTTPException
from typing import Any

from core.errors import ConfigError, NotReadyError
from core.settings import Settings
from operations.services import mlflow_health
from streaming.status import last_seen

TIMEOUT_SECONDS = 10
LANE_SILENT_SECONDS = 300
"""A lane that has not looked at the log for so long is not well; one look may have much to catch up with."""
AIRFLOW_PARTS = {
    "airflow-scheduler": "scheduler",
    "airflow-dag-processor": "dag_processor",
    "airflow-triggerer": "triggerer",
}


def check(settings: Settings, name: str) -> None:
    """Return if a service is well.

    Raises:
        NotReadyError: it does not answer, or Airflow has not seen its heartbeat.
        ConfigError: there is no such service, or it has no health to ask for.
    """
    platform_parts = {
        "mlflow": mlflow_health(settings),
        "serving": f"http://127.0.0.1:{settings.serving_port}/health",
        "metrics": f"http://127.0.0.1:{settings.metrics_port}/metrics",
        "airflow-api-server": f"http://127.0.0.1:{settings.airflow_port}/api/v2/monitor/health",
    }
    if name in platform_parts:
        fetch(platform_parts[name])
    elif name in AIRFLOW_PARTS:
        status = airflow_health(settings)[AIRFLOW_PARTS[name]]["status"]
        if status != "healthy":
            raise NotReadyError(f"Airflow says that {name} is {status}")
    elif name == "streaming":
        silent = time.time() - last_seen(settings)
        if silent > LANE_SILENT_SECONDS:
            raise NotReadyError(f"the lane has not looked at the log for {silent:.0f} s")
    else:
        raise ConfigError(
            f"no health check for '{name}'; choose from {', '.join([*platform_parts, *AIRFLOW_PARTS, 'streaming'])}"
        )


def airflow_health(settings: Settings) -> dict[str, dict[str, str]]:
    """Airflow's account of its parts, with their last heartbeats; ``NotReadyError`` when something else answers."""
    url = f"{settings.airflow_base}/api/v2/monitor/health"
    try:
        return {part: dict(told) for part, told in json.loads(fetch(url)).items()}
    except (ValueError, TypeError, AttributeError):
        raise NotReadyError(f"what answers at {url} is not Airflow; is CLOCK_AIRFLOW_URL or the port right?") from None


def disk_usage(settings: Settings) -> Any:
    """Total, used and free bytes of the state's disk."""
    return shutil.disk_usage(settings.workspace if settings.workspace.exists() else settings.var.parent)


def fetch(url: str) -> bytes:
    """Body of a page; ``NotReadyError`` when it does not answer with 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 # nosec B310
            return bytes(answer.read())
    except (OSError, ValueError, HTTPException) as error:
        raise NotReadyError(f"{url} does not answer: {error}") from None
