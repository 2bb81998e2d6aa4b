"""Links from the Airflow UI to MLflow, the experiments and all report pages."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from core.settings import load_settings

_SETTINGS = load_settings()


class PlatformLinks(AirflowPlugin):
    """Three entries in the navigation."""

    name = "interest_clock_links"
    external_views = [  # noqa: RUF012 (Airflow's own attribute)
        {
            "name": "Reports",
            "href": f"http://127.0.0.1:{_SETTINGS.reports_port}/",
            "destination": "nav",
            "url_route": "clock-reports",
        },
        {
            "name": "Experiments",
            "href": f"http://127.0.0.1:{_SETTINGS.reports_port}/ab/index.html",
            "destination": "nav",
            "url_route": "clock-experiments",
        },
        {
            "name": "MLflow",
            "href": f"http://127.0.0.1:{_SETTINGS.mlflow_port}/",
            "destination": "nav",
            "url_route": "clock-mlflow",
        },
    ]
