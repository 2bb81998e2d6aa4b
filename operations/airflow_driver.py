"""Hours and days of work through a running Airflow: start it, trigger runs, wait until they are through."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from core.errors import NotReadyError
from core.hours import Hour, hour_range
from core.progress import step
from core.settings import Settings
from operations.airflow_api import AirflowApi
from operations.processes import require_running, running, wait_for
from operations.services import airflow_services

log = logging.getLogger("operations.airflow_driver")

HOURLY = ("ingest_hour", "materialize_clock", "train_ranker", "promote_ranker")
HOUR_TIMEOUT_SECONDS = 600


def start_airflow(settings: Settings, stack: ExitStack) -> AirflowApi:
    """Airflow, whose database is ready, with every DAG read, running until the stack closes."""
    stack.enter_context(running(settings, airflow_services(settings)))
    api = AirflowApi(settings)
    wait_for(lambda: {*HOURLY, "report_day"} <= api.dag_ids(), "Airflow to read the DAGs")
    if errors := api.import_errors():
        raise NotReadyError(f"Airflow cannot read {errors[0].filename}: {errors[0].stack_trace.splitlines()[-1]}")
    return api


def run_hours(api: AirflowApi, first: Hour, end: Hour, *, done: int = 0, total: int = 0) -> None:
    """Trigger the ingestion of hours [first, end) and wait until each went all the way.

    Hours that Airflow finished before are not triggered again.

    Args:
        api: of the running Airflow.
        first: hour.
        end: hour after the last one.
        done: hours of the whole job that are through already, to say how far it is.
        total: hours of the whole job; 0: these.
    """
    hours = list(hour_range(first, end))
    total = total or len(hours)
    triggered = {r.partition_key for r in api.runs("ingest_hour") if r.state != "failed"}
    for hour in hours:
        if hour.key not in triggered:
            api.trigger("ingest_hour", partition=hour.key)
    for number, hour in enumerate(hours, done + 1):
        begun = time.monotonic()
        _wait(api, partial(_through, api, hour), f"hour {hour} to run through Airflow")
        seconds = time.monotonic() - begun
        log.info(
            "hour %s went through Airflow (%d of %d, %.0f s)", hour, number, total, seconds, extra=step(number, total)
        )


def _through(api: AirflowApi, hour: Hour) -> bool:
    """Whether every DAG of the hour succeeded; a failed run raises with what to do."""
    runs = [run for run in api.runs(*HOURLY) if run.partition_key == hour.key]
    through = True
    for dag_id in HOURLY:
        states = [run.state for run in runs if run.dag_id == dag_id]
        if "failed" in states and "success" not in states:
            raise NotReadyError(
                f"{dag_id} failed for hour {hour}; look at its task's log in Airflow ('clock up'), repair the cause, "
                "clear the run, or run 'clock demo' again"
            )
        through &= "success" in states
    return through


def report_days(api: AirflowApi, days: set[str]) -> None:
    """Run the daily reports of days that may not be over, and wait for those that Airflow starts by itself."""
    for number, day in enumerate(sorted(days), 1):
        run = api.trigger("report_day", conf={"day": day})
        _wait(api, partial(_ended, api, run), f"the reports of {day}")
        log.info("reports of %s are written", day, extra=step(number, len(days)))
    _wait(
        api,
        lambda: all(run.state in {"success", "failed"} for run in api.runs("report_day")),
        "the reports of whole days",
    )


def _wait(api: AirflowApi, check: Callable[[], bool], what: str) -> None:
    """Wait for work of Airflow, as long as what does it runs."""

    def done() -> bool:
        require_running(api.settings)
        return check()

    wait_for(done, what, HOUR_TIMEOUT_SECONDS)


def _ended(api: AirflowApi, run_id: str) -> bool:
    state = api.state("report_day", run_id)
    if state == "failed":
        raise NotReadyError(f"report_day failed ({run_id}); look at its tasks' logs in Airflow ('clock up')")
    return state == "success"
