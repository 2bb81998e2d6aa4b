"""The experiment file: what is tested, on whom, by which metrics, and how the result will be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, field_validator, model_validator

from ab_analysis.metrics import Metric, check_expression
from core.documents import StrictModel, did_you_mean, load_document, parse_document
from core.errors import ConfigError
from core.expressions import reserved_words
from core.files import digest_json
from core.hours import Hour, day_hours
from events.schema import USER_COLUMNS
from stats.confidence import HIGHEST_CONFIDENCE

D = TypeVar("D")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")
VARIANT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 _.-]{0,59}[A-Za-z0-9_.-])?")
NUMERIC = re.compile(r"\s*[+-]?[\d_.]+(e[+-]?\d+)?\s*", re.IGNORECASE)
FIRST_YEAR, LAST_YEAR = 1990, 2200
SMALLEST_SHARE = 1e-6
BESIDE_THE_RESULT = ("hypothesis", "owner", "holdout", "models", "automatic_stop", "truth", "stopped", "conclusion")
"""Keys of an experiment file on which no figure of a report as of some hour rests."""
SEE = "'clock ab init' prints a commented file, 'schema' its JSON schema for an editor."
UNPLANNED_DAYS = 14
"""Length, days, that the stopping rules assume if an experiment has no end."""
MOST_EDGES = 10
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,50}")


def check_shares(shares: Mapping[str, float]) -> None:
    """Check that planned shares, which need not sum to 1, are numbers that can be divided by each other.

    Raises:
        ValueError: one is not.
    """
    if not all(SMALLEST_SHARE <= share <= 1 / SMALLEST_SHARE for share in shares.values()):
        raise ValueError("every share must be above 0, for example 0.5 or 50")


class _Finite(StrictModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Layer(_Finite):
    """An experiment's share of a layer. Experiments of one layer divide the users among them, so that nobody is in two.

    A user's position in the layer is a hash in [0, 1); the experiment takes the users in [``start``, ``end``).
    """

    name: str = Field(pattern=f"^{NAME.pattern}$")
    start: float = Field(0.0, ge=0, lt=1)
    end: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _grows(self) -> Layer:
        if self.end <= self.start:
            raise ValueError(f"end {self.end} must lie above start {self.start}")
        return self


class Segment(_Finite):
    """Groups of users by what was known before the experiment: ranges of a metric, or the most frequent facet value."""

    of: str | None = Field(None, description="Metric whose value before the start is divided into ranges.")
    edges: tuple[float, ...] = Field((), description="Lower bounds of the ranges after the first.")
    top: str | None = Field(None, description="Facet whose most frequent value before the start is the user's segment.")

    @model_validator(mode="after")
    def _one(self) -> Segment:
        if (self.of is None) == (self.top is None):
            raise ValueError("give either 'of' (a metric, with edges) or 'top' (a facet)")
        if self.of is not None and not 1 <= len(self.edges) <= MOST_EDGES:
            raise ValueError(f"edges: give 1 to {MOST_EDGES} numbers")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must grow")
        return self


class Guardrail(_Finite):
    """A metric that may get worse by no more than ``max_worse``, as a share of the control's value."""

    max_worse: float = Field(0.0, ge=0, lt=1)


class Stopping(_Finite):
    """How looks before the end are read.

    ``fixed``: one look, at the end. ``always_valid``: any day, without an end (confidence sequence).
    ``group_sequential``: any day up to the end, which must be planned (O'Brien-Fleming spending).
    """

    rule: Literal["fixed", "always_valid", "group_sequential"] = "always_valid"
    first_look_days: int = Field(1, ge=1, le=90)


class Conclusion(_Finite):
    """What people decided when an experiment was over, and why."""

    outcome: Literal["shipped", "not_shipped", "inconclusive"]
    note: str = Field(min_length=5)


