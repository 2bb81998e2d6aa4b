"""Every time module on the same samples, streaming: does the clock beat the hour, and ours the clock?"""

from __future__ import annotations

from dataclasses import dataclass

from core.documents import JsonObject
from evaluation.metrics import JUDGED
from studies.charts import forest
from studies.lab import Lab
from studies.paired import COMPARED, COMPARED_TITLES, SHOWN, Figure, Panel, as_json
from studies.replay import Run
from studies.study import Section, Study
from studies.tables import join_names
from training.time_modules import MODULES

HOUR, PAPER, OURS = "hour_embedding", "gaussian_clock", "matched_clock"
BEATEN_BY_PAPER = ("none", "hour_embedding", "cyclic", "naive_clock", "adaptive_clock")
PAPER_GAINS = {"auc": 0.0064, "uauc": 0.00062}
"""The gains over the production baseline that the paper reports, as differences."""


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    runs = {variant: [Run(variant, seed) for seed in lab.seed_numbers] for variant in MODULES}
    logs = lab.logs()
    lab.run((log, run_) for log in logs for runs_of in runs.values() for run_ in runs_of)
    study = Study(lab.settings, "variants", lab.source)
    figures_by_log = {log.title: _figures(Panel(lab, log), runs) for log in logs}
    conclusion = conclude(figures_by_log)
    results = {
        "seeds": lab.seed_numbers,
        "logs": {title: figures.as_json() for title, figures in figures_by_log.items()},
    }
    page = study.write(
        conclusion, [_section(title, f) for title, f in figures_by_log.items()], results, lab.command("variants")
    )
    return conclusion, str(page)


@dataclass(frozen=True)
class VariantFigures:
    """Figures on one log.

    Attributes:
        values: variant → metric → value.
        paper_less: variant → metric → the paper's clock less it; ``ours_less``: ours less it.
        hour_less: the hour embedding less ``none``.
    """

    values: dict[str, dict[str, Figure]]
    paper_less: dict[str, dict[str, Figure]]
    ours_less: dict[str, dict[str, Figure]]
    hour_less: dict[str, dict[str, Figure]]

    def as_json(self) -> JsonObject:
        """The content of ``results.json`` for the log."""
        less = {PAPER: self.paper_less, OURS: self.ours_less, HOUR: self.hour_less}
        return as_json({"values": self.values, **{f"{variant} less": gaps for variant, gaps in less.items()}})


def _figures(panel: Panel, runs: dict[str, list[Run]]) -> VariantFigures:
    values = {v: {m: panel.value(runs_of, m) for m in (*SHOWN, "gauc", "logloss")} for v, runs_of in runs.items()}
    paper = {v: {m: panel.gap(runs[v], runs[PAPER], m) for m in SHOWN} for v in runs if v != PAPER}
    ours = {v: {m: panel.gap(runs[v], runs[OURS], m) for m in SHOWN} for v in runs if v != OURS}
    hour = {"none": {m: panel.gap(runs["none"], runs[HOUR], m) for m in SHOWN}}
    return VariantFigures(values, paper, ours, hour)


def conclude(figures_by_log: dict[str, VariantFigures]) -> str:
    """What holds and what does not, in sentences."""
    parts = []
    for title, figures in figures_by_log.items():
        gaps, ours = figures.paper_less, figures.ours_less
        won = [v for v in BEATEN_BY_PAPER if all(gaps[v][m].above for m in COMPARED)]
        lost = [v for v in BEATEN_BY_PAPER if v not in won]
        papers = _compared("the paper's clock", won, lost)
        sentence = f"{title}: {papers} in {COMPARED_TITLES}"
        more = [m for m, gain in PAPER_GAINS.items() if gaps["none"][m].interval[0] > gain]
        if more:
            sentence += f"; over none it gains more than in the paper ({join_names(more)})"
        beaten = [v for v in ours if all(ours[v][m].above for m in COMPARED)]
        not_beaten = [v for v in ours if v not in beaten]
        sentence += f". {_compared('Ours', beaten, not_beaten)}"
        gain = ours[PAPER]
        sentence += f"; over the paper's clock {', '.join(f'{title} {gain[m].signed}' for m, title in JUDGED.items())}."
        parts.append(sentence)
    return " ".join(parts)


def _compared(module: str, better_than: list[str], not_beaten: list[str]) -> str:
    """Which modules one is better than, and which it is not separable from or better than."""
    if not better_than:
        return f"{module} is not established to be better than {join_names(not_beaten)}"
    exception = f", and not established to be better than {join_names(not_beaten)}" if not_beaten else ""
    return f"{module} is better than {join_names(better_than)}{exception}"


def _section(title: str, figures: VariantFigures) -> Section:
    rows = []
    for variant, values in figures.values.items():
        gap, ours = figures.paper_less.get(variant), figures.ours_less.get(variant)
        rows.append(
            (
                variant.replace("_", " "),
                *(values[m].text for m in SHOWN),
                f"{values['auc'].seeds:.4f}",
                f"{values['logloss'].value:.4f}",
                *(side[m].signed if side else "" for side in (gap, ours) for m in SHOWN),
            )
        )
    columns = (
        "module", *(f"{title} (95 %)" for title in JUDGED.values()), "seeds differ by", "log-loss",
        *(f"{side} less it, {title}" for side in ("paper's clock", "ours") for title in JUDGED.values()),
    )  # fmt: skip
    text = "Each hour was scored before the ranker trained on it. Means over the seeds; intervals by user, paired, seeds included."
    sides = {
        f"{t} above the paper's clock": {v: -gaps[m] for v, gaps in figures.paper_less.items()}
        for m, t in JUDGED.items()
    }
    charts = forest(sides, f"{title}: AUCs of every module less the paper's clock, with 95 % intervals")
    return Section(title, text, columns, tuple(rows), charts)
