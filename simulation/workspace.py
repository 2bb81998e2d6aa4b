"""The simulated app in a workspace: its config, its log, and its experiment files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import yaml

from core.files import write_text
from core.hours import Hour
from core.settings import Settings
from simulation.app import App
from simulation.config import SimulatorConfig, load_config
from simulation.log import AppLog
from simulation.truth import experiment_truth


def app_config(settings: Settings) -> SimulatorConfig:
    """The workspace's own config (``app.yaml``) if there is one, else the built-in parameters."""
    app_file = settings.workspace / "app.yaml"
    return load_config(app_file if app_file.exists() else None)


def app_log(settings: Settings) -> AppLog:
    """The simulated app's log in the workspace."""
    return AppLog(app_config(settings), settings.workspace / "app", served=True)


def planted_end(settings: Settings, takeover: Hour) -> Hour:
    """The hour at which the planted experiment ends: after the last full UTC day before real rankers take over."""
    start = Hour.of(App(app_config(settings)).first_instant(app_config(settings).experiment.start_day))
    return max(Hour.of_day(takeover.day), start + 24)


def write_experiment(settings: Settings, until: Hour) -> Path:
    """Write the experiment file of the app's planted experiment.

    Args:
        settings: name the workspace.
        until: end of the experiment, exclusive; the true effects are those up to it.

    Returns:
        The file.
    """
    config = app_config(settings)
    rule = config.experiment
    truth = experiment_truth(config, until)
    content = {
        "name": rule.name,
        "hypothesis": "Ranking by the interest clock brings people back and lets them stay longer.",
        "owner": "simulated app",
        "variants": {rule.control: 1 - rule.treatment_share, rule.treatment: rule.treatment_share},
        "control": rule.control,
        "start": App(config).first_instant(rule.start_day).isoformat(),
        "end": (until.start - timedelta(seconds=1)).date().isoformat(),
        "pre_days": rule.start_day,
        "guardrails": {"skip_rate": {"max_worse": 0.05}},
        "secondary": ["finishes", "likes", "skips", "retained_day_1", "duration_per_active_day", "duration_p90"],
        "segments": {"activity": {"of": "active_days", "edges": [1, 4]}},
        "minimum_effect": 0.03,
        "stopping": {"rule": "fixed"},
        "truth": {metric: round(values["rel_effect"], 6) for metric, values in truth.items()},
    }
    path = settings.experiments_dir / f"{rule.name}.yaml"
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    return path


def write_served_experiment(settings: Settings, start: Hour) -> Path:
    """Write the file of an experiment between champion and challenger, which the ranking service splits from ``start`` on.

    An existing file is kept.

    Returns:
        The file.
    """
    content = {
        "name": "served",
        "hypothesis": "The challenger keeps people longer than the champion.",
        "owner": "ranking service",
        "variants": {"champion": 0.5, "challenger": 0.5},
        "control": "champion",
        "models": {"champion": "champion", "challenger": "challenger"},
        "start": start.start.isoformat(),
        "guardrails": {"skip_rate": {"max_worse": 0.05}},
        "automatic_stop": True,
    }
    path = settings.experiments_dir / "served.yaml"
    if not path.exists():  # keep its start
        write_text(path, yaml.safe_dump(content, sort_keys=False))
    return path
