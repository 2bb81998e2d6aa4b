"""``clock ab define``, ``stop``, ``extend``, ``conclude``, ``changes``: what the forms in Airflow do, from a shell."""

from __future__ import annotations

import getpass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core import cli
from core.errors import NotReadyError

if TYPE_CHECKING:
    from ab_analysis.changes import ExperimentChange
    from core.settings import Settings

ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name of the experiment.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept with the change.")]

app = cli.App()


class Outcome(StrEnum):
    """What people decided when an experiment was over."""

    SHIPPED = "shipped"
    NOT_SHIPPED = "not_shipped"
    INCONCLUSIVE = "inconclusive"


@app.command()
def define(
    experiment_file: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.yaml", help="A draft; it is copied into the workspace as it is.")
    ],
    why: Why,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the experiment of this name.")] = False,
    source: cli.SourceOption = None,
) -> None:
    """Save an experiment in the workspace, with the page of its plan."""
    from ab_analysis.experiment import load_experiment
    from pipeline.experiment_changes import define_experiment
    from pipeline.reports import list_experiments

    load_experiment(experiment_file)
    text = experiment_file.read_text(encoding="utf-8")
    settings = cli.settings_of(source)
    change = define_experiment(settings, text, getpass.getuser(), why, replace=replace)
    name = str(change.content["name"])
    print(f"{name} is {change.action}\n  {settings.reports_dir / 'ab' / name / 'plan.html'}")
    list_experiments(settings)


@app.command()
def stop(
    experiment: ExperimentName,
    why: Why,
    last_day: Annotated[
        str | None, typer.Option("--last-day", metavar="DAY", help="That counts. Default: the last one of the log.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Stop a running experiment: nobody is exposed any more; its result is read by the rule that it began with."""
    from core.hours import parse_day
    from pipeline.experiment_changes import stop_early

    day = parse_day(last_day) if last_day else None
    settings = cli.settings_of(source)
    _report(settings, stop_early(settings, experiment, getpass.getuser(), why, day))


@app.command()
def extend(
    experiment: ExperimentName,
    end: Annotated[str, typer.Option("--end", metavar="DAY", help="The new last day, for example 2026-11-23.")],
    why: Why,
    source: cli.SourceOption = None,
) -> None:
    """Give an experiment that has not ended a later last day."""
    from core.hours import parse_day
    from pipeline.experiment_changes import extend as extend_experiment

    settings = cli.settings_of(source)
    _report(settings, extend_experiment(settings, experiment, getpass.getuser(), why, parse_day(end)))


@app.command()
def conclude(
    experiment: ExperimentName,
    outcome: Annotated[Outcome, typer.Option("--outcome", help="What was decided.")],
    why: Why,
    source: cli.SourceOption = None,
) -> None:
    """Write down what people decided when an experiment was over."""
    from pipeline.experiment_changes import conclude as conclude_experiment

    settings = cli.settings_of(source)
    _report(settings, conclude_experiment(settings, experiment, getpass.getuser(), outcome.value, why))


@app.command()
def changes(experiment: ExperimentName, source: cli.SourceOption = None) -> None:
    """Who changed an experiment, when and why; * marks what touches a result that had begun."""
    from ab_analysis.changes import DEFINED, read_changes
    from ab_analysis.experiment import load_named

    folder = cli.settings_of(source).experiments_dir
    load_named(folder, experiment)
    recorded = read_changes(folder, experiment)
    if not recorded:
        raise NotReadyError(
            f"no change of {experiment} was recorded; what was edited by hand is in your version control"
        )
    for change in recorded:
        keys = "; ".join(f"{key}: {change.told(key)}" for key in change.keys) if change.action != DEFINED else ""
        print(
            f"{'*' if change.affects_result else ' '} {change.at[:16]}  {change.who:<16} {change.action:<15} {keys or '-'}"
        )
        if change.why:
            print(f"    {change.why}")


def _report(settings: Settings, change: ExperimentChange) -> None:
    """Say what was changed, and write the pages that show it."""
    from pipeline.reports import report_change

    flag = " (after its start: its page says so)" if change.affects_result else ""
    name = str(change.content["name"])
    print(f"{name} is {change.action}{flag}")
    print(f"  {report_change(settings, name).page}")
