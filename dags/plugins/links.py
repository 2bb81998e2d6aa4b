"""Links from the Airflow UI to MLflow, Feast, the experiments and all report pages, and the pages themselves."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from airflow.plugins_manager import AirflowPlugin

from core.settings import REPORTS_PREFIX, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

_SETTINGS = load_settings()


def _pages() -> dict[str, str]:
    live, in_production = _SETTINGS.live_reports_url, _SETTINGS.in_production
    mlflow = f"{_SETTINGS.public_url}/mlflow" if in_production else f"http://127.0.0.1:{_SETTINGS.mlflow_port}"
    links = {
        "Reports": f"{live}/index.html", "Experiments": f"{live}/ab/index.html", "Clock of a user": _SETTINGS.clock_lookup_url,
        "MLflow": f"{mlflow}/",
    }  # fmt: skip
    return links if in_production else {**links, "Feast": f"http://127.0.0.1:{_SETTINGS.feast_port}/"}


class ReportPages:
    """The report pages as an ASGI application, made at the first request.

    Every process of Airflow reads this file, and only its server has to import what answers.
    """

    @cached_property
    def _app(self) -> FastAPI:
        from operations.report_server import make_app

        return make_app(_SETTINGS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class PlatformLinks(AirflowPlugin):
    """Entries in the navigation. They open beside Airflow: a page in a frame of it could not follow links with the reader's login."""

    name = "interest_clock_links"
    external_views = [  # noqa: RUF012 (Airflow's own attribute)
        {"name": name, "href": href, "destination": "nav"} for name, href in _pages().items()
    ]
    fastapi_apps = [  # noqa: RUF012
        {"app": ReportPages(), "url_prefix": REPORTS_PREFIX, "name": "Interest Clock reports"}
    ]
