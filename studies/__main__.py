"""``python -m studies NAME``: run a study; results in ``var/studies/NAME``. An interrupted study goes on where it was."""

from __future__ import annotations

import argparse
import shutil

from core import cli
from core.documents import did_you_mean
from core.errors import ConfigError
from core.settings import load_settings

STUDIES = {"ab_calibration": "do the A/B statistics keep their word: errors, coverage, power, daily looks"}


def main(arguments: argparse.Namespace) -> None:
    if arguments.name not in STUDIES:
        known = ", ".join(STUDIES)
        raise ConfigError(f"no study '{arguments.name}'{did_you_mean(arguments.name, STUDIES)} (there is {known})")
    if arguments.replications < 20:
        raise ConfigError(f"--replications {arguments.replications}: at least 20, or nothing can be said")
    from studies.ab_calibration import run

    settings = load_settings()
    if arguments.fresh:
        shutil.rmtree(settings.var / "studies" / arguments.name, ignore_errors=True)
    conclusion, page = run(settings, replications=arguments.replications)
    print(f"{conclusion}\n{page}")


def parser() -> argparse.ArgumentParser:
    listed = "; ".join(f"{name}: {text}" for name, text in STUDIES.items())
    top = argparse.ArgumentParser(prog="python -m studies", description=__doc__, epilog=listed)
    top.add_argument("name", metavar="NAME")
    top.add_argument("--replications", type=int, default=2000, help="simulated experiments (default 2000)")
    top.add_argument("--fresh", action="store_true", help="forget what was computed before")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)
