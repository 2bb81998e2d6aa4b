"""The main job: history in bulk, hours through real Airflow, the daily reports, and a summary."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.documents import JsonObject
from core.errors import ConfigError
from core.files import read_json, write_json
from core.hours import DAY_HOURS, Hour, hour_range
from core.progress import STAGE, log_to
from core.settings import Settings, load_settings
from events.store import EventStore
from model_registry.registry import CHAMPION, Move
from operations.airflow_api import AirflowApi
from operations.airflow_driver import HOURLY, report_days, run_hours, start_airflow
from operations.processes import running, with_free_ports
from operations.services import migrate_airflow, serving_service
from pipeline.history import build_history
from pipeline.source import Source, end_of_log, load_source, save_source

if TYPE_CHECKING:
    from ab_analysis.report_file import ReportedResult
    from evaluation.metrics import MetricValue

log = logging.getLogger("clock.demo")

COMPARISON_DAYS = {"simulator": 7}
DEFAULT_COMPARISON_DAYS = 42


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


@dataclass(frozen=True)
class EventCounts:
    """Rows of the log by what became of them; ``quarantined`` counts those without a readable time too."""

    kept: int
    duplicates: int
    quarantined: int

    @property
    def received(self) -> int:
        """All rows of the log."""
        return self.kept + self.duplicates + self.quarantined


@dataclass(frozen=True)
class Champion:
    """The champion of the registered model ``name``; version and variant are None before the first promotion."""

    name: str
    version: str | None
    variant: str | None


@dataclass(frozen=True)
class MeasuredEffect:
    """An experiment's effect on a metric by the headline method, see ``ab_analysis.results.MetricResult``.

    Attributes:
        true_rel_effect: where the experiment is simulated.
        until: key of the hour of the report.
    """

    method: str
    rel_effect: float
    rel_effect_ci: tuple[float, float]
    effect: float | None
    effect_ci: tuple[float | None, float | None]
    p_value: float | None
    true_rel_effect: float | None
    until: str

    @classmethod
    def of(cls, row: ReportedResult, until: str) -> MeasuredEffect:
        """The effect of a report's headline row, whose lift is known."""
        assert row.lift is not None
        return cls(
            method=row.method, rel_effect=row.lift.effect, rel_effect_ci=(row.lift.low, row.lift.high), effect=row.effect,
            effect_ci=row.effect_ci, p_value=row.p_value, true_rel_effect=row.truth, until=until,
        )  # fmt: skip


@dataclass(frozen=True)
class DemoSummary:
    """What a demo led to; every figure is read back from the stores.

    Attributes:
        hours_bulk, hours_airflow: hours built in bulk, and through Airflow.
        dag_runs: DAG → state → runs.
        feast_online_rows: entities in Feast's online store, -1 where they are not counted.
        promotions: moves of the champion.
        metrics_window: keys of the first hour and of the hour after the last one that ``metrics`` are of.
        metrics: variant → metric → value on its progressive predictions.
        ab: experiment → metric → effect.
        reports: paths of the pages.
        seconds: duration of this run.
    """

    source: str
    hours_bulk: int
    hours_airflow: int
    dag_runs: dict[str, dict[str, int]]
    events: EventCounts
    feast_online_rows: int
    mlflow_runs: int
    champion: Champion
    promotions: tuple[Move, ...]
    metrics_window: tuple[str, str]
    metrics: dict[str, dict[str, MetricValue]]
    ab: dict[str, dict[str, MeasuredEffect]]
    reports: tuple[str, ...]
    seconds: float

    def as_json(self) -> JsonObject:
        """The content of ``summary.json``."""
        content = asdict(self)
        content["events"]["in"] = self.events.received
        return content


