"""What a demo led to, read back from the stores: the summary file, and the lines that a person reads at the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from core.documents import JsonObject
from core.files import read_json
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from model_registry.registry import Move

if TYPE_CHECKING:
    from ab_analysis.report_file import ReportedResult
    from evaluation.metrics import MetricValue

COMPARISON_DAYS = {"simulator": 7}
DEFAULT_COMPARISON_DAYS = 42


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


def summarize(
    settings: Settings, takeover: Hour, end: Hour, counts: dict[str, dict[str, int]], seconds: float
) -> DemoSummary:
    """Summarize the demo; every figure is read back from the stores.

    Args:
        settings: name the workspace.
        takeover, end: first hour that ran through Airflow, and the hour after the last one.
        counts: DAG runs by DAG and state.
        seconds: duration of this run.
    """
    from model_registry.store import experiment_name, open_mlflow, open_registry
    from pipeline.reports import variant_metrics

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
        hours_bulk=len([h for h in store.hours() if h < takeover]),
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
            variant=models.lineage(champion).variant if champion else None,
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
        f"{'variant':<16} {'AUC':>7} {'95 % interval':>19} {'UAUC':>9} {'GAUC':>8} {'session AUC':>12} {'log-loss':>9}",
    ]
    for variant, metrics in summary.metrics.items():
        low, high = metrics["auc"].ci95
        lines.append(
            f"{variant:<16} {metrics['auc'].value:>7.4f} [{low:.4f}, {high:.4f}]{metrics['uauc'].value:>10.4f} "
            f"{metrics['gauc'].value:>8.4f} {metrics['session_auc'].value:>12.4f} {metrics['logloss'].value:>9.4f}"
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
