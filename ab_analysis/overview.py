"""All experiments on one page: where each stands, and what they add up to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import NormalDist

from ab_analysis.experiment import Experiment, find_experiments, load_experiment
from ab_analysis.plan_page import plan_path
from ab_analysis.report_file import FINAL, ReportedResult, ReportFile, newest_report, read_report
from ab_analysis.segments import shrink
from core.charts import sparkline
from core.documents import one_line
from core.errors import ConfigError
from core.hours import DAY_HOURS, Hour
from core.page_table import Cell, Column, Row, Table
from core.page_template import INTERACTIVE, interval, percent, words, write_page
from core.settings import Settings
from events.store import EventStore

STATES = ("wrong file", "running", "planned", "ended")
"""In the order of the page."""
TONES = {"ship": "good", "stop": "bad", "no_conclusion": "bad"}

PAGE = """
<p class="soft">Every experiment of '{{ source }}', by its latest report{{ ", as of " ~ as_of ~ " UTC" if as_of else "" }}.</p>
<section><h2>Experiments</h2>{% if rows %}{{ rows }}
{% else %}<p class="lead">The log of '{{ source }}' holds no experiment that was reported.</p>
<p>To analyze one, log who met which variant (see <em>exposures</em> in the mapping file) and describe it in
<code>{{ folder }}</code>; <code>clock ab init</code> prints a commented file.</p>{% endif %}</section>
<section><h2>Together</h2><ul>
{% for text in holdouts %}<li>{{ text }}</li>{% endfor %}
<li>{{ meta.ended }} of {{ meta.experiments }} experiments have ended; {{ meta.ship }} to ship, {{ meta.stop }} to stop,
{{ meta.no_effect }} without an effect, {{ meta.no_conclusion }} without a conclusion.</li>
{% if concluded %}<li>Concluded by people: {{ concluded|join(", ") }}.</li>{% endif %}
{% if meta.mean_lift is not none %}<li>Mean lift of the first primary metric {{ meta.mean_lift|percent }} as measured.
{% if meta.experiments > 2 and meta.ship %}What is shipped was selected for its lift, which overstates it: shrunk toward the mean of all,
the shipped ones have {{ meta.shipped_shrunk|percent }}
instead of {{ meta.shipped|percent }}.{% endif %}</li>{% endif %}
{% if meta.covered_of %}<li>Calibration: of {{ meta.covered_of }} effects with a known truth, {{ meta.covered }} lie in their interval
(expected {{ meta.level|share }}).</li>{% endif %}
{% if meta.aa_of %}<li>A/A: {{ meta.aa_failed }} of {{ meta.aa_of }} experiments differed before they began.</li>{% endif %}</ul></section>
"""


@dataclass(frozen=True)
class LatestReport:
    """The latest report of an experiment.

    Attributes:
        link: to its page, from the overview.
        final: whether it is the experiment's last one.
    """

    report: ReportFile
    link: str
    final: bool

    @property
    def deciding(self) -> ReportedResult | None:
        """Headline row of the first primary metric, of the variant that the decision names, else of the first variant."""
        rows = [r for r in self.report.results if r.headline and r.metric == self.report.about.primary[0]]
        return next((r for r in rows if r.variant == self.report.decision.variant), rows[0] if rows else None)

    @property
    def lifts(self) -> dict[date, float]:
        """Day → the lift of ``deciding`` at its end, on the days on which there is one."""
        row = self.deciding
        return {
            point.day: point.so_far.rel_effect
            for point in self.report.points
            if row
            and (point.metric, point.variant) == (row.metric, row.variant)
            and point.so_far.rel_effect is not None
        }


@dataclass(frozen=True)
class OverviewRow:
    """An experiment's row of the table.

    Attributes:
        state: ``planned``, ``running``, ``ended``, or ``wrong file``.
        days_left: until the end of its last day; None where it does not run or no end was given.
        experiment: what its file says; None where there is none any more, or it is wrong.
        latest: None before its first report.
        problem: why its file cannot be read.
        plan: link to the page of its plan; empty without one.
    """

    name: str
    state: str
    days_left: int | None
    experiment: Experiment | None
    latest: LatestReport | None
    problem: str = ""
    plan: str = ""


@dataclass(frozen=True)
class Totals:
    """What the experiments add up to.

    Attributes:
        mean_lift: of the first primary metrics; ``shipped``: of those shipped; ``shipped_shrunk``: of those, each shrunk
            toward the mean of all.
        covered: of ``covered_of`` effects with a known truth, those in whose interval it lies; ``level``: the share that is expected
            to, None without any.
        aa_failed: of ``aa_of`` experiments with a pre-period, those that differed before they began.
    """

    experiments: int
    ended: int
    ship: int
    stop: int
    no_effect: int
    no_conclusion: int
    mean_lift: float | None
    shipped: float | None
    shipped_shrunk: float | None
    covered: int
    covered_of: int
    level: float | None
    aa_of: int
    aa_failed: int


def write_overview(settings: Settings) -> Path:
    """Write ``reports/ab/index.html`` from every experiment's file and latest report."""
    root = settings.reports_dir / "ab"
    latest = {folder.name: report for folder in sorted(root.glob("*/")) if (report := _latest(folder))}
    hours = EventStore(settings.events_dir).hours()
    as_of = hours[-1] + 1 if hours else None
    path = root / "index.html"
    rows = overview_rows(settings, latest, as_of)
    outcomes = Counter(r.experiment.conclusion.outcome for r in rows if r.experiment and r.experiment.conclusion)
    write_page(
        path,
        "Experiments",
        PAGE,
        home="../index.html",
        scripts=(INTERACTIVE,),
        source=settings.source,
        as_of=as_of,
        rows=_table(rows),
        concluded=[f"{count} {words(outcome)}" for outcome, count in sorted(outcomes.items())],
        meta=_totals([each for each in latest.values() if not each.report.about.holdout]),
        holdouts=[_total_effect(each) for each in latest.values() if each.report.about.holdout],
        folder=str(settings.experiments_dir),
    )
    return path


