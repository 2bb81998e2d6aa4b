"""Does a ranking loss within sessions, beside the cross-entropy, order what a user is shown together better?"""

from __future__ import annotations

from studies.chosen_options import Gaps, choose_options
from studies.lab import Lab
from studies.log import Changes

WEIGHTS = (1, 4, 16)
OPTIONS: dict[str, Changes] = {f"weight {weight}": {"session_loss": weight} for weight in WEIGHTS}
MODULES = ("none", "gaussian_clock", "matched_clock")
TEXT = (
    "Differences from the same time module without the loss. A weight is chosen on the log's second half without its last days: the "
    "highest in session AUC among those with which AUC is not established to be lower. Reported are the last days. Sessions are "
    "users' hours."
)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    return choose_options(lab, "session_loss", OPTIONS, MODULES, TEXT, choose)


def choose(gaps: Gaps) -> str:
    """The weight that orders sessions best among those that cost no AUC; where all do, the one that costs least."""
    kept = [option for option, of in gaps.items() if not (-of["auc"]).above]
    by, among = ("session_auc", kept) if kept else ("auc", [*gaps])
    return max(among, key=lambda option: gaps[option][by].value)
