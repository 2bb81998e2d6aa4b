"""``clock ab``: plan an experiment, assign its users, analyze a table, write a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from clock.commands.ab_options import covariates_of, limits_of, pairs, quantiles_of, ratio_of, shares_of
from core import cli
from core.documents import JsonObject
from core.errors import ConfigError

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment's file.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="OUT.json", help="Write the rows to a file: a list, one object per row."),
]
MOST_DIGITS = 1000
"""Shares from here on are written with a power of ten."""
ANALYZE_EXAMPLE = (
    "Example: clock ab analyze users.parquet --variant variant --control control --metric duration "
    "--covariate duration=duration_pre --ratio per_day=duration/active_days --json out.json"
)

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
    from ab_analysis.assignment import check_workspace_layers
    from ab_analysis.experiment import load_experiment, make_plan
    from ab_analysis.planning import plan_from_history
    from ab_analysis.results import plain
    from core.engine import engine
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
    durations = days or [max(round(experiment.planned_days), 1)]
    with engine(settings) as db:
        rows = plan_from_history(db, store, make_plan(settings, experiment, tuple(store.facets)), durations)
    print(
        f"{experiment.name}: effects of {experiment.minimum_effect:.2%} or more, power {experiment.power:.0%}, confidence "
        f"{experiment.confidence:.0%}, one look\n"
    )
    print(
        f"{'metric':<26}{'method':<8}{'days':>5}{'users':>12}{'mean':>11}{'sd':>11}{'saved':>7}{'detectable':>12}{'needed':>13}{'power':>7}"
    )
    for r in rows:
        print(
            f"{r.metric[:25]:<26}{r.method:<8}{r.days:>5}{r.users:>12,}{r.mean:>11.4g}{r.sd:>11.4g}{r.variance_reduction:>7.0%}"
            f"{r.detectable:>12.2%}{r.users_needed:>13,}{r.power:>7.0%}"
        )
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
        _write_rows(json_file, [plain(r) for r in rows])


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
    from ab_analysis.assignment import assign_users, check_workspace_layers
    from ab_analysis.experiment import load_experiment
    from ab_analysis.user_file import assignment_table, read_users, write_assignments
    from core.files import check_output

    if out:
        check_output(out, experiment_file, *([Path(users)] if users != "-" else []))
    experiment = load_experiment(experiment_file)
    keys = read_users(users, column)
    check_workspace_layers(cli.settings_of(source), experiment)
    variants = assign_users(experiment, keys)
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
        print(f"outside the layer's share: {outside:,} users", file=sys.stderr)


@app.command(epilog=ANALYZE_EXAMPLE)
def analyze(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV or Parquet, a file or a folder of Parquet parts.")
    ],
    variant: Annotated[str, typer.Option("--variant", metavar="COLUMN", help="Column of the variant.")],
    control: Annotated[str, typer.Option("--control", metavar="VALUE", help="Its value for the control.")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="COLUMN", help="A mean per user; may be repeated.")
    ] = None,
    ratio: Annotated[
        list[str] | None,
        typer.Option("--ratio", metavar="NAME=A/B", help="Sum of A over sum of B; delta method. May be repeated."),
    ] = None,
    covariate: Annotated[
        list[str] | None,
        typer.Option(
            "--covariate",
            metavar="METRIC=COLUMN[,COLUMN]",
            help="Measured before exposure; for a metric or a ratio (NAME=A_PRE/B_PRE). May be repeated.",
        ),
    ] = None,
    quantile: Annotated[
        list[str] | None,
        typer.Option("--quantile", metavar="NAME=COLUMN@SHARE", help="For example p90=duration@0.9. May be repeated."),
    ] = None,
    cap: Annotated[
        list[str] | None,
        typer.Option("--cap", metavar="COLUMN=VALUE", help="Larger values count as this one. May be repeated."),
    ] = None,
    winsorize: Annotated[
        list[str] | None,
        typer.Option(
            "--winsorize",
            metavar="COLUMN=SHARE",
            help="The same at a quantile of all users, such as 0.99. May be repeated.",
        ),
    ] = None,
    segment: Annotated[
        list[str] | None,
        typer.Option("--segment", metavar="COLUMN", help="Also for each value of this column; may be repeated."),
    ] = None,
    stratum: Annotated[
        list[str] | None,
        typer.Option("--stratum", metavar="COLUMN", help="Post-stratify by this column; may be repeated."),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option("--shares", metavar="V=S,V=S", help="Planned shares of the variants. Default: equal."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="COLUMN", help="Column of the user; checks that no user appears twice."),
    ] = None,
    exclude_crossed: Annotated[
        bool, typer.Option("--exclude-crossed", help="Leave out users of two variants and report how many.")
    ] = False,
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="LEVEL", help="Level of the intervals, between 0.5 and 1.")
    ] = 0.95,
    json_file: JsonFile = None,
    source: cli.SourceOption = None,
) -> None:
    """Analyze a plain table of any experiment, one row per user.

    Compares every variant with the control: Welch's test, and CUPED where a covariate is given. Users whose covariate is
    empty count as users without a pre-period. Metrics must be numbers for every user.
    """
    from ab_analysis.results import plain
    from ab_analysis.table import analyze_table
    from ab_analysis.table_spec import TableSpec
    from core.engine import engine
    from core.files import check_output

    settings = cli.settings_of(source)
    if json_file:
        check_output(json_file, table)
    spec = TableSpec(
        variant=variant,
        control=control,
        metrics=tuple(dict.fromkeys(metric or ())),
        ratios={name: ratio_of(name, text) for name, text in pairs("--ratio", ratio or [])},
        covariates=covariates_of(covariate or []),
        segments=tuple(dict.fromkeys(segment or ())),
        strata=tuple(dict.fromkeys(stratum or ())),
        shares=shares_of(shares),
        user=user,
        exclude_crossed=exclude_crossed,
        confidence=confidence,
        quantiles=quantiles_of(quantile or []),
        limits=limits_of(cap or [], winsorize or []),
    )
    with engine(settings) as db:
        rows, checks = analyze_table(db, table, spec)
    objects: list[JsonObject] = [
        {
            "metric": r.metric, "variant": r.variant, "method": r.method, "n_control": r.n_control, "n_treatment": r.n_treatment,
            **{k: plain(getattr(r.effect, k)) for k in
               ("control", "treatment", "effect", "effect_ci", "rel_effect", "rel_effect_ci", "p_value")},
            **({"segment": r.segment[0], "segment_value": r.segment[1]} if r.segment else {}),
        }
        for r in rows
    ]  # fmt: skip
    for c in checks:
        print(f"{'' if c.level == 'ok' else c.level.upper() + ': '}{c.text}", file=sys.stderr)
    _print_rows(objects, confidence)
    if json_file:
        _write_rows(json_file, objects)


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


def _percent(share: float) -> str:
    """A share as people read it; beyond a hundred thousand percent with its power of ten.

    >>> _percent(-0.125), _percent(3.45e305)
    ('-12.50%', '+3.45e+307%')
    """
    return f"{share:+.2%}" if abs(share) < MOST_DIGITS else f"{share * 100:+.3g}%"


def _print_rows(rows: list[JsonObject], confidence: float) -> None:
    width, variant_width = (max(map(len, [key, *(r[key] for r in rows)])) + 2 for key in ("metric", "variant"))
    level = f"{confidence * 100:g}% interval"
    print(
        f"{'metric':<{width}}{'variant':<{variant_width}}{'method':<16}{'control':>12}{'treatment':>12}{'lift':>11}   {level:<22}{'p':>9}"
    )
    for r in rows:
        testable = r["effect"] is not None
        value = "(no value)" if r.get("segment_value") is None else r["segment_value"]
        group = f"  where {r['segment']} = {value}" if "segment" in r else ""
        low, high = r["rel_effect_ci"]
        interval = f"[{_percent(low)}, {_percent(high)}]" if low is not None and high is not None else "–"
        lift = _percent(r["rel_effect"]) if r["rel_effect"] is not None else "–"
        figures = (
            f"{r['control']:>12.5g}{r['treatment']:>12.5g}{lift:>11}   {interval:<22}{r['p_value']:>9.3g}"
            if testable
            else "   cannot be tested: the same value for every user, too few users, or nothing in the denominator"
        )
        print(f"{r['metric']:<{width}}{r['variant']:<{variant_width}}{r['method']:<16}{figures}{group}")


def _write_rows(path: Path, rows: list[JsonObject]) -> None:
    """Write a JSON list, one object per line."""
    from core.files import write_output

    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_output(path, f"[\n{lines}\n]\n")
    print(f"written to {path}", file=sys.stderr)