class Experiment(_Finite):
    """An experiment, as an analyst writes it down.

    ``variants`` maps each variant to its share of the users. ``start`` is the time (UTC) at which the experiment begins; a
    date means its midnight. ``end`` is its last day. Covariates and segments come from the pre-period, the ``pre_days``
    days before the start, which the experiment cannot have changed.
    """

    name: str
    hypothesis: str = ""
    owner: str = ""
    variants: dict[str, float]
    control: str
    salt: str = ""
    layer: Layer | None = None
    holdout: bool = Field(
        False,
        description="Users of the control meet no other experiment: the effect of all that is tried and shipped together.",
    )
    start: datetime
    end: date | None = None
    pre_days: int = Field(14, ge=0, le=365)
    population: str | None = Field(
        None, description="SQL condition over metrics before the start (active_days_pre), is_new and segments."
    )
    trigger: str | None = Field(
        None, description="SQL condition over an event: a user counts from the first such event after exposure."
    )
    primary: tuple[str, ...] = ("active_days", "duration_hours")
    secondary: tuple[str, ...] = ("finishes", "likes", "skips")
    guardrails: dict[str, Guardrail] = Field(default_factory=dict)
    segments: dict[str, Segment] = Field(default_factory=dict)
    strata: tuple[str, ...] = Field((), description="Segments to post-stratify by.")
    covariates: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Metric → metrics whose values before the start adjust it; default: the metric itself.",
    )
    model_covariates: tuple[str, ...] = Field(
        (),
        description="Metrics that are adjusted by a cross-fitted model's prediction from all pre-period metrics (CUPAC).",
    )
    minimum_effect: float = Field(0.01, gt=0, lt=10, description="Smallest relative effect worth detecting.")
    power: float = Field(0.8, gt=0.5, lt=1)
    confidence: float = Field(0.95, gt=0.5, le=HIGHEST_CONFIDENCE)
    stopping: Stopping = Stopping()
    metrics: dict[str, Metric] = Field(default_factory=dict, description="The experiment's own metrics.")
    models: dict[str, str] = Field(
        default_factory=dict,
        description="Variant → model that ranks for it: champion, challenger, candidate, or a ranker's variant.",
    )
    automatic_stop: bool = Field(
        False,
        description="Look every hour; when the verdict on a treatment is stop, serve the champion to everybody, of all arms.",
    )
    truth: dict[str, float] = Field(
        default_factory=dict, description="Known relative effects, for simulated experiments."
    )
    stopped: date | None = Field(None, description="Last day, if it was stopped before its planned end.")
    conclusion: Conclusion | None = Field(None, description="Written when the experiment is over.")

    @model_validator(mode="before")
    @classmethod
    def _named_elsewhere(cls, content: object) -> object:
        """Take what the file tests as something else out of the secondary metrics that it does not name itself."""
        if not isinstance(content, dict) or "secondary" in content:
            return content
        default: tuple[str, ...] = cls.model_fields["secondary"].default
        groups = [content.get(key) for key in ("primary", "guardrails")]
        named = [metric for group in groups if isinstance(group, list | tuple | dict) for metric in group]
        return {**content, "secondary": [metric for metric in default if metric not in named]}

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("use lower-case letters, digits, - and _ only (the name becomes a folder)")
        return name

    @field_validator("variants")
    @classmethod
    def _shares(cls, variants: dict[str, float]) -> dict[str, float]:
        if len(variants) < 2:
            raise ValueError("name at least two, with their shares")
        if bad := [name for name in variants if not VARIANT.fullmatch(name)]:
            raise ValueError(
                f"{bad}: a variant's name has letters, digits, space, _ . and - only, and no space at its ends"
            )
        check_shares(variants)
        return variants

    @field_validator("variants", mode="before")
    @classmethod
    def _numbers(cls, variants: Any) -> Any:
        if isinstance(variants, dict) and (truths := [n for n, share in variants.items() if isinstance(share, bool)]):
            raise ValueError(f"{truths}: a share is a number, not true or false")
        return variants

    @field_validator("start", "end", "stopped", mode="before")
    @classmethod
    def _dates(cls, day: Any) -> Any:
        """Refuse numbers, which would be seconds since 1970, and years in which no log was written."""
        if isinstance(day, int | float) or (isinstance(day, str) and NUMERIC.fullmatch(day)):
            raise ValueError(f"{day} is not a date; write it as 2026-03-02, or with a time as 2026-03-02T10:00:00Z")
        return day

    @field_validator("start", "end", "stopped")
    @classmethod
    def _years(cls, day: date | None) -> date | None:
        if day is not None and not FIRST_YEAR <= day.year <= LAST_YEAR:
            raise ValueError(f"the year {day.year} is not between {FIRST_YEAR} and {LAST_YEAR}")
        return day

    @field_validator("population", "trigger")
    @classmethod
    def _condition(cls, text: str | None) -> str | None:
        if text is not None:
            check_expression(text, "condition")
        return text

    @field_validator("metrics", "segments")
    @classmethod
    def _named(cls, definitions: dict[str, D]) -> dict[str, D]:
        for name in definitions:
            if not COLUMN.fullmatch(name) or name.endswith(("_pre", "_model", "_raw", "_eligible")):
                raise ValueError(
                    f"'{name}': use lower-case letters, digits and _ only, and no _pre, _model, _raw or _eligible at the end"
                )
            if name in reserved_words():
                raise ValueError(f"'{name}' is a word of SQL; choose another")
            if name in USER_COLUMNS:
                raise ValueError(f"'{name}' is the name of a column that every user has; choose another")
        return definitions

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        if self.control not in self.variants:
            hint = did_you_mean(self.control, self.variants)
            raise ValueError(f"control: '{self.control}' is none of the variants {sorted(self.variants)}{hint}")
        if self.end is not None and self.end < self.start_time.date():
            raise ValueError(f"end: {self.end} lies before start {self.start_time}")
        if self.stopped is not None and not self.start_time.date() <= self.stopped <= (self.end or self.stopped):
            raise ValueError(f"stopped: {self.stopped} lies before the start or after the end")
        if not self.primary:
            raise ValueError("primary: name at least one metric")
        if repeated := sorted({m for m in self.tested_metrics if self.tested_metrics.count(m) > 1}):
            raise ValueError(f"{repeated} is named twice among primary, secondary and guardrails")
        if self.stopping.rule == "group_sequential" and self.end is None:
            raise ValueError(
                "stopping: group_sequential plans its looks up to the end; give 'end', or use always_valid"
            )
        if clashing := sorted(set(self.segments) & {*self.tested_metrics, *self.metrics}):
            raise ValueError(f"segments: {clashing} is also the name of a metric; choose another")
        if unknown := sorted(set(self.strata) - set(self.segments)):
            raise ValueError(f"strata: {unknown} are not segments of this file")
        if unknown := sorted({*self.covariates, *self.model_covariates} - set(self.tested_metrics)):
            raise ValueError(f"covariates: {unknown} are not metrics of this experiment")
        return self

    @model_validator(mode="after")
    def _servable(self) -> Experiment:
        if self.holdout and self.layer is not None:
            raise ValueError("holdout: its shares are of all users; leave out 'layer'")
        if self.holdout and self.automatic_stop:
            raise ValueError("holdout: it is there to show harm, not to end by itself; leave out 'automatic_stop'")
        if self.models and set(self.models) != set(self.variants):
            raise ValueError(f"models: name one for each of the variants {sorted(self.variants)}, or none")
        if self.automatic_stop and not self.models:
            raise ValueError("automatic_stop: give 'models', so that there is something to stop")
        if self.automatic_stop and self.stopping.rule != "always_valid":
            raise ValueError(
                f"automatic_stop looks every hour, which the rule '{self.stopping.rule}' does not allow; use always_valid"
            )
        return self

    @property
    def tested_metrics(self) -> tuple[str, ...]:
        """Metrics that are tested: primary, secondary, guardrails."""
        return (*self.primary, *self.secondary, *self.guardrails)

    def role(self, metric: str) -> str:
        return "primary" if metric in self.primary else "guardrail" if metric in self.guardrails else "secondary"

    @property
    def treatments(self) -> tuple[str, ...]:
        return tuple(v for v in self.variants if v != self.control)

    @property
    def held_out(self) -> float:
        """Share of all users whom a holdout keeps from other experiments; 0 for an experiment that is none."""
        return self.variants[self.control] / sum(self.variants.values()) if self.holdout else 0.0

    @property
    def start_time(self) -> datetime:
        return self.start.astimezone(UTC) if self.start.tzinfo else self.start.replace(tzinfo=UTC)

    @property
    def end_hour(self) -> Hour | None:
        """The hour after the last one, whether it ended as planned or was stopped."""
        day = self.stopped or self.end
        return day_hours(day)[-1] + 1 if day else None

    @property
    def planned_days(self) -> float:
        """Planned length, days; stopping rules rest on it however the experiment ends."""
        if self.end is None:
            return float(UNPLANNED_DAYS)
        return ((day_hours(self.end)[-1] + 1).start - self.start_time).total_seconds() / 86400

    def state(self, as_of: Hour | None) -> Literal["planned", "running", "ended"]:
        """Where it stands at the end of the log; one that was stopped has ended, even if its last day is not over.

        Args:
            as_of: end of the log; None before the first event.
        """
        if self.stopped is not None:
            return "ended"
        if as_of is None or self.start_time >= as_of.start:
            return "planned"
        return "ended" if self.end_hour is not None and as_of >= self.end_hour else "running"

    def elapsed_days(self, until: Hour) -> float:
        return (until.start - self.start_time).total_seconds() / 86400

    @cached_property
    def digest(self) -> str:
        """Digest of everything that determines the result."""
        return digest_json(self.model_dump(mode="json", exclude=set(BESIDE_THE_RESULT)))


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises:
        ConfigError: lists every wrong key with its line.
    """
    return load_document(path, Experiment, what="experiment file", see=SEE)


def parse_experiment(text: str, path: Path) -> Experiment:
    """The experiment that a text describes.

    Args:
        text: of an experiment file.
        path: of the file, for messages.

    Raises:
        ConfigError: lists every wrong key with its line.
    """
    return parse_document(text, Experiment, path=path, see=SEE)


def find_experiments(folder: Path) -> dict[str, Path]:
    """Experiment files of a folder: stem → path."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_named(folder: Path, name: str) -> Experiment:
    """Read an experiment of a workspace by its name.

    Raises:
        ConfigError: there is none, its file is wrong, or the file is not named like the experiment.
    """
    files = find_experiments(folder)
    if name not in files:
        raise ConfigError(f"no experiment '{name}' in {folder} (it has {', '.join(files) or 'none'})")
    experiment = load_experiment(files[name])
    if experiment.name != name:
        raise ConfigError(
            f"{files[name]}: the experiment is named '{experiment.name}'; name the file {experiment.name}.yaml"
        )
    return experiment
