"""What makes the base ranker stronger: options chosen on earlier days, reported once on the last two."""

from __future__ import annotations

from studies.calibration import CALIBRATIONS
from studies.chosen_options import Gaps, choose_options
from studies.lab import Lab
from studies.log import Changes

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
TEXT = (
    "Differences from the same time module with the default options. Chosen: the log's second half without its last days, highest in AUC. \
Reported: these days."
)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    return choose_options(lab, "base", OPTIONS, TIME_MODULES, TEXT, choose, CALIBRATIONS)


def choose(gaps: Gaps) -> str:
    """The option with the highest AUC."""
    return max(gaps, key=lambda option: gaps[option]["auc"].value)
