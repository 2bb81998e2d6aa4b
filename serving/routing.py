"""Which model ranks for whom: an experiment's for its users, the champion for everybody else.

An experiment whose file names ``models`` takes part in serving. With a small layer and ``automatic_stop`` it is a canary:
once it is stopped, the champion ranks for its users again, and nobody is exposed any more.

The control of a holdout meets no experiment that runs at some time of the holdout, on none of that experiment's days: the model that
the holdout names for it ranks for it, else the champion. Everybody else meets the holdout beside the experiment that decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ab_analysis.assignment import assign_users, check_layers, run_together
from ab_analysis.experiment import NAME, Experiment, find_experiments, load_experiment
from core.errors import ConfigError, PlatformError
from core.files import read_json, write_json
from core.settings import Settings
from model_registry.registry import CHAMPION, VERSION


@dataclass(frozen=True)
class Route:
    """Which model ranks for a user: its name, and the experiment and variant that chose it (empty: none).

    Attributes:
        beside: holdout and variant that the user meets beside the experiment; None where there is none, or it chose the model.
    """

    model: str
    experiment: str = ""
    variant: str = ""
    beside: tuple[str, str] | None = None

    @property
    def exposures(self) -> list[tuple[str, str]]:
        """Experiments that the user meets, with the variant of each."""
        chosen = [(self.experiment, self.variant)] if self.experiment else []
        return [*chosen, *([self.beside] if self.beside else [])]


class Routes:
    """The experiments that name models and are not stopped, and holdouts; the first that includes a user decides.

    Args:
        experiments: that are not stopped.
        stopped_holdouts: to which nobody is exposed any more; whom they held out stays out of what ran beside them.
    """

    def __init__(self, experiments: Sequence[Experiment] = (), stopped_holdouts: Sequence[Experiment] = ()) -> None:
        self.experiments = tuple(e for e in experiments if not e.holdout)
        self.holdouts = tuple(e for e in experiments if e.holdout)
        every = (*self.holdouts, *stopped_holdouts)
        self._keeping_out = {e.name: [h for h in every if run_together(e, h)] for e in self.experiments}

    @property
    def names(self) -> set[str]:
        """Names of the experiments and holdouts."""
        return {e.name for e in (*self.experiments, *self.holdouts)}

    def models(self, since: datetime) -> set[str]:
        """Names of all models that may be needed from a point in time on: those of experiments that are over then are not."""
        needed = [e for e in (*self.experiments, *self.holdouts) if e.end_hour is None or since < e.end_hour.start]
        return {CHAMPION, *(model for e in needed for model in e.models.values())}

    def of(self, user_keys: Sequence[str], at: datetime) -> list[Route]:
        """The route of each user at a point in time."""
        routes = [Route(CHAMPION)] * len(user_keys)
        for experiment in reversed(self.experiments):
            if _runs(experiment, at):
                routes = [
                    route if variant is None else Route(experiment.models[variant], experiment.name, variant)
                    for route, variant in zip(
                        routes, assign_users(experiment, user_keys, self._keeping_out[experiment.name]), strict=True
                    )
                ]
        for holdout in (h for h in self.holdouts if _runs(h, at)):
            routes = [
                _beside(route, holdout, variant)
                for route, variant in zip(routes, assign_users(holdout, user_keys), strict=True)
            ]
        return routes


def _runs(experiment: Experiment, at: datetime) -> bool:
    return experiment.start_time <= at and (experiment.end_hour is None or at < experiment.end_hour.start)


def _beside(route: Route, holdout: Experiment, variant: str) -> Route:
    """The route of a user of a holdout: its own where no other experiment has the user, else that one's with the holdout beside."""
    if route.experiment:
        return replace(route, beside=(holdout.name, variant))
    return Route(holdout.models.get(variant, CHAMPION), holdout.name, variant)


def load_routes(settings: Settings) -> tuple[Routes, dict[str, str]]:
    """Read the routes of a workspace.

    Returns:
        The routes, and the problems of experiment files that are left out (name → reason).
    """
    experiments: list[Experiment] = []
    stopped_holdouts: list[Experiment] = []
    problems: dict[str, str] = {}
    for name, path in find_experiments(settings.experiments_dir).items():
        try:
            experiment = load_experiment(path)
            if not (experiment.models or experiment.holdout):
                continue
            if not stopped(settings, experiment.name):
                check_layers([*experiments, experiment])
                experiments.append(experiment)
            elif experiment.holdout:
                stopped_holdouts.append(experiment)
        except PlatformError as error:  # of its file, or of the mark that it was stopped: nobody is exposed then
            problems[f"experiment {name}"] = str(error)
    return Routes(experiments, stopped_holdouts), problems


def named_models(settings: Settings) -> set[str]:
    """Names of the models that settings and experiment files name, also those of experiments that do not serve now.

    Of a file that is wrong those that name a version: it may be put right.
    """
    names = {settings.serving_shadow} - {""}
    for path in find_experiments(settings.experiments_dir).values():
        try:
            names |= {*load_experiment(path).models.values()}
        except ConfigError:
            names |= {*re.findall(rf"{VERSION}\d+", path.read_text(encoding="utf-8", errors="replace"))}
    return names


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
