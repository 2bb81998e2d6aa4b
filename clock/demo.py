"""The main job: history in bulk, hours through real Airflow, the daily reports, and a summary."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.files import read_json, write_json
from core.hours import DAY_HOURS, Hour, hour_range
from core.progress import STAGE, log_to
from core.settings import Settings, load_settings
from events.store import EventStore
from model_registry.registry import CHAMPION
from operations.airflow_api import AirflowApi
from operations.airflow_driver import HOURLY, report_days, run_hours, start_airflow
from operations.processes import running, with_free_ports
from operations.services import migrate_airflow, serving_service
from pipeline.history import build_history
from pipeline.source import Source, end_of_log, load_source, save_source

log = logging.getLogger("clock.demo")

COMPARISON_DAYS = {"simulator": 7}
DEFAULT_COMPARISON_DAYS = 42


def run_demo(source: str, data: str | None, hours: int, *, fresh: bool) -> dict[str, Any]:
    """Run the main job on a source.

    Args:
        source: ``simulator``, or the name of a built-in or own mapping.
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
    log.info("source %s: history before %s, then %d hours through Airflow", settings.source, plan["takeover"], hours)
    takeover, end = Hour.parse(plan["takeover"]), Hour.parse(plan["end"])
    migration = threading.Thread(target=migrate_airflow, args=(settings,), daemon=True)
    migration.start()
    if not plan.get("history"):
        plan["history"] = build_history(settings, takeover).as_json()
        write_json(_plan_file(settings), plan)
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
    write_json(settings.var / "demo" / "summary.json", summary)
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


def _plan(settings: Settings, data: str | None, hours: int) -> dict[str, Any]:
    """Which hours are built in bulk and which run through Airflow; kept, so that a second run continues the first."""
    path = _plan_file(settings)
    if path.exists():
        if data and Path(data).resolve() not in {Path(p).resolve() for p in load_source(settings).paths}:
            raise ConfigError(
                f"{settings.workspace} holds another log than {data}; start over with FRESH=1, or set CLOCK_VAR"
            )
        plan = read_json(path)
        done = Hour.parse(plan["takeover"])
        plan["end"] = max(Hour.parse(plan["end"]), done + hours).key
        return dict(plan)
    if settings.source == "simulator":
        from pipeline.source import save_app_source

        save_app_source(settings)
        end = end_of_log(settings)
    else:
        save_source(settings, Source(settings.source, (data,) if data else ()))
        end = end_of_log(settings)
    plan = {"takeover": (end - hours).key, "end": end.key, "history": None}
    write_json(path, plan)
    return plan


def live_hours(settings: Settings, api: AirflowApi, first: Hour, end: Hour, stack: ExitStack) -> None:
    """Simulate hours [first, end): the ranking service ranks for people, and Airflow ingests their log.

    Each hour is ranked by the models and on the features that the previous hour led to. An hour whose log is
    there already is not simulated again.
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


def summarize(settings: Settings, plan: dict[str, Any], counts: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Summarize the demo; every figure is read back from the stores.

    Args:
        settings: name the workspace.
        plan: of ``_plan``.
        counts: DAG runs by DAG and state.
        seconds: duration of this run.
    """
    from model_registry.store import experiment_name, open_mlflow, open_registry
    from pipeline.reports import variant_metrics

    takeover, end = Hour.parse(plan["takeover"]), Hour.parse(plan["end"])
    store = EventStore(settings.events_dir)
    manifests = store.manifests()
    rejected = sum(sum(m.rejected.values()) for m in manifests)
    unplaced = sum(_unplaced(settings).values())
    kept, duplicates = sum(m.rows for m in manifests), sum(m.duplicates for m in manifests)
    client = open_mlflow(settings)
    experiments = [client.get_experiment_by_name(experiment_name(settings, v)) for v in settings.variants]
    runs = sum(len(client.search_runs([e.experiment_id], max_results=5000)) for e in experiments if e)
    models = open_registry(settings)
    champion = models.get("champion")
    days = COMPARISON_DAYS.get(settings.source, DEFAULT_COMPARISON_DAYS)
    return {
        "source": settings.source,
        "hours_bulk": len([h for h in store.hours() if h < takeover]),
        "hours_airflow": counts["promote_ranker"]["succeeded"],
        "dag_runs": counts,
        "events": {
            "in": kept + duplicates + rejected + unplaced,
            "kept": kept,
            "duplicates": duplicates,
            "quarantined": rejected + unplaced,
        },
        "feast_online_rows": _online_rows(settings),
        "mlflow_runs": runs,
        "champion": {
            "name": models.name,
            "version": str(champion.version) if champion else None,
            "variant": champion.tags["variant"] if champion else None,
        },
        "promotions": [asdict(m) for m in models.moves() if m.alias == "champion"],
        "metrics_window": [(end - 24 * days).key, end.key],
        "metrics": variant_metrics(settings, end - 24 * days, end),
        "ab": _experiments(settings),
        "reports": sorted(str(p) for p in settings.reports_dir.rglob("*.html")),
        "seconds": round(seconds, 1),
    }


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


