"""What the clock's own settings change: length of the window, values kept, weights of the behaviors."""

from __future__ import annotations

from studies.lab import Lab
from studies.log import Changes
from studies.settings_study import compare_settings

BASE = "30 days, top 3"
CHANGES: dict[str, Changes] = {
    BASE: {},
    "7 days": {"window_days": 7},
    "14 days": {"window_days": 14},
    "60 days": {"window_days": 60},
    "top 1": {"top_k": 1},
    "top 5": {"top_k": 5},
    "top 10": {"top_k": 10},
}
WEIGHTS: dict[str, Changes] = {
    "no negative weights": {"score_weights": {"finish": 1, "like": 1, "share": 1}},
    "likes count three times": {"score_weights": {"finish": 1, "like": 3, "skip": -1, "dislike": -1, "share": 1}},
    "half weight to skips": {"score_weights": {"finish": 1, "like": 1, "skip": -0.5, "dislike": -1, "share": 1}},
}


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page. Weights take part where the log knows more than one behavior."""
    behaviors = lab.behaviors()
    changes = CHANGES | (WEIGHTS if {"like", "skip"} <= set(behaviors) else {})
    return compare_settings(lab, "sensitivity", changes, BASE, ("gaussian_clock", "matched_clock"))
