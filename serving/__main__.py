"""``python -m serving``: run the ranking service, replay past requests, stop or resume an experiment's variants."""

from __future__ import annotations

import argparse
import json

from core import cli
from core.errors import ConfigError, NotReadyError
from core.ports import why_taken


def main(arguments: argparse.Namespace) -> None:
    settings = cli.settings_of(arguments.source)
    if arguments.command == "run":
        if arguments.workers < 1:
            raise ConfigError(f"--workers {arguments.workers}: at least 1")
        import os

        import uvicorn

        if arguments.source:
            os.environ["CLOCK_SOURCE"] = arguments.source  # for worker processes
        port = arguments.port or settings.serving_port
        if why := why_taken(port, arguments.host):
            raise NotReadyError(
                f"cannot listen on {arguments.host}:{port}: {why}; give --port, or set CLOCK_SERVING_PORT"
            )
        uvicorn.run(
            "serving.api:make_app", factory=True, host=arguments.host, port=port, workers=arguments.workers,
            log_level="warning", access_log=False, timeout_graceful_shutdown=10,
        )  # fmt: skip
    elif arguments.command == "replay":
        from core.hours import Hour
        from serving.replay import replay_hour

        print(json.dumps(replay_hour(settings, Hour.parse(arguments.hour), arguments.model), indent=1))
    elif arguments.command == "stop":
        from ab_analysis.experiment import load_named
        from serving.routing import stop_experiment

        load_named(settings.experiments_dir, arguments.experiment)
        fresh = stop_experiment(settings, arguments.experiment, arguments.reason)
        print(f"{arguments.experiment} is stopped" if fresh else f"{arguments.experiment} was stopped already")
    else:
        from serving.routing import resume_experiment

        if not resume_experiment(settings, arguments.experiment):
            raise NotReadyError(f"{arguments.experiment} is not stopped")
        print(f"{arguments.experiment} is served again")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    top.add_argument("--source", help="the workspace; default: CLOCK_SOURCE, or simulator")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="serve POST /rank until stopped")
    run.add_argument("--host", default="127.0.0.1")
    run.add_argument("--port", type=int, help="default: CLOCK_SERVING_PORT")
    run.add_argument("--workers", type=int, default=1, help="processes; each keeps its own models")
    replay = commands.add_parser("replay", help="rank an hour's logged requests again by another model and compare")
    replay.add_argument("hour", help="for example 2026-03-18T10")
    replay.add_argument("--model", default="challenger", help="champion, challenger, a variant, or version:N")
    stop = commands.add_parser("stop", help="send the users of an experiment's variants back to the champion")
    stop.add_argument("experiment")
    stop.add_argument("--reason", default="stopped by hand")
    resume = commands.add_parser("resume", help="serve a stopped experiment's variants again")
    resume.add_argument("experiment")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)
