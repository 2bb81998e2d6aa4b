"""How fine should the clock be? Slots of 15 minutes to 2 hours, and a separate clock for the weekend."""

from __future__ import annotations

from studies.lab import Lab
from studies.log import Changes
from studies.settings_study import compare_settings

BASE = "60 minutes"
CHANGES: dict[str, Changes] = {
    "15 minutes": {"slot_minutes": 15},
    "30 minutes": {"slot_minutes": 30},
    BASE: {},
    "120 minutes": {"slot_minutes": 120},
    "60 minutes and a weekend clock": {"split_weekend": True},
}


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    return compare_settings(lab, "granularity", CHANGES, BASE, ("naive_clock", "gaussian_clock", "matched_clock"))
