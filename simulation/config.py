"""Parameters of the simulated app, typed and validated."""

from __future__ import annotations

import math
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from core.documents import StrictModel, load_document
from core.hours import Hour
from events.zones import check_zone


class ExperimentConfig(StrictModel):
    """An experiment whose treatment takes effect from a user's first exposure on.

    1 + ``activity_lift`` multiplies the probability that an exposed user opens the app on a later day;
    1 + ``session_lift`` multiplies the expected length of an exposed user's sessions.
    """

    name: str = "clock_ranker"
    salt: str = "2026-03"
    start_day: int = Field(8, ge=1, description="First day of the experiment, counted from the app's start.")
    control: str = "control"
    treatment: str = "treatment"
    treatment_share: float = Field(0.5, gt=0, lt=1)
    activity_lift: float = Field(0.06, gt=-1)
    session_lift: float = Field(0.03, gt=-1)


class DirtConfig(StrictModel):
    """Defects of a real log, as shares of the rows."""

    duplicates: float = Field(0.002, ge=0, lt=1)
    damaged: float = Field(0.0005, ge=0, lt=1)
    late: float = Field(0.0, ge=0, lt=1, description="Share of rows that reach the log one hour late.")


class ReactionConfig(StrictModel):
    """How people react to what a ranker shows them (``simulation.visits``).

    A session asks for slates until the user leaves. The user looks at position p with probability ``attention ** p``, and
    leaves after a song with a probability that depends on whether it was finished, played or skipped. A session's
    satisfaction, finishes minus skips per song, moves the user's loyalty (logits added to the probability of opening the
    app on a day), which decays daily.
    """

    slate: int = Field(10, ge=1, le=100, description="Number of items in a slate.")
    slates: int = Field(6, ge=1, le=20, description="Maximum number of slates in a session.")
    candidates: int = Field(30, ge=2, le=1000, description="Number of candidates for a slate, drawn by popularity.")
    attention: float = Field(0.95, gt=0, le=1)
    leave_finished: float = Field(0.04, ge=0, le=1)
    leave_played: float = Field(0.09, ge=0, le=1)
    leave_skipped: float = Field(0.14, ge=0, le=1)
    expected: float = Field(0.4, ge=-1, le=1, description="Satisfaction that leaves loyalty as it is.")
    loyalty_step: float = Field(0.3, ge=0, description="Loyalty gained by a session of satisfaction 1 above expected.")
    loyalty_kept: float = Field(0.9, ge=0, le=1, description="Share of loyalty that is left a day later.")
    holidays: tuple[int, ...] = Field((), description="Local days, counted from the start, that are quieter.")
    holiday_activity: float = Field(0.7, gt=0, description="Factor on the probability of opening the app on a holiday.")


class SimulatorConfig(StrictModel):
    """The simulated app. Every draw is a function of the seed and of what it is drawn for."""

    seed: int = Field(20260302, ge=0, lt=2**63)
    luck: int = Field(
        0, ge=0, description="Changing it keeps people and items and changes everything that happens by chance."
    )
    start: date = Field(date(2026, 3, 2), ge=date(1970, 1, 2), le=date(2200, 1, 1))
    days: int = Field(16, ge=2, le=400)
    users: int = Field(3000, ge=10)
    items: int = Field(1500, ge=50)
    genres: int = Field(12, ge=2)
    moods: int = Field(6, ge=2)
    languages: int = Field(4, ge=2)
    ids: Literal["text", "number"] = Field("text", description="Type of the user and item ids in the log.")
    zones: dict[str, float] = Field(
        default={"Asia/Shanghai": 0.85, "Asia/Tokyo": 0.1, "America/New_York": 0.05},
        description="Time zone → share of the users.",
    )
    arriving_share: float = Field(0.2, ge=0, lt=1, description="Share of users and items that arrive after the start.")
    daypart_strength: float = Field(2.2, ge=0, description="Logits that a favorite gains at the center of its daypart.")
    daypart_width: float = Field(1.6, gt=0, description="Standard deviation of a daypart, hours.")
    base_strength: float = Field(0.5, ge=0, description="Standard deviation of a user's all-day taste, logits.")
    drift: float = Field(0.0, ge=0, lt=1, description="Share of the dayparts' favorites that change each week.")
    daily_activity: float = Field(0.5, gt=0, lt=1, description="Mean probability that a user opens the app on a day.")
    sessions: float = Field(1.9, ge=1, description="Mean number of sessions on an active day.")
    impressions: float = Field(11.0, ge=2, description="Mean number of impressions in a session.")
    experiment: ExperimentConfig = ExperimentConfig()
    dirt: DirtConfig = DirtConfig()
    reaction: ReactionConfig = ReactionConfig()

    @field_validator("zones")
    @classmethod
    def _zones(cls, zones: dict[str, float]) -> dict[str, float]:
        for name, share in zones.items():
            check_zone(name)
            if not 0 < share < math.inf:
                raise ValueError(f"the share of {name} is {share:g}; it has to be a number above 0")
        if not zones:
            raise ValueError("no time zone; give at least one, such as {Asia/Shanghai: 1}")
        return zones

    @model_validator(mode="after")
    def _window(self) -> SimulatorConfig:
        if self.experiment.start_day >= self.days:
            raise ValueError(
                f"experiment.start_day {self.experiment.start_day} is not before the last of {self.days} days"
            )
        return self

    @property
    def first_hour(self) -> Hour:
        return Hour.parse(f"{self.start.isoformat()}T00")

    @property
    def end_hour(self) -> Hour:
        """The hour after the last one."""
        return self.first_hour + 24 * self.days

    def day(self, index: int) -> date:
        return self.start + timedelta(days=index)

    def is_weekend(self, index: int) -> bool:
        return self.day(index).weekday() >= 5


def load_config(path: Path | None) -> SimulatorConfig:
    """Read a YAML config; absent keys keep their defaults.

    Args:
        path: the file; None: the built-in parameters.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    return load_document(path, SimulatorConfig, what="simulator config") if path else SimulatorConfig()
