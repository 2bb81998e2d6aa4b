"""All experiments on one page: the status of each, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from ab_analysis.inference import shrink
from ab_analysis.report_file import ReportedResult, ReportFile, read_report
from core.page_table import Cell, Column, Row, Table
from core.page_template import interval, percent, words, write_page
from core.settings import Settings

PAGE = """
<p class="soft">Every experiment of '{{ source }}', by its latest report.</p>
<section><h2>Experiments</h2>{% if rows %}{{ rows }}
{% else %}<p class="lead">The log of '{{ source }}' holds no experiment that was reported.</p>
<p>To analyze one, log who met which variant (see <em>exposures</em> in the mapping file) and describe it in
<code>{{ folder }}</code>; <code>clock ab init</code> prints a commented file.</p>{% endif %}</section>
<section><h2>Together</h2><ul>
<li>{{ meta.ended }} of {{ meta.experiments }} experiments have ended; {{ meta.ship }} to ship, {{ meta.stop }} to stop,
{{ meta.no_effect }} without an effect, {{ meta.no_conclusion }} without a conclusion.</li>
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
        """Headline row of the first primary metric, of the variant that the decision names."""
        first, variant = self.report.about.primary[0], self.report.decision.variant
        rows = [r for r in self.report.results if r.headline and r.metric == first]
        return next((r for r in rows if r.variant == variant), rows[0] if rows else None)


@dataclass(frozen=True)
class OverviewRow:
    """An experiment's row of the table; ``lift``, ``low`` and ``high`` are relative, None where they are unknown."""

    name: str
    link: str
    hypothesis: str
    owner: str
    start: str
    end: str | None
    until: str
    users: int
    verdict: str
    sentence: str
    metric: str
    lift: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, latest: LatestReport) -> OverviewRow:
        """The row of an experiment's latest report."""
        report, result = latest.report, latest.deciding
        low, high = result.rel_effect_ci if result else (None, None)
        return cls(
            name=report.experiment, link=latest.link, hypothesis=report.about.hypothesis, owner=report.about.owner,
            start=report.about.start[:10], end=report.about.end, until=report.until, users=sum(report.users.values()),
            verdict=report.decision.verdict, sentence=report.decision.sentence, metric=result.metric if result else "",
            lift=result.rel_effect if result else None, low=low, high=high,
        )  # fmt: skip


@dataclass(frozen=True)
class Totals:
    """What the experiments add up to.

    Attributes:
        mean_lift: of the first primary metrics; ``shipped``: of those shipped; ``shipped_shrunk``: of those, each shrunk
            toward the mean of all.
        covered: of ``covered_of`` effects with a known truth, those in whose interval it lies.
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
    level: float
    aa_of: int
    aa_failed: int


def write_overview(settings: Settings) -> Path:
    """Write ``reports/ab/index.html`` from the latest report of every experiment."""
    root = settings.reports_dir / "ab"
    latest = [report for folder in sorted(root.glob("*/")) if (report := _latest(folder))]
    path = root / "index.html"
    write_page(
        path,
        "Experiments",
        PAGE,
        home="../index.html",
        source=settings.source,
        rows=_table([OverviewRow.of(report) for report in latest]),
        meta=_totals(latest),
        folder=str(settings.experiments_dir),
    )
    return path


def _table(rows: list[OverviewRow]) -> Table | None:
    columns = [
        Column("experiment"), Column("verdict"), Column("metric"), Column("lift"), Column("interval", "One look, one comparison"),
        Column("users"), Column("from"), Column("to"), Column("as of"), Column("owner", words=True),
    ]  # fmt: skip
    tones = {"ship": "good", "stop": "bad", "no_conclusion": "bad"}
    lines = [
        Row(
            [
                Cell(r.name, link=r.link, hint=r.hypothesis), Cell(words(r.verdict), tones.get(r.verdict, "")), words(r.metric),
                percent(r.lift), interval((r.low, r.high)), f"{r.users:,}", r.start, f"{r.end or 'open'}", r.until, r.owner,
            ],
            note=r.sentence,
        )
        for r in rows
    ]  # fmt: skip
    return Table(columns, lines) if lines else None


def _latest(folder: Path) -> LatestReport | None:
    """The final report if there is one, else the latest."""
    final = folder / "final.json"
    dated = sorted(p for p in folder.glob("*.json") if p.stem not in {"registered", "final"})
    path = final if final.exists() else dated[-1] if dated else None
    if path is None:
        return None
    return LatestReport(read_report(path), f"{folder.name}/{path.stem}.html", final=path == final)


def _totals(latest: list[LatestReport]) -> Totals:
    verdicts = [each.report.decision.verdict for each in latest]
    with_lift = [
        (verdict, row.lift)
        for verdict, each in zip(verdicts, latest, strict=True)
        if (row := each.deciding) and row.lift is not None
    ]
    z = NormalDist().inv_cdf(0.975)
    lifts = [lift.effect for _, lift in with_lift]
    shrunk, _ = shrink(lifts, [(lift.high - lift.low) / 2 / z for _, lift in with_lift])
    shipped = [n for n, (verdict, _) in enumerate(with_lift) if verdict == "ship"]
    with_truth = [
        (row.truth, row.lift)
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
        covered=sum(lift.low <= truth <= lift.high for truth, lift in with_truth), covered_of=len(with_truth), level=0.95,
        aa_of=len(aa), aa_failed=sum(c.level == "fail" for c in aa),
    )  # fmt: skip


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
