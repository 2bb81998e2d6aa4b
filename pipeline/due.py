"""The hour that is due next at each step of the hourly chain."""

from __future__ import annotations

from typing import Literal

from core.errors import NotReadyError
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore

Step = Literal["ingest", "clocks", "training", "promotion"]


def next_due_hour(settings: Settings, step: Step) -> Hour:
    """The first hour that a step has not done yet; the last hour again where the step is up to date.

    Args:
        step: ``ingest`` goes on after the last ingested hour; ``clocks`` and ``training`` follow it up to that hour;
            ``promotion`` looks at the last hour that the candidate's variant was trained on.

    Raises:
        NotReadyError: nothing was ingested, or nothing was trained, yet.
    """
    store = EventStore(settings.events_dir)
    hours = store.hours()
    if not hours:
        raise NotReadyError(
            f"no hour is due: {settings.workspace} has no events yet; run 'clock history HOUR', or name the first hour"
        )
    last = hours[-1]
    if step == "ingest":
        return last + 1
    if step == "clocks":
        from feature_repo.clock import ClockState

        as_of = ClockState(settings, store).as_of
        return min(as_of or last, last)
    from training.state import StateStore

    trained = StateStore(settings.training_dir / "states", settings.candidate_variant).head()
    if step == "training":
        return min(trained + 1 if trained else last, last)
    if trained is None:
        raise NotReadyError(f"no hour is due: {settings.candidate_variant} was not trained yet")
    return trained