def _experiments(settings: Settings) -> dict[str, Any]:
    """Experiment → metric → effect by the headline method in its latest report; metrics without an effect are left out."""
    from pipeline.reports import headline_effects

    effects: dict[str, Any] = {}
    for folder in sorted((settings.reports_dir / "ab").glob("*/")):
        latest = max(folder.glob("20*.json"), default=None)
        if latest:
            rows = [row for metrics in headline_effects(read_json(latest)).values() for row in metrics.values()]
            effects[folder.name] = {
                row["metric"]: {
                    **{name: row[name] for name in ("method", "rel_effect", "rel_effect_ci", "effect", "effect_ci", "p_value")},
                    "true_rel_effect": row["truth"], "until": latest.stem,
                }
                for row in rows
            }  # fmt: skip
    return effects


def describe(summary: dict[str, Any], settings: Settings) -> str:
    """The lines that a person reads at the end of the demo."""
    lines = [
        "",
        f"Interest Clock on '{summary['source']}' in {summary['seconds']:.0f} s: "
        f"{summary['hours_bulk']} hours in bulk, {summary['hours_airflow']} through Airflow.",
        f"Events: {summary['events']['in']:,} in, {summary['events']['kept']:,} kept, "
        f"{summary['events']['duplicates']:,} duplicates, {summary['events']['quarantined']:,} quarantined.",
        f"Champion: {summary['champion']['variant']} (version {summary['champion']['version']} of {summary['champion']['name']}).",
        "",
        f"{'variant':<16} {'AUC':>7} {'95 % interval':>19} {'UAUC':>9} {'GAUC':>8} {'log-loss':>9}",
    ]
    for variant, m in summary["metrics"].items():
        low, high = m["auc"]["ci95"]
        lines.append(
            f"{variant:<16} {m['auc']['value']:>7.4f} [{low:.4f}, {high:.4f}]{m['uauc']['value']:>10.4f} "
            f"{m['gauc']['value']:>8.4f} {m['logloss']['value']:>9.4f}"
        )
    lines.append("")
    if not summary["ab"]:
        lines.append("A/B: the log has no experiment.")
    for experiment, metrics in summary["ab"].items():
        for metric, r in metrics.items():
            low, high = r["rel_effect_ci"]
            truth = f", true {r['true_rel_effect']:+.2%}" if r["true_rel_effect"] is not None else ""
            lines.append(
                f"A/B {experiment}, {metric.replace('_', ' ')}: {r['rel_effect']:+.2%} [{low:+.2%}, {high:+.2%}]{truth}"
            )
    lines += [
        "",
        f"Summary   {settings.var / 'demo' / 'summary.json'}",
        f"Reports   {settings.reports_dir / 'index.html'}",
        f"To look at Airflow, MLflow and the reports in a browser:  make up SOURCE={summary['source']}",
    ]
    return "\n".join(lines)
