"""``clock serve``: run the ranking service, replay past requests, stop or resume an experiment's variants."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Annotated

import typer

from core import cli
from core.errors import ConfigError, NotReadyError

log = logging.getLogger("clock.serve")


class ServeGroup(cli.Group):
    """``clock serve`` alone runs the service."""

    default_command = "run"


app = cli.App(
    cls=ServeGroup,
    shared_source=True,
    invoke_without_command=True,
    help="The ranking service. Without a command it runs: 'clock serve' is 'clock serve run'.",
    epilog="Example: clock serve stop my_experiment --reason 'skips went up'",
)

ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name of the experiment.")]


@app.command()
def run(
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", metavar="PORT", help="Default: CLOCK_SERVING_PORT.")] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Processes; each keeps its own models.")] = 1,
    source: cli.SourceOption = None,
) -> None:
    """Serve POST /rank until stopped."""
    if not host.strip():
        raise ConfigError("--host is empty, which would listen on every address; write 0.0.0.0 if that is wanted")
    if workers < 1:
        raise ConfigError(f"--workers {workers}: at least 1")
    import os
    import signal

    import uvicorn

    from core.ports import bind_error

    settings = cli.settings_of(source)
    if source:
        os.environ["CLOCK_SOURCE"] = source  # for worker processes
    # Until uvicorn takes it over: what a handler raises while modules are imported can be lost, and the order to end with it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    port = port or settings.serving_port
    if reason := bind_error(port, host):
        raise NotReadyError(f"cannot listen on {host}:{port}: {reason}; give --port, or set CLOCK_SERVING_PORT")
    log.info("ranking for '%s' on http://%s:%d", settings.source, host, port)
    if not settings.workspace.exists():
        log.warning(
            "%s does not exist yet: requests are refused until 'clock setup' and 'clock history' have made it",
            settings.workspace,
        )
    uvicorn.run(
        "serving.api:make_app", factory=True, host=host, port=port, workers=workers, log_level="warning", access_log=False,
        timeout_graceful_shutdown=10, http="serving.read_timeout:TimedHttpProtocol",
    )  # fmt: skip


@app.command()
def replay(
    hour: Annotated[str, typer.Argument(metavar="HOUR", help="For example 2026-03-18T10.")],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="champion, challenger, a variant, or version:N.")
    ] = "challenger",
    source: cli.SourceOption = None,
) -> None:
    """Rank an hour's logged requests again by another model and compare."""
    from core.hours import Hour
    from serving.replay import replay_hour

    print(json.dumps(asdict(replay_hour(cli.settings_of(source), Hour.parse(hour), model)), indent=1))


@app.command()
def stop(
    experiment: ExperimentName,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the log.")] = "stopped by hand",
    source: cli.SourceOption = None,
) -> None:
    """Send the users of an experiment's variants back to the champion."""
    from ab_analysis.experiment import load_named
    from serving.routing import stop_experiment

    settings = cli.settings_of(source)
    load_named(settings.experiments_dir, experiment)
    newly_stopped = stop_experiment(settings, experiment, reason)
    print(f"{experiment} is stopped" if newly_stopped else f"{experiment} was stopped already")


@app.command()
def resume(experiment: ExperimentName, source: cli.SourceOption = None) -> None:
    """Serve a stopped experiment's variants again."""
    from serving.routing import resume_experiment

    if not resume_experiment(cli.settings_of(source), experiment):
        raise NotReadyError(f"{experiment} is not stopped")
    print(f"{experiment} is served again")
