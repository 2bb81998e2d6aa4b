"""Which model ranks for whom: an experiment's for its users, the champion for everybody else.

An experiment whose file names ``models`` takes part in serving. With a small layer and ``automatic_stop`` it is a canary:
once it is stopped, the champion ranks for its users again, and nobody is exposed any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ab_analysis.assignment import assign_users, check_layers
from ab_analysis.experiment import NAME, Experiment, find_experiments, load_experiment
from core.errors import ConfigError
from core.files import read_json, write_json
from core.settings import Settings
from model_registry.registry import CHAMPION


@dataclass(frozen=True)
class Route:
    """Which model ranks for a user: its name, and the experiment and variant that chose it (empty: none)."""

    model: str
    experiment: str = ""
    variant: str = ""


class Routes:
    """The experiments that name models and are not stopped; the first that includes a user decides."""

    def __init__(self, experiments: Sequence[Experiment] = ()) -> None:
        self.experiments = tuple(experiments)

    @property
    def models(self) -> set[str]:
        """Names of all models that may be needed."""
        return {CHAMPION, *(model for e in self.experiments for model in e.models.values())}

    def of(self, user_keys: Sequence[str], at: datetime) -> list[Route]:
        """The route of each user at a point in time."""
        routes = [Route(CHAMPION)] * len(user_keys)
        for experiment in reversed(self.experiments):
            if experiment.start_time <= at and (experiment.end_hour is None or at < experiment.end_hour.start):
                routes = [
                    route if variant is None else Route(experiment.models[variant], experiment.name, variant)
                    for route, variant in zip(routes, assign_users(experiment, user_keys), strict=True)
                ]
        return routes


def load_routes(settings: Settings) -> tuple[Routes, dict[str, str]]:
    """Read the routes of a workspace.

    Returns:
        The routes, and the problems of experiment files that are left out (name → reason).
    """
    experiments: list[Experiment] = []
    problems: dict[str, str] = {}
    for name, path in find_experiments(settings.experiments_dir).items():
        try:
            experiment = load_experiment(path)
            if experiment.models and not stopped(settings, experiment.name):
                check_layers([*experiments, experiment])
                experiments.append(experiment)
        except ConfigError as error:
            problems[f"experiment {name}"] = str(error)
    return Routes(experiments), problems


def stop_experiment(settings: Settings, name: str, reason: str, **details: Any) -> bool:
    """Stop serving an experiment's variants; ``resume_experiment`` undoes it.

    Args:
        settings: name the workspace.
        name: of the experiment.
        reason: why, for the record.
        details: further values for the record.

    Returns:
        False if it was stopped already.
    """
    if stopped(settings, name):
        return False
    write_json(_mark(settings, name), {"experiment": name, "reason": reason, **details})
    return True


def resume_experiment(settings: Settings, name: str) -> bool:
    """Serve a stopped experiment's variants again; False if it was not stopped."""
    was_stopped = _mark(settings, name).exists()
    _mark(settings, name).unlink(missing_ok=True)
    return was_stopped


def stopped(settings: Settings, name: str) -> str | None:
    """Why an experiment is stopped, None if it is not."""
    path = _mark(settings, name)
    return str(read_json(path)["reason"]) if path.exists() else None


def _mark(settings: Settings, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise ConfigError(f"'{name}' is not an experiment's name: lower-case letters, digits, - and _ only")
    return settings.workspace / "serving" / "stopped" / f"{name}.json"