def run_demo(source: str, data: str | None, hours: int, *, fresh: bool) -> DemoSummary:
    """Run the main job on a source.

    Args:
        source: ``simulator``, or the name of a mapping, built in or written for the log.
        data: log of the source; the simulated app needs none.
        hours: hours to run through Airflow.
        fresh: remove the workspace first; otherwise what is there is continued.

    Returns:
        The summary, also written to ``<var>/demo/summary.json``.
    """
    begun = time.monotonic()
    settings = load_settings(source=source)
    settings = load_settings(source=source, **with_free_ports(settings))
    if hours < 1:
        raise ConfigError(f"HOURS={hours}: at least one hour has to run through Airflow")
    if fresh or not _plan_file(settings).exists():
        _check_log(settings, data)
    if fresh and settings.workspace.exists():
        log.info("removing %s", settings.workspace)
        shutil.rmtree(settings.workspace)
    plan = _plan(settings, data, hours)
    log_to(settings.workspace / "logs" / "demo.log")
    log.info("source %s: history before %s, then %d hours through Airflow", settings.source, plan.takeover.key, hours)
    takeover, end = plan.takeover, plan.end
    migration = threading.Thread(target=migrate_airflow, args=(settings,), daemon=True)
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
        days = {takeover.day.isoformat(), (end - 1).day.isoformat()}
        if load_source(settings).simulated:
            live_hours(settings, api, takeover, end, stack)
            days.add((takeover - DAY_HOURS).day.isoformat())  # on which the planted experiment ends
        else:
            run_hours(api, takeover, end)
        log.info("daily reports", extra=STAGE)
        report_days(api, days)
        counts = api.count_runs([*HOURLY, "report_day"])
        log.info("stopping Airflow and reading back what the stores hold", extra=STAGE)
    summary = summarize(settings, plan, counts, time.monotonic() - begun)
    write_json(settings.var / "demo" / "summary.json", summary.as_json())
    return summary


def _plan_file(settings: Settings) -> Path:
    return settings.workspace / "demo.json"


def _check_log(settings: Settings, data: str | None) -> None:
    """Fail for a log that is not there, before anything is removed or written."""
    if settings.source == "simulator":
        if data:
            raise ConfigError(
                "the simulated app writes its own log; give --source, the name of the log's mapping, with --data"
            )
        return
    from events.mapping import load_mapping
    from events.readers import find_files

    load_mapping(settings.source)
    if not data:
        raise ConfigError(f"the source '{settings.source}' needs its log: make demo SOURCE={settings.source} DATA=PATH")
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
        from pipeline.source import save_app_source

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

    Each hour is ranked by the models and on the features that the previous hour led to. An hour whose log is
    exists is not simulated again.
    """
    from closed_loop.traffic import HttpRanker, World
    from model_registry.store import open_registry
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
                stack.enter_context(running(settings, [serving_service(settings)]))
                client = HttpRanker(written.app, settings)
                stack.callback(client.close)
            world = World(written, settings.workspace / "visits.npz", hour)
            if world.next != hour:
                world.state.unlink()
                world = World(written, world.state, hour)
            client.wait(hour, {CHAMPION: str(champion.version)})
            client.answers.clear()
            world.simulate_hour(client)
            log.info("hour %s: people asked for %d slates over HTTP (%s)", hour, sum(client.answers.values()),
                     ", ".join(f"{count} {what}" for what, count in sorted(client.answers.items())))  # fmt: skip
        run_hours(api, hour, hour + 1, done=hour.number - first.number, total=end.number - first.number)


def summarize(settings: Settings, plan: DemoPlan, counts: dict[str, dict[str, int]], seconds: float) -> DemoSummary:
    """Summarize the demo; every figure is read back from the stores.

    Args:
        settings: name the workspace.
        plan: of ``_plan``.
        counts: DAG runs by DAG and state.
        seconds: duration of this run.
    """
    from model_registry.store import experiment_name, open_mlflow, open_registry
    from pipeline.reports import variant_metrics

    end = plan.end
    store = EventStore(settings.events_dir)
    manifests = store.manifests()
    rejected = sum(sum(m.rejected.values()) for m in manifests)
    unplaced = sum(_unplaced(settings).values())
    client = open_mlflow(settings)
    experiments = [client.get_experiment_by_name(experiment_name(settings, v)) for v in settings.variants]
    runs = sum(len(client.search_runs([e.experiment_id], max_results=5000)) for e in experiments if e)
    models = open_registry(settings)
    champion = models.get("champion")
    days = COMPARISON_DAYS.get(settings.source, DEFAULT_COMPARISON_DAYS)
    return DemoSummary(
        source=settings.source,
        hours_bulk=len([h for h in store.hours() if h < plan.takeover]),
        hours_airflow=counts["promote_ranker"]["succeeded"],
        dag_runs=counts,
        events=EventCounts(
            kept=sum(m.rows for m in manifests),
            duplicates=sum(m.duplicates for m in manifests),
            quarantined=rejected + unplaced,
        ),
        feast_online_rows=_online_rows(settings),
        mlflow_runs=runs,
        champion=Champion(
            name=models.name,
            version=str(champion.version) if champion else None,
            variant=champion.tags["variant"] if champion else None,
        ),
        promotions=tuple(m for m in models.moves() if m.alias == "champion"),
        metrics_window=((end - 24 * days).key, end.key),
        metrics=variant_metrics(settings, end - 24 * days, end),
        ab=_experiments(settings),
        reports=tuple(sorted(str(p) for p in settings.reports_dir.rglob("*.html"))),
        seconds=round(seconds, 1),
    )


def _unplaced(settings: Settings) -> dict[str, int]:
    """Quarantined rows whose hour is unknown; they are in no manifest, so they are counted from the receipts."""
    totals: dict[str, int] = {}
    placed: dict[str, int] = {}
    for path in (settings.events_dir / "_receipts").glob("*.json"):
        for reason, count in read_json(path)["reasons"].items():
            totals[reason] = totals.get(reason, 0) + count
    for manifest in EventStore(settings.events_dir).manifests():
        for reason, count in manifest.rejected.items():
            placed[reason] = placed.get(reason, 0) + count
    return {reason: max(count - placed.get(reason, 0), 0) for reason, count in totals.items()}


def _online_rows(settings: Settings) -> int:
    """Entities in Feast's online store, all views together."""
    if settings.online_store != "sqlite":
        return -1
    import sqlite3

    with sqlite3.connect(f"file:{settings.workspace / 'feast' / 'online.db'}?mode=ro", uri=True) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(db.execute(f'SELECT count(DISTINCT entity_key) FROM "{t}"').fetchone()[0] for t in tables)


