"""What makes the base ranker stronger: options chosen on earlier days, reported once on the last two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.hours import DAY_HOURS
from core.page_template import words
from evaluation.metrics import METRICS
from evaluation.predictions import Predictions
from studies.calibration import CALIBRATIONS
from studies.lab import Lab
from studies.log import Changes
from studies.paired import SHOWN, Figure, Panel, as_json, over_seeds
from studies.replay import Run
from studies.study import Section, Study
from studies.tables import join_names

STATISTICS: Changes = {"target_statistics": True}
PENALTY: Changes = {"embedding_penalty": 0.1}
ATTENTION: Changes = {"sequence": "din"}
RATES: Changes = {"dense_rate": 0.0005, "embedding_rate": 0.03}
STRONGER: Changes = {**STATISTICS, **PENALTY, **ATTENTION, **RATES}
"""The options that were chosen on KuaiRand: the rates on days up to 1 May, the others on days up to 3 May."""
OPTIONS: dict[str, Changes] = {
    "target statistics": STATISTICS,
    "label smoothing": {"label_smoothing": 0.05},
    "embedding penalty": PENALTY,
    "DIN": ATTENTION,
    "target statistics + embedding penalty": {**STATISTICS, **PENALTY},
    "target statistics + DIN": {**STATISTICS, **ATTENTION},
    "target statistics + embedding penalty + DIN": {**STATISTICS, **PENALTY, **ATTENTION},
    "target statistics + embedding penalty + DIN + lower rates": STRONGER,
    "target statistics + embedding penalty + DIN + label smoothing": {
        **STATISTICS,
        **PENALTY,
        **ATTENTION,
        "label_smoothing": 0.05,
    },
    "target statistics + embeddings half as wide": {**STATISTICS, "dim": 8},
    "target statistics + embedding rate 0.03": {**STATISTICS, "embedding_rate": 0.03},
}
TIME_MODULES = ("none", "matched_clock")
REPORTED_DAYS = 2
"""The last UTC days of a log, on which nothing was chosen."""
COMPARED = (*SHOWN, "logloss")
TITLES = ("AUC", "UAUC", "session AUC", "log-loss")
TEXT = (
    "Differences from the same time module with the default options. Chosen: the log's second half without its last two UTC days. \
Reported: these days."
)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    everything: dict[str, Changes] = {"default": {}, **OPTIONS}
    runs = {m: {n: [Run(m, seed, c) for seed in lab.seed_numbers] for n, c in everything.items()} for m in TIME_MODULES}
    logs = lab.logs()
    lab.run((log, r) for log in logs for by in runs.values() for runs_of in by.values() for r in runs_of)
    figures, sections, sentences = {}, [], []
    for log in logs:
        panel = Panel(lab, log, second_half=True)
        spans = chosen_and_reported(panel.frame["hour"])
        for module, by in runs.items():
            title = f"{log.title}, {words(module)}"
            gaps = {span: _gaps(panel, by, mask) for span, mask in spans.items()}
            values = {span: {m: panel.value(by["default"], m, mask) for m in COMPARED} for span, mask in spans.items()}
            figures[title] = {"default": values, "gaps": gaps}
            sentences.append(_sentence(title, gaps))
            sections.append(_section(title, gaps))
    study = Study(lab.settings, "base", lab.source)
    conclusion = " ".join(sentences)
    results = {"seeds": lab.seed_numbers, "logs": as_json(figures)}
    return conclusion, str(study.write(conclusion, sections, results, lab.command("base")))


def chosen_and_reported(hours: np.ndarray, days: int = REPORTED_DAYS) -> dict[str, np.ndarray]:
    """Masks over a log's samples: the time that options are chosen on, and the last UTC days, which are reported.

    Args:
        hours: numbers of the hours of the samples, ascending.
        days: to report.
    """
    last_day = int(hours[-1]) // DAY_HOURS
    reported = hours >= (last_day - days + 1) * DAY_HOURS
    return {"chosen": ~reported, "reported": reported}


def _gaps(panel: Panel, runs: Mapping[str, Sequence[Run]], mask: np.ndarray) -> dict[str, dict[str, Figure]]:
    base = [panel.predictions(r, mask) for r in runs["default"]]
    gaps = {
        name: _paired(base, [panel.predictions(r, mask) for r in of]) for name, of in runs.items() if name != "default"
    }
    for name, calibrate in CALIBRATIONS.items():
        scores = [calibrate(panel.lab.read(panel.log, r), panel.frame) for r in runs["default"]]
        gaps[name] = _paired(base, [panel.predictions_of(s, mask) for s in scores])
    return gaps


def _paired(base: Sequence[Predictions], other: Sequence[Predictions]) -> dict[str, Figure]:
    pairs = list(zip(base, other, strict=True))
    return {m: over_seeds([METRICS[m](b) - METRICS[m](a) for a, b in pairs]) for m in COMPARED}


def _sentence(title: str, gaps: Mapping[str, Mapping[str, Mapping[str, Figure]]]) -> str:
    chosen, reported = gaps["chosen"], gaps["reported"]
    best = max(OPTIONS, key=lambda name: chosen[name]["auc"].value)
    better = [name for name, of in reported.items() if of["auc"].above]
    gained = (
        f"; there above the default in AUC: {join_names(better)}" if better else "; there no gain in AUC is established"
    )
    return f"{title}: chosen in AUC, {best} ({chosen[best]['auc'].signed}); on the last days {reported[best]['auc'].signed}{gained}."


def _section(title: str, gaps: Mapping[str, Mapping[str, Mapping[str, Figure]]]) -> Section:
    rows = tuple(
        (
            name,
            *(gaps["chosen"][name][m].signed for m in ("auc", "logloss")),
            *(gaps["reported"][name][m].signed for m in COMPARED),
        )
        for name in gaps["chosen"]
    )
    columns = ("", "chosen: AUC", "chosen: log-loss", *(f"reported: {t}" for t in TITLES))
    return Section(title, TEXT, columns, rows)
