"""Adagrad's sums that decay: does a table that goes on learning pay where tastes drift?"""

from __future__ import annotations

from contextlib import closing

import yaml

from studies.lab import Lab
from studies.log import Changes, Log
from studies.options_study import compare_options

BASE = "sums grow"
DECAYS = (0.99, 0.95, 0.8)
OPTIONS: dict[str, Changes] = {BASE: {}, **{f"times {decay} an hour": {"accumulator_decay": decay} for decay in DECAYS}}
MODULES = ("none", "matched_clock")
APP = {"users": 700, "items": 600, "days": 35, "drift": 0.3}
"""The simulated app of this study: each week 30 % of people's favorite values of a daypart change."""
TEXT = (
    "Adagrad divides a row's step by the root of its squared gradients' sum. With decay, the sum is multiplied by a factor in each hour "
    "that trains the row, so that the steps of rows that are trained often do not vanish. Everything else is the default."
)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page. The simulated app is one whose people's tastes drift."""
    if lab.source != "simulator":
        return compare_options(lab, "decay", OPTIONS, MODULES, TEXT)
    drifting = Lab(lab.settings, seeds=lab.seeds)
    drifting.root = lab.root / "drifting"
    with closing(drifting):
        app_file = Log(drifting.root / "data", lab.source).settings.workspace / "app.yaml"
        app_file.parent.mkdir(parents=True, exist_ok=True)
        app_file.write_text(yaml.safe_dump(APP), encoding="utf-8")
        return compare_options(drifting, "decay", OPTIONS, MODULES, TEXT)
