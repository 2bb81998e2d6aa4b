"""``python -m pipeline``: the main job, the local platform, and single steps by hand."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from core import cli
from core.hours import Hour
from core.settings import Settings, load_settings


def main(arguments: argparse.Namespace) -> None:
    if arguments.command == "demo":
        from clock.demo import describe, run_demo

        summary = run_demo(arguments.source or "simulator", arguments.data, arguments.hours, fresh=arguments.fresh)
        print(describe(summary, load_settings(source=summary["source"])))
        return
    if arguments.command == "loop":
        from closed_loop.loop import SOURCE, LoopPlan, run_loop
        from closed_loop.loop import describe as describe_loop

        plan = LoopPlan(
            arms=tuple(arguments.arms.split(",")), days=arguments.days, http=not arguments.in_process,
            airflow_hours=arguments.airflow_hours, truth=not arguments.no_truth,
        )  # fmt: skip
        print(describe_loop(run_loop(plan, fresh=arguments.fresh, source=arguments.source or SOURCE)))
        return
    settings = cli.settings_of(arguments.source)
    if arguments.command == "setup":
        _setup(settings, arguments)
    elif arguments.command == "history":
        from pipeline.history import build_history

        print(json.dumps(build_history(settings, Hour.parse(arguments.until)), default=str))
    elif arguments.command == "hour":
        from pipeline.hour import run_hour

        print(json.dumps(run_hour(settings, Hour.parse(arguments.hour)), default=str))
    elif arguments.command == "train":
        from pipeline.training import train_variant

        found = train_variant(
            settings, arguments.variant, Hour.parse(arguments.until), save_every=arguments.save_every,
            log_model=not arguments.no_model,
        )  # fmt: skip
        print(json.dumps(found, default=str))
    elif arguments.command == "stale":
        from pipeline.training import stale_hours

        print(json.dumps({"stale": [hour.key for hour in stale_hours(settings)]}))
    elif arguments.command == "rollback":
        from pipeline.promotion import rollback

        print(json.dumps(asdict(rollback(settings, arguments.reason, arguments.version))))
    elif arguments.command == "up":
        from operations.local import up

        up(settings)
    else:
        from operations.local import down

        down(settings)


def _setup(settings: Settings, arguments: argparse.Namespace) -> None:
    from pipeline.source import Source, save_app_source, save_source

    if arguments.mapping == "simulated":
        save_app_source(settings)
    else:
        save_source(settings, Source(arguments.mapping, tuple(arguments.path)))
    print(f"{settings.workspace} takes its log from {arguments.mapping}; next: python -m pipeline history UNTIL")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    top.add_argument("--source", help="workspace to work on; default CLOCK_SOURCE, else simulator")
    commands = top.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="the main job, from a raw log to a promoted model and an A/B report")
    demo.add_argument("--data", help="the log of a real source, a file or folder")
    demo.add_argument("--hours", type=int, default=6, help="hours to run through Airflow (default 6)")
    demo.add_argument("--fresh", action="store_true", help="remove the source's workspace first")
    loop = commands.add_parser(
        "loop", help="the closed loop: users, serving, log, hourly steps, A/B report, and the true effect"
    )
    loop.add_argument(
        "--arms",
        default="hour_embedding,matched_clock",
        help="rankers' variants, the control first (default %(default)s)",
    )
    loop.add_argument("--days", type=int, default=14, help="days of the experiment (default %(default)s)")
    loop.add_argument("--airflow-hours", type=int, default=0, help="last hours whose steps run as Airflow's DAGs")
    loop.add_argument("--in-process", action="store_true", help="rank in this process instead of over HTTP")
    loop.add_argument("--no-truth", action="store_true", help="leave out the worlds in which users are in other arms")
    loop.add_argument("--fresh", action="store_true", help="start over")
    setup = commands.add_parser("setup", help="say where a source's log comes from")
    setup.add_argument("mapping", metavar="MAPPING.yaml", help="or 'simulated': the simulated app")
    setup.add_argument("path", nargs="*", metavar="PATH", help="its files; default: the mapping's own paths")
    history = commands.add_parser("history", help="build everything before an hour in bulk")
    history.add_argument("until", metavar="HOUR")
    hour = commands.add_parser("hour", help="run one hour without Airflow: ingest, clocks, training, gate")
    hour.add_argument("hour", metavar="HOUR")
    train = commands.add_parser(
        "train", help="train one variant up to an hour; torchrun -m pipeline train ... for several processes"
    )
    train.add_argument("variant", metavar="VARIANT")
    train.add_argument("--until", required=True, metavar="HOUR")
    train.add_argument(
        "--save-every", type=int, default=24, metavar="HOURS", help="hours between checkpoints (default 24)"
    )
    train.add_argument("--no-model", action="store_true", help="log no model to MLflow")
    commands.add_parser("stale", help="hours whose events changed after they were trained on")
    rollback = commands.add_parser("rollback", help="take the champion back to its predecessor or a version")
    rollback.add_argument("reason")
    rollback.add_argument("--version")
    commands.add_parser("up", help="start Airflow, MLflow and the report pages, and leave them running")
    commands.add_parser("down", help="stop what 'up' started")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)
