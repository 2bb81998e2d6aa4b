"""Parameters of the simulated app, typed and validated."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from core.errors import ConfigError
from core.hours import Hour
from events.mapping import check_zone


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExperimentConfig(_Strict):
    """An experiment whose treatment works from a user's first exposure on.

    ``activity_lift`` multiplies the chance that an exposed user opens the app on a later day;
    ``session_lift`` multiplies the expected length of an exposed user's sessions.
    """

    name: str = "clock_ranker"
    salt: str = "2026-03"
    start_day: int = Field(8, ge=1, description="First day of the experiment, counted from the app's start.")
    control: str = "control"
    treatment: str = "treatment"
    treatment_share: float = Field(0.5, gt=0, lt=1)
    activity_lift: float = Field(0.06, gt=-1)
    session_lift: float = Field(0.03, gt=-1)


class DirtConfig(_Strict):
    """What goes wrong in a real log, as shares of the rows."""

    duplicates: float = Field(0.002, ge=0, lt=1)
    damaged: float = Field(0.0005, ge=0, lt=1)
    late: float = Field(0.0, ge=0, lt=1, description="Rows that reach the log one hour late.")


class SimulatorConfig(_Strict):
    """The simulated app. Every draw is a function of the seed and of what it is drawn for."""

    seed: int = 20260302
    start: date = date(2026, 3, 2)
    days: int = Field(16, ge=2, le=400)
    users: int = Field(3000, ge=10)
    items: int = Field(1500, ge=50)
    genres: int = Field(12, ge=2)
    moods: int = Field(6, ge=2)
    languages: int = Field(4, ge=2)
    zones: dict[str, float] = Field(
        default={"Asia/Shanghai": 0.85, "Asia/Tokyo": 0.1, "America/New_York": 0.05},
        description="Time zone → share of the users.",
    )
    arriving_share: float = Field(0.2, ge=0, lt=1, description="Share of users and items that arrive after the start.")
    daypart_strength: float = Field(
        2.2, ge=0, description="Logits that a favourite gains at the centre of its daypart."
    )
    daypart_width: float = Field(1.6, gt=0, description="Standard deviation of a daypart, hours.")
    base_strength: float = Field(0.5, ge=0, description="Standard deviation of a user's all-day taste, logits.")
    daily_activity: float = Field(0.5, gt=0, lt=1, description="Mean chance that a user opens the app on a day.")
    sessions: float = Field(1.9, ge=1, description="Mean sessions of an active day.")
    impressions: float = Field(11.0, ge=2, description="Mean impressions of a session.")
    experiment: ExperimentConfig = ExperimentConfig()
    dirt: DirtConfig = DirtConfig()

    @field_validator("zones")
    @classmethod
    def _zones(cls, zones: dict[str, float]) -> dict[str, float]:
        for name in zones:
            check_zone(name)
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


def load_config(path: Path | None, **overrides: Any) -> SimulatorConfig:
    """Read a YAML config (absent keys keep their defaults); ``ConfigError`` names what is wrong."""
    try:
        content = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path else {}
        return SimulatorConfig.model_validate({**content, **overrides})
    except FileNotFoundError:
        raise ConfigError(f"no simulator config at '{path}'") from None
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"{path} is not a YAML mapping: {error}") from None
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"simulator config: {lines}") from None