def _experiments(settings: Settings) -> dict[str, dict[str, MeasuredEffect]]:
    """Experiment → metric → effect in its latest report; metrics whose lift is unknown are left out."""
    from ab_analysis.report_file import read_report

    effects: dict[str, dict[str, MeasuredEffect]] = {}
    for folder in sorted((settings.reports_dir / "ab").glob("*/")):
        latest = max(folder.glob("20*.json"), default=None)
        if latest:
            effects[folder.name] = {
                metric: MeasuredEffect.of(row, latest.stem)
                for metrics in read_report(latest).headlines().values()
                for metric, row in metrics.items()
            }
    return effects


def describe(summary: DemoSummary, settings: Settings) -> str:
    """The lines that a person reads at the end of the demo."""
    events, champion = summary.events, summary.champion
    lines = [
        "",
        f"Interest Clock on '{summary.source}' in {summary.seconds:.0f} s: "
        f"{summary.hours_bulk} hours in bulk, {summary.hours_airflow} through Airflow.",
        f"Events: {events.received:,} in, {events.kept:,} kept, {events.duplicates:,} duplicates, "
        f"{events.quarantined:,} quarantined.",
        f"Champion: {champion.variant} (version {champion.version} of {champion.name}).",
        "",
        f"{'variant':<16} {'AUC':>7} {'95 % interval':>19} {'UAUC':>9} {'GAUC':>8} {'log-loss':>9}",
    ]
    for variant, metrics in summary.metrics.items():
        low, high = metrics["auc"].ci95
        lines.append(
            f"{variant:<16} {metrics['auc'].value:>7.4f} [{low:.4f}, {high:.4f}]{metrics['uauc'].value:>10.4f} "
            f"{metrics['gauc'].value:>8.4f} {metrics['logloss'].value:>9.4f}"
        )
    lines.append("")
    if not summary.ab:
        lines.append("A/B: the log has no experiment.")
    for experiment, effects in summary.ab.items():
        for metric, effect in effects.items():
            low, high = effect.rel_effect_ci
            truth = f", true {effect.true_rel_effect:+.2%}" if effect.true_rel_effect is not None else ""
            lines.append(
                f"A/B {experiment}, {metric.replace('_', ' ')}: {effect.rel_effect:+.2%} [{low:+.2%}, {high:+.2%}]{truth}"
            )
    lines += [
        "",
        f"Summary   {settings.var / 'demo' / 'summary.json'}",
        f"Reports   {settings.reports_dir / 'index.html'}",
        f"To look at Airflow, MLflow and the reports in a browser:  make up SOURCE={summary.source}",
    ]
    return "\n".join(lines)
