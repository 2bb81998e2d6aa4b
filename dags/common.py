"""What the DAG files share: assets, the hour of a run, retries that tell transient from permanent errors."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from airflow.sdk import (
    Asset,
    CronPartitionTimetable,
    ExceptionRetryPolicy,
    Param,
    PartitionedAtRuntime,
    RetryAction,
    RetryRule,
    get_current_context,
)
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from core.settings import load_settings

HOUR_PATTERN = r"^(\d{4}-\d{2}-\d{2}T\d{2})?$"
HOUR_FORMAT = "%Y-%m-%dT%H"

EVENTS = Asset("events", uri="clock://events", group="hourly")
CLOCKS = Asset("clocks", uri="clock://clocks", group="hourly")
STATES = Asset("ranker_states", uri="clock://ranker_states", group="hourly")
CHAMPION = Asset("champion", uri="clock://champion", group="hourly")

RETRY = ExceptionRetryPolicy(
    rules=[
        RetryRule("core.errors.NotReadyError", action=RetryAction.RETRY,
                  reason="something this step stands on is not there yet"),
        RetryRule(["core.errors.ConfigError", "core.errors.DataError", "core.errors.CorruptStateError"],
                  action=RetryAction.FAIL, reason="retrying does not help: see the message"),
    ]
)  # fmt: skip


def notify_failure(context: Any) -> None:
    """Alert: a task failed for good. Called by Airflow with the task's context."""
    from core.alerts import send_alert

    ti, run = context["ti"], context["dag_run"]
    send_alert(
        load_settings(),
        f"{ti.dag_id}.{ti.task_id} failed",
        run=run.run_id,
        hour=run.partition_key,
        error=str(context.get("exception", ""))[:500],
    )


def notify_deadline(dag: str, context: Any = None) -> None:
    """Alert: a run is late. Called by Airflow when the deadline passes."""
    from core.alerts import send_alert

    del context
    settings = load_settings()
    send_alert(settings, f"{dag} is not through after {settings.hour_deadline_minutes:g} minutes")


def deadline(dag: str) -> DeadlineAlert:
    """The alert of an hourly DAG that takes longer than the settings allow, counted from when it was queued."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=load_settings().hour_deadline_minutes),
        callback=SyncCallback("dags.common.notify_deadline", kwargs={"dag": dag}),
    )


def _patience() -> dict[str, Any]:
    """How often a step is tried again. On one person's machine what is not there after a minute needs the person; in
    production a database may move to another machine: 25 minutes in all.
    """
    settings = load_settings()
    first = timedelta(seconds=settings.retry_seconds)
    if not settings.in_production:
        return {"retries": 3, "retry_delay": first}
    longest = timedelta(minutes=5)
    return {"retries": 8, "retry_delay": first, "retry_exponential_backoff": 2.0, "max_retry_delay": longest}


DEFAULTS: dict[str, Any] = {
    **_patience(),
    "retry_policy": RETRY,
    "on_failure_callback": notify_failure,
}


def ingest_schedule() -> Any:
    """Five past every hour for the hour before (``CLOCK_LIVE=true``); else a run is triggered with its partition."""
    if load_settings().live:
        return CronPartitionTimetable("5 * * * *", timezone="UTC", run_offset=-1, key_format=HOUR_FORMAT)
    return PartitionedAtRuntime()


def hour_param(text: str) -> Param:
    """A field of the trigger form for an hour; empty means the run's own partition."""
    return Param(
        "",
        type="string",
        pattern=HOUR_PATTERN,
        title="Hour (UTC)",
        description=f"{text} Form: 2026-11-23T10. Leave empty when the run has a partition.",
    )


def run_hour() -> str:
    """Key of the hour that the running task works on: the run's partition, or the form's hour."""
    context = get_current_context()
    key = context["params"].get("hour") or context["dag_run"].partition_key
    if not key or not re.fullmatch(HOUR_PATTERN, key):
        raise ValueError("this run has no hour: trigger it with a partition key or an hour such as 2026-11-23T10")
    return key


def settings_and_hour() -> tuple[Any, Any]:
    """The platform's settings and the run's hour."""
    from core.hours import Hour

    return load_settings(), Hour.parse(run_hour())
