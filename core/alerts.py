"""Alerts to whoever is on call: one JSON message posted to a webhook, if the settings name one."""

from __future__ import annotations

import json
import logging
import urllib.request
from http.client import HTTPException
from typing import Any

from core.settings import Settings

log = logging.getLogger("core.alerts")

TIMEOUT_SECONDS = 10


def send_alert(settings: Settings, title: str, **details: Any) -> bool:
    """Post an alert; never raises, so that a broken webhook breaks nothing else.

    Args:
        settings: name the webhook and the source.
        title: what happened, in one line.
        details: values that go with it, as JSON; what JSON lacks is written as text.

    Returns:
        Whether the webhook accepted it; False if the settings name none.
    """
    log.warning("alert: %s %s", title, details)
    if not settings.alert_webhook:
        return False
    body = json.dumps({"title": title, "source": settings.source, "details": details}, default=str).encode()
    try:
        request = urllib.request.Request(  # noqa: S310 # nosec B310
            settings.alert_webhook, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 # nosec B310
            return bool(response.status < 300)
    except (OSError, ValueError, HTTPException) as error:  # the last two: no address, and no HTTP from the server
        log.warning("the alert could not be delivered: %s", error)
        return False
