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