def overview_rows(settings: Settings, latest: Mapping[str, LatestReport], as_of: Hour | None) -> list[OverviewRow]:
    """A row for every experiment that has a file or a report: those that run, are planned, and ended, each by name.

    Args:
        settings: name the workspace.
        latest: experiment → its latest report.
        as_of: end of the log, which says what runs; None before the first event.
    """
    files = find_experiments(settings.experiments_dir)
    rows = []
    for name in sorted({*files, *latest}):
        experiment, problem = None, ""
        if name in files:
            try:
                experiment = load_experiment(files[name])
            except ConfigError as error:
                problem = one_line(str(error))
        state, days_left = _state(experiment, as_of) if not problem else ("wrong file", None)
        plan = f"{name}/plan.html" if plan_path(settings, name).exists() else ""
        rows.append(OverviewRow(name, state, days_left, experiment, latest.get(name), problem, plan))
    return sorted(rows, key=lambda row: (STATES.index(row.state), row.name))


def _state(experiment: Experiment | None, as_of: Hour | None) -> tuple[str, int | None]:
    if experiment is None:
        return "ended", None
    state = experiment.state(as_of)
    if state != "running" or experiment.end_hour is None or as_of is None:
        return state, None
    return state, math.ceil((experiment.end_hour.number - as_of.number) / DAY_HOURS)


def _table(rows: list[OverviewRow]) -> Table | None:
    columns = [
        Column("experiment"), Column("state", words=True), Column("verdict", words=True), Column("metric", words=True), Column("lift"),
        Column("interval", "Of all looks and all primary metrics together, as the decision reads it"),
        Column("so far", "The lift at the end of each day"), Column("users"),
        Column("dates", words=True), Column("owner", words=True),
    ]  # fmt: skip
    return Table(columns, [_row(row) for row in rows], name="experiments") if rows else None


