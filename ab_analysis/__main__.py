"""``python -m ab_analysis``: plan an experiment, assign its users, analyze a table, write a report."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ab_analysis.experiment import Experiment, load_experiment, make_plan
from core import cli
from core.engine import engine
from core.errors import ConfigError, DataError
from core.files import write_text
from core.hours import Hour, day_hours, parse_day
from core.settings import Settings

EXAMPLE = Path(__file__).with_name("example.yaml")


def main(arguments: argparse.Namespace) -> None:
    settings = cli.settings_of(arguments.source)
    commands = {
        "init": lambda: print(EXAMPLE.read_text(encoding="utf-8"), end=""),
        "schema": lambda: print(json.dumps(Experiment.model_json_schema(), indent=1)),
        "plan": lambda: plan(settings, arguments),
        "assign": lambda: assign(settings, arguments),
        "analyze": lambda: analyze(settings, arguments),
        "report": lambda: report(settings, arguments),
    }
    commands[arguments.command]()


def plan(settings: Settings, arguments: argparse.Namespace) -> None:
    from ab_analysis.assignment import check_workspace_layers
    from ab_analysis.planning import plan_from_history
    from ab_analysis.results import plain
    from events.store import EventStore

    experiment = load_experiment(arguments.experiment)
    check_workspace_layers(settings, experiment)
    store = EventStore(settings.events_dir)
    durations = arguments.days or [max(round(experiment.planned_days), 1)]
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
    for metric in experiment.primary:
        own = [r for r in rows if r.metric == metric]
        for method in dict.fromkeys(r.method for r in own):
            enough = [r.days for r in own if r.method == method and r.users >= r.users_needed]
            found = f"{min(enough)} days are enough" if enough else f"{max(r.days for r in own)} days are not enough"
            print(f"{metric}, {method}: {found}")
    if arguments.json:
        _write_rows(arguments.json, [plain(r) for r in rows])


def assign(settings: Settings, arguments: argparse.Namespace) -> None:
    from ab_analysis.assignment import assign_users, check_workspace_layers
    from ab_analysis.user_file import assignment_table, read_users, write_assignments

    experiment = load_experiment(arguments.experiment)
    check_workspace_layers(settings, experiment)
    keys = read_users(arguments.users, arguments.column)
    variants = assign_users(experiment, keys)
    if arguments.out:
        write_assignments(arguments.out, keys, list(variants))
    else:
        print(assignment_table(keys, list(variants)), end="")
    for name in experiment.variants:
        print(f"{name}: {int((variants == name).sum()):,} users", file=sys.stderr)
    outside = sum(v is None for v in variants)
    if outside:
        print(f"outside the layer's share: {outside:,} users", file=sys.stderr)


def analyze(settings: Settings, arguments: argparse.Namespace) -> None:
    from ab_analysis.results import plain
    from ab_analysis.table import TableSpec, analyze_table

    spec = TableSpec(
        variant=arguments.variant,
        control=arguments.control,
        metrics=tuple(dict.fromkeys(arguments.metric)),
        ratios={name: _ratio(name, text) for name, text in _pairs("--ratio", arguments.ratio)},
        covariates=_covariates(arguments.covariate),
        segments=tuple(arguments.segment),
        strata=tuple(arguments.stratum),
        shares=_shares(arguments.shares),
        user=arguments.user,
        exclude_crossed=arguments.exclude_crossed,
        confidence=arguments.confidence,
    )
    with engine(settings) as db:
        rows, checks = analyze_table(db, arguments.table, spec)
    objects: list[dict[str, Any]] = [
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
    _print_rows(objects, arguments.confidence)
    if arguments.json:
        _write_rows(arguments.json, objects)


def _print_rows(rows: list[dict[str, Any]], confidence: float) -> None:
    wide = max((len(r["metric"]) for r in rows), default=0) + 2
    level = f"{confidence:.0%} interval"
    print(
        f"{'metric':<{wide}}{'variant':<14}{'method':<16}{'control':>12}{'treatment':>12}{'lift':>9}   {level:<22}{'p':>9}"
    )
    for r in rows:
        known = r["effect"] is not None
        value = "(no value)" if r.get("segment_value") is None else r["segment_value"]
        group = f"  where {r['segment']} = {value}" if "segment" in r else ""
        low, high = r["rel_effect_ci"]
        interval = f"[{low:+.2%}, {high:+.2%}]" if low is not None and high is not None else "–"
        lift = f"{r['rel_effect']:+.2%}" if r["rel_effect"] is not None else "–"
        figures = (
            f"{r['control']:>12.5g}{r['treatment']:>12.5g}{lift:>9}   {interval:<22}{r['p_value']:>9.3g}"
            if known
            else "   cannot be tested: the same value for every user, too few users, or nothing in the denominator"
        )
        print(f"{r['metric']:<{wide}}{r['variant'][:13]:<14}{r['method']:<16}{figures}{group}")


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A JSON list, an object a line."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(path, f"[\n{lines}\n]\n")
    print(f"written to {path}", file=sys.stderr)


def _pairs(option: str, texts: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ConfigError(f"{option} {text}: write NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _ratio(name: str, text: str) -> tuple[str, str]:
    top, slash, bottom = text.partition("/")
    if not (top and slash and bottom):
        raise ConfigError(f"--ratio {name}={text}: write NAME=NUMERATOR/DENOMINATOR")
    return top.strip(), bottom.strip()


def _covariates(texts: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in _pairs("--covariate", texts):
        columns = tuple(c.strip() for part in value.split(",") for c in part.split("/") if c.strip())
        found[name] = (*found.get(name, ()), *columns)
    return found


def _shares(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    try:
        shares = {name: float(value) for name, value in _pairs("--shares", text.split(","))}
    except ValueError:
        raise ConfigError(f"--shares {text}: write VARIANT=SHARE,VARIANT=SHARE") from None
    if min(shares.values()) <= 0:
        raise ConfigError(f"--shares {text}: every share must be above 0")
    return shares


def report(settings: Settings, arguments: argparse.Namespace) -> None:
    from ab_analysis.experiment import find_experiments
    from ab_analysis.overview import write_overview
    from ab_analysis.report import write_reports
    from events.store import EventStore

    names = list(arguments.experiment or find_experiments(settings.experiments_dir))
    hours = EventStore(settings.events_dir).hours()
    if not hours:
        raise DataError(f"no events in {settings.events_dir} yet")
    until = day_hours(parse_day(arguments.day))[-1] + 1 if arguments.day else hours[-1] + 1
    until = Hour.parse(arguments.until) if arguments.until else until
    for outcome in write_reports(settings, names, until):
        if outcome.report is None:
            print(f"{outcome.experiment}: no report: {outcome.reason}", file=sys.stderr)
        else:
            print(f"{outcome.experiment}: {outcome.report.analysis.decision.sentence}\n  {outcome.report.page}")
    print(write_overview(settings))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m ab_analysis", description=__doc__)
    top.add_argument("--source", help="workspace to work on; default CLOCK_SOURCE, else simulator")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("init", help="print a commented experiment file")
    commands.add_parser("schema", help="print the JSON schema of an experiment file, for an editor")
    planned = commands.add_parser(
        "plan",
        help="how long an experiment must run, from the source's own history",
        description="Pretends that the experiment just ran on the last days of the log: how many users it would have had, how "
        "much its metrics vary, what CUPED saves, the smallest effect it would find, and the users its minimum effect needs.",
    )
    planned.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
    planned.add_argument("--days", type=int, nargs="+", help="lengths to compare; default: the file's own")
    planned.add_argument("--json", type=Path, metavar="OUT.json")
    assigned = commands.add_parser(
        "assign",
        help="which variant each user gets",
        description="Writes user,variant. The split is a salted hash: the same every time, on every machine.",
    )
    assigned.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
    assigned.add_argument("users", help="text (a user a line), CSV or Parquet file; - reads standard input")
    assigned.add_argument("--column", help="column of the user; default: the first, without a header")
    assigned.add_argument("--out", type=Path, metavar="OUT.csv", help="default: standard output")
    analyzed = commands.add_parser(
        "analyze",
        help="analyze a plain table of any experiment, a row a user",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Compares every variant with the control: Welch's test, and CUPED where a covariate is given.

  python -m ab_analysis analyze users.parquet --variant variant --control control \\
      --metric duration --covariate duration=duration_pre \\
      --ratio per_day=duration/active_days --json out.json

Users whose covariate is empty count as users without a pre-period. Metrics must be numbers for every user.""",
    )
    analyzed.add_argument(
        "table", type=Path, metavar="TABLE", help="CSV or Parquet, a file or a folder of Parquet parts"
    )
    analyzed.add_argument("--variant", required=True, metavar="COLUMN", help="column of the variant")
    analyzed.add_argument("--control", required=True, metavar="VALUE", help="its value for the control")
    analyzed.add_argument(
        "--metric", action="append", default=[], metavar="COLUMN", help="a mean per user; may be repeated"
    )
    analyzed.add_argument(
        "--ratio", action="append", default=[], metavar="NAME=A/B", help="sum of A over sum of B; delta method"
    )
    analyzed.add_argument(
        "--covariate", action="append", default=[], metavar="METRIC=COLUMN[,COLUMN]",
        help="measured before exposure; for a metric or a ratio (NAME=A_PRE/B_PRE)",
    )  # fmt: skip
    analyzed.add_argument(
        "--segment", action="append", default=[], metavar="COLUMN", help="also for each value of this column"
    )
    analyzed.add_argument(
        "--stratum", action="append", default=[], metavar="COLUMN", help="post-stratify by this column"
    )
    analyzed.add_argument("--shares", metavar="V=S,V=S", help="planned shares of the variants; default: equal")
    analyzed.add_argument("--user", metavar="COLUMN", help="check that no user is there twice")
    analyzed.add_argument(
        "--exclude-crossed", action="store_true", help="leave users of two variants out and say how many"
    )
    analyzed.add_argument("--confidence", type=_confidence, default=0.95)
    analyzed.add_argument("--json", type=Path, metavar="OUT.json", help="write the rows: a list, an object a row")
    reported = commands.add_parser(
        "report", help="write reports of the source's experiments, as of now or of a past day"
    )
    reported.add_argument("experiment", nargs="*", help="names; default: all")
    reported.add_argument("--day", help="as of the end of this UTC day, for example 2026-11-23")
    reported.add_argument("--until", metavar="HOUR", help="as of the start of this UTC hour")
    return top


def _confidence(text: str) -> float:
    value = float(text)
    if not 0.5 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0.5 and 1")
    return value


if __name__ == "__main__":
    cli.run(parser(), main)
