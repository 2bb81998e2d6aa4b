"""What the DAG files share: assets, the hour of a run, retries that tell transient from permanent errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import (
    Asset,
    CronPartitionTimetable,
    ExceptionRetryPolicy,
    Param,
    PartitionedAssetTimetable,
    PartitionedAtRuntime,
    RetryAction,
    RetryRule,
    StartOfHourMapper,
    get_current_context,
)
from airflow.sdk.bases.decorator import task_decorator_factory
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowSkipException

from core.alerts import send_alert
from core.errors import ConfigError, CorruptStateError, DataError, NotReadyError
from core.hours import Hour
from core.settings import Settings, load_settings
from dags.links import StepOperator

if TYPE_CHECKING:
    from pipeline.due import Step

log = logging.getLogger("dags")

HOUR_PATTERN = r"^(\d{4}-\d{2}-\d{2}T\d{2})?$"
HOUR_FORMAT = "%Y-%m-%dT%H"
RUN_ID_HOUR = re.compile(r"(?:.*__)?(\d{4}-\d{2}-\d{2}T\d{2})")
"""A run id that names an hour: ``2026-11-23T10``, or anything with ``__2026-11-23T10`` at its end."""
STEPS: dict[str, Step] = {
    "ingest_hour": "ingest",
    "materialize_clock": "clocks",
    "train_ranker": "training",
    "promote_ranker": "promotion",
}
"""Hourly DAG → its step of ``pipeline.due``."""
RECENT_EVENTS = 24 * 90
"""Asset events that are looked through for an hour's earlier announcement."""

EVENTS = Asset("events", uri="clock://events", group="hourly")
CLOCKS = Asset("clocks", uri="clock://clocks", group="hourly")
STATES = Asset("ranker_states", uri="clock://ranker_states", group="hourly")
CHAMPION = Asset("champion", uri="clock://champion", group="hourly")

RETRY = ExceptionRetryPolicy(
    rules=[
        RetryRule(NotReadyError, action=RetryAction.RETRY, reason="something that this step needs does not exist yet"),
        RetryRule([ConfigError, DataError, CorruptStateError], action=RetryAction.FAIL,
                  reason="retrying does not help: see the message"),
    ]
)  # fmt: skip


def step(**arguments: Any) -> Any:
    """Decorator of a task whose result is one XCom: of a dict Airflow would push every key, with a request each."""
    return task_decorator_factory(multiple_outputs=False, decorated_operator_class=StepOperator, **arguments)


def notify_failure(context: Any) -> None:
    """Alert that a task failed for good. Called by Airflow with the task's context."""
    ti, run = context["ti"], context["dag_run"]
    send_alert(
        load_settings(),
        f"{ti.dag_id}.{ti.task_id} failed",
        run=run.run_id,
        hour=run.partition_key or (context.get("params") or {}).get("hour"),
        error=str(context.get("exception", ""))[:500],
    )


def notify_deadline(dag: str, context: Any = None) -> None:
    """Alert that a run is late. Called by Airflow when the deadline passes."""
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


def _retry_arguments() -> dict[str, Any]:
    """How often a step is tried again.

    On one person's machine, what is missing after a minute needs that person. In production a database may move to
    another machine, so a step is retried for 25 minutes.
    """
    settings = load_settings()
    first = timedelta(seconds=settings.retry_seconds)
    if not settings.in_production:
        return {"retries": 3, "retry_delay": first}
    longest = timedelta(minutes=5)
    return {"retries": 8, "retry_delay": first, "retry_exponential_backoff": 2.0, "max_retry_delay": longest}


DEFAULTS: dict[str, Any] = {
    **_retry_arguments(),
    "retry_policy": RETRY,
    "on_failure_callback": notify_failure,
}


def ingest_schedule() -> Any:
    """Five past every hour for the hour before (``CLOCK_LIVE=true``); else a run is triggered and names its hour."""
    if load_settings().live:
        return CronPartitionTimetable("5 * * * *", timezone="UTC", run_offset=-1, key_format=HOUR_FORMAT)
    return PartitionedAtRuntime()


