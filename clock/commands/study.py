"""``clock study NAME``: run a study; results in ``var/studies/NAME``. An interrupted study continues where it was."""

from __future__ import annotations

import importlib
import math
import shutil
from collections.abc import Mapping
from contextlib import closing
from typing import Annotated

import typer

from core import cli
from core.errors import ConfigError

REPLICATIONS = {"ab_calibration": 2000, "uauc": 100}
"""Studies of simulated data that need no log and no app, and how often they simulate it."""
SEEDS = 5
REACTIVE = ("closed_loop", "offline_online")
"""Studies of the simulated app whose users react to rankers; they take no other log."""
LIMITS = {"--replications": (20, math.inf, "at least 20, fewer say nothing"), "--seeds": (1, 100, "from 1 to 100")}
"""Option → its least and most, and what is said of any other number."""
STUDIES = {
    "ab_calibration": "do the A/B statistics hold what they promise: errors, coverage, power, daily looks",
    "uauc": "does UAUC mean what it says where features move by the hour, and what does the gate's check of it do",
    "variants": "every time module, streaming: does the clock beat the hour, and ours the clock",
    "baselines": "does the clock help an MLP, DCN-v2, MMoE and DIN alike",
    "peers": "is the ranker as good as LightGBM, logistic regression, and torch-rechub's DCN-v2, DeepFM and DIN",
    "features": "what each group of features is worth: one left out at a time, and all",
    "base": "what makes the base ranker stronger: target statistics, penalties, calibration; chosen and reported apart",
    "session_loss": "does a ranking loss within sessions order what a user is shown together better",
    "admission": "rows for ids that were seen more than once only: what it saves, and what it costs",
    "decay": "does it pay that tables go on learning (Adagrad's sums decay) where tastes drift",
    "freshness": "does it pay to count in what users did minutes ago",
    "parameters": "does it pay to serve parameters that were trained within the hour",
    "averaging": "is a ranker better that is scored by an average of its dense weights over the hours past",
    "sigma": "how wide the Gaussian should be, also by kind of user",
    "streaming_vs_daily": "does hour-by-hour training bend the hour embedding, and not the clock",
    "granularity": "slots of 15 minutes to 2 hours, a weekend clock",
    "cold_start": "users and items with little history, thin slots that borrow",
    "seasonal": "weekends, holidays, the change of the clocks",
    "closed_loop": "do A/B intervals cover the truth when people react to rankers",
    "offline_online": "does the offline order of rankers predict the order of active days and duration",
    "sensitivity": "length of the window, values kept, weights of the behaviors",
}

EPILOG = "Example: clock study sigma --source foursquare --data checkins/"


def _takes(name: str, option: str) -> bool:
    """Whether a study reads an option: those of simulated data no log, and only these are repeated.

    >>> _takes("uauc", "--seeds"), _takes("closed_loop", "--seeds"), _takes("sigma", "--replications")
    (False, True, False)
    """
    if option == "--replications":
        return name in REPLICATIONS or name == "closed_loop"
    return name not in REPLICATIONS and (option == "--seeds" or name not in REACTIVE)


def _check(name: str, given: Mapping[str, str | int | None]) -> None:
    """Refuse a study that there is not, options that it does not read, and numbers out of range.

    Raises:
        ConfigError: says which, and what would do.
    """
    from core.documents import did_you_mean

    if name not in STUDIES:
        raise ConfigError(f"no study '{name}'{did_you_mean(name, STUDIES)} (choose from {', '.join(STUDIES)})")
    if unused := [option for option, value in given.items() if value is not None and not _takes(name, option)]:
        raise ConfigError(f"study '{name}' takes no {' and no '.join(unused)}: leave it out")
    for option, (least, most, why) in LIMITS.items():
        value = given[option]
        if value is not None and not least <= int(value) <= most:
            raise ConfigError(f"{option} {value}: {why}")


def _names() -> list[tuple[str, str]]:
    return list(STUDIES.items())


def study(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", autocompletion=_names, help="The study; without it, their list is printed."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH", help="Files of the log to study rankers on.")
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            "--mapping", metavar="PATH", help="Mapping file of that log; without it, the built-in of the source's name."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", metavar="N", help=f"Number of initial weights, or worlds, to average over (default {SEEDS})."
        ),
    ] = None,
    replications: Annotated[
        int | None,
        typer.Option(
            "--replications",
            metavar="N",
            help="Simulated experiments of ab_calibration (default 2000) and closed_loop (default 100), and comparisons "
            "before the gate of uauc (default 100).",
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was computed before.")] = False,
    source: cli.SourceOption = None,
) -> None:
    """Run a study with its conclusion; without NAME, list the studies.

    Results are kept in var/studies/NAME; an interrupted study continues where it was.
    """
    if name is None:
        print("\n".join(f"{study_name:<20} {question}" for study_name, question in STUDIES.items()))
        return
    _check(name, {"--data": data, "--mapping": mapping, "--seeds": seeds, "--replications": replications})
    settings = cli.settings_of(source)
    if fresh:
        shutil.rmtree(settings.var / "studies" / name, ignore_errors=True)
    module = importlib.import_module(f"studies.{name}")
    if name in REPLICATIONS:
        conclusion, page = module.run(settings, replications=replications or REPLICATIONS[name])
    elif name in REACTIVE:
        if fresh:
            shutil.rmtree(settings.var / "studies" / "worlds", ignore_errors=True)
        more = {"replications": replications or 100} if name == "closed_loop" else {}
        conclusion, page = module.run(settings, worlds=seeds or SEEDS, **more)
    else:
        from studies.lab import Lab

        lab = Lab(settings, data or "", seeds or SEEDS, mapping or "")
        if fresh:
            lab.forget()
        with closing(lab):
            conclusion, page = module.run(lab)
    print(f"{conclusion}\n{page}")


app = cli.App(callback=None, no_args_is_help=False)
app.command("study", epilog=EPILOG)(study)
