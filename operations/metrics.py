"""What Prometheus reads of a workspace: how fresh events, clocks and models are, and what was decided.

Everything is read from the files and the registry when Prometheus asks: the numbers are true after a restart too, and
whoever writes state need not know of them. Times are seconds since 1970.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ab_analysis.report_file import FINAL, newest_report
from core.errors import NotReadyError, PlatformError
from core.files import read_json
from core.hours import Hour
from core.settings import Settings
from operations.health import AIRFLOW_PARTS, airflow_health, disk_usage
from serving.routing import stopped
from streaming.status import LaneStatus, TrainingStatus, last_seen

log = logging.getLogger("operations.metrics")

ROWS_OF_HOURS = 24
"""Hours whose rows are counted."""


def serve(settings: Settings) -> None:
    """Answer on the settings' port until the process is stopped.

    Raises:
        NotReadyError: the port is taken.
    """
    try:
        start_http_server(settings.metrics_port, addr=settings.bind, registry=make_registry(settings))
    except OSError as error:
        raise NotReadyError(f"port {settings.metrics_port}: {error.strerror}; set CLOCK_METRICS_PORT") from None
    log.info("metrics of %s on %s:%d", settings.source, settings.bind, settings.metrics_port)
    threading.Event().wait()


def make_registry(settings: Settings) -> CollectorRegistry:
    """A registry that reads the workspace at every scrape."""
    registry = CollectorRegistry()
    registry.register(WorkspaceCollector(settings))
    return registry


class WorkspaceCollector(Collector):
    """One group of metrics after the other; a group that cannot be read is missing and counted, the others stand."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        groups: list[Callable[[Settings], list[Metric]]] = [
            _events, _clocks, _states, _champion, _gate, _drift, _experiments, _streaming, _airflow, _disk,
        ]  # fmt: skip
        unread = GaugeMetricFamily("clock_unread", "Groups of metrics that could not be read.", labels=["group"])
        for group in groups:
            begun, name = time.perf_counter(), group.__name__.strip("_")
            try:
                yield from group(self.settings)
                unread.add_metric([name], 0)
            except Exception as error:
                (log.warning if isinstance(error, PlatformError) else log.exception)("%s: %s", name, error)
                unread.add_metric([name], 1)
            log.debug("%s took %.0f ms", name, 1000 * (time.perf_counter() - begun))
        yield unread


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labeled(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _end(hour: Hour | None) -> float:
    """When an hour's data was complete."""
    return (hour + 1).start.timestamp() if hour else 0.0


def _events(settings: Settings) -> list[Metric]:
    from events.store import EventStore, missing_hours

    store = EventStore(settings.events_dir)
    hours = store.hours()
    recent = [store.manifest(hour) for hour in hours[-ROWS_OF_HOURS:]]
    rejected: Counter[str] = Counter()
    for manifest in recent:
        rejected.update(manifest.rejected)
    return [
        _gauge("clock_events_until_seconds", "End of the newest hour of events.", _end(hours[-1] if hours else None)),
        _gauge("clock_events_missing_hours", "Hours missing between the first and the newest.", len(missing_hours(hours))),
        _gauge("clock_events_rows", "Events of the newest 24 hours.", sum(m.rows for m in recent)),
        _gauge("clock_events_duplicates", "Duplicates dropped in them.", sum(m.duplicates for m in recent)),
        _labeled("clock_events_quarantined", "Rows of them in quarantine, by reason.", "reason", dict(rejected)),
    ]  # fmt: skip


def _clocks(settings: Settings) -> list[Metric]:
    from events.store import EventStore
    from feature_repo.clock import ClockState

    at = ClockState(settings, EventStore(settings.events_dir)).as_of
    return [
        _gauge(
            "clock_features_until_seconds", "Hour as of which the clocks stand.", at.start.timestamp() if at else 0.0
        )
    ]


def _states(settings: Settings) -> list[Metric]:
    from training.state import StateStore

    heads = {v: StateStore(settings.training_dir / "states", v).head() for v in settings.variants}
    seen = {v: StateStore(settings.training_dir / "states", v).info(h).samples_seen for v, h in heads.items() if h}
    return [
        _labeled("clock_trained_until_seconds", "End of the last hour trained on.", "variant",
                  {v: _end(h) for v, h in heads.items()}),
        _labeled("clock_samples_seen", "Samples trained on so far.", "variant", {v: float(n) for v, n in seen.items()}),
    ]  # fmt: skip


def _champion(settings: Settings) -> list[Metric]:
    from model_registry.store import open_registry

    models = open_registry(settings)
    champion = models.get("champion")
    if champion is None:
        return [_gauge("clock_champion_version", "Version of the champion; 0: none.", 0)]
    until = _end(models.lineage(champion).hour)
    return [
        _gauge("clock_champion_version", "Version of the champion; 0: none.", float(champion.version)),
        _gauge("clock_champion_trained_until_seconds", "End of the last hour it was trained on.", until),
    ]


def _gate(settings: Settings) -> list[Metric]:
    folder = settings.reports_dir / "gate"
    verdicts = Counter(str(read_json(p)["verdict"]) for p in sorted(folder.glob("*.json"))[-ROWS_OF_HOURS:])
    return [_labeled("clock_gate_verdicts", "Verdicts of the last 24 decisions.", "verdict", dict(verdicts))]


def _drift(settings: Settings) -> list[Metric]:
    days = sorted((settings.reports_dir / "drift").glob("*.json"))
    if not days:
        return []
    drift = read_json(days[-1])
    share = len(drift["drifted"]) / max(1, int(drift["columns"]))
    return [_gauge("clock_drift_share", "Share of columns that drifted on the last day reported.", share)]


def _experiments(settings: Settings) -> list[Metric]:
    verdicts: Counter[str] = Counter()
    harming = 0
    for folder in sorted((settings.reports_dir / "ab").glob("*/")):
        if newest := newest_report(folder):
            decision = read_json(newest)["decision"]
            verdicts[str(decision["verdict"])] += 1
            running = newest.stem != FINAL and stopped(settings, folder.name) is None
            harming += running and bool(decision.get("harmful", decision["verdict"] == "stop"))
    return [
        _labeled("clock_experiments", "Experiments by the verdict of their newest report.", "verdict", dict(verdicts)),
        _gauge("clock_experiments_harming", "Running experiments of which a treatment does harm.", harming),
    ]


def _streaming(settings: Settings) -> list[Metric]:
    seen = last_seen(settings)
    if not seen:
        return []
    status = LaneStatus.read(settings)
    newest = _seconds(status.newest)
    training = status.training or TrainingStatus()
    return [
        _gauge("clock_stream_seen_seconds", "When the lane last looked at the log.", seen),
        _gauge("clock_stream_events", "Events of the running hour that are in the features online.", status.events),
        _gauge("clock_stream_users", "Users whose features online are newer than the clocks.", status.users),
        _gauge("clock_stream_newest_seconds", "Time of the newest event that is in the features online.", newest),
        _gauge("clock_stream_step_seconds", "From the look at the log to the online store, the last time.", status.step_seconds),
        _gauge("clock_stream_problem", "Whether something keeps the lane from going on.", float(bool(status.problem))),
        _gauge("clock_stream_trained_seconds", "Time of the newest sample in the parameters that the lane publishes; 0: none.",
               _seconds(training.trained)),
        _gauge("clock_stream_parameters", "Versions whose parameters the lane publishes.", len(training.parameters)),
        _gauge("clock_stream_withheld", "Versions whose parameters the lane must not publish.", len(training.withheld)),
        _gauge("clock_stream_train_seconds", "From the events to what is published, the last time.", training.train_seconds),
    ]  # fmt: skip


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0


def _airflow(settings: Settings) -> list[Metric]:
    up: dict[str, float] = dict.fromkeys(AIRFLOW_PARTS, 0.0)
    try:
        health = airflow_health(settings)
    except NotReadyError as error:
        log.warning("%s", error)
    else:
        up = {name: float(health[part]["status"] == "healthy") for name, part in AIRFLOW_PARTS.items()}
    return [_labeled("clock_airflow_up", "Whether Airflow saw the part's heartbeat lately.", "part", up)]


def _disk(settings: Settings) -> list[Metric]:
    usage = disk_usage(settings)
    return [
        _gauge("clock_disk_free_bytes", "Free space of the state's disk.", usage.free),
        _gauge("clock_disk_bytes", "Size of the state's disk.", usage.total),
    ]
