"""``clock simulate``: write the simulated app's log, or print the truth about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from core import cli

app = cli.App(
    help="The simulated app: write its log, or print the truth about it.",
    epilog="Example: clock simulate write --out var/app",
)


@app.callback()
def simulate(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="APP.yaml", help="YAML of SimulatorConfig. Default: the built-in parameters."),
    ] = None,
) -> None:
    """Options that stand before the command."""
    del config


def _config_file(context: typer.Context) -> Path | None:
    return context.parent.params["config"] if context.parent else None


@app.command()
def write(
    context: typer.Context,
    start: Annotated[
        str | None, typer.Option("--from", metavar="HOUR", help="First hour. Default: the app's first.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="HOUR", help="The hour after the last one.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the log. Default: var/simulator/app.")
    ] = None,
) -> None:
    """Write the raw log, hour by hour."""
    from core.hours import Hour, check_range
    from core.settings import load_settings
    from simulation.config import load_config
    from simulation.log import AppLog

    asked = Hour.parse(start) if start else None, Hour.parse(end) if end else None
    config = load_config(_config_file(context))
    first, last = asked[0] or config.first_hour, asked[1] or config.end_hour
    check_range(first, last)
    root = out or load_settings().workspace / "app"
    files = AppLog(config, root).write_hours(first, last)
    print(json.dumps({"root": str(root), "mapping": str(root / "mapping.yaml"), "hours": len(files)}))


@app.command()
def live(
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, metavar="S", help="How long the hour takes; 3600 is real time.")
    ] = 60,
    source: cli.SourceOption = None,
) -> None:
    """Write the log of the workspace's running hour row by row, for 'clock stream follow' to see.

    The running hour is the one that the clocks hold for, the next that 'clock hour' runs: that writes the same rows again, as the
    whole hour's file.
    """
    from rich.console import Console
    from rich.progress import Progress

    from core.errors import ConfigError, NotReadyError
    from events.store import EventStore
    from feature_repo.clock import ClockState
    from pipeline.source import load_source
    from simulation.workspace import app_log

    settings = cli.settings_of(source)
    if not load_source(settings).simulated:
        raise ConfigError(f"the log of '{settings.source}' is not simulated: its own app writes it")
    hour = ClockState(settings, EventStore(settings.events_dir)).as_of
    if hour is None:
        raise NotReadyError("there are no clocks yet; run 'clock demo', or 'clock history'")
    rows = 0
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"rows of {hour.key}", total=None)
        for rows in app_log(settings).play_hour(hour, seconds):
            progress.update(task, completed=rows)
    print(json.dumps({"hour": hour.key, "rows": rows}))


@app.command()
def truth(context: typer.Context) -> None:
    """Print the true effects, the attainable AUC, tastes by hour."""
    from simulation.config import load_config
    from simulation.truth import attainable_auc, experiment_truth, perfect_truth, taste_entropy

    config = load_config(_config_file(context))
    content = {
        "experiment": experiment_truth(config, config.end_hour),
        "attainable_auc": attainable_auc(config),
        "taste_entropy_bits": taste_entropy(config),
        "rankers": perfect_truth(config, lambda text: print(text, file=sys.stderr)),
    }
    print(json.dumps(content, indent=1))
