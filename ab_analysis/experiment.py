"""The experiment file: what is tested, on whom, by which metrics."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from core.errors import ConfigError

METRICS = ("active_days", "duration_hours", "finishes", "likes", "skips")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")


class Experiment(BaseModel):
    """An experiment, as an analyst writes it down.

    ``variants`` maps each variant to its share of the users. ``start`` is the moment (UTC) the
    experiment begins, a day means its midnight; ``end`` its last day. The pre-period that covariates come
    from is the ``pre_days`` days before the start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    hypothesis: str = ""
    owner: str = ""
    variants: dict[str, float]
    control: str
    start: datetime
    end: date | None = None
    pre_days: int = Field(14, ge=0, le=365)
    primary: tuple[str, ...] = ("active_days", "duration_hours")
    secondary: tuple[str, ...] = ("finishes", "likes", "skips")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    truth: dict[str, float] = Field(
        default_factory=dict, description="Known relative effects, for simulated experiments."
    )

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("use lower-case letters, digits, - and _ only (the name becomes a folder)")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        if len(self.variants) < 2:
            raise ValueError("variants: name at least two, with their shares")
        if self.control not in self.variants:
            raise ValueError(f"control: '{self.control}' is none of the variants {sorted(self.variants)}")
        if min(self.variants.values()) <= 0:
            raise ValueError("variants: every share must be above 0")
        if self.end is not None and self.end < self.start.date():
            raise ValueError(f"end: {self.end} lies before start {self.start}")
        if unknown := [m for m in self.metrics if m not in METRICS]:
            raise ValueError(f"unknown metrics {unknown}; choose from {list(METRICS)}")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Primary metrics first."""
        return (*self.primary, *self.secondary)

    @property
    def start_time(self) -> datetime:
        return self.start.astimezone(UTC) if self.start.tzinfo else self.start.replace(tzinfo=UTC)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file; ``ConfigError`` names every wrong key."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no experiment file at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys: name, variants, control, start, ...")
    try:
        return Experiment(**content)
    except ValidationError as error:
        lines = "\n".join(
            f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ConfigError(f"{path} has {error.error_count()} problem(s):\n{lines}") from None


def find_experiments(folder: Path) -> list[Experiment]:
    """Every experiment of a workspace, by name."""
    return [load_experiment(path) for path in sorted(folder.glob("*.yaml"))]
