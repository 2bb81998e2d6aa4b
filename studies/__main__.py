"""``python -m studies NAME``: run a study; results in ``var/studies/NAME``. An interrupted study goes on where it was."""

from __future__ import annotations

import argparse
import importlib
import shutil

from core import cli
from core.documents import did_you_mean
from core.errors import ConfigError

CALIBRATION = "ab_calibration"
LIVED = ("closed_loop", "offline_online")
"""Studies on the simulated app's people who react; they take no other log."""
STUDIES = {
    CALIBRATION: "do the A/B statistics keep their word: errors, coverage, power, daily looks",
    "variants": "every time module, streaming: does the clock beat the hour, and ours the clock",
    "baselines": "does the clock help an MLP, DCN-v2, MMoE and DIN alike",
    "sigma": "how wide the Gaussian should be, also by kind of user",
    "streaming_vs_daily": "does hour-by-hour training bend the hour embedding, and not the clock",
    "granularity": "slots of 15 minutes to 2 hours, a weekend clock",
    "cold_start": "users and items with little history, thin slots that borrow",
    "seasonal": "weekends, holidays, the change of the clocks",
    "closed_loop": "do A/B intervals hold the truth where people react to rankers",
    "offline_online": "does the offline order of rankers predict the order of active days and duration",
    "sensitivity": "length of the window, values kept, weights of the behaviors",
}


def main(arguments: argparse.Namespace) -> None:
    name = arguments.name
    if name not in STUDIES:
        raise ConfigError(f"no study '{name}'{did_you_mean(name, STUDIES)} (there is {', '.join(STUDIES)})")
    if arguments.replications is not None and arguments.replications < 20:
        raise ConfigError(f"--replications {arguments.replications}: at least 20, or nothing can be said")
    if not 1 <= arguments.seeds <= 100:
        raise ConfigError(f"--seeds {arguments.seeds}: from 1 to 100")
    settings = cli.settings_of(arguments.source)
    if arguments.fresh:
        shutil.rmtree(settings.var / "studies" / name, ignore_errors=True)
    study = importlib.import_module(f"studies.{name}")
    if name == CALIBRATION:
        conclusion, page = study.run(settings, replications=arguments.replications or 2000)
    elif name in LIVED:
        if arguments.fresh:
            shutil.rmtree(settings.var / "studies" / "worlds", ignore_errors=True)
        more = {"replications": arguments.replications or 100} if name == "closed_loop" else {}
        conclusion, page = study.run(settings, worlds=arguments.seeds, **more)
    else:
        from studies.lab import Lab

        lab = Lab(settings, arguments.data or "", arguments.seeds)
        if arguments.fresh:
            lab.forget()
        conclusion, page = study.run(lab)
    print(f"{conclusion}\n{page}")


def parser() -> argparse.ArgumentParser:
    listed = "; ".join(f"{name}: {text}" for name, text in STUDIES.items())
    top = argparse.ArgumentParser(prog="python -m studies", description=__doc__, epilog=listed)
    top.add_argument("name", metavar="NAME")
    top.add_argument("--source", help="log to study rankers on: simulator (default) or the name of a mapping")
    top.add_argument("--data", metavar="PATH", help="files of that log")
    top.add_argument("--seeds", type=int, default=5, help="first weights, or worlds, to average over (default 5)")
    top.add_argument(
        "--replications",
        type=int,
        help="simulated experiments of ab_calibration (default 2000) and closed_loop (default 100)",
    )
    top.add_argument("--fresh", action="store_true", help="forget what was computed before")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)
