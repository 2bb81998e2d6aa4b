"""The report pages inside Airflow's API server: only people who are logged in may read them.

The first page then also says what waits for a person in Airflow, as it is when it is asked for.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_auth_manager
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, Response
from sqlalchemy.exc import SQLAlchemyError

from core.page_template import LIVE_BEGIN, LIVE_END, render_part
from core.settings import Settings
from operations.airflow_needs import FAILED_DAYS, AirflowNeed, airflow_needs
from operations.clock_lookup import add_clock_lookup

log = logging.getLogger("operations.report_server")

HEADERS = {
    # A page runs its scripts in a separate origin: whatever a log or a file's name smuggled into a report cannot
    # use the reader's login.
    "Content-Security-Policy": "sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox allow-downloads",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}
NEEDS = """<section class="banner {{ '' if needs else 'calm' }}"><h2>{% if needs %}Airflow: {{ needs|length }}
{{ "thing needs" if needs|length == 1 else "things need" }} a person{% else %}Airflow: nothing waits for a person{% endif %}</h2>
{% if needs %}<dl class="notices">{% for need in needs %}
<dt><a href="{{ need.link }}" target="_blank" rel="noopener">{{ need.subject }}</a></dt>
<dd>{{ need.text }} <span class="soft">{% if need.since %}
since {{ need.since.strftime("%Y-%m-%d %H:%M") }} UTC{% endif %}</span></dd>{% endfor %}</dl>{% endif %}
<p class="soft">Approvals, unreadable files of DAGs, and runs that failed in the last {{ days }} days, as of {{ now }} UTC.
<a href="clock">The clock of any user</a></p></section>"""


def make_app(settings: Settings) -> FastAPI:
    """An application that answers with the files below the reports' folder, and with clocks of users.

    Args:
        settings: of the workspace.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_clock_lookup(app, settings, HEADERS)
    folder, base = settings.reports_dir, settings.public_url or settings.airflow_base

    @app.get("/{path:path}")
    def page(path: str, user: GetUserDep, session: SessionDep) -> Response:
        file = find_page(folder, path)
        if file != (folder / "index.html").resolve():
            return FileResponse(file, headers=HEADERS)
        now = datetime.now(UTC)
        try:
            needs = airflow_needs(session, get_auth_manager().get_authorized_dag_ids(user=user), base, now)
        except SQLAlchemyError as error:  # the page is right without it
            log.warning("Airflow's database was not read for the first page: %s", error)
            return FileResponse(file, headers=HEADERS)
        return HTMLResponse(with_needs(file.read_text(encoding="utf-8"), needs, now), headers=HEADERS)

    return app


def with_needs(page: str, needs: list[AirflowNeed], now: datetime) -> str:
    """The first page with what waits in Airflow, in place of the sentence that says where to see it.

    Args:
        page: the first page as it was written.
        needs: what waits.
        now: when it was looked up.
    """
    section = render_part(NEEDS, needs=needs, days=FAILED_DAYS, now=f"{now:%H:%M}")
    return re.sub(f"{re.escape(LIVE_BEGIN)}.*?{re.escape(LIVE_END)}", lambda _: section, page, count=1, flags=re.DOTALL)


def find_page(folder: Path, path: str) -> Path:
    """A file below ``folder``; 404 for anything else, hidden files and ways out of the folder among it."""
    root = folder.resolve()
    try:
        file = (root / path).resolve()
        if file.is_dir():
            file = file / "index.html"
        inside = file.is_relative_to(root) and file.is_file()
    except (OSError, ValueError):  # a name that is too long or has a null byte
        inside = False
    if not inside or any(part.startswith((".", "_")) for part in file.relative_to(root).parts):
        raise HTTPException(404, "no such report")
    return file
