"""The versions behind the aliases, each with links to what made it: its MLflow run, its Airflow runs, its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from markupsafe import Markup

from core.hours import Hour
from core.page_table import Cell, Column, Row, Table
from core.page_template import words
from core.settings import Settings
from model_registry.registry import ALIASES, Registry
from pages.index import interfaces

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def versions_table(settings: Settings, models: Registry) -> Table:
    """Who stands behind each alias, and what made it.

    Args:
        settings: of the workspace.
        models: the registry.

    Raises:
        NotReadyError: MLflow does not answer.
    """
    addresses = {name: link.rstrip("/") for name, link in interfaces(settings)}
    mlflow, airflow = addresses["MLflow"], addresses["Airflow"]
    versions = {alias: version for alias in ALIASES if (version := models.get(alias))}
    runs = _experiments(models, versions)
    rows = []
    for alias, version in versions.items():
        lineage = models.lineage(version)
        hour = lineage.hour.key
        run = f"{mlflow}/#/experiments/{runs[alias]}/runs/{version.run_id}" if alias in runs else ""
        judged = version.tags.get("gate_hour", "")
        rows.append(
            Row(
                [
                    alias,
                    Cell(str(version.version), link=f"{mlflow}/#/models/{models.name}/versions/{version.version}"),
                    words(lineage.variant),
                    hour,
                    _links({"training run": run}),
                    _links({
                        "trained": _airflow_runs(airflow, "train_ranker", hour),
                        "judged": _airflow_runs(airflow, "promote_ranker", judged) if judged else "",
                    }),
                    _links({"events": _airflow_runs(airflow, "ingest_hour", hour), "drift": _drift(settings, hour)}),
                    Cell(f"{samples:,}", sort=samples) if (samples := int(version.tags.get("samples_seen", 0))) else "",
                ]
            )
        )  # fmt: skip
    columns = [
        Column("alias"), Column("version"), Column("time module", words=True), Column("trained until"), Column("MLflow", words=True),
        Column("Airflow", "The runs of that hour; none where the hour was trained in bulk or by hand", words=True),
        Column("data", "How the hour's events came in, and the drift of its day", words=True),
        Column("samples seen", "On which it was trained, since the beginning"),
    ]  # fmt: skip
    return Table(columns, rows)


def _experiments(models: Registry, versions: Mapping[str, ModelVersion]) -> dict[str, str]:
    """Alias → MLflow experiment of the run that registered its version, which MLflow's address of the run names."""
    runs = {alias: version.run_id for alias, version in versions.items() if version.run_id}
    return {alias: str(models.client.get_run(run).info.experiment_id) for alias, run in runs.items()}


def _airflow_runs(airflow: str, dag: str, hour: str) -> str:
    """Address of the runs of a DAG on an hour, in Airflow's list of runs."""
    return f"{airflow}/dags/{dag}/runs?partition_key_pattern={quote(hour)}"


def _drift(settings: Settings, hour: str) -> str:
    page = settings.reports_dir / "drift" / f"{Hour.parse(hour).day}.html"
    return f"drift/{page.name}" if page.exists() else ""


def _links(links: Mapping[str, str]) -> Cell:
    shown = [Markup('<a href="{}">{}</a>').format(link, text) for text, link in links.items() if link]
    return Cell(Markup(", ").join(shown))
