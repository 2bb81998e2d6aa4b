"""The main job: history in bulk, hours through real Airflow, the daily reports, and a summary."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from clock.demo_summary import DemoSummary, summarize
from core.documents import JsonObject
from core.errors import ConfigError
from core.files import read_json, write_json
from core.hours import Hour, hour_range
from core.progress import STAGE, log_to
from core.settings import Settings, load_settings
from events.log_files import find_files
from events.log_paths import is_remote
from events.mapping import load_mapping
from events.remote_log import some_files
from model_registry.registry import CHAMPION
from model_registry.store import open_registry
from operations.airflow_api import AirflowApi
from operations.airflow_driver import HOURLY, report_days, run_hours, start_airflow
from operations.processes import is_left_running, left_running, log_folder, with_free_ports
from operations.services import airflow_services, migrate_airflow
from pipeline.history import build_history
from pipeline.source import Source, end_of_log, load_source, save_app_source, save_source
from serving.routing import load_routes

log = logging.getLogger("clock.demo")


@dataclass(frozen=True)
class DemoPlan:
    """Which hours a demo runs how, kept in the workspace so that a second run continues the first.

    Attributes:
        takeover: first hour that runs through Airflow; the hours before it are built in bulk.
        end: hour after the last one.
        history: what building the history led to, None before it is built.
    """

    takeover: Hour
    end: Hour
    history: JsonObject | None = None

    @classmethod
    def read(cls, path: Path) -> DemoPlan:
        """The plan as ``write`` left it."""
        content = read_json(path)
        return cls(Hour.parse(content["takeover"]), Hour.parse(content["end"]), content.get("history"))

    def write(self, path: Path) -> None:
        """Keep the plan."""
        write_json(path, {"takeover": self.takeover.key, "end": self.end.key, "history": self.history})


def run_demo(source: str, data: str | None, hours: int, *, fresh: bool) -> DemoSummary:
    """Run the main job on a source.

    Args:
        source: ``simulator``, or the name of a mapping, built in or written for the log.
        data: log of the source; the simulated app needs none.
        hours: hours to run through Airflow.
        fresh: remove the workspace first; otherwise an existing one is continued.

    Returns:
        The summary, also written to ``<var>/demo/summary.json``.
    """
    begun = time.monotonic()
    settings = load_settings(source=source)
    settings = load_settings(source=source, **with_free_ports(settings))
    if hours < 1:
        raise ConfigError(f"--hours {hours}: at least one hour has to run through Airflow")
    if fresh or not _plan_file(settings).exists():
        _check_log(settings, data)
    if fresh and (names := left_running(settings)):
        raise ConfigError(f"{', '.join(names)} run on {settings.workspace}; 'clock down' first, or leave --fresh out")
    if fresh and settings.workspace.exists():
        log.info("removing %s", settings.workspace)
        shutil.rmtree(settings.workspace)
    plan = _plan(settings, data, hours)
    log_to(log_folder(settings) / "demo.log")
    log.info("source %s: history before %s, then %d hours through Airflow", settings.source, plan.takeover.key, hours)
    takeover, end = plan.takeover, plan.end
    migration = threading.Thread(target=_migrate_unless_running, args=(settings,), daemon=True)
    migration.start()
    if not plan.history:
        replace(plan, history=build_history(settings, takeover).as_json()).write(_plan_file(settings))
    if load_source(settings).simulated:
        from simulation.workspace import planted_end, write_experiment, write_served_experiment

        write_experiment(settings, planted_end(settings, takeover))
        write_served_experiment(settings, takeover)
    migration.join()
    with ExitStack() as stack:
        log.info("starting Airflow", extra=STAGE)
        api = start_airflow(settings, stack)
        log.info("%d hours through Airflow", end.number - takeover.number, extra=STAGE)
        if load_source(settings).simulated:
            live_hours(settings, api, takeover, end, stack)
        else:
            run_hours(api, takeover, end)
        log.info("daily reports", extra=STAGE)
        report_days(api, {takeover.day.isoformat(), (end - 1).day.isoformat()})
        counts = api.count_runs([*HOURLY, "report_day"])
        log.info("stopping Airflow and reading back what the stores hold", extra=STAGE)
    summary = summarize(settings, takeover, end, counts, time.monotonic() - begun)
    write_json(settings.var / "demo" / "summary.json", summary.as_json())
    return summary


def _migrate_unless_running(settings: Settings) -> None:
    if not all(is_left_running(settings, service) for service in airflow_services(settings)):
        migrate_airflow(settings)


def _plan_file(settings: Settings) -> Path:
    return settings.workspace / "demo.json"


def _check_log(settings: Settings, data: str | None) -> None:
    """Fail if a log does not exist, before anything is removed or written."""
    if settings.source == "simulator":
        if data:
            raise ConfigError(
                "the simulated app writes its own log; give --source, the name of the log's mapping, with --data"
            )
        return

    load_mapping(settings.source)
    if not data:
        raise ConfigError(f"the source '{settings.source}' needs its log: --data PATH (of make demo: DATA=PATH)")
    if is_remote(data):
        some_files(data)
    else:
        find_files([data])


def _plan(settings: Settings, data: str | None, hours: int) -> DemoPlan:
    """Which hours are built in bulk and which run through Airflow; kept, so that a second run continues the first."""
    path = _plan_file(settings)
    if path.exists():
        if data and Path(data).resolve() not in {Path(p).resolve() for p in load_source(settings).paths}:
            raise ConfigError(
                f"{settings.workspace} holds another log than {data}; start over with FRESH=1, or set CLOCK_VAR"
            )
        plan = DemoPlan.read(path)
        return replace(plan, end=max(plan.end, plan.takeover + hours))
    if settings.source == "simulator":
        save_app_source(settings)
        end = end_of_log(settings)
    else:
        save_source(settings, Source(settings.source, (data,) if data else ()))
        end = end_of_log(settings)
    plan = DemoPlan(end - hours, end)
    plan.write(path)
    return plan


def live_hours(settings: Settings, api: AirflowApi, first: Hour, end: Hour, stack: ExitStack) -> None:
    """Simulate hours [first, end): the ranking service ranks for people, and Airflow ingests their log.

    Each hour is ranked by the models and on the features that the previous hour led to. An hour whose log exists
    is not simulated again.
    """
    from closed_loop.traffic import HttpRanker, World, http_ranker
    from simulation.workspace import app_log

    models = open_registry(settings)
    written = app_log(settings)
    client: HttpRanker | None = None
    for hour in hour_range(first, end):
        champion = models.get(CHAMPION)
        if champion is None:
            log.warning("there is no champion: the app ranks hour %s by its own policy", hour)
        elif not written.log_file(hour).exists():
            if client is None:
                client = stack.enter_context(http_ranker(written.app, settings))
            world = World(written, settings.workspace / "visits.npz", hour)
            if world.next != hour:
                world.state.unlink()
                world = World(written, world.state, hour)
            routed = {name: models.get(name) for name in load_routes(settings)[0].models(hour.start)}
            # Every arm's: who is ranked by which version must not depend on when the service looks for a new one.
            client.wait(hour, {name: str(version.version) for name, version in routed.items() if version is not None})
            client.answers.clear()
            world.simulate_hour(client)
            log.info("hour %s: people asked for %d slates over HTTP (%s)", hour, sum(client.answers.values()),
                     ", ".join(f"{count} {what}" for what, count in sorted(client.answers.items())))  # fmt: skip
        run_hours(api, hour, hour + 1, done=hour.number - first.number, total=end.number - first.number)