def _row(row: OverviewRow) -> Row:
    latest, experiment = row.latest, row.experiment
    about = latest.report.about if latest else None
    hypothesis = experiment.hypothesis if experiment else about.hypothesis if about else ""
    start = str(experiment.start_time.date()) if experiment else about.start[:10] if about else ""
    end = str(experiment.stopped or experiment.end or "open") if experiment else (about.end or "open") if about else ""
    owner = experiment.owner if experiment else about.owner if about else ""
    result = latest.deciding if latest else None
    bounds = result.adjusted_ci if result else None
    verdict = latest.report.decision.verdict if latest else ""
    users = sum(latest.report.users.values()) if latest else math.nan
    state = (
        row.state
        if row.days_left is None
        else f"{row.state}, {row.days_left} {'day' if row.days_left == 1 else 'days'} left"
    )
    if experiment.holdout if experiment else about is not None and about.holdout:
        state += ", holdout"
    return Row(
        [
            Cell(row.name, link=latest.link if latest else row.plan, hint=hypothesis),
            Cell(state, "bad" if row.problem else ""),
            Cell(words(verdict), TONES.get(verdict, "")), words(result.metric) if result else "",
            Cell(percent(result.rel_effect) if result else "", sort=_or_nan(result.rel_effect) if result else math.nan),
            Cell(interval(bounds) if result else "", sort=_or_nan(bounds[0] if bounds else None)),
            Cell(sparkline(list(latest.lifts.values()), _told(latest)) if latest and len(latest.lifts) > 1 else ""),
            Cell(f"{users:,.0f}" if latest else "", sort=users), f"{start} to {end}", owner,
        ],
        note=row.problem or _note(experiment, latest),
    )  # fmt: skip


def _note(experiment: Experiment | None, latest: LatestReport | None) -> str:
    """What people concluded, else what the report says."""
    sentence = latest.report.decision.sentence if latest else "No report yet."
    if experiment is None or experiment.conclusion is None:
        return sentence
    return f"Concluded, {words(experiment.conclusion.outcome)}: {experiment.conclusion.note} ({sentence})"


def _told(latest: LatestReport) -> str:
    """A sparkline in words."""
    return "Lift so far: " + ", ".join(f"{day} {percent(lift)}" for day, lift in latest.lifts.items())


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _latest(folder: Path) -> LatestReport | None:
    """The final report if there is one, else the latest."""
    path = newest_report(folder)
    if path is None:
        return None
    return LatestReport(read_report(path), f"{folder.name}/{path.stem}.html", path.stem == FINAL)


def _total_effect(holdout: LatestReport) -> str:
    """What everything adds up to, by a holdout, in a sentence."""
    report, result = holdout.report, holdout.deciding
    begin = f"Holdout {report.experiment}, since {report.about.start[:10]}"
    if result is None or result.lift is None:
        return f"{begin}: the effect of all that was tried and shipped is not known yet."
    users = sum(report.users.values())
    held_out = users - report.users.get(result.variant, 0)
    return (
        f"{begin}: all that was tried and shipped changes {words(result.metric)} by {percent(result.lift.effect)} "
        f"({interval((result.lift.low, result.lift.high))}, one look), {held_out:,} users held out of {users:,}."
    )


def _totals(latest: list[LatestReport]) -> Totals:
    verdicts = [each.report.decision.verdict for each in latest]
    with_lift = [
        (verdict, row.lift, NormalDist().inv_cdf(0.5 + each.report.about.confidence / 2))
        for verdict, each in zip(verdicts, latest, strict=True)
        if (row := each.deciding) and row.lift is not None
    ]
    lifts = [lift.effect for _, lift, _ in with_lift]
    shrunk, _ = shrink(lifts, [(lift.high - lift.low) / 2 / z for _, lift, z in with_lift])
    shipped = [n for n, (verdict, *_) in enumerate(with_lift) if verdict == "ship"]
    with_truth = [
        (row.truth, row.lift, each.report.about.confidence)
        for each in latest
        for row in each.report.results
        if row.headline and row.truth is not None and row.lift is not None
    ]
    aa = [c for each in latest for c in each.report.checks if c.name == "pre-period" and c.p_value is not None]
    return Totals(
        experiments=len(latest), ended=sum(each.final for each in latest), ship=verdicts.count("ship"),
        stop=verdicts.count("stop"), no_effect=verdicts.count("no_effect"), no_conclusion=verdicts.count("no_conclusion"),
        mean_lift=_mean(lifts), shipped=_mean([lifts[n] for n in shipped]),
        shipped_shrunk=_mean([shrunk[n].effect for n in shipped]),
        covered=sum(lift.low <= truth <= lift.high for truth, lift, _ in with_truth), covered_of=len(with_truth),
        level=_mean([confidence for *_, confidence in with_truth]),
        aa_of=len(aa), aa_failed=sum(c.level == "fail" for c in aa),
    )  # fmt: skip


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
