"""Links from the Airflow UI to MLflow, Feast, the experiments and all report pages; in production also the pages themselves."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from core.settings import REPORTS_PREFIX, load_settings

_SETTINGS = load_settings()


def _pages() -> dict[str, str]:
    reports, in_production = _SETTINGS.reports_url, _SETTINGS.in_production
    mlflow = f"{_SETTINGS.public_url}/mlflow" if in_production else f"http://127.0.0.1:{_SETTINGS.mlflow_port}"
    links = {"Reports": f"{reports}/index.html", "Experiments": f"{reports}/ab/index.html", "MLflow": f"{mlflow}/"}
    return links if in_production else {**links, "Feast": f"http://127.0.0.1:{_SETTINGS.feast_port}/"}


def _reports() -> list[dict[str, Any]]:
    if not _SETTINGS.in_production:
        return []  # a file server on loopback has them
    from operations.report_server import make_app

    return [{"app": make_app(_SETTINGS.reports_dir), "url_prefix": REPORTS_PREFIX, "name": "Interest Clock reports"}]


class PlatformLinks(AirflowPlugin):
    """Entries in the navigation."""

    name = "interest_clock_links"
    external_views = [  # noqa: RUF012 (Airflow's own attribute)
        {"name": name, "href": href, "destination": "nav", "url_route": f"clock-{name.lower()}"}
        for name, href in _pages().items()
    ]
    fastapi_apps = _reports()
