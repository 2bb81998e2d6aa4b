"""How far each step of the hourly chain is: the hour that is due next, the hours of a day that its report can read."""

from __future__ import annotations

from datetime import date
from typing import Literal

from core.errors import NotReadyError
from core.hours import Hour, day_hours
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
    trained = _trained_until(settings)
    if step == "training":
        return min(trained + 1 if trained else last, last)
    if trained is None:
        raise NotReadyError(f"no hour is due: {settings.candidate_variant} was not trained yet")
    return trained


def hours_through(settings: Settings, day: date) -> list[Hour]:
    """Hours of a UTC day that its report need not wait for: what it reads of them is complete.

    They are the hours that were ingested and trained on, in bulk or one by one, and those before the log begins. The gate of
    the last ones may still be at work.
    """
    store, trained = EventStore(settings.events_dir), _trained_until(settings)
    if trained is None:
        return []
    begin = store.first_hour()
    return [hour for hour in day_hours(day) if hour < begin or (hour <= trained and store.has(hour))]


def _trained_until(settings: Settings) -> Hour | None:
    from training.state import StateStore

    return StateStore(settings.training_dir / "states", settings.candidate_variant).head()
