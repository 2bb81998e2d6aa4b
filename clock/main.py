"""``clock``: the platform's command line."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from clock.commands import (
    ab,
    ab_changes,
    bench,
    evaluate,
    events,
    features,
    ops,
    platform,
    serve,
    simulate,
    stream,
    study,
)
from core import cli
from core.release import platform_version

PANELS = ("Run the platform", "Data", "Models", "Experiments", "Operate")


class Root(cli.Group):
    """The top level: its help has one panel per kind of work, in the order of ``PANELS``."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, by panel."""
        return sorted(
            super().list_commands(ctx), key=lambda name: PANELS.index(str(self.commands[name].rich_help_panel))  # type: ignore[attr-defined]
        )  # fmt: skip


def _print_version(requested: bool) -> None:
    if requested:
        print(f"clock {platform_version()}")
        raise typer.Exit


app = cli.App(
    name="clock",
    cls=Root,
    add_completion=True,
    help="Interest Clock: from raw logs to a promoted, time-aware ranker and its A/B report.\n\n"
    "State lives in var/SOURCE (CLOCK_VAR, CLOCK_SOURCE). Results go to standard output, progress to standard error.",
    epilog="First steps: 'clock demo' runs everything on simulated users, 'clock up' shows it in the browser, "
    "'clock events explain' prints how to describe your own log.",
)


@app.callback()
def clock(
    source: cli.SourceOption = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    del source, show_version


app.registered_commands += platform.app.registered_commands
app.add_typer(events.app, name="events", rich_help_panel="Data")
app.add_typer(features.app, name="features", rich_help_panel="Data")
app.add_typer(stream.app, name="stream", rich_help_panel="Data")
app.add_typer(simulate.app, name="simulate", rich_help_panel="Data")
app.add_typer(evaluate.app, name="evaluate", rich_help_panel="Models")
app.add_typer(serve.app, name="serve", rich_help_panel="Models")
ab.app.registered_commands += ab_changes.app.registered_commands
app.add_typer(ab.app, name="ab", rich_help_panel="Experiments")
app.command("study", rich_help_panel="Experiments", epilog=study.EPILOG)(study.study)
app.add_typer(ops.app, name="ops", rich_help_panel="Operate")
app.command("bench", rich_help_panel="Operate", epilog=bench.EPILOG)(bench.bench)


def main() -> None:
    """Entry point of the console script."""
    program = "clock" if sys.argv[0].endswith(("__main__.py", "clock")) else None
    cli.run(app, program=program)
