"""``python -m simulation``: write the simulated app's log, or print what is true in it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from core import cli
from core.hours import Hour
from core.settings import load_settings


def main(arguments: argparse.Namespace) -> None:
    from simulation.config import load_config
    from simulation.log import AppLog
    from simulation.truth import attainable_auc, experiment_truth, perfect_truth, taste_entropy

    config = load_config(arguments.config)
    if arguments.command == "write":
        root = arguments.out or load_settings().workspace / "app"
        start = Hour.parse(arguments.start) if arguments.start else config.first_hour
        end = Hour.parse(arguments.end) if arguments.end else config.end_hour
        files = AppLog(config, root).write_hours(start, end)
        print(json.dumps({"root": str(root), "mapping": str(root / "mapping.yaml"), "hours": len(files)}))
    else:
        print(
            json.dumps(
                {
                    "experiment": experiment_truth(config, config.end_hour),
                    "attainable_auc": attainable_auc(config),
                    "taste_entropy_bits": taste_entropy(config),
                    "rankers": perfect_truth(config, lambda text: print(text, file=sys.stderr)),
                },
                indent=1,
            )
        )


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    top.add_argument("--config", type=Path, help="YAML of SimulatorConfig; default: the built-in parameters")
    commands = top.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write the raw log, hour by hour")
    write.add_argument("--from", dest="start", metavar="HOUR")
    write.add_argument("--to", dest="end", metavar="HOUR", help="the hour after the last one")
    write.add_argument("--out", type=Path, metavar="DIR", help="default var/simulator/app")
    commands.add_parser("truth", help="print the true effects, the attainable AUC, tastes by hour")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)
