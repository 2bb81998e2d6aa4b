"""``clock ab analyze`` and ``power``: the statistics of an experiment on anybody's table, after it and before it."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clock.commands.ab_options import (
    CapOption,
    ClusterOption,
    CovariateOption,
    JsonFile,
    MetricOption,
    RatioOption,
    SharesOption,
    TableArgument,
    WinsorizeOption,
    outcomes_of,
    print_plan,
    quantiles_of,
    shares_of,
    write_rows,
)
from core import cli
from core.errors import ConfigError

if TYPE_CHECKING:
    from ab_analysis.multiplicity import Correction

DEFAULT_POWER = 0.8
ANALYZE_EXAMPLE = (
    "Example: clock ab analyze users.parquet --variant variant --control control --metric duration "
    "--covariate duration=duration_pre --ratio per_day=duration/active_days --json out.json"
)
POWER_EXAMPLE = "Example: clock ab power last_weeks.parquet --metric duration --covariate duration=duration_pre --minimum-effect 0.01"

app = cli.App()


class Side(StrEnum):
    """On which side of 0 an effect is looked for."""

    TWO_SIDED = "two-sided"
    GREATER = "greater"
    LESS = "less"


class CorrectionName(StrEnum):
    """How p-values are corrected for their number."""

    NONE = "none"
    BONFERRONI = "bonferroni"
    HOLM = "holm"
    BENJAMINI_HOCHBERG = "benjamini-hochberg"


CORRECTIONS: dict[CorrectionName, Correction | None] = {
    CorrectionName.NONE: None,
    CorrectionName.BONFERRONI: "bonferroni",
    CorrectionName.HOLM: "holm",
    CorrectionName.BENJAMINI_HOCHBERG: "fdr_bh",
}


@app.command(epilog=ANALYZE_EXAMPLE)
def analyze(
    table: TableArgument,
    variant: Annotated[str, typer.Option("--variant", metavar="COLUMN", help="Column of the variant.")],
    control: Annotated[str, typer.Option("--control", metavar="VALUE", help="Its value for the control.")],
    metric: MetricOption = None,
    ratio: RatioOption = None,
    covariate: CovariateOption = None,
    quantile: Annotated[
        list[str] | None,
        typer.Option("--quantile", metavar="NAME=COLUMN@SHARE", help="For example p90=duration@0.9. May be repeated."),
    ] = None,
    cap: CapOption = None,
    winsorize: WinsorizeOption = None,
    segment: Annotated[
        list[str] | None,
        typer.Option("--segment", metavar="COLUMN", help="Also for each value of this column; may be repeated."),
    ] = None,
    stratum: Annotated[
        list[str] | None,
        typer.Option("--stratum", metavar="COLUMN", help="Post-stratify by this column; may be repeated."),
    ] = None,
    shares: SharesOption = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="COLUMN", help="Column of the user; checks that no user appears twice."),
    ] = None,
    cluster: ClusterOption = None,
    exclude_crossed: Annotated[
        bool, typer.Option("--exclude-crossed", help="Leave out users of two variants and report how many.")
    ] = False,
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="LEVEL", help="Level of the intervals, between 0.5 and 1.")
    ] = 0.95,
    alternative: Annotated[
        Side,
        typer.Option("--alternative", help="Whether the variant differs from the control, is greater, or is less."),
    ] = Side.TWO_SIDED,
    correction: Annotated[
        CorrectionName,
        typer.Option(
            "--correction", help="For the number of metrics and variants: p-values, and intervals that agree with them."
        ),
    ] = CorrectionName.NONE,
    sequential: Annotated[
        int | None,
        typer.Option(
            "--sequential",
            metavar="USERS",
            help="Planned number of users. P-values and intervals hold however often the growing table is analyzed.",
        ),
    ] = None,
    power: Annotated[
        float | None,
        typer.Option(
            "--power", metavar="LEVEL", help="Also the smallest lift that is found with this power, such as 0.8."
        ),
    ] = None,
    minimum_effect: Annotated[
        float | None,
        typer.Option(
            "--minimum-effect",
            metavar="SHARE",
            help="Also the power to find this lift, such as 0.02, and the users needed (power 0.8 unless --power says another).",
        ),
    ] = None,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary", help="TABLE has a row per variant and metric: metric, users, mean, variance (see the how-to)."
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="OUT.html", help="Also write a page, as of an experiment's report. It needs no network."
        ),
    ] = None,
    lower_is_better: Annotated[
        list[str] | None,
        typer.Option(
            "--lower-is-better", metavar="METRIC", help="On the page, this metric should go down; may be repeated."
        ),
    ] = None,
    json_file: JsonFile = None,
    source: cli.SourceOption = None,
) -> None:
    """Analyze a plain table of any experiment, one row per user.

    Compares every variant with the control: Welch's test, and CUPED where a covariate is given. Users whose covariate is
    empty count as users without a pre-period. Metrics must be numbers for every user.
    """
    from ab_analysis.histograms import read_table_histograms
    from ab_analysis.summaries import analyze_summary
    from ab_analysis.table import analyze_table
    from ab_analysis.table_text import as_object, text_table, told_reading
    from core.engine import local_engine
    from core.files import check_output

    settings = cli.settings_of(source)
    for out in (json_file, html):
        if out:
            check_output(out, table)
    if json_file and html and json_file.absolute() == html.absolute():
        raise ConfigError(f"--json and --html both name '{html}'")
    if lower_is_better and not html:
        raise ConfigError("--lower-is-better says what is good on the page: give --html, too")
    spec = replace(
        outcomes_of(metric, ratio, covariate, cap, winsorize, cluster, confidence),
        variant=variant,
        control=control,
        segments=tuple(dict.fromkeys(segment or ())),
        strata=tuple(dict.fromkeys(stratum or ())),
        shares=shares_of(shares),
        user=user,
        exclude_crossed=exclude_crossed,
        quantiles=quantiles_of(quantile or []),
        alternative=alternative.value,
        correction=CORRECTIONS[correction],
        planned_users=sequential,
        power=DEFAULT_POWER if power is None and minimum_effect is not None else power,
        minimum_effect=minimum_effect,
    )
    asked = replace(spec, power=spec.power or DEFAULT_POWER) if html else spec
    with local_engine(settings) as db:
        rows, checks = analyze_summary(db, table, asked) if summary else analyze_table(db, table, asked)
        histograms = read_table_histograms(db, spec.metrics) if html and not summary else {}
    for c in checks:
        print(f"{'' if c.state == 'ok' else c.state.upper() + ': '}{c.text}", file=sys.stderr)
    if told := told_reading(spec, rows):
        print(told, file=sys.stderr)
    print("\n".join(text_table(rows, spec)))
    if json_file:
        write_rows(json_file, [as_object(row, spec) for row in rows])
    if html:
        from ab_analysis.table_page import write_table_page

        shown = replace(asked, metrics=()) if summary else asked  # of a summary's metrics only the names are known
        write_table_page(html, table, shown, rows, checks, lower_is_better or (), histograms, var=settings.var)
        print(f"page: {html}", file=sys.stderr)


@app.command(epilog=POWER_EXAMPLE)
def power(
    table: TableArgument,
    minimum_effect: Annotated[
        float, typer.Option("--minimum-effect", metavar="SHARE", help="Smallest lift worth finding, such as 0.02.")
    ],
    metric: MetricOption = None,
    ratio: RatioOption = None,
    covariate: CovariateOption = None,
    cap: CapOption = None,
    winsorize: WinsorizeOption = None,
    cluster: ClusterOption = None,
    users: Annotated[
        int | None,
        typer.Option(
            "--users",
            metavar="NUMBER",
            help="That the experiment will have. Default: the table's. With --cluster: clusters.",
        ),
    ] = None,
    shares: SharesOption = None,
    control: Annotated[
        str | None, typer.Option("--control", metavar="VARIANT", help="Of --shares. Default: the first.")
    ] = None,
    level: Annotated[float, typer.Option("--power", metavar="LEVEL", help="Chance to find it.")] = DEFAULT_POWER,
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="LEVEL", help="Of the two-sided test, between 0.5 and 1.")
    ] = 0.95,
    json_file: JsonFile = None,
    source: cli.SourceOption = None,
) -> None:
    """What an experiment could find, from a plain table of the time before it, one row per user.

    How much each metric varies, what CUPED saves, the smallest lift that so many users find, and the users that the smallest lift
    worth finding takes.
    """
    from ab_analysis.results import plain
    from ab_analysis.table_power import design_of, power_of_table
    from core.engine import local_engine
    from core.files import check_output

    settings = cli.settings_of(source)
    if json_file:
        check_output(json_file, table)
    spec = outcomes_of(metric, ratio, covariate, cap, winsorize, cluster, confidence)
    design = design_of(shares_of(shares), control, minimum_effect=minimum_effect, power=level, confidence=confidence)
    with local_engine(settings) as db:
        rows, unplanned = power_of_table(db, table, spec, design, users)
    variants = ", ".join(f"{name} {share / sum(design.shares.values()):.0%}" for name, share in design.shares.items())
    print(
        f"Lifts of {minimum_effect:.2%} or more, power {level:.0%}, confidence {confidence:.0%}, one look; {variants}\n"
    )
    print_plan(rows, "clusters" if cluster else "users")
    if unplanned:
        print(f"\nnot planned, for being the same for every user, or 0 on average: {', '.join(unplanned)}")
    if json_file:
        write_rows(json_file, [{key: value for key, value in plain(row).items() if key != "days"} for row in rows])
