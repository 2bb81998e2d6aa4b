"""``clock ab``: plan an experiment, assign its users, analyze a table, write a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from clock.commands import ab_analyze
from clock.commands.ab_options import JsonFile, print_plan, write_rows
from core import cli
from core.errors import ConfigError

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment's file.")]
app = cli.App(
    shared_source=True,
    help="Experiments: plan, assign users, analyze, report.",
    epilog="Example: clock ab plan my_experiment.yaml --days 7 14",
)


@app.command()
def init() -> None:
    """Print a commented experiment file."""
    import ab_analysis

    print(Path(ab_analysis.__file__).with_name("example.yaml").read_text(encoding="utf-8"), end="")


@app.command()
def schema() -> None:
    """Print the JSON schema of an experiment file, for an editor."""
    from ab_analysis.experiment import Experiment

    print(json.dumps(Experiment.model_json_schema(), indent=1))


@app.command()
def plan(
    experiment_file: ExperimentFile,
    days: Annotated[
        list[int] | None,
        typer.Option("--days", metavar="DAYS...", help="Lengths to compare, one or more. Default: the file's own."),
    ] = None,
    json_file: JsonFile = None,
    source: cli.SourceOption = None,
) -> None:
    """How long an experiment must run, from the source's own history.

    Pretends that the experiment just ran on the last days of the log: how many users it would have had, how much its
    metrics vary, what CUPED saves, the smallest effect it would find, and the users its minimum effect needs.
    """
    from ab_analysis.assignment import check_workspace_layers, concurrent_holdouts
    from ab_analysis.experiment import load_experiment
    from ab_analysis.experiment_plan import make_plan
    from ab_analysis.planning import plan_from_history
    from ab_analysis.results import plain
    from core.engine import cluster_beside, local_engine
    from core.files import check_output
    from events.store import EventStore

    if json_file:
        check_output(json_file, experiment_file)
    if few := [count for count in days or () if count < 1]:
        raise ConfigError(f"--days {few[0]}: at least 1")
    experiment = load_experiment(experiment_file)
    settings = cli.settings_of(source)
    check_workspace_layers(settings, experiment)
    store = EventStore(settings.events_dir)
    held_out = sum(holdout.held_out for holdout in concurrent_holdouts(settings, experiment))
    durations = days or [max(round(experiment.planned_days), 1)]
    with local_engine(settings) as db, cluster_beside(settings, lambda: store.count(store.hours())) as cluster:
        plan = make_plan(settings, experiment, tuple(store.facets))
        rows = plan_from_history(db, store, plan, durations, held_out=held_out, cluster=cluster)
    print(
        f"{experiment.name}: effects of {experiment.minimum_effect:.2%} or more, power {experiment.power:.0%}, confidence "
        f"{experiment.confidence:.0%}, one look\n"
    )
    print_plan(rows)
    print()
    if missing := [m for m in experiment.tested_metrics if m not in {r.metric for r in rows}]:
        print(f"not planned, for being a quantile, the same for every user, or 0 on average: {', '.join(missing)}\n")
    for metric in experiment.primary:
        rows_of_metric = [r for r in rows if r.metric == metric]
        for method in dict.fromkeys(r.method for r in rows_of_metric):
            enough = [r.days for r in rows_of_metric if r.method == method and r.users >= r.users_needed]
            verdict = (
                f"{min(enough)} days are enough"
                if enough
                else f"{max(r.days for r in rows_of_metric)} days are not enough"
            )
            print(f"{metric}, {method}: {verdict}")
    if json_file:
        write_rows(json_file, [plain(r) for r in rows])


@app.command()
def assign(
    experiment_file: ExperimentFile,
    users: Annotated[
        str,
        typer.Argument(
            metavar="USERS", help="Text file (one user per line), CSV or Parquet file; - reads standard input."
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option("--column", metavar="COLUMN", help="Column of the user. Default: the first, without a header."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="OUT.csv", help="File to write. Default: standard output.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Which variant each user gets.

    Writes user,variant. The split is a salted hash: the same every time, on every machine.
    """
    from ab_analysis.assignment import assign_users, check_workspace_layers, concurrent_holdouts
    from ab_analysis.experiment import load_experiment
    from ab_analysis.user_file import assignment_table, read_users, write_assignments
    from core.files import check_output

    if out:
        check_output(out, experiment_file, *([Path(users)] if users != "-" else []))
    experiment = load_experiment(experiment_file)
    keys = read_users(users, column)
    settings = cli.settings_of(source)
    check_workspace_layers(settings, experiment)
    holdouts = concurrent_holdouts(settings, experiment)
    variants = assign_users(experiment, keys, holdouts)
    if out:
        write_assignments(out, keys, list(variants))
    else:
        print(assignment_table(keys, list(variants)), end="")
    for name in experiment.variants:
        print(f"{name}: {int((variants == name).sum()):,} users", file=sys.stderr)
    if repeated := len(keys) - len(set(keys)):
        print(f"rows that repeat a user: {repeated:,}", file=sys.stderr)
    outside = sum(v is None for v in variants)
    if outside:
        why = [
            *(["outside the layer's share"] if experiment.layer else []),
            *(f"held out by {h.name}" for h in holdouts),
        ]
        print(f"{' or '.join(why)}: {outside:,} users", file=sys.stderr)


@app.command()
def report(
    experiment: Annotated[
        list[str] | None, typer.Argument(metavar="[EXPERIMENT]...", help="Names. Default: all.")
    ] = None,
    day: Annotated[
        str | None,
        typer.Option("--day", metavar="DAY", help="As of the end of this UTC day, for example 2026-11-23."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="HOUR", help="As of the start of this UTC hour.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Write reports of the source's experiments, as of now or of a past day."""
    from ab_analysis.experiment import find_experiments
    from ab_analysis.overview import write_overview
    from ab_analysis.report import write_reports
    from core.hours import Hour, day_hours, parse_day
    from events.store import EventStore

    if day and until:
        raise ConfigError("--day and --until both say as of when; give one of them")
    asked = day_hours(parse_day(day))[-1] + 1 if day else Hour.parse(until) if until else None
    settings = cli.settings_of(source)
    names = list(experiment or find_experiments(settings.experiments_dir))
    hours = EventStore(settings.events_dir).require_hours()
    end = asked or hours[-1] + 1
    for outcome in write_reports(settings, names, end):
        if outcome.report is None:
            print(f"{outcome.experiment}: no report: {outcome.reason}", file=sys.stderr)
        else:
            print(f"{outcome.experiment}: {outcome.report.analysis.decision.sentence}\n  {outcome.report.page}")
    print(write_overview(settings))


app.registered_commands += ab_analyze.app.registered_commands
