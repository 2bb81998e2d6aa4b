"""Why the hour embedding fails in streaming training, if it does: hour by hour against day by day, and as it ages.

If a module bends a ranker towards the hour it was last trained on, the ranker is worse twelve hours later than a whole day
later, although it is fresher. The difference between the two, on the same samples, is the test.
"""

from __future__ import annotations

from core.page_template import words
from evaluation.metrics import auc
from studies.charts import curves
from studies.lab import Lab
from studies.paired import SHOWN, Figure, Panel, as_json, over_seeds
from studies.replay import AGES, Mode, Run
from studies.study import Section, Study
from studies.tables import join_names

VARIANTS = ("none", "hour_embedding", "cyclic", "gaussian_clock", "matched_clock")
MODES: tuple[Mode, ...] = ("streaming", "daily", "ages")
NOON, DAY = AGES.index(12), AGES.index(24)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    runs = {(v, m): [Run(v, seed, mode=m) for seed in lab.seed_numbers] for v in VARIANTS for m in MODES}
    logs = lab.logs()
    lab.run((log, run_) for log in logs for runs_of in runs.values() for run_ in runs_of)
    figures, sections, sentences = {}, [], []
    for log in logs:
        panel = Panel(lab, log)
        values = {v: {m: {x: panel.value(runs[v, m], x) for x in SHOWN} for m in MODES[:2]} for v in VARIANTS}
        gaps = {v: panel.gap(runs[v, "daily"], runs[v, "streaming"], "auc") for v in VARIANTS}
        aged = {
            v: [(float(AGES[n]), panel.value(runs[v, "ages"], "auc", column=n)) for n in range(len(AGES))]
            for v in VARIANTS
        }
        swing = {v: _swing(panel, runs[v, "ages"]) for v in VARIANTS}
        hours = {v: _by_hour(panel, runs[v, "streaming"], runs["none", "streaming"]) for v in VARIANTS if v != "none"}
        figures[log.title] = {"values": values, "streaming less daily": gaps, "swing": swing}
        sentences.append(_sentence(log.title, gaps, swing))
        rows = tuple(
            (
                words(v),
                values[v]["streaming"]["auc"].text,
                values[v]["daily"]["auc"].text,
                gaps[v].signed,
                swing[v].signed,
            )
            for v in VARIANTS
        )
        columns = (
            "module",
            "AUC, hour by hour",
            "AUC, day by day",
            "hour by hour less day by day",
            "a day old less 12 h old",
        )
        text = "Hour by hour: test on an hour, then train on it. Day by day: test on a UTC day, then train on it shuffled. \
The last column is above 0 where a ranker is better on the hour of day that it was last trained on, a day ago, than on the opposite one."
        chart = curves(aged, "hours since the ranker's last sample", "AUC", f"{log.title}: AUC as the ranker ages")
        sections.append(Section(log.title, text, columns, rows, [chart]))
        by_hour = curves(hours, "local hour of the sample", "AUC less that of none", f"{log.title}: gain by local hour")
        sections.append(
            Section(f"{log.title}, by local hour", "Hour by hour, in blocks of three hours.", charts=[by_hour])
        )
    study = Study(lab.settings, "streaming_vs_daily", lab.source)
    conclusion = " ".join(sentences)
    results = {"logs": {t: as_json(f) for t, f in figures.items()}}
    return conclusion, str(study.write(conclusion, sections, results, lab.command("streaming_vs_daily")))


def _swing(panel: Panel, runs: list[Run]) -> Figure:
    """AUC a day after the last sample less AUC twelve hours after it."""
    return over_seeds([auc(panel.predictions(r, column=DAY)) - auc(panel.predictions(r, column=NOON)) for r in runs])


def _by_hour(panel: Panel, runs: list[Run], base: list[Run]) -> list[tuple[float, Figure]]:
    hour = panel.frame["local_hour"]
    return [(h + 1.5, panel.gap(base, runs, "auc", (hour >= h) & (hour < h + 3))) for h in range(0, 24, 3)]


def _sentence(title: str, gaps: dict[str, Figure], swing: dict[str, Figure]) -> str:
    bent = [v for v in VARIANTS if swing[v].above]
    even = [v for v in VARIANTS if not swing[v].above]
    worse = [v for v in VARIANTS if gaps[v].interval[1] < 0]
    better = [v for v in VARIANTS if gaps[v].above]
    parts = [
        f"{title}: twelve hours after its last sample a ranker is worse than a day after it with {join_names(bent)}"
        if bent
        else f"{title}: no module makes a ranker worse twelve hours after its last sample than a day after it",
    ]
    if bent and even:
        parts.append(f"not with {join_names(even)}")
    parts += [f"hour-by-hour training loses against day-by-day with {join_names(worse)}"] if worse else []
    parts += [f"it wins with {join_names(better)}"] if better else []
    hour, clock = swing["hour_embedding"], swing["gaussian_clock"]
    parts.append(f"hour embedding {hour.signed}, paper's clock {clock.signed}")
    return "; ".join(parts) + "."
