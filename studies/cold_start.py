"""Users and items with little history: who gains from a clock, and does borrowing for thin slots help?"""

from __future__ import annotations

import numpy as np

from core.hours import DAY_HOURS
from studies.lab import Lab
from studies.paired import Panel
from studies.slices import compare_slices

TEXT = (
    "Users by their events in the 30 days before the hour, items by the time since their first sample. The last module is \
the paper's clock whose thin slots borrow from the user's day and from everybody (strength fitted on the first 29 days, or \
half of a shorter log)."
)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    shrunk = {"gaussian clock, thin slots borrow": tuple(lab.logs({"shrinkage": True}))}
    return compare_slices(lab, "cold_start", TEXT, masks, shrunk)


def masks(panel: Panel) -> dict[str, np.ndarray]:
    """Slices by the user's and the item's history."""
    events, age = panel.frame["events"], panel.frame["item_age"]
    return {
        "everything": np.ones(len(events), dtype=bool),
        "users without events": events == 0,
        "users, 1 to 9 events": (events > 0) & (events < 10),
        "users, 10 to 49 events": (events >= 10) & (events < 50),
        "users, 50 events or more": events >= 50,
        "items of the last day": age < DAY_HOURS,
        "items of the last week": (age >= DAY_HOURS) & (age < 7 * DAY_HOURS),
        "older items": age >= 7 * DAY_HOURS,
    }
