"""Days that are unlike others: weekends, holidays, the change of the clocks."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from studies.lab import Lab
from studies.paired import Panel
from studies.slices import compare_slices
from training.batch import SATURDAY

EPOCH = date(1970, 1, 1)
HOLIDAYS = {
    "Thanksgiving, four days": (date(2012, 11, 22), 4),
    "Christmas to New Year": (date(2012, 12, 22), 10),
    "week after the clocks changed": (date(2012, 11, 4), 7),
}
TEXT = "By the user's local day. Holidays are those of the Foursquare log (New York, 2012); a slice with few samples is left out."


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    return compare_slices(lab, "seasonal", TEXT, masks)


def masks(panel: Panel) -> dict[str, np.ndarray]:
    """Slices by the day."""
    day, weekend = panel.frame["day"], panel.frame["weekday"] >= SATURDAY
    special = {name: _days(day, first, count) for name, (first, count) in HOLIDAYS.items()}
    ordinary = ~np.any(list(special.values()), axis=0)
    return {"ordinary working days": ordinary & ~weekend, "ordinary weekends": ordinary & weekend, **special}


def _days(day: np.ndarray, first: date, count: int) -> np.ndarray:
    start = (first - EPOCH) // timedelta(days=1)
    return (day >= start) & (day < start + count)