def hourly(asset: Asset) -> PartitionedAssetTimetable:
    """A run for every hour of an asset; Airflow refuses a partition key that is not an hour when the run is triggered."""
    mapper = StartOfHourMapper(input_format=HOUR_FORMAT, output_format=HOUR_FORMAT)
    return PartitionedAssetTimetable(assets=asset, default_partition_mapper=mapper)


def hour_param(text: str) -> Param:
    """A field of the trigger form for an hour; empty means the next hour that is due.

    The form shows no hour as its default: Airflow fixes a form's defaults when it reads the DAG's file, and each other
    default would be another version of the DAG.
    """
    empty = "Empty: the next hour that is due when the run starts; the run's log names it."
    return optional_param("Hour (UTC)", HOUR_PATTERN, f"{text} Form: 2026-11-23T10. {empty}")


def optional_param(title: str, pattern: str, description: str) -> Param:
    """A text field of a trigger form that may stay empty."""
    return Param(None, type=["null", "string"], pattern=pattern, title=title, description=description)


def settings_and_hour(*, announce: bool = True) -> tuple[Settings, Hour]:
    """The platform's settings and the hour that the running task works on.

    The hour is the run's partition, the hour of the form, or the hour in the run's id; with none of them, the next hour
    that is due, which the run then keeps. It becomes the partition of the assets that the task updates, so
    whatever follows in the chain runs for it.

    Args:
        announce: off: the task says itself which partitions of its assets it updates.

    Raises:
        ConfigError: what the run was given is not an hour, or names two.
        NotReadyError: no hour was given and none is due.
    """
    context, settings = get_current_context(), load_settings()
    key = _named_hour(context)
    hour = Hour.parse(key) if key else _due_hour(settings, context["dag_run"].dag_id, context["dag_run"].run_id)
    log.info("this run works on the hour %s", hour)
    for asset in context["task"].outlets if announce else ():
        context["outlet_events"][asset].add_partitions(hour.key)
    return settings, hour


def announce_day(asset: Asset, settings: Settings, hour: Hour) -> None:
    """Announce the hours of an hour's day that are through to the day's report, each once.

    The report waits for 24 hours. It would never start if it waited for hours that were built in bulk, so they are announced with
    the first hour of their day that runs. It would wait for 23 others if a run that is cleared announced its hour again, so
    that run ends as skipped.

    Args:
        asset: an inlet and an outlet of the task.
        settings: of the workspace.
        hour: that the running task works on.

    Raises:
        AirflowSkipException: earlier runs announced all of them.
    """
    from pipeline.due import hours_through

    context = get_current_context()
    events = context["inlet_events"][asset].ascending(False).limit(RECENT_EVENTS)
    announced = {event.partition_key for event in events}
    keys = [h.key for h in hours_through(settings, hour.day) if h.key not in announced]
    if not keys:
        raise AirflowSkipException(f"done; an earlier run announced {hour} to the day's report")
    context["outlet_events"][asset].add_partitions(keys)


def _named_hour(context: Mapping[str, Any]) -> str | None:
    """The hour that a run was given, as it was written; None if it was given none."""
    run = context["dag_run"]
    form = (context.get("params") or {}).get("hour")
    if form and run.partition_key and form != run.partition_key:
        raise ConfigError(f"this run was given two hours: the partition key {run.partition_key} and the form's {form}")
    named = RUN_ID_HOUR.fullmatch(run.run_id)
    return run.partition_key or form or (named.group(1) if named else None)


def _due_hour(settings: Settings, dag_id: str, run_id: str) -> Hour:
    """The next hour due at a DAG's step, chosen once for a run: its other tasks, retries and clearings keep it."""
    from core.files import exclusive_lock, read_json, write_json
    from pipeline.due import next_due_hour

    path = settings.workspace / "airflow" / "hours" / dag_id / f"{quote(run_id, safe='')}.json"
    with exclusive_lock(path.parent / ".lock"):
        if not path.exists():
            write_json(path, {"hour": next_due_hour(settings, STEPS[dag_id]).key})
        return Hour.parse(read_json(path)["hour"])
