"""MLflow: an experiment a variant, a run a training day with its hours as steps, model versions.

Logging an hour twice leaves one point: metric rows carry the hour's start as their time and MLflow
keeps equal rows once.
"""

from __future__ import annotations

import json
import logging
import resource
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING

from structlog.contextvars import bound_contextvars

from core.files import digest_text, exclusive_lock
from core.hours import Hour
from core.settings import ROOT, Settings
from model_registry.descriptions import describe_version
from model_registry.store import experiment_name, model_name, open_mlflow
from training.state import StateStore
from training.state_info import StateInfo, lineage_tags
from training.trainer import HourResult, read_predictions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger("model_registry.tracking")

METRICS_AT_ONCE = 900
DIGEST_LENGTH = 36
"""Longest digest of a dataset that MLflow takes."""
LOGGED = (
    "auc", "uauc", "gauc", "session_auc", "logloss", "calibration", "ece", "samples", "users", "sessions", "session_samples",
)  # fmt: skip


class Tracker:
    """Logs the training of one variant."""

    def __init__(self, settings: Settings, variant: str, client: MlflowClient | None = None) -> None:
        self.settings, self.variant = settings, variant
        self.client = client or open_mlflow(settings)
        self.experiment = self._experiment()

    def _experiment(self) -> str:
        name = experiment_name(self.settings, self.variant)
        with exclusive_lock(self.settings.workspace / "mlflow" / ".lock"):
            experiment = self.client.get_experiment_by_name(name)
            if experiment is not None:
                return experiment.experiment_id
            folder = None
            if not self.settings.mlflow_uri:
                folder = (self.settings.workspace / "mlflow" / "artifacts" / self.variant).as_uri()
            return self.client.create_experiment(name, artifact_location=folder)

    def run_of(self, day: date, info: StateInfo) -> str:
        """Id of the day's run, which is created if it does not exist. It counts as finished and still accepts hours."""
        from mlflow.entities import Param

        runs = self.client.search_runs([self.experiment], f"tags.day = '{day}'", max_results=1)
        if runs:
            return runs[0].info.run_id
        run = self.client.create_run(
            self.experiment,
            tags={"day": str(day), "variant": self.variant, "source": self.settings.source},
            run_name=f"{self.variant} {day}",
        )
        self.client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in info.config.items()])
        self.client.set_terminated(run.info.run_id, "FINISHED")
        return run.info.run_id

    def log_hours(self, results: Sequence[HourResult], info: StateInfo) -> None:
        """Log hours to their days' runs; the state's lineage as tags of the last one."""
        from mlflow.entities import Metric, RunTag

        days: dict[date, list[Metric]] = {}
        for result in results:
            stamp = int(result.hour.start.timestamp() * 1000)
            values = {**{k: result.metrics[k] for k in LOGGED if k in result.metrics}, "seconds": result.seconds}
            points = days.setdefault(result.hour.day, [])
            if any(m.step == result.hour.number for m in points):
                continue
            points += [Metric(k, v, stamp, result.hour.number) for k, v in values.items() if v == v]  # noqa: PLR0124
        for day, points in days.items():
            run = self.run_of(day, info)
            done = {m.step for m in self.client.get_metric_history(run, "seconds")}
            points, tags = [p for p in points if p.step not in done], []
            if points:
                days_results = [r for r in results if r.hour.day == day]
                self._log_inputs(run, day, days_results)
                points += _usage(days_results[-1])
            if day == results[-1].hour.day:
                tags = [RunTag(k, str(v)) for k, v in lineage_tags(info).items()]
            for start in range(0, max(len(points), 1), METRICS_AT_ONCE):  # an hour, or a day, is one call
                self.client.log_batch(run, metrics=points[start : start + METRICS_AT_ONCE], tags=tags)
            with bound_contextvars(run=run):
                log.info("%s: %d figures of %s logged to MLflow", self.variant, len(points), day)

    def _log_inputs(self, run: str, day: date, results: Sequence[HourResult]) -> None:
        """The samples that the day's run was trained on, as MLflow's dataset inputs."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = digest_text(*(r.data for r in results))[:DIGEST_LENGTH]
        source = json.dumps(
            {"path": str(self.settings.training_dir / "samples"), "hours": [r.hour.key for r in results]}
        )
        profile = json.dumps({"hours": len(results), "samples": int(sum(r.metrics.get("samples", 0) for r in results))})
        samples = Dataset(f"{self.settings.source} {day}", digest, "local", source, profile=profile)
        self.client.log_inputs(run, [DatasetInput(samples, [InputTag("mlflow.data.context", "training")])])

    def log_plots(self, states: StateStore, hour: Hour) -> None:
        """Drawings of the day up to ``hour`` to the day's run; drawn again they replace each other."""
        import matplotlib.pyplot as plt

        from training.plots import drawings

        info, ranker = states.load_to_score(hour)
        run = self.run_of(hour.day, info)
        for name, figure in drawings(
            read_predictions(self.settings, self.variant, Hour.of_day(hour.day), hour + 1), ranker
        ):
            self.client.log_figure(run, figure, f"plots/{name}")
            plt.close(figure)

    def log_model(self, states: StateStore, hour: Hour, *, register: bool) -> str | None:
        """Log the state at ``hour`` as a model of the day's run; register it as a version if asked.

        A state that was registered before is not registered again.

        Returns:
            The version's number, None when it was not to be registered.
        """
        import mlflow

        from training.model import input_example, signature

        info = states.info(hour)
        name = model_name(self.settings)
        if register:
            for version in self.client.search_model_versions(
                f"name = '{name}' and tags.state_digest = '{info.digest}'"
            ):
                return str(version.version)
        with (
            mlflow.start_run(run_id=self.run_of(hour.day, info), log_system_metrics=False),
            states.whole(hour) as folder,
        ):
            logged = mlflow.pyfunc.log_model(
                name=f"ranker-{hour.key.replace('T', '-')}",
                loader_module="training.model",
                data_path=str(folder),
                code_paths=[str(ROOT / name) for name in ("core", "training")],
                signature=signature(info),
                input_example=input_example(info),
                pip_requirements=_requirements(),
                step=hour.number,
                tags={k: str(v) for k, v in lineage_tags(info).items()},
            )
        if not register:
            return None
        with exclusive_lock(self.settings.workspace / "mlflow" / ".lock"):
            if not self.client.search_registered_models(f"name = '{name}'"):
                self.client.create_registered_model(name, description=f"Time-aware ranker of {self.settings.source}.")
        version = self.client.create_model_version(
            name, logged.model_uri, tags={k: str(v) for k, v in lineage_tags(info).items()}, model_id=logged.model_id,
            description=describe_version(self.settings, self.variant, hour.key),
        )  # fmt: skip
        log.info("%s of %s is registered as version %s", self.variant, hour, version.version)
        return str(version.version)


def _usage(result: HourResult) -> list[Metric]:
    """What the training process has used so far, at an hour's step, under MLflow's names for system metrics."""
    from mlflow.entities import Metric

    used = resource.getrusage(resource.RUSAGE_SELF)
    values = {"peak_memory_megabytes": used.ru_maxrss / 1000, "cpu_seconds": used.ru_utime + used.ru_stime}
    stamp = int(result.hour.start.timestamp() * 1000)
    return [Metric(f"system/process_{name}", value, stamp, result.hour.number) for name, value in values.items()]


def _requirements() -> list[str]:
    """What a logged model needs, at the versions it was trained with."""
    names = ("torch", "safetensors", "numpy", "pandas", "pyarrow", "pydantic", "pydantic-settings", "pyyaml")
    return [f"{name}=={version(name).split('+')[0]}" for name in names]
