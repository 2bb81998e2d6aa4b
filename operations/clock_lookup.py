"""The clock of any user, drawn when somebody who may see it asks: nothing of it is kept, and who looked is in Airflow's audit log.

The id comes in a form's body and goes to the drawing process by its standard input, so that no log of requests and no list of
processes has it. The audit log has its digest, which ``clock forget --digest`` prints.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from typing import Annotated

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_auth_manager
from airflow.models.log import Log
from fastapi import FastAPI, Form, HTTPException
from fastapi.responses import HTMLResponse

from core.cli import EXIT_ERROR, EXIT_RETRY
from core.page_template import render_page
from core.settings import CLOCK_LOOKUP, Settings
from events.forgotten import ForgottenList
from events.ids import ingested_id

log = logging.getLogger("operations.clock_lookup")

RESOURCE = "Interest clocks of users"
"""Airflow's name for the right to see them (``can_read``); roles get it in ``operations.users``."""
AUDIT_EVENT = "clock_of_user"
AT_ONCE, PATIENCE_SECONDS = 2, 60.0
"""Clocks that are drawn at the same time, and how long one may take."""
LONGEST_ID = 200
FORM_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STYLE = "input[name=user] { font: inherit; padding: .2rem .6rem; max-width: 100%; width: 24rem }"
FORM = """
<section>{% if message %}<p class="bad" role="alert">{{ message }}</p>{% endif %}
<form method="post" action="{{ action }}"><p><label for="user">Id of the user, as it stands in the log</label></p>
<p><input id="user" name="user" required maxlength="{{ longest }}" autocomplete="off" autofocus> <button>Draw the clock</button></p></form>
<p class="soft">The page is drawn for you now and is not kept. That you looked, and whose clock, is written to Airflow's audit log.</p>
</section>
"""


class DrawnNothingError(Exception):
    """No page came; the message is for the person who asked.

    Args:
        message: what to tell.
        status: of the HTTP answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def add_clock_lookup(app: FastAPI, settings: Settings, page_headers: dict[str, str]) -> None:
    """Add the form at ``/clock`` and its answer.

    Args:
        app: of the report pages.
        settings: of the workspace.
        page_headers: of every report page; the answer is one.
    """
    places = threading.BoundedSemaphore(AT_ONCE)
    headers = {**page_headers, "Cache-Control": "no-store"}

    @app.get(f"/{CLOCK_LOOKUP}")
    def ask(user: GetUserDep) -> HTMLResponse:
        check_right(user)
        return _form()

    @app.post(f"/{CLOCK_LOOKUP}")
    def draw(
        reader: GetUserDep, session: SessionDep, user: Annotated[str, Form(max_length=LONGEST_ID)] = ""
    ) -> HTMLResponse:
        check_right(reader)
        name = ingested_id(settings.events_dir, "user", user)
        if not name or not name.isprintable():
            return _form("Give the id of a user as it stands in the log.", 422)
        digest = ForgottenList(settings.events_dir).digest(name)
        session.add(Log(event=AUDIT_EVENT, owner=reader.get_name(), extra=json.dumps({"user_digest": digest})))
        session.commit()
        try:
            return HTMLResponse(draw_clock(settings, name, places), headers=headers)
        except DrawnNothingError as error:
            return _form(str(error), error.status)


def check_right(user: GetUserDep) -> None:
    """Answer 403 to somebody whose role may not see clocks of users."""
    if not get_auth_manager().is_authorized_custom_view(method="GET", resource_name=RESOURCE, user=user):
        raise HTTPException(403, "your role may not see the clocks of users")


def draw_clock(settings: Settings, name: str, places: threading.BoundedSemaphore) -> str:
    """The page of a user's clock, from a process that ends with it: the server keeps neither its libraries nor the person's data.

    Args:
        settings: of the workspace.
        name: the user's id in the log.
        places: of those who draw at the same time.

    Raises:
        DrawnNothingError: the user has no clock, or the platform cannot draw now.
    """
    if not places.acquire(blocking=False):
        raise DrawnNothingError("Other clocks are being drawn; try again in some seconds.", 503)
    command = [
        sys.executable,
        "-m",
        "clock",
        "features",
        "page",
        "-",
        "--output",
        "/dev/stdout",
        "--reports",
        ".",
        "--source",
        settings.source,
    ]
    try:
        done = subprocess.run(
            command,
            input=f"{name}\n",
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DrawnNothingError(f"The clock was not drawn within {PATIENCE_SECONDS:g} s.", 503) from None
    finally:
        places.release()
    if done.returncode == 0:
        return done.stdout
    if done.returncode in {EXIT_ERROR, EXIT_RETRY}:
        nobody = f"Nobody with this id has events in the last {settings.window_days} days"
        raise DrawnNothingError(f"{nobody}, or there are no clocks yet.", 404)
    log.error("a clock was not drawn: status %d", done.returncode)  # what it says may name the user
    raise DrawnNothingError("The clock could not be drawn; 'clock features page' in a shell says why.", 500)


def _form(message: str = "", status: int = 200) -> HTMLResponse:
    html = render_page(
        "The clock of a user", FORM, style=STYLE, home="index.html", message=message, action=CLOCK_LOOKUP, longest=LONGEST_ID
    )  # fmt: skip
    return HTMLResponse(html, status_code=status, headers=FORM_HEADERS)
