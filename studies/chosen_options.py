"""Options of the ranker that are chosen on earlier days of a log and reported once, on its last ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from core.hours import DAY_HOURS
from core.page_template import words
from evaluation.metrics import METRICS
from evaluation.predictions import Predictions
from studies.lab import Lab
from studies.log import DEFAULT_EVALUATED_DAYS, EVALUATED_DAYS, Changes
from studies.paired import SHOWN, Figure, Panel, as_json, over_seeds
from studies.replay import Run
from studies.study import Section, Study

COMPARED = (*SHOWN, "logloss")
TITLES = ("AUC", "UAUC", "session AUC", "log-loss")
DEFAULT = "default"
CHOSEN, REPORTED = "chosen", "reported"

Gaps: TypeAlias = Mapping[str, Mapping[str, Figure]]
"""Option → metric → difference from the default."""
Calibration: TypeAlias = Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
"""Other scores of a log's samples, from the default ranker's and the log's frame."""


def choose_options(
    lab: Lab,
    name: str,
    options: Mapping[str, Changes],
    modules: Sequence[str],
    text: str,
    best: Callable[[Gaps], str],
    calibrations: Mapping[str, Calibration] | None = None,
) -> tuple[str, str]:
    """Run time modules with the default and with each option; every difference is paired, on the same samples.

    Args:
        lab: has the logs and the runs.
        name: of the study.
        options: title → values that differ from the ranker's config file.
        modules: time modules.
        text: of the sections.
        best: the option that is chosen, from the differences on the earlier days.
        calibrations: what else is tried, on the default ranker's scores.

    Returns:
        The conclusion and the path of the page.
    """
    everything: dict[str, Changes] = {DEFAULT: {}, **options}
    runs = {m: {n: [Run(m, seed, c) for seed in lab.seed_numbers] for n, c in everything.items()} for m in modules}
    logs = lab.logs()
    lab.run((log, r) for log in logs for by in runs.values() for runs_of in by.values() for r in runs_of)
    figures, sections, sentences = {}, [], []
    for log in logs:
        panel = Panel(lab, log, second_half=True)
        hours = panel.frame["hour"]
        days = reported_days(log.source, (int(hours[-1]) + 1 - panel.first) // DAY_HOURS)
        spans = chosen_and_reported(hours, days)
        for module, by in runs.items():
            title = f"{log.title}, {words(module)}"
            gaps = {span: _gaps(panel, by, mask, calibrations or {}) for span, mask in spans.items()}
            values = {span: {m: panel.value(by[DEFAULT], m, mask) for m in COMPARED} for span, mask in spans.items()}
            chosen = best({option: gaps[CHOSEN][option] for option in options})
            figures[title] = {"days": days, "best": chosen, "default": values, "gaps": gaps}
            sentences.append(_sentence(title, chosen, gaps))
            sections.append(_section(title, text, chosen, gaps))
    study = Study(lab.settings, name, lab.source)
    conclusion = " ".join(sentences)
    results = {"seeds": lab.seed_numbers, "logs": as_json(figures)}
    return conclusion, str(study.write(conclusion, sections, results, lab.command(name)))


def reported_days(source: str, days: int) -> int:
    """Last days of a log on which nothing is chosen: those that other studies evaluate, but no more than half.

    Args:
        source: whose log it is.
        days: of the log's second half.

    >>> reported_days("kuairand", 5), reported_days("foursquare", 150), reported_days("simulator", 1)
    (2, 42, 1)
    """
    return max(1, min(EVALUATED_DAYS.get(source, DEFAULT_EVALUATED_DAYS), days // 2))


def chosen_and_reported(hours: np.ndarray, days: int) -> dict[str, np.ndarray]:
    """Masks over a log's samples: the time that options are chosen on, and the last UTC days, which are reported.

    Args:
        hours: numbers of the hours of the samples, ascending.
        days: to report.
    """
    last_day = int(hours[-1]) // DAY_HOURS
    reported = hours >= (last_day - days + 1) * DAY_HOURS
    return {CHOSEN: ~reported, REPORTED: reported}


def _gaps(
    panel: Panel, runs: Mapping[str, Sequence[Run]], mask: np.ndarray, calibrations: Mapping[str, Calibration]
) -> dict[str, dict[str, Figure]]:
    base = [panel.predictions(r, mask) for r in runs[DEFAULT]]
    gaps = {
        name: _paired(base, [panel.predictions(r, mask) for r in of]) for name, of in runs.items() if name != DEFAULT
    }
    for name, calibrate in calibrations.items():
        scores = [calibrate(panel.lab.read(panel.log, r), panel.frame) for r in runs[DEFAULT]]
        gaps[name] = _paired(base, [panel.predictions_of(s, mask) for s in scores])
    return gaps


def _paired(base: Sequence[Predictions], other: Sequence[Predictions]) -> dict[str, Figure]:
    pairs = list(zip(base, other, strict=True))
    return {m: over_seeds([METRICS[m](b) - METRICS[m](a) for a, b in pairs]) for m in COMPARED}


def _sentence(title: str, chosen: str, gaps: Mapping[str, Gaps]) -> str:
    tried, told = gaps[CHOSEN][chosen], gaps[REPORTED][chosen]
    return (
        f"{title}: chosen is {chosen} (AUC {tried['auc'].signed}, session AUC {tried['session_auc'].signed}); on the last days AUC is "
        f"{told['auc'].direction} ({told['auc'].signed}), session AUC {told['session_auc'].direction} ({told['session_auc'].signed})."
    )


def _section(title: str, text: str, chosen: str, gaps: Mapping[str, Gaps]) -> Section:
    rows = tuple(
        (
            f"{name} (chosen)" if name == chosen else name,
            *(gaps[span][name][m].signed for span in (CHOSEN, REPORTED) for m in COMPARED),
        )
        for name in gaps[CHOSEN]
    )
    columns = ("", *(f"{span}: {t}" for span in (CHOSEN, REPORTED) for t in TITLES))
    return Section(title, text, columns, rows)
